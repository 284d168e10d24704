-- The store's own tables, of the SQLite back end.

-- migration 1: feed of changes, hub row
CREATE TABLE feed (
    seq    INTEGER PRIMARY KEY AUTOINCREMENT,
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
