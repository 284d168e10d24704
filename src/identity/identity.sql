-- Tenants, tokens, and what enrolment knows about networks and agents. All times: wall clock, ms.

-- migration 1: tenant, token, network, agent, audit, idempotency
CREATE TABLE tenant (
    id      TEXT PRIMARY KEY,
    name    TEXT NOT NULL UNIQUE,
    version BIGINT NOT NULL,
    created BIGINT NOT NULL
);

CREATE TABLE network (
    id      TEXT PRIMARY KEY,
    tenant  TEXT NOT NULL REFERENCES tenant (id),
    name    TEXT NOT NULL,
    version BIGINT NOT NULL,
    created BIGINT NOT NULL,
    UNIQUE (tenant, name)
);

CREATE TABLE token (
    id         TEXT PRIMARY KEY,
    tenant     TEXT NOT NULL REFERENCES tenant (id),
    kind       BIGINT NOT NULL, -- enum token_kind
    name       TEXT,
    version    BIGINT NOT NULL,
    hash       BYTEA NOT NULL,  -- SHA-256 of the secret
    network    TEXT,            -- bootstrap: where its agents belong
    role       BIGINT,          -- api: enum identity_role
    uses_limit BIGINT,          -- bootstrap; NULL: any number
    uses       BIGINT NOT NULL,
    created    BIGINT NOT NULL,
    expires    BIGINT,
    revoked    BIGINT,
    UNIQUE (tenant, name)
);

CREATE TABLE agent (
    id        TEXT PRIMARY KEY,
    tenant    TEXT NOT NULL REFERENCES tenant (id),
    network   TEXT NOT NULL REFERENCES network (id),
    token     TEXT NOT NULL,   -- which admitted it
    name      TEXT NOT NULL,
    version   BIGINT NOT NULL,
    serial    TEXT NOT NULL,   -- of the newest certificate
    key_hash  BYTEA NOT NULL,  -- SHA-256 of its public key
    not_after BIGINT NOT NULL,
    created   BIGINT NOT NULL,
    revoked   BIGINT,
    pending   BIGINT,          -- since when it asks to renew an expired certificate
    approved  BIGINT,          -- such a renewal was approved and not used yet
    UNIQUE (tenant, name)
);
CREATE INDEX agent_by_network ON agent (network);

CREATE TABLE audit (
    id      TEXT PRIMARY KEY,
    tenant  TEXT NOT NULL,
    at      BIGINT NOT NULL,
    actor   TEXT NOT NULL,
    address TEXT,
    action  TEXT NOT NULL,
    object  TEXT,
    outcome BIGINT NOT NULL,   -- enum audit_outcome
    detail  TEXT
);
CREATE INDEX audit_by_tenant ON audit (tenant, at, id);
CREATE INDEX audit_by_time ON audit (at);

CREATE TABLE idempotency (
    token   TEXT NOT NULL,
    key     TEXT NOT NULL,
    hash    BYTEA NOT NULL,    -- SHA-256 of method, path and body
    status  BIGINT NOT NULL,   -- 0: not answered yet
    body    BYTEA,             -- sealed with a key that only the token's bearer has
    created BIGINT NOT NULL,
    PRIMARY KEY (token, key)
);
CREATE INDEX idempotency_by_time ON idempotency (created);

-- migration 2: what `warren apply` set last, so that others' changes are noticed
CREATE TABLE applied (
    object   TEXT PRIMARY KEY,
    tenant   TEXT NOT NULL REFERENCES tenant (id),
    kind     TEXT NOT NULL,
    name     TEXT NOT NULL,
    owner    TEXT,            -- the set
    version  BIGINT NOT NULL, -- of the object afterwards
    since    BIGINT NOT NULL, -- its version before the token's unbroken row of applies
    token    TEXT NOT NULL,
    at       BIGINT NOT NULL,
    declared TEXT NOT NULL    -- JSON
);
CREATE INDEX applied_by_tenant ON applied (tenant, object);

-- migration 3: networks that nobody named, other names of merged ones, LAN keys
ALTER TABLE network ADD COLUMN automatic BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tenant ADD COLUMN lan_keys BYTEA;     -- the newest key, then the one before it
ALTER TABLE tenant ADD COLUMN lan_keys_made BIGINT;

CREATE TABLE network_alias (
    id      TEXT PRIMARY KEY,  -- of the network that was merged
    tenant  TEXT NOT NULL REFERENCES tenant (id),
    name    TEXT NOT NULL,
    network TEXT NOT NULL REFERENCES network (id),
    at      BIGINT NOT NULL,
    why     TEXT NOT NULL
);
CREATE INDEX network_alias_by_network ON network_alias (network);

-- migration 4: agents that are being drained
ALTER TABLE agent ADD COLUMN draining BIGINT;    -- since when
ALTER TABLE agent ADD COLUMN drain_grace BIGINT; -- ms that open streams may go on; NULL: until they end

-- migration 5: what a tenant may use
ALTER TABLE tenant ADD COLUMN limits TEXT; -- JSON; NULL: no limits

-- migration 6: a token's oldest answers are dropped when it has too many
CREATE INDEX idempotency_by_token ON idempotency (token, created);

-- migration 7: the CA of hubs that share this database
CREATE TABLE ca (
    id      BIGINT PRIMARY KEY, -- 1
    cert    TEXT   NOT NULL,    -- PEM
    key     BYTEA  NOT NULL,    -- PEM, sealed under the key file
    created BIGINT NOT NULL
);

-- migration 8: several roots while the CA is rotated; a hub without a key file keeps their keys in its folder
ALTER TABLE ca ADD COLUMN crossed TEXT;   -- PEM: this root's key, signed by the root before it
ALTER TABLE ca ADD COLUMN signs BIGINT;   -- since when it signs
ALTER TABLE ca ADD COLUMN retired BIGINT; -- since when it is not trusted; its key is gone
ALTER TABLE ca ADD COLUMN seal TEXT;      -- how the key of the seal is made (pki/seal_key.h); NULL: as of old
UPDATE ca SET signs = created;
ALTER TABLE agent ADD COLUMN root BIGINT NOT NULL DEFAULT 1;  -- ca.id that signed its newest certificate
ALTER TABLE agent ADD COLUMN knows BIGINT NOT NULL DEFAULT 1; -- the newest that it is known to trust

-- migration 9: the root whose fingerprint a bootstrap token carries
ALTER TABLE token ADD COLUMN root BIGINT NOT NULL DEFAULT 1;
