-- Tunnel objects and the access log.

-- migration 1: tunnels, connections
CREATE TABLE tunnel (
    id            TEXT PRIMARY KEY,
    tenant        TEXT NOT NULL,
    name          TEXT NOT NULL,
    version       BIGINT NOT NULL,
    network       TEXT NOT NULL,
    spec          TEXT NOT NULL,
    ends          BIGINT,
    phase         TEXT NOT NULL,
    reason        TEXT NOT NULL,
    endpoint      TEXT,
    lease_agent   TEXT,
    lease_epoch   BIGINT NOT NULL,
    streams_total BIGINT NOT NULL,
    bytes_in      BIGINT NOT NULL,
    bytes_out     BIGINT NOT NULL,
    created       BIGINT NOT NULL,
    started       BIGINT,
    closed        BIGINT,
    idle_ms       BIGINT,
    UNIQUE (tenant, name)
);

CREATE TABLE connection (
    id        TEXT PRIMARY KEY,
    tunnel    TEXT NOT NULL,
    agent     TEXT NOT NULL,
    hub       TEXT NOT NULL,
    client    TEXT NOT NULL,
    opened    BIGINT NOT NULL,
    closed    BIGINT NOT NULL,
    bytes_in  BIGINT NOT NULL,
    bytes_out BIGINT NOT NULL,
    ended     TEXT NOT NULL,
    error     TEXT
);

CREATE INDEX connection_by_tunnel ON connection (tunnel, opened);

-- migration 2: datagrams of UDP tunnels
ALTER TABLE tunnel ADD COLUMN datagrams_in BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tunnel ADD COLUMN datagrams_out BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tunnel ADD COLUMN datagrams_dropped BIGINT NOT NULL DEFAULT 0;

-- migration 3: the route: which hub holds the lease, and under which session of the agent
ALTER TABLE tunnel ADD COLUMN lease_hub TEXT;                            -- NULL: nobody
ALTER TABLE tunnel ADD COLUMN lease_hub_epoch BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tunnel ADD COLUMN lease_session BIGINT NOT NULL DEFAULT 0;   -- 0: of several agents

-- migration 4: what is known of the target, told under the lease of an epoch
ALTER TABLE tunnel ADD COLUMN target_epoch BIGINT NOT NULL DEFAULT 0;  -- another than lease_epoch: void
ALTER TABLE tunnel ADD COLUMN target_error TEXT;                       -- NULL: it is reached
ALTER TABLE tunnel ADD COLUMN target_unreached TEXT;                   -- NULL: an agent reaches it
