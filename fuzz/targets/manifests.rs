//! The bucket `jobs`, a document a part (contract §4.3, §7.5.1, §7.5.2).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use results_projector::projection::explode::ExplodeSpec;
use results_projector::projection::hints;
use results_projector::projection::issue::IssueCode;
use results_projector::projection::manifests::{Job, Manifests, RefusedSpec, SpecState};
use results_projector::wire::manifest::{self, Display, Manifest, decode, display_json, expires_at};
use results_projector::wire::result::Field;
use results_projector::wire::time::Timestamp;
use rusqlite::Connection;

use super::model::{Members, Says, assert_one_line};
use super::parts;

/// A few tables that no spec may have, in the order of the contract (§6.4, §6.7, D8).
const TAKEN: [&str; 6] = [
    "execution_results",
    "feeds",
    "users",
    "agents",
    "_sqlx_migrations",
    "check_status",
];
const TAKEN_BEGINNINGS: [&str; 4] = ["sqlite_", "_sqlx", "projector_", "_explode_migrate_"];

pub(crate) fn run(data: &[u8]) {
    let documents: Vec<(String, Bytes)> = parts(data)
        .into_iter()
        .take(8)
        .enumerate()
        .map(|(number, document)| (format!("job-{number}"), Bytes::copy_from_slice(document)))
        .collect();
    let manifests = Manifests::compile(documents.clone());
    let backwards = Manifests::compile(documents.iter().rev().cloned());
    assert_eq!(
        told(&manifests),
        told(&backwards),
        "the order of the documents does not matter"
    );
    assert_eq!(manifests.iter().count(), documents.len());

    let mut shapes = BTreeMap::new();
    for (id, document) in &documents {
        let job = manifests.job(id).unwrap();
        let decoded = decode(document);
        assert_eq!(decoded.as_ref().err().map(ToString::to_string), job.undecodable);
        match decoded {
            Ok(manifest) => {
                assert!(matches!(Members::of(document), Says::Is(_) | Says::Nothing));
                one(&manifest, job, &mut shapes);
            }
            Err(error) => {
                assert_one_line(&error.to_string());
                assert!(job.hints.is_none() && job.timeout.is_none());
            }
        }
    }
}

/// All of a compiled bucket, as text.
fn told(manifests: &Manifests) -> Vec<String> {
    manifests
        .iter()
        .map(|(id, job)| format!("{id} {job:?}"))
        .collect()
}

type Shape = (String, Vec<(String, &'static str)>, BTreeSet<usize>);

fn one(manifest: &Manifest, job: &Job, shapes: &mut BTreeMap<String, Shape>) {
    assert_eq!(manifest.timeout, job.timeout);
    if let Some(timeout) = &manifest.timeout {
        let published = Timestamp::parse_wire("2026-06-01T00:00:00Z").unwrap();
        let deadline = expires_at(published, timeout);
        let least = Timestamp::parse_wire("2026-06-01T00:02:00Z").unwrap();
        assert!(deadline.is_none_or(|deadline| deadline >= least), "{timeout:?}");
    }
    let feeds = !manifest.feeds.is_empty();
    let check = manifest.check.as_ref().is_some_and(|check| check.fleet);
    let Some(hint) = &job.hints else {
        assert!(manifest.inventory.is_none() && !check && !feeds);
        return;
    };
    assert!(hint.hash.len() == 64 && hint.hash.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_eq!(hint.feeds.len(), manifest.feeds.len());
    assert!(hint.feeds.iter().all(|feed| feed.id == feed.id.trim()));
    assert_eq!(hint.check.is_some(), check);
    assert_eq!(
        hints::needs(hint, 0, false),
        (feeds || manifest.inventory.is_some()).then_some(Field::Stdout)
    );
    assert_eq!(hints::needs(hint, 1, true), check.then_some(Field::Stderr));

    let (Some(hint), Some(sent)) = (&hint.inventory, &manifest.inventory) else {
        assert!(hint.inventory.is_none() && manifest.inventory.is_none());
        return;
    };
    view(&hint.display_json, &sent.display);
    if let (Some(text), Some(fields)) = (&hint.summary_json, &sent.summary) {
        view(text, fields);
    }
    assert_eq!(hint.scalars, sent.history_scalars);
    assert_eq!(hint.specs.len(), sent.explode.len());
    for (state, sent) in hint.specs.iter().zip(&sent.explode) {
        match state {
            SpecState::Valid(spec) => valid(spec, sent, shapes),
            SpecState::Refused(refused) => refusal(refused, sent),
        }
    }
}

/// What is written of a view reads back as the view.
fn view(text: &str, fields: &[Display]) {
    let read: Vec<Display> = serde_json::from_str(text).unwrap();
    assert_eq!(read, fields);
    assert_eq!(display_json(&read), text);
}

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    let first = bytes.next();
    first.is_some_and(|first| first == b'_' || first.is_ascii_alphabetic())
        && bytes.all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
        && text.len() <= 64
}

fn is_taken(table: &str) -> bool {
    let table = table.to_lowercase();
    TAKEN.contains(&table.as_str())
        || TAKEN_BEGINNINGS
            .iter()
            .any(|beginning| table.starts_with(beginning))
}

fn valid(spec: &ExplodeSpec, sent: &manifest::Explode, shapes: &mut BTreeMap<String, Shape>) {
    assert!(
        is_name(&spec.table) && !is_taken(&spec.table),
        "table {:?}",
        spec.table
    );
    assert_eq!(
        (&spec.table, &spec.field, spec.track_history),
        (&sent.table, &sent.field, sent.track_history)
    );
    assert_eq!(spec.columns.len(), sent.columns.len());
    let mut names = BTreeSet::from(["pc_id", "job_id", "collected_at"].map(str::to_owned));
    for (column, sent) in spec.columns.iter().zip(&sent.columns) {
        assert!(is_name(&column.name) && column.name == sent.field && column.index == sent.index);
        assert!(
            names.insert(column.name.to_ascii_lowercase()),
            "column {:?} twice",
            column.name
        );
        assert_eq!(
            column.kind.as_sql().to_ascii_lowercase(),
            sent.kind.as_deref().unwrap_or("text")
        );
    }
    let key: BTreeSet<usize> = spec.key.iter().copied().collect();
    assert!(!key.is_empty() && key.len() == spec.key.len());
    let names: BTreeSet<&str> = key.iter().map(|at| spec.columns[*at].name.as_str()).collect();
    assert_eq!(names, sent.primary_key.iter().map(String::as_str).collect());
    assert_eq!(spec.key.len() + spec.others().count(), spec.columns.len());
    assert!(spec.fits(spec.elements_max()) && !spec.fits(spec.elements_max() + 1));

    let columns = spec
        .columns
        .iter()
        .map(|column| (column.name.clone(), column.kind.as_sql()))
        .collect();
    let shape = (spec.table.clone(), columns, key);
    let first = shapes
        .entry(spec.table.to_ascii_lowercase())
        .or_insert_with(|| shape.clone());
    assert_eq!(
        (&first.1, &first.2),
        (&shape.1, &shape.2),
        "two shapes of {:?}",
        spec.table
    );
    if spec.columns.len() <= 40 {
        create(spec);
    }
}

/// SQLite takes the table, its indexes, and its row id by the name that we give it.
fn create(spec: &ExplodeSpec) {
    thread_local! {
        static EMPTY: Connection = Connection::open_in_memory().unwrap();
    }
    let table = &spec.table;
    let columns: String = spec
        .columns
        .iter()
        .map(|column| format!(", \"{}\" {}", column.name, column.kind.as_sql()))
        .collect();
    let key: String = spec
        .key
        .iter()
        .map(|at| format!(", \"{}\"", spec.columns[*at].name))
        .collect();
    let mut sql = format!(
        "BEGIN; CREATE TABLE \"{table}\" (pc_id TEXT NOT NULL, job_id TEXT NOT NULL, collected_at TIMESTAMP{columns},
             PRIMARY KEY (pc_id, job_id{key}));
         INSERT INTO \"{table}\" (pc_id, job_id) VALUES ('p', 'j');
         UPDATE \"{table}\" SET collected_at = 't' WHERE {} = 1;",
        spec.rowid()
    );
    for column in spec.columns.iter().filter(|column| column.index) {
        let index = results_projector::projection::spec::index_name(table, &column.name);
        sql.push_str(&format!(
            "CREATE INDEX \"{index}\" ON \"{table}\" (\"{}\");",
            column.name
        ));
    }
    EMPTY.with(|conn| {
        let outcome = conn.execute_batch(&sql).map(|()| {
            assert_eq!(conn.changes(), 1, "{sql}");
        });
        conn.execute_batch("ROLLBACK").unwrap();
        outcome.unwrap_or_else(|error| panic!("{error}: {sql}"));
    });
}

fn refusal(refused: &RefusedSpec, sent: &manifest::Explode) {
    assert_eq!((&refused.table, &refused.field), (&sent.table, &sent.field));
    assert!(matches!(
        refused.code,
        IssueCode::ExplodeSpecInvalid | IssueCode::ExplodeTableRefused
    ));
    assert_one_line(&refused.reason);
}
