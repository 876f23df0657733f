-- The read model of results (contract §6.4, §6.5). Column order and texts are a public interface: the backend,
-- its web UI, its scheduler and operators' SQL read these tables.
CREATE TABLE execution_results (
    result_id        TEXT PRIMARY KEY,
    request_id       TEXT NOT NULL,
    exec_id          TEXT,
    pc_id            TEXT NOT NULL,
    exit_code        INTEGER,
    stdout           TEXT NOT NULL DEFAULT '',
    stderr           TEXT NOT NULL DEFAULT '',
    started_at       TIMESTAMP NOT NULL,
    finished_at      TIMESTAMP,
    recorded_at      TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    job_id           TEXT,
    version          TEXT,
    reaped           INTEGER NOT NULL DEFAULT 0,
    expires_at       TIMESTAMP,
    parent_result_id TEXT,
    skipped          INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX idx_execution_results_exec ON execution_results (exec_id, recorded_at DESC) WHERE exec_id IS NOT NULL;
CREATE INDEX idx_execution_results_inflight ON execution_results (started_at DESC) WHERE finished_at IS NULL;
CREATE INDEX idx_execution_results_job ON execution_results (job_id, pc_id, finished_at DESC) WHERE job_id IS NOT NULL;
CREATE INDEX idx_execution_results_pc ON execution_results (pc_id, recorded_at DESC);
CREATE INDEX idx_execution_results_request ON execution_results (request_id);
CREATE INDEX idx_execution_results_started_at ON execution_results (started_at DESC, result_id DESC);
CREATE INDEX idx_execution_results_recorded_at ON execution_results (recorded_at);
CREATE INDEX idx_execution_results_finished_at ON execution_results (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX idx_execution_results_expires ON execution_results (expires_at) WHERE finished_at IS NULL;
CREATE INDEX idx_execution_results_parent_result_id ON execution_results (parent_result_id)
    WHERE parent_result_id IS NOT NULL;

CREATE TABLE job_completions (
    job_id          TEXT NOT NULL,
    pc_id           TEXT NOT NULL,
    last_success_at TIMESTAMP NOT NULL,
    PRIMARY KEY (job_id, pc_id)
);
CREATE TABLE job_version_completions (
    job_id          TEXT NOT NULL,
    pc_id           TEXT NOT NULL,
    version         TEXT NOT NULL,
    last_success_at TIMESTAMP NOT NULL,
    PRIMARY KEY (job_id, version, pc_id)
);

-- `greater text wins`: the stored times are ordered as texts (contract §6.2).
CREATE TRIGGER execution_results_completion_insert AFTER INSERT ON execution_results
WHEN NEW.job_id IS NOT NULL AND NEW.exit_code = 0 AND NEW.finished_at IS NOT NULL
BEGIN
    INSERT INTO job_completions (job_id, pc_id, last_success_at)
    VALUES (NEW.job_id, NEW.pc_id, NEW.finished_at)
    ON CONFLICT (job_id, pc_id) DO UPDATE SET last_success_at = max(last_success_at, excluded.last_success_at);
    INSERT INTO job_version_completions (job_id, pc_id, version, last_success_at)
    SELECT NEW.job_id, NEW.pc_id, NEW.version, NEW.finished_at WHERE NEW.version IS NOT NULL
    ON CONFLICT (job_id, version, pc_id) DO UPDATE SET last_success_at = max(last_success_at, excluded.last_success_at);
END;
CREATE TRIGGER execution_results_completion_update
AFTER UPDATE OF exit_code, finished_at, job_id, pc_id, version ON execution_results
WHEN NEW.job_id IS NOT NULL AND NEW.exit_code = 0 AND NEW.finished_at IS NOT NULL
BEGIN
    INSERT INTO job_completions (job_id, pc_id, last_success_at)
    VALUES (NEW.job_id, NEW.pc_id, NEW.finished_at)
    ON CONFLICT (job_id, pc_id) DO UPDATE SET last_success_at = max(last_success_at, excluded.last_success_at);
    INSERT INTO job_version_completions (job_id, pc_id, version, last_success_at)
    SELECT NEW.job_id, NEW.pc_id, NEW.version, NEW.finished_at WHERE NEW.version IS NOT NULL
    ON CONFLICT (job_id, version, pc_id) DO UPDATE SET last_success_at = max(last_success_at, excluded.last_success_at);
END;
