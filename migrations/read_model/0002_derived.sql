-- The read model of everything that results, start events and snapshots change besides the result's own row
-- (contract §6.4). Names, types and texts are a public interface.

-- Rows are made by the backend; the projector only moves the two counters and the status.
CREATE TABLE executions (
    exec_id       TEXT PRIMARY KEY,
    job_id        TEXT NOT NULL,
    version       TEXT NOT NULL,
    initiated_by  TEXT NOT NULL,
    initiated_at  TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    target_count  INTEGER NOT NULL,
    success_count INTEGER NOT NULL DEFAULT 0,
    failure_count INTEGER NOT NULL DEFAULT 0,
    status        TEXT NOT NULL DEFAULT 'pending'
);
CREATE INDEX idx_executions_job ON executions (job_id, initiated_at DESC);
CREATE INDEX idx_executions_initiated_at ON executions (initiated_at);
CREATE INDEX idx_executions_live ON executions (status, job_id) WHERE status IN ('running', 'pending');

CREATE TABLE inventory_facts (
    pc_id        TEXT NOT NULL,
    job_id       TEXT NOT NULL,
    facts_json   TEXT NOT NULL,
    display_json TEXT,
    summary_json TEXT,
    collected_at TIMESTAMP,
    recorded_at  TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (pc_id, job_id)
);
CREATE INDEX idx_inventory_facts_job ON inventory_facts (job_id);
CREATE INDEX idx_inventory_facts_pc ON inventory_facts (pc_id);
CREATE INDEX idx_inventory_facts_job_pc ON inventory_facts (job_id, pc_id);

CREATE TABLE inventory_history (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    pc_id         TEXT NOT NULL,
    job_id        TEXT NOT NULL,
    field_path    TEXT NOT NULL,
    identity_json TEXT,
    change_kind   TEXT NOT NULL CHECK (change_kind IN ('added', 'removed', 'changed')),
    before_json   TEXT,
    after_json    TEXT,
    observed_at   TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX idx_inventory_history_field ON inventory_history (job_id, field_path, observed_at DESC);
CREATE INDEX idx_inventory_history_identity ON inventory_history (job_id, field_path, identity_json);
CREATE INDEX idx_inventory_history_observed_at ON inventory_history (observed_at);
CREATE INDEX idx_inventory_history_pc ON inventory_history (pc_id, observed_at DESC);

CREATE TABLE check_status (
    pc_id       TEXT NOT NULL,
    check_name  TEXT NOT NULL,
    status      TEXT NOT NULL CHECK (status IN ('ok', 'warn', 'fail', 'unknown')),
    detail      TEXT,
    recorded_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    label       TEXT,
    PRIMARY KEY (pc_id, check_name)
);
CREATE INDEX idx_check_status_name ON check_status (check_name);

CREATE TABLE feeds (
    feed_id     TEXT NOT NULL,
    item_id     TEXT NOT NULL,
    data        TEXT NOT NULL,
    fetched_at  TIMESTAMP,
    recorded_at TIMESTAMP NOT NULL,
    PRIMARY KEY (feed_id, item_id)
);
CREATE TABLE feed_meta (
    feed_id     TEXT PRIMARY KEY,
    recorded_at TIMESTAMP NOT NULL,
    fetched_at  TIMESTAMP,
    item_count  INTEGER NOT NULL
);
