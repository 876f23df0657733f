//! Which explode specs are valid and allowed (contract §7.5.1, §7.5.2). A spec is data from outside that names tables
//! and columns, so what is not plainly harmless is refused.

use std::collections::{BTreeMap, BTreeSet};

use super::explode::{Column, ColumnKind, ExplodeSpec, free_rowid};
use super::issue::IssueCode;
use crate::wire::manifest;

/// Characters of a name.
const NAME_LENGTH_MAX: usize = 64;
/// The columns that every exploded table has.
pub const BUILT_IN: [&str; 3] = ["pc_id", "job_id", "collected_at"];
/// SQLite takes 2000 columns in a table.
const COLUMNS_MAX: usize = 2000 - BUILT_IN.len();

/// Tables that are somebody's: all of §6.4 and §6.7, and the names that SQLite answers to without a table, which a
/// table of that name would hide from the backend's own statements.
const TAKEN: [&str; 36] = [
    "_sqlx_migrations",
    "agent_meta",
    "agents",
    "audit_log",
    "backend_notices",
    "check_status",
    "dbstat",
    "deploy_plan_applications",
    "deploy_plans",
    "execution_results",
    "executions",
    "feed_meta",
    "feeds",
    "fts3tokenize",
    "host_perf_samples",
    "install_attempts",
    "install_events",
    "inventory_facts",
    "inventory_history",
    "job_completions",
    "job_version_completions",
    "json_each",
    "json_tree",
    "jsonb_each",
    "jsonb_tree",
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
/// Beginnings of names that are somebody's. Indexes are `idx_…` and share one name space with tables: without such
/// tables no index can be in the way of a table, nor a table of an index.
const TAKEN_BEGINNINGS: [&str; 6] = [
    "sqlite_",
    "_sqlx",
    "projector_",
    "_explode_migrate_",
    "pragma_",
    "idx_",
];
/// The backend's own indexes on the tables of §6.4. Were one missing, the backend that makes it would find its name
/// taken.
const TAKEN_INDEXES: [&str; 21] = [
    "idx_check_status_name",
    "idx_execution_results_exec",
    "idx_execution_results_expires",
    "idx_execution_results_finished_at",
    "idx_execution_results_inflight",
    "idx_execution_results_job",
    "idx_execution_results_parent_result_id",
    "idx_execution_results_pc",
    "idx_execution_results_recorded_at",
    "idx_execution_results_request",
    "idx_execution_results_started_at",
    "idx_executions_initiated_at",
    "idx_executions_job",
    "idx_executions_live",
    "idx_inventory_facts_job",
    "idx_inventory_facts_job_pc",
    "idx_inventory_facts_pc",
    "idx_inventory_history_field",
    "idx_inventory_history_identity",
    "idx_inventory_history_observed_at",
    "idx_inventory_history_pc",
];

/// Why a spec has no table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// [`IssueCode::ExplodeSpecInvalid`] or [`IssueCode::ExplodeTableRefused`].
    pub code: IssueCode,
    /// One line for people.
    pub reason: String,
}

impl Refusal {
    fn invalid(reason: String) -> Self {
        Self {
            code: IssueCode::ExplodeSpecInvalid,
            reason,
        }
    }

    fn table(reason: String) -> Self {
        Self {
            code: IssueCode::ExplodeTableRefused,
            reason,
        }
    }
}

/// Whether a text may be the name of a table or column.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let first = text.bytes().next();
    (1..=NAME_LENGTH_MAX).contains(&text.len())
        && !first.is_some_and(|first| first.is_ascii_digit())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Whether no spec may have this table, in any letter case (D8).
#[must_use]
pub fn is_taken(table: &str) -> bool {
    let table = table.to_ascii_lowercase();
    TAKEN.contains(&table.as_str())
        || TAKEN_BEGINNINGS
            .iter()
            .any(|beginning| table.starts_with(beginning))
}

/// The name of a column's index (§6.6).
#[must_use]
pub fn index_name(table: &str, column: &str) -> String {
    format!("idx_{table}_{column}")
}

/// The tables that the specs of a whole bucket have claimed so far, by their names in lower case.
#[derive(Debug, Default)]
pub(super) struct Claims(BTreeMap<String, (String, ExplodeSpec)>);

impl Claims {
    /// Checks the next spec of the bucket; the first with a table decides the table's shape.
    pub(super) fn check(&mut self, job: &str, sent: &manifest::Explode) -> Result<ExplodeSpec, Refusal> {
        let spec = check(sent)?;
        let name = spec.table.to_ascii_lowercase();
        if let Some((owner, first)) = self.0.get(&name) {
            if !same_shape(first, &spec) {
                let (table, owner) = (quoted(&spec.table), quoted(owner));
                return Err(Refusal::table(format!(
                    "table {table} has another shape in an earlier spec, in manifest {owner}"
                )));
            }
        } else {
            self.0.insert(name, (job.to_owned(), spec.clone()));
        }
        Ok(spec)
    }
}

/// Columns with types in order, the key as a set.
fn same_shape(one: &ExplodeSpec, other: &ExplodeSpec) -> bool {
    let columns = |spec: &ExplodeSpec| {
        let column = |column: &Column| (column.name.clone(), column.kind);
        spec.columns.iter().map(column).collect::<Vec<_>>()
    };
    let key = |spec: &ExplodeSpec| {
        let mut key = spec.key.clone();
        key.sort_unstable();
        key
    };
    columns(one) == columns(other) && key(one) == key(other)
}

/// Checks a spec by itself: valid, and no name that is taken.
///
/// # Errors
/// Why it has no table.
pub fn check(sent: &manifest::Explode) -> Result<ExplodeSpec, Refusal> {
    if !is_name(&sent.table) {
        return Err(Refusal::invalid(format!(
            "{} cannot name a table",
            quoted(&sent.table)
        )));
    }
    let columns = columns(&sent.columns).map_err(Refusal::invalid)?;
    let key = key(&sent.primary_key, &columns).map_err(Refusal::invalid)?;
    if is_taken(&sent.table) {
        return Err(Refusal::table(format!(
            "table {} is not for exploding",
            quoted(&sent.table)
        )));
    }
    for column in columns.iter().filter(|column| column.index) {
        let index = index_name(&sent.table, &column.name).to_ascii_lowercase();
        if TAKEN_INDEXES.contains(&index.as_str()) {
            let (table, index) = (quoted(&sent.table), quoted(&index));
            return Err(Refusal::table(format!(
                "table {table} would have the backend's index {index}"
            )));
        }
    }
    Ok(ExplodeSpec {
        field: sent.field.clone(),
        table: sent.table.clone(),
        columns,
        key,
        track_history: sent.track_history,
    })
}

fn columns(sent: &[manifest::Column]) -> Result<Vec<Column>, String> {
    if sent.len() > COLUMNS_MAX {
        return Err(format!("more than {COLUMNS_MAX} columns"));
    }
    let mut seen = BTreeSet::from(BUILT_IN.map(str::to_owned));
    let mut columns = Vec::with_capacity(sent.len());
    for column in sent {
        let name = quoted(&column.field);
        if !is_name(&column.field) {
            return Err(format!("{name} cannot name a column"));
        }
        let kind = column.kind.as_deref().unwrap_or("text");
        let kind = ColumnKind::parse(kind)
            .ok_or_else(|| format!("column {name} is of the unknown type {}", quoted(kind)))?;
        if !seen.insert(column.field.to_ascii_lowercase()) {
            return Err(format!("column {name} stands twice or is built in"));
        }
        columns.push(Column {
            name: column.field.clone(),
            kind,
            index: column.index,
        });
    }
    if free_rowid(columns.iter().map(|column| column.name.as_str())).is_none() {
        return Err("the columns take all names of the row id".to_owned());
    }
    Ok(columns)
}

fn key(sent: &[String], columns: &[Column]) -> Result<Vec<usize>, String> {
    let places = columns.iter().enumerate();
    let places: BTreeMap<&str, usize> = places.map(|(at, column)| (column.name.as_str(), at)).collect();
    let mut key = Vec::new();
    let mut seen = BTreeSet::new();
    for name in sent {
        let place = places
            .get(name.as_str())
            .ok_or_else(|| format!("{} of the primary key is no column", quoted(name)))?;
        if seen.insert(*place) {
            key.push(*place);
        }
    }
    if key.is_empty() {
        return Err("the primary key is empty".to_owned());
    }
    Ok(key)
}

/// Outside text in a message: quoted, escaped, cut.
fn quoted(text: &str) -> String {
    format!("{:?}", text.chars().take(60).collect::<String>())
}

#[cfg(test)]
mod tests;
