//! The backend's own file: recognised by its migrations, checked for everything that is written, never altered
//! (contract §6.8, DESIGN §7). Only tables with our prefix are added.

use std::path::Path;

use rusqlite::Connection;

use super::{StoreError, report};

/// The table by which the backend's file is known. Never written: an unknown version in it keeps the backend from
/// starting.
pub(super) const MIGRATIONS: &str = "_sqlx_migrations";
/// The first of the backend's migrations with every column that is written, the completions apart.
const NEEDED: i64 = 20_260_927_000_000;
/// The first backend with that migration.
const NEEDED_BACKEND: &str = "0.48.2";

/// Tables that are none of our business and never written (contract §6.7).
pub(super) const NOT_WRITTEN: [&str; 21] = [
    "_sqlx_migrations",
    "agent_meta",
    "agents",
    "audit_log",
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
    "user_passkeys",
    "users",
];

/// Makes sure that the backend's file can be worked on.
///
/// # Errors
/// [`StoreError::Unusable`]: the version found and the version needed, or the missing column.
pub(super) fn check(conn: &Connection, path: &Path) -> Result<(), StoreError> {
    let version: Option<i64> = conn
        .query_row(
            "SELECT max(version) FROM _sqlx_migrations WHERE success",
            [],
            |row| row.get(0),
        )
        .map_err(StoreError::sqlite("read the backend's migrations"))?;
    let version = version.unwrap_or(0);
    if version < NEEDED {
        return Err(StoreError::Unusable(format!(
            "{} is a backend's database at migration {version}; {NEEDED} is needed: start a backend of version \
             {NEEDED_BACKEND} or later on it once, which migrates it",
            path.display()
        )));
    }
    report::check_read_model(conn, true)
}
