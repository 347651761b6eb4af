-- A drain has ended: nothing was left on the backend. It goes on taking nothing until somebody says otherwise.
ALTER TABLE backends ADD COLUMN drained INTEGER NOT NULL DEFAULT 0;
