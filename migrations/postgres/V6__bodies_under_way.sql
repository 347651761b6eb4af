-- When a month turns, bodies that are under way go on in the next one: what of `used` they had, as the incarnation said at
-- `told` (ms). It may begin others out of what it was granted and had not used.
ALTER TABLE budget_leases ADD COLUMN under_way BIGINT NOT NULL DEFAULT 0;
ALTER TABLE budget_leases ADD COLUMN told BIGINT NOT NULL DEFAULT 0;
