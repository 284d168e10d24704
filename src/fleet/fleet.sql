-- Sessions of agents: the newest one of each, and its epoch.

-- migration 1: sessions
CREATE TABLE agent_session (
    agent        TEXT PRIMARY KEY,
    epoch        BIGINT NOT NULL,
    connected    BIGINT,
    disconnected BIGINT,
    address      TEXT NOT NULL,
    hostname     TEXT NOT NULL,
    version      TEXT NOT NULL,
    allow        TEXT NOT NULL
);

-- migration 2: where agents are at home, and which networks an operator keeps apart
CREATE TABLE agent_place (
    agent  TEXT PRIMARY KEY,
    places TEXT NOT NULL,  -- lan_model.h
    how    TEXT,           -- what put it into its network: merge, move, operator; NULL: enrolment
    at     BIGINT,
    why    TEXT
);

CREATE TABLE network_apart (
    tenant TEXT NOT NULL,
    a      TEXT NOT NULL,  -- the smaller id
    b      TEXT NOT NULL,
    PRIMARY KEY (a, b)
);

-- migration 3: where an agent is found on its LAN
ALTER TABLE agent_session ADD COLUMN addresses TEXT NOT NULL DEFAULT '[]';

-- migration 4: hubs that share this database, and at which of them an agent is
CREATE TABLE hub_lease (
    hub     TEXT   PRIMARY KEY,
    epoch   BIGINT NOT NULL, -- of its start
    address TEXT   NOT NULL, -- where the other hubs reach it
    expires BIGINT NOT NULL  -- by the database's clock, ms
);
ALTER TABLE agent_session ADD COLUMN hub TEXT;
ALTER TABLE agent_session ADD COLUMN hub_epoch BIGINT NOT NULL DEFAULT 0;

-- migration 5: what other hubs show of a hub
ALTER TABLE hub_lease ADD COLUMN name TEXT NOT NULL DEFAULT '';      -- of its machine
ALTER TABLE hub_lease ADD COLUMN software TEXT NOT NULL DEFAULT '';
ALTER TABLE hub_lease ADD COLUMN started BIGINT NOT NULL DEFAULT 0;  -- wall clock, ms

-- migration 6: the newest root of the CA that a hub trusts
ALTER TABLE hub_lease ADD COLUMN roots BIGINT; -- NULL: a version that knows of one root only

-- migration 7: hubs that are drained, and where agents reach them
ALTER TABLE hub_lease ADD COLUMN agent_address TEXT NOT NULL DEFAULT '';  -- empty: by a balancer only
ALTER TABLE hub_lease ADD COLUMN draining BIGINT NOT NULL DEFAULT 0;      -- wall clock, ms, since when
ALTER TABLE hub_lease ADD COLUMN drain_grace BIGINT NOT NULL DEFAULT 0;   -- ms
ALTER TABLE hub_lease ADD COLUMN drained BIGINT NOT NULL DEFAULT 0;       -- wall clock, ms: it is done
