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
