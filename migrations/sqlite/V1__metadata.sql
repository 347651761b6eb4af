-- The metadata of one deployment (PROTOCOL, "Tables"). Times are milliseconds since 1970 by the database's clock; keys and
-- backend keys are bytes, ordered as bytes. Every charge is in quota_shares and backend_totals: rows of blobs, uploads and
-- parts are changed by the program only.

-- Facts of the whole deployment: its id.
CREATE TABLE deployment (
    name  TEXT PRIMARY KEY NOT NULL,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- The last number that was given out: blob.
CREATE TABLE counters (
    name  TEXT PRIMARY KEY NOT NULL,
    value INTEGER NOT NULL
) WITHOUT ROWID;

-- One row per run of an instance. With SQLite the lock file proves that only the latest lives, so no lease is kept.
CREATE TABLE incarnations (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    started     INTEGER NOT NULL,
    lease_until INTEGER
);

CREATE TABLE backends (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    name        TEXT NOT NULL UNIQUE,
    bytes_limit INTEGER NOT NULL, -- 0 = unlimited
    draining    INTEGER NOT NULL DEFAULT 0,
    facts       TEXT NOT NULL DEFAULT '{}' -- what was measured, JSON
);

-- What an incarnation may charge, and what it has. Only the sums over a backend mean something: bytes charged by one
-- incarnation may be released by another, so charged may be below zero.
CREATE TABLE quota_shares (
    backend     INTEGER NOT NULL REFERENCES backends (id) ON DELETE CASCADE,
    incarnation INTEGER NOT NULL,
    granted     INTEGER NOT NULL,
    charged     INTEGER NOT NULL,
    PRIMARY KEY (backend, incarnation)
) WITHOUT ROWID;

-- Blob rows of a backend, counted and added up per state; written in the transaction that changes them.
CREATE TABLE backend_totals (
    backend        INTEGER PRIMARY KEY NOT NULL REFERENCES backends (id) ON DELETE CASCADE,
    reserved_bytes INTEGER NOT NULL DEFAULT 0,
    live_blobs     INTEGER NOT NULL DEFAULT 0,
    live_bytes     INTEGER NOT NULL DEFAULT 0,
    doomed_blobs   INTEGER NOT NULL DEFAULT 0,
    doomed_bytes   INTEGER NOT NULL DEFAULT 0,
    dead_blobs     INTEGER NOT NULL DEFAULT 0,
    dead_bytes     INTEGER NOT NULL DEFAULT 0,
    active_uploads INTEGER NOT NULL DEFAULT 0
);

-- Absolute values per incarnation, never increments: writing one twice changes nothing.
CREATE TABLE usage (
    backend     TEXT NOT NULL,
    period      TEXT NOT NULL, -- YYYY-MM, UTC
    incarnation INTEGER NOT NULL,
    counter     TEXT NOT NULL, -- api_requests, egress_bytes, ingress_bytes
    value       INTEGER NOT NULL,
    PRIMARY KEY (period, backend, incarnation, counter)
) WITHOUT ROWID;

-- Which batches were committed. A void one never was, and never will be.
CREATE TABLE batches (
    seq     INTEGER PRIMARY KEY,
    id      BLOB NOT NULL,
    at      INTEGER NOT NULL,
    outcome TEXT NOT NULL -- applied, void
);

-- A row is what a client may read back. Clustered by key, so that a listing is one walk.
CREATE TABLE versions (
    bucket   TEXT NOT NULL,
    key      BLOB NOT NULL,
    version  TEXT NOT NULL, -- ULID, above every other version of the key that a row names
    live     INTEGER NOT NULL,
    size     INTEGER NOT NULL,
    modified INTEGER NOT NULL,
    etag     TEXT NOT NULL,
    upload   TEXT, -- the multipart upload that made it
    record   TEXT NOT NULL, -- headers, metadata, checksums, tags: one struct, serialised whole
    PRIMARY KEY (bucket, key, version)
) WITHOUT ROWID;

-- One copy of one version on one backend, from its reservation to the end of its bytes. A row changes state and never moves.
CREATE TABLE blobs (
    id             INTEGER PRIMARY KEY, -- never used again: counters knows the last one
    backend        INTEGER NOT NULL REFERENCES backends (id),
    name           BLOB NOT NULL, -- the exact backend key
    bucket         TEXT NOT NULL,
    key            BLOB NOT NULL,
    version        TEXT NOT NULL,
    state          TEXT NOT NULL CHECK (state IN ('reserved', 'live', 'doomed', 'dead')),
    bytes          INTEGER NOT NULL CHECK (bytes >= 0), -- charged
    incarnation    INTEGER, -- who reserved it; none for an upload's, which has no lease
    superseded     INTEGER NOT NULL DEFAULT 0, -- 1: by conditional changes only; 2: by an unconditional one
    contends       INTEGER NOT NULL DEFAULT 0, -- a commit or delete of the key may supersede it
    upload         TEXT, -- the upload that it was reserved for
    backend_upload TEXT NOT NULL DEFAULT '',
    version_id     TEXT NOT NULL DEFAULT '', -- of a versioned bucket: deletes name it
    foreign_etag   TEXT NOT NULL DEFAULT '', -- of an imported object: reads send it as If-Match
    form           TEXT NOT NULL DEFAULT '', -- stored form; empty: the bytes as the client sent them
    abort_uploads  INTEGER NOT NULL DEFAULT 0,
    doomed_at      INTEGER NOT NULL DEFAULT 0,
    not_before     INTEGER NOT NULL DEFAULT 0, -- doomed: not deleted earlier; dead: since when
    settle_until   INTEGER NOT NULL DEFAULT 0, -- its bytes may still appear until then
    attempts       INTEGER NOT NULL DEFAULT 0,
    last_error     TEXT NOT NULL DEFAULT '',
    reason         TEXT NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX blobs_by_name ON blobs (backend, name);
CREATE INDEX blobs_by_key ON blobs (bucket, key, version);
CREATE INDEX blobs_contending ON blobs (bucket, key) WHERE contends = 1;
CREATE INDEX blobs_doomed ON blobs (backend, not_before) WHERE state = 'doomed';
CREATE INDEX blobs_dead ON blobs (backend) WHERE state = 'dead';

CREATE TABLE uploads (
    upload               TEXT PRIMARY KEY NOT NULL,
    bucket               TEXT NOT NULL,
    key                  BLOB NOT NULL,
    blob                 INTEGER NOT NULL, -- its row may end before this one
    backend              INTEGER NOT NULL,
    name                 BLOB NOT NULL,
    backend_upload       TEXT NOT NULL DEFAULT '',
    record               TEXT NOT NULL,
    checksum_algorithm   TEXT,
    checksum_full_object INTEGER NOT NULL,
    initiated            INTEGER NOT NULL,
    state                TEXT NOT NULL CHECK (state IN ('open', 'completing', 'done', 'aborted')),
    version              TEXT NOT NULL, -- minted when Complete started
    manifest             TEXT NOT NULL DEFAULT '[]', -- part numbers and ETags, JSON
    outcome              TEXT, -- of a done one: live, overwritten
    final_etag           TEXT NOT NULL DEFAULT '',
    final_record         TEXT NOT NULL DEFAULT '{}',
    ended                INTEGER NOT NULL DEFAULT 0,
    forgettable          INTEGER NOT NULL DEFAULT 0 -- ended, and no live version is made of its parts
) WITHOUT ROWID;
CREATE INDEX uploads_active ON uploads (bucket) WHERE state IN ('open', 'completing');
CREATE INDEX uploads_forgettable ON uploads (ended) WHERE forgettable = 1;

CREATE TABLE parts (
    upload TEXT NOT NULL REFERENCES uploads (upload) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    size   INTEGER NOT NULL,
    record TEXT NOT NULL, -- the part as stored: one struct, serialised whole
    PRIMARY KEY (upload, number)
) WITHOUT ROWID;

-- Parts in flight, one per number at a time; their bytes are charged to the upload's blob.
CREATE TABLE part_attempts (
    upload      TEXT NOT NULL REFERENCES uploads (upload) ON DELETE CASCADE,
    number      INTEGER NOT NULL,
    nonce       TEXT NOT NULL,
    incarnation INTEGER NOT NULL,
    size        INTEGER NOT NULL,
    PRIMARY KEY (upload, number)
) WITHOUT ROWID;

CREATE VIEW cleanup_queue AS
SELECT blobs.id,
       backends.name AS backend_name,
       blobs.bucket || '/' || CAST(blobs.key AS TEXT) AS object_key,
       CAST(blobs.name AS TEXT) AS storage_key,
       blobs.reason,
       blobs.bytes AS size_bytes,
       strftime('%Y-%m-%dT%H:%M:%SZ', blobs.doomed_at / 1000, 'unixepoch') AS created_at,
       strftime('%Y-%m-%dT%H:%M:%SZ', blobs.not_before / 1000, 'unixepoch') AS next_retry,
       blobs.attempts,
       blobs.last_error
FROM blobs JOIN backends ON backends.id = blobs.backend
WHERE blobs.state = 'doomed';

CREATE VIEW cleanup_dlq AS
SELECT blobs.id,
       blobs.id AS original_id,
       backends.name AS backend_name,
       blobs.bucket || '/' || CAST(blobs.key AS TEXT) AS object_key,
       CAST(blobs.name AS TEXT) AS storage_key,
       blobs.reason,
       blobs.attempts,
       blobs.bytes AS size_bytes,
       strftime('%Y-%m-%dT%H:%M:%SZ', blobs.doomed_at / 1000, 'unixepoch') AS first_enqueued_at,
       strftime('%Y-%m-%dT%H:%M:%SZ', blobs.not_before / 1000, 'unixepoch') AS moved_at,
       blobs.last_error
FROM blobs JOIN backends ON backends.id = blobs.backend
WHERE blobs.state = 'dead';
