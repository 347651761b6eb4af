-- What each incarnation was lent of a backend's monthly budgets, and what it said that it has used: absolute values. Of a
-- budget's limit it takes the larger one, or what it recorded in usage under the same counter, also after its end. Written
-- under an advisory lock, one lease at a time.
CREATE TABLE budget_leases (
    backend     TEXT COLLATE "C" NOT NULL,
    period      TEXT COLLATE "C" NOT NULL, -- YYYY-MM, UTC
    counter     TEXT COLLATE "C" NOT NULL, -- api_requests, egress_bytes, ingress_bytes, or pool: and a pool's name
    incarnation BIGINT NOT NULL,
    granted     BIGINT NOT NULL,
    used        BIGINT NOT NULL,
    PRIMARY KEY (period, backend, counter, incarnation)
);
