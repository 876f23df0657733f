//! The backend's own database, made of the contract's facts alone (§6.1, §6.4 to §6.8), and the backend itself as far as
//! it writes the tables that are projected.

use std::path::Path;
use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{Connection, params};

/// Every migration of backend 0.101.0 (§6.8).
const MIGRATIONS: [i64; 39] = [
    20260604000000,
    20260607010000,
    20260607020000,
    20260609120000,
    20260611030000,
    20260611120000,
    20260611140000,
    20260611150000,
    20260611160000,
    20260614000000,
    20260615000000,
    20260615010000,
    20260618000000,
    20260620000000,
    20260628000000,
    20260628000100,
    20260701000000,
    20260704000000,
    20260712000000,
    20260712010000,
    20260718000000,
    20260729000000,
    20260729010000,
    20260730000000,
    20260730010000,
    20260801000000,
    20260802000000,
    20260927000000,
    20260928000000,
    20260929000000,
    20260930000000,
    20261012000000,
    20261012010000,
    20261013000000,
    20261013010000,
    20261018000000,
    20261024000000,
    20261024000001,
    20261029000000,
];

/// §6.4, in the column order of a file that went through all migrations.
const READ_MODEL: &str = "
CREATE TABLE execution_results (result_id TEXT PRIMARY KEY, request_id TEXT NOT NULL, exec_id TEXT, pc_id TEXT NOT NULL,
    exit_code INTEGER, stdout TEXT NOT NULL DEFAULT '', stderr TEXT NOT NULL DEFAULT '', started_at TIMESTAMP NOT NULL,
    finished_at TIMESTAMP, recorded_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, job_id TEXT, version TEXT,
    reaped INTEGER NOT NULL DEFAULT 0, expires_at TIMESTAMP, parent_result_id TEXT, skipped INTEGER NOT NULL DEFAULT 0);
CREATE INDEX idx_execution_results_exec ON execution_results(exec_id, recorded_at DESC) WHERE exec_id IS NOT NULL;
CREATE INDEX idx_execution_results_inflight ON execution_results(started_at DESC) WHERE finished_at IS NULL;
CREATE INDEX idx_execution_results_job ON execution_results(job_id, pc_id, finished_at DESC) WHERE job_id IS NOT NULL;
CREATE INDEX idx_execution_results_pc ON execution_results(pc_id, recorded_at DESC);
CREATE INDEX idx_execution_results_request ON execution_results(request_id);
CREATE INDEX idx_execution_results_started_at ON execution_results(started_at DESC, result_id DESC);
CREATE INDEX idx_execution_results_recorded_at ON execution_results(recorded_at);
CREATE INDEX idx_execution_results_finished_at ON execution_results(finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX idx_execution_results_expires ON execution_results(expires_at) WHERE finished_at IS NULL;
CREATE INDEX idx_execution_results_parent_result_id ON execution_results(parent_result_id)
    WHERE parent_result_id IS NOT NULL;
CREATE TABLE executions (exec_id TEXT PRIMARY KEY, job_id TEXT NOT NULL, version TEXT NOT NULL,
    initiated_by TEXT NOT NULL, initiated_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, target_count INTEGER NOT NULL,
    success_count INTEGER NOT NULL DEFAULT 0, failure_count INTEGER NOT NULL DEFAULT 0,
    status TEXT NOT NULL DEFAULT 'pending');
CREATE INDEX idx_executions_job ON executions(job_id, initiated_at DESC);
CREATE INDEX idx_executions_initiated_at ON executions(initiated_at);
CREATE INDEX idx_executions_live ON executions(status, job_id) WHERE status IN ('running', 'pending');
CREATE TABLE inventory_facts (pc_id TEXT NOT NULL, job_id TEXT NOT NULL, facts_json TEXT NOT NULL, display_json TEXT,
    summary_json TEXT, collected_at TIMESTAMP, recorded_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (pc_id, job_id));
CREATE INDEX idx_inventory_facts_job ON inventory_facts(job_id);
CREATE INDEX idx_inventory_facts_pc ON inventory_facts(pc_id);
CREATE INDEX idx_inventory_facts_job_pc ON inventory_facts(job_id, pc_id);
CREATE TABLE inventory_history (id INTEGER PRIMARY KEY AUTOINCREMENT, pc_id TEXT NOT NULL, job_id TEXT NOT NULL,
    field_path TEXT NOT NULL, identity_json TEXT,
    change_kind TEXT NOT NULL CHECK (change_kind IN ('added', 'removed', 'changed')), before_json TEXT, after_json TEXT,
    observed_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP);
CREATE INDEX idx_inventory_history_field ON inventory_history(job_id, field_path, observed_at DESC);
CREATE INDEX idx_inventory_history_identity ON inventory_history(job_id, field_path, identity_json);
CREATE INDEX idx_inventory_history_observed_at ON inventory_history(observed_at);
CREATE INDEX idx_inventory_history_pc ON inventory_history(pc_id, observed_at DESC);
CREATE TABLE check_status (pc_id TEXT NOT NULL, check_name TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('ok', 'warn', 'fail', 'unknown')), detail TEXT,
    recorded_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, label TEXT, PRIMARY KEY (pc_id, check_name));
CREATE INDEX idx_check_status_name ON check_status(check_name);
CREATE TABLE feeds (feed_id TEXT NOT NULL, item_id TEXT NOT NULL, data TEXT NOT NULL, fetched_at TIMESTAMP,
    recorded_at TIMESTAMP NOT NULL, PRIMARY KEY (feed_id, item_id));
CREATE TABLE feed_meta (feed_id TEXT PRIMARY KEY, recorded_at TIMESTAMP NOT NULL, fetched_at TIMESTAMP,
    item_count INTEGER NOT NULL);";

const LEDGERS: &str = "
CREATE TABLE job_completions (job_id TEXT NOT NULL, pc_id TEXT NOT NULL, last_success_at TIMESTAMP NOT NULL,
    PRIMARY KEY (job_id, pc_id));
CREATE TABLE job_version_completions (job_id TEXT NOT NULL, pc_id TEXT NOT NULL, version TEXT NOT NULL,
    last_success_at TIMESTAMP NOT NULL, PRIMARY KEY (job_id, version, pc_id));";

/// What §6.5 says, in words of their own.
const TRIGGERS: [(&str, &str); 2] = [
    ("execution_results_completion_insert", "INSERT"),
    (
        "execution_results_completion_update",
        "UPDATE OF exit_code, finished_at, job_id, pc_id, version",
    ),
];

/// §6.7: none of our business.
const OTHERS: &str = "
CREATE TABLE agents (pc_id TEXT PRIMARY KEY, hostname TEXT NOT NULL, last_heartbeat TIMESTAMP NOT NULL, agent_version TEXT,
    os_family TEXT, last_logon_user TEXT);
CREATE INDEX idx_agents_last_heartbeat ON agents(last_heartbeat);
CREATE TABLE agent_meta (pc_id TEXT NOT NULL REFERENCES agents(pc_id) ON DELETE CASCADE, key TEXT NOT NULL,
    value TEXT NOT NULL, PRIMARY KEY (pc_id, key));
CREATE TABLE users (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, password_hash TEXT NOT NULL);
CREATE TABLE user_passkeys (id TEXT PRIMARY KEY, user_id INTEGER NOT NULL REFERENCES users(id), credential BLOB NOT NULL);
CREATE TABLE audit_log (id INTEGER PRIMARY KEY, at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, what TEXT NOT NULL);
CREATE TRIGGER agents_are_audited AFTER DELETE ON agents BEGIN INSERT INTO audit_log (what) VALUES (OLD.pc_id); END;
INSERT INTO agents VALUES ('PC-0001', 'pc-0001', '2026-06-01T00:00:00+00:00', '0.101.0', 'windows', 'alice'),
    ('PC-0002', 'pc-0002', '2026-06-01T00:00:01.500+00:00', '0.99.2', 'windows', NULL);
INSERT INTO agent_meta VALUES ('PC-0001', 'room', '4.11'), ('PC-0002', 'room', 'Köln');
INSERT INTO users (name, password_hash) VALUES ('admin', '$argon2id$v=19$'), ('auditor', '$argon2id$v=19$');
INSERT INTO user_passkeys VALUES ('k1', 1, x'00ff10');
INSERT INTO audit_log (at, what) VALUES ('2026-06-01T00:00:00+00:00', 'login');";

/// Those whose columns are of no matter.
const PLAIN_OTHERS: [&str; 15] = [
    "backend_notices",
    "deploy_plan_applications",
    "deploy_plans",
    "host_perf_samples",
    "install_attempts",
    "install_events",
    "nats_auth_audit_state",
    "nats_auth_occurrences",
    "notification_ack_events",
    "notification_acks",
    "object_store_meta",
    "obs_events",
    "password_setup_tokens",
    "permission_groups",
    "process_perf_samples",
];

/// Which ledgers the file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ledgers {
    /// A backend before 0.99.2.
    Absent,
    /// The triggers' text is exactly that of a file of our own.
    LikeOurs,
    /// They do the same in other words.
    InOtherWords,
}

/// How a file is to be.
#[derive(Clone, Copy, Debug)]
pub struct BackendFile {
    pub ledgers: Ledgers,
    /// The last migration that was begun.
    pub last: i64,
    pub last_succeeded: bool,
    /// A table's column that is not there.
    pub without: Option<(&'static str, &'static str)>,
}

impl Default for BackendFile {
    fn default() -> Self {
        Self {
            ledgers: Ledgers::InOtherWords,
            last: MIGRATIONS[38],
            last_succeeded: true,
            without: None,
        }
    }
}

impl BackendFile {
    pub fn with(ledgers: Ledgers) -> Self {
        Self {
            ledgers,
            last: if ledgers == Ledgers::Absent {
                MIGRATIONS[37]
            } else {
                MIGRATIONS[38]
            },
            ..Self::default()
        }
    }

    /// Makes the file.
    pub fn create(&self, db: &Path) {
        let conn = Connection::open(db).unwrap();
        conn.execute_batch("PRAGMA page_size = 4096; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL")
            .unwrap();
        conn.execute_batch(READ_MODEL).unwrap();
        conn.execute_batch(OTHERS).unwrap();
        for table in PLAIN_OTHERS {
            conn.execute_batch(&format!(
                "CREATE TABLE {table} (id INTEGER PRIMARY KEY, body TEXT); INSERT INTO {table} (body) VALUES ('{table}')"
            ))
            .unwrap();
        }
        if self.ledgers != Ledgers::Absent {
            create_ledgers(&conn, self.ledgers);
        }
        if let Some((table, column)) = self.without {
            for (trigger, _) in TRIGGERS {
                conn.execute_batch(&format!("DROP TRIGGER IF EXISTS {trigger}"))
                    .unwrap();
            }
            conn.execute_batch(&format!("ALTER TABLE {table} DROP COLUMN {column}"))
                .unwrap();
        }
        let applied = if self.last < MIGRATIONS[0] {
            (1..=self.last).collect()
        } else {
            MIGRATIONS.to_vec()
        };
        conn.execute_batch(
            "CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL,
                 installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, success BOOLEAN NOT NULL,
                 checksum BLOB NOT NULL, execution_time BIGINT NOT NULL)",
        )
        .unwrap();
        for version in applied.into_iter().filter(|version| *version <= self.last) {
            let description = match version {
                20260604000000 => "baseline".to_owned(),
                20261029000000 => "durable job completions".to_owned(),
                other => format!("step {other}"),
            };
            let checksum: Vec<u8> = (0..48).map(|at| (version >> (at % 8)) as u8 ^ at).collect();
            conn.execute(
                "INSERT INTO _sqlx_migrations VALUES (?1, ?2, '2026-06-04 00:00:00', ?3, ?4, ?5)",
                params![
                    version,
                    description,
                    self.last_succeeded || version != self.last,
                    checksum,
                    version % 1_000_003
                ],
            )
            .unwrap();
        }
    }
}

/// What the backend's migration 20261029000000 adds; it counts what is there already.
pub fn create_ledgers(conn: &Connection, ledgers: Ledgers) {
    conn.execute_batch(LEDGERS).unwrap();
    conn.execute_batch(
        "INSERT INTO job_completions SELECT job_id, pc_id, max(finished_at) FROM execution_results
             WHERE job_id IS NOT NULL AND exit_code = 0 AND finished_at IS NOT NULL GROUP BY 1, 2;
         INSERT INTO job_version_completions SELECT job_id, pc_id, version, max(finished_at) FROM execution_results
             WHERE job_id IS NOT NULL AND exit_code = 0 AND finished_at IS NOT NULL AND version IS NOT NULL
             GROUP BY 1, 2, 3",
    )
    .unwrap();
    if ledgers == Ledgers::LikeOurs {
        let ours = include_str!("../../../migrations/read_model/0001_results.sql");
        let from = ours.find("CREATE TRIGGER").unwrap();
        return conn.execute_batch(&ours[from..]).unwrap();
    }
    for (name, event) in TRIGGERS {
        conn.execute_batch(&format!(
            "CREATE TRIGGER {name} AFTER {event} ON execution_results FOR EACH ROW
             WHEN NEW.finished_at IS NOT NULL AND NEW.exit_code = 0 AND NEW.job_id IS NOT NULL
             BEGIN
                 INSERT INTO job_completions VALUES (NEW.job_id, NEW.pc_id, NEW.finished_at)
                 ON CONFLICT DO UPDATE SET last_success_at = excluded.last_success_at
                 WHERE excluded.last_success_at > job_completions.last_success_at;
                 INSERT INTO job_version_completions (version, job_id, pc_id, last_success_at)
                 SELECT NEW.version, NEW.job_id, NEW.pc_id, NEW.finished_at WHERE NEW.version IS NOT NULL
                 ON CONFLICT DO UPDATE SET last_success_at = excluded.last_success_at
                 WHERE excluded.last_success_at > job_version_completions.last_success_at;
             END"
        ))
        .unwrap();
    }
}

/// One of the backend's connections.
pub fn connect(db: &Path) -> Connection {
    let conn = Connection::open(db).unwrap();
    conn.busy_timeout(Duration::from_secs(30)).unwrap();
    conn.execute_batch("PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON")
        .unwrap();
    conn
}

/// The backend's deletion of a job.
pub fn delete_job(db: &Path, job_id: &str) {
    let conn = connect(db);
    for table in ["inventory_facts", "inventory_history"] {
        conn.execute(&format!("DELETE FROM {table} WHERE job_id = ?1"), [job_id])
            .unwrap();
    }
}

/// The text of everything in the schema that is neither ours nor an exploded table.
pub fn schema(conn: &Connection) -> Vec<(String, String, Option<String>)> {
    conn.prepare(
        "SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'projector\\_%' ESCAPE '\\'
             AND tbl_name NOT LIKE 'projector\\_%' ESCAPE '\\' AND tbl_name NOT LIKE 'inventory\\_software%' ESCAPE '\\'
             AND tbl_name NOT LIKE 'inventory\\_disks' ESCAPE '\\' ORDER BY type, name",
    )
    .unwrap()
    .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
    .unwrap()
    .map(Result::unwrap)
    .collect()
}

/// Every row of a query.
pub fn rows(conn: &Connection, sql: &str) -> Vec<Vec<Value>> {
    let mut statement = conn.prepare(sql).unwrap();
    let columns = statement.column_count();
    statement
        .query_map([], |row| (0..columns).map(|index| row.get(index)).collect())
        .unwrap()
        .map(Result::unwrap)
        .collect()
}

/// Every row that is none of our business, migrations included.
pub fn others_rows(conn: &Connection) -> Vec<Vec<Value>> {
    [
        "_sqlx_migrations",
        "agents",
        "agent_meta",
        "users",
        "user_passkeys",
        "audit_log",
    ]
    .into_iter()
    .chain(PLAIN_OTHERS)
    .flat_map(|table| rows(conn, &format!("SELECT '{table}', * FROM {table} ORDER BY rowid")))
    .collect()
}

/// The reaper (§6.1): rows past their deadline, or without one started a day ago.
pub fn reap(conn: &mut Connection, now: &str) -> usize {
    let tx = conn
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .unwrap();
    let reaped: Vec<Option<String>> = tx
        .prepare(
            "UPDATE execution_results SET finished_at = ?1, exit_code = -1, reaped = 1, stderr = 'reaped'
             WHERE finished_at IS NULL AND coalesce(expires_at, '2026-01-01') < ?1 RETURNING exec_id",
        )
        .unwrap()
        .query_map([now], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    for exec_id in reaped.iter().flatten() {
        tx.execute(
            "UPDATE executions SET failure_count = failure_count + 1 WHERE exec_id = ?1",
            [exec_id],
        )
        .unwrap();
    }
    tx.commit().unwrap();
    reaped.len()
}

/// The row that a deployment gets after its command was published.
pub fn deploy(conn: &Connection, exec_id: &str, job_id: &str, target: i64) {
    conn.execute(
        "INSERT INTO executions (exec_id, job_id, version, initiated_by, target_count) VALUES (?1, ?2, '1.0.0', 'alice', ?3)
         ON CONFLICT DO NOTHING",
        params![exec_id, job_id, target],
    )
    .unwrap();
}
