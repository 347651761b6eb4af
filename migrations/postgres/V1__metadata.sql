-- The metadata of one deployment (PROTOCOL, "Tables"), shared by its instances. Times are milliseconds since 1970 by the
-- database's clock; keys and backend keys are bytes, so that they compare as bytes whatever the collation. Every charge is in
-- quota_shares: rows of blobs, uploads and parts are changed by the program only.

-- Facts of the whole deployment: its id.
CREATE TABLE deployment (
    name  TEXT COLLATE "C" PRIMARY KEY,
    value TEXT NOT NULL
);

-- The last numbers that were given out.
CREATE TABLE counters (
    name  TEXT COLLATE "C" PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO counters VALUES ('blob', 0), ('incarnation', 0);

-- One row per run of an instance. Only the run itself raises its mark, with every batch: one that reads a lower mark than it
-- was told has met a database that was rewound.
CREATE TABLE incarnations (
    id          BIGINT PRIMARY KEY,
    started     BIGINT NOT NULL,
    lease_until BIGINT NOT NULL,
    mark        BIGINT NOT NULL DEFAULT 0,
    ended       BIGINT -- when its leftovers were taken over
) WITH (fillfactor = 20);

-- Which run holds each background job. It is another's when that run has ended: its number is the fence.
CREATE TABLE services (
    name        TEXT COLLATE "C" PRIMARY KEY,
    incarnation BIGINT NOT NULL
);

CREATE TABLE backends (
    id          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        TEXT COLLATE "C" NOT NULL UNIQUE,
    bytes_limit BIGINT NOT NULL, -- 0 = unlimited
    draining    BOOLEAN NOT NULL DEFAULT FALSE,
    facts       TEXT NOT NULL DEFAULT '{}' -- what was measured, JSON
);

-- What an incarnation may charge, what it has charged, and what its batches did to the numbers and bytes of blobs per state.
-- Only the sums over a backend mean something: what one incarnation added may be taken away by another, so its numbers may be
-- below zero. With a limit, charged <= granted in every row, and the sum of granted <= the limit: so batches of different
-- instances never touch a common row here.
CREATE TABLE quota_shares (
    backend        BIGINT NOT NULL REFERENCES backends (id) ON DELETE CASCADE,
    incarnation    BIGINT NOT NULL,
    granted        BIGINT NOT NULL DEFAULT 0,
    charged        BIGINT NOT NULL DEFAULT 0,
    reserved_bytes BIGINT NOT NULL DEFAULT 0,
    live_blobs     BIGINT NOT NULL DEFAULT 0,
    live_bytes     BIGINT NOT NULL DEFAULT 0,
    doomed_blobs   BIGINT NOT NULL DEFAULT 0,
    doomed_bytes   BIGINT NOT NULL DEFAULT 0,
    dead_blobs     BIGINT NOT NULL DEFAULT 0,
    dead_bytes     BIGINT NOT NULL DEFAULT 0,
    active_uploads BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (backend, incarnation)
) WITH (fillfactor = 20);

-- Absolute values per incarnation, never increments: writing one twice changes nothing.
CREATE TABLE usage (
    backend     TEXT COLLATE "C" NOT NULL,
    period      TEXT COLLATE "C" NOT NULL, -- YYYY-MM, UTC
    incarnation BIGINT NOT NULL,
    counter     TEXT COLLATE "C" NOT NULL, -- api_requests, egress_bytes, ingress_bytes
    value       BIGINT NOT NULL,
    PRIMARY KEY (period, backend, incarnation, counter)
);

-- Which batches were committed. A void one never was, and never will be.
CREATE TABLE batches (
    id      BYTEA PRIMARY KEY,
    at      BIGINT NOT NULL,
    outcome TEXT NOT NULL -- applied, void
);
CREATE INDEX batches_by_age ON batches USING brin (at);

-- A row is what a client may read back.
CREATE TABLE versions (
    bucket   TEXT COLLATE "C" NOT NULL,
    key      BYTEA NOT NULL,
    version  TEXT COLLATE "C" NOT NULL, -- ULID, above every other version of the key that a row names
    live     BOOLEAN NOT NULL,
    size     BIGINT NOT NULL,
    modified BIGINT NOT NULL,
    etag     TEXT NOT NULL,
    record   TEXT NOT NULL, -- headers, metadata, checksums, tags: one struct, serialised whole
    PRIMARY KEY (bucket, key, version)
);

-- One copy of one version on one backend, from its reservation to the end of its bytes. A row changes state and never moves.
-- No foreign key: a batch that adds blobs looks whether their backends are still there, once.
CREATE TABLE blobs (
    id             BIGINT PRIMARY KEY, -- never used again: counters knows the last one
    backend        BIGINT NOT NULL,
    name           BYTEA NOT NULL, -- the exact backend key
    bucket         TEXT COLLATE "C" NOT NULL,
    key            BYTEA NOT NULL,
    version        TEXT COLLATE "C" NOT NULL,
    state          TEXT NOT NULL CHECK (state IN ('reserved', 'live', 'doomed', 'dead')),
    bytes          BIGINT NOT NULL CHECK (bytes >= 0), -- charged
    incarnation    BIGINT, -- who reserved it; none for an upload's, which has no lease
    superseded     SMALLINT NOT NULL, -- 1: by conditional changes only; 2: by an unconditional one
    upload         TEXT COLLATE "C", -- the upload that it was reserved for
    backend_upload TEXT NOT NULL,
    version_id     TEXT NOT NULL, -- of a versioned bucket: deletes name it
    foreign_etag   TEXT NOT NULL DEFAULT '', -- of an imported object: reads send it as If-Match
    form           TEXT NOT NULL DEFAULT '', -- stored form; empty: the bytes as the client sent them
    abort_uploads  BOOLEAN NOT NULL,
    doomed_at      BIGINT NOT NULL DEFAULT 0,
    not_before     BIGINT NOT NULL, -- doomed: not deleted earlier; dead: since when
    settle_until   BIGINT NOT NULL, -- its bytes may still appear until then
    attempts       INTEGER NOT NULL,
    last_error     TEXT NOT NULL,
    reason         TEXT NOT NULL
) WITH (fillfactor = 85);
CREATE UNIQUE INDEX blobs_by_name ON blobs (backend, name);
CREATE INDEX blobs_by_key ON blobs (bucket, key, version);
CREATE INDEX blobs_reserved ON blobs (incarnation) WHERE state = 'reserved';
CREATE INDEX blobs_doomed ON blobs (backend, not_before) WHERE state = 'doomed';
CREATE INDEX blobs_dead ON blobs (backend) WHERE state = 'dead';

CREATE TABLE uploads (
    upload               TEXT COLLATE "C" PRIMARY KEY,
    bucket               TEXT COLLATE "C" NOT NULL,
    key                  BYTEA NOT NULL,
    blob                 BIGINT NOT NULL, -- its row may end before this one
    backend              BIGINT NOT NULL,
    name                 BYTEA NOT NULL,
    backend_upload       TEXT NOT NULL,
    record               TEXT NOT NULL,
    checksum_algorithm   TEXT,
    checksum_full_object BOOLEAN NOT NULL,
    initiated            BIGINT NOT NULL,
    state                TEXT NOT NULL CHECK (state IN ('open', 'completing', 'done', 'aborted')),
    version              TEXT COLLATE "C" NOT NULL, -- minted when Complete started
    manifest             TEXT NOT NULL, -- part numbers and ETags, JSON
    outcome              TEXT, -- of a done one: live, overwritten
    final_etag           TEXT NOT NULL,
    final_record         TEXT NOT NULL,
    ended                BIGINT NOT NULL,
    forgettable          BOOLEAN NOT NULL -- ended, and no live version is made of its parts
);
CREATE INDEX uploads_by_version ON uploads (bucket, key, version);
CREATE INDEX uploads_active ON uploads (bucket) WHERE state IN ('open', 'completing');
CREATE INDEX uploads_forgettable ON uploads (ended) WHERE forgettable;

CREATE TABLE parts (
    upload TEXT COLLATE "C" NOT NULL REFERENCES uploads (upload) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    size   BIGINT NOT NULL,
    record TEXT NOT NULL, -- the part as stored: one struct, serialised whole
    PRIMARY KEY (upload, number)
);

-- Parts in flight, one per number at a time; their bytes are charged to the upload's blob.
CREATE TABLE part_attempts (
    upload      TEXT COLLATE "C" NOT NULL REFERENCES uploads (upload) ON DELETE CASCADE,
    number      INTEGER NOT NULL,
    nonce       TEXT NOT NULL,
    incarnation BIGINT NOT NULL,
    size        BIGINT NOT NULL,
    PRIMARY KEY (upload, number)
);
CREATE INDEX part_attempts_by_incarnation ON part_attempts (incarnation);

CREATE FUNCTION now_millis() RETURNS BIGINT LANGUAGE sql VOLATILE
    AS $$ SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint $$;

-- Ends a batch that was decided on rows which have changed since; it is decided anew.
CREATE FUNCTION stale_batch(what TEXT) RETURNS BOOLEAN LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RAISE EXCEPTION 'stale batch: %', what USING ERRCODE = 'serialization_failure';
END $$;

-- A key as people read it; one that is not text in this database's encoding, escaped.
CREATE FUNCTION shown_key(key BYTEA) RETURNS TEXT LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN convert_from(key, 'UTF8');
EXCEPTION WHEN OTHERS THEN
    RETURN encode(key, 'escape');
END $$;

CREATE VIEW cleanup_queue AS
SELECT blobs.id,
       backends.name AS backend_name,
       blobs.bucket || '/' || shown_key(blobs.key) AS object_key,
       shown_key(blobs.name) AS storage_key,
       blobs.reason,
       blobs.bytes AS size_bytes,
       to_timestamp(blobs.doomed_at / 1000.0) AS created_at,
       to_timestamp(blobs.not_before / 1000.0) AS next_retry,
       blobs.attempts,
       blobs.last_error
FROM blobs JOIN backends ON backends.id = blobs.backend
WHERE blobs.state = 'doomed';

CREATE VIEW cleanup_dlq AS
SELECT blobs.id,
       blobs.id AS original_id,
       backends.name AS backend_name,
       blobs.bucket || '/' || shown_key(blobs.key) AS object_key,
       shown_key(blobs.name) AS storage_key,
       blobs.reason,
       blobs.attempts,
       blobs.bytes AS size_bytes,
       to_timestamp(blobs.doomed_at / 1000.0) AS first_enqueued_at,
       to_timestamp(blobs.not_before / 1000.0) AS moved_at,
       blobs.last_error
FROM blobs JOIN backends ON backends.id = blobs.backend
WHERE blobs.state = 'dead';
