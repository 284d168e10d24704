-- The store's own tables, of the PostgreSQL back end.

-- migration 1: feed of changes, hubs, who wrote what last
CREATE TABLE feed (
    seq    BIGINT PRIMARY KEY, -- without gaps, in the order of commits
    tenant TEXT   NOT NULL,
    kind   TEXT   NOT NULL,
    id     TEXT   NOT NULL,
    op     BIGINT NOT NULL, -- enum store_op
    at     BIGINT NOT NULL  -- wall clock, ms
);
CREATE TABLE feed_floor (
    seq BIGINT NOT NULL -- the newest change that was dropped; one row
);
INSERT INTO feed_floor (seq) VALUES (0);
CREATE TABLE hub (
    id      TEXT PRIMARY KEY,
    epoch   BIGINT NOT NULL,
    started BIGINT NOT NULL, -- wall clock, ms
    version TEXT   NOT NULL
);
CREATE TABLE store_writer (
    id    TEXT PRIMARY KEY, -- of one opening of the database
    batch BIGINT NOT NULL,  -- its last one that was committed
    at    BIGINT NOT NULL   -- wall clock, ms
);

-- migration 2: epochs that never come again
-- At least the number of the server's timeline, which rises with each promotion of a replica, times
-- 2^20: so no epoch is given twice that the old primary gave in commits that were lost.
CREATE FUNCTION next_epoch(was BIGINT) RETURNS BIGINT LANGUAGE SQL VOLATILE AS $$
    SELECT GREATEST(was + 1, (CAST(CAST('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)
                                        AS BIT(32)) AS BIGINT) - 1) * 1048576)
$$;
