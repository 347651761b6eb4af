-- What each incarnation was lent of a backend's monthly budgets, and what it said that it has used: absolute values. Of a
-- budget's limit it takes the larger one, or what it recorded in usage under the same counter, also after its end.
CREATE TABLE budget_leases (
    backend     TEXT NOT NULL,
    period      TEXT NOT NULL, -- YYYY-MM, UTC
    counter     TEXT NOT NULL, -- api_requests, egress_bytes, ingress_bytes, or pool: and a pool's name
    incarnation INTEGER NOT NULL,
    granted     INTEGER NOT NULL,
    used        INTEGER NOT NULL,
    PRIMARY KEY (period, backend, counter, incarnation)
) WITHOUT ROWID;
