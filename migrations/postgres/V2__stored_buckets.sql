-- Buckets that were created over S3; those of the configuration have no row. Every change of a row raises the counter
-- `buckets`, by which instances see that there is something new.
CREATE TABLE buckets (
    name    TEXT COLLATE "C" PRIMARY KEY,
    owner   TEXT NOT NULL, -- the user's name
    region  TEXT NOT NULL, -- as its creator asked for; empty: the default
    created BIGINT NOT NULL
);
