//! docs/SQL.md against the tables: it names each of them and each column, and its queries run on what the service has written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use results_projector::projection::issue::IssueCode;
use results_projector::projection::output::Output;
use results_projector::wire::output::{Attempt, State};
use results_projector::wire::result::Field;
use rusqlite::Connection;

use crate::harness::dump;
use crate::harness::fleet::put_manifests;
use crate::harness::projector::{catch_up, place};
use crate::harness::*;

fn document() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/SQL.md")).unwrap()
}

/// The queries, each with the sentence before it.
fn queries(document: &str) -> Vec<(String, String)> {
    let mut blocks = document.split("\n```sql\n");
    let mut before = blocks.next().unwrap();
    blocks
        .map(|block| {
            let (query, after) = block.split_once("\n```\n").unwrap();
            let sentence = before.trim().rsplit("\n\n").next().unwrap().to_owned();
            before = after;
            (sentence, query.to_owned())
        })
        .collect()
}

/// A table as the page describes it.
#[derive(Debug, Default)]
struct Described {
    ours: bool,
    key: Vec<String>,
    /// Name, type, when it is NULL.
    columns: Vec<(String, String, String)>,
}

fn in_ticks(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split('`').skip(1).step_by(2).map(str::to_owned)
}

fn described(document: &str) -> BTreeMap<String, Described> {
    let mut tables: BTreeMap<String, Described> = BTreeMap::new();
    let (mut ours, mut current) = (false, None);
    // A key may stand on the next line.
    for paragraph in document.split("\n\n") {
        let paragraph = paragraph.trim();
        if let Some(heading) = paragraph.strip_prefix("## ") {
            ours = heading.starts_with("The books");
            current = None;
        } else if let Some(heading) = paragraph.strip_prefix("### ") {
            current = in_ticks(heading).next();
            if let Some(name) = &current {
                let described = Described {
                    ours,
                    ..Described::default()
                };
                assert!(
                    tables.insert(name.clone(), described).is_none(),
                    "{name} is there twice"
                );
            }
        } else if let Some(table) = current.as_ref().and_then(|name| tables.get_mut(name)) {
            if let Some((_, key)) = paragraph.split_once("Key: ") {
                table.key = in_ticks(key).collect();
            }
            for line in paragraph.lines().filter(|line| line.starts_with("| `")) {
                let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
                let [name, kind, null, meaning] = cells[..] else {
                    panic!("{line}");
                };
                assert!(!meaning.is_empty(), "{line}");
                let name = in_ticks(name).next().unwrap();
                table.columns.push((name, kind.to_owned(), null.to_owned()));
            }
        }
    }
    tables
}

/// A table's columns: name, type, whether it may be NULL, place in the key.
fn columns(conn: &Connection, table: &str) -> Vec<(String, String, bool, i64)> {
    let mut select = conn
        .prepare("SELECT name, type, \"notnull\" = 0 AND pk = 0, pk FROM pragma_table_info(?1) ORDER BY cid")
        .unwrap();
    let rows = select.query_map([table], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

/// A database that the service has filled with all that a fleet sends.
async fn filled() -> (tempfile::TempDir, Connection) {
    let server = NatsServer::start();
    let js = server.fleet().await;
    put_manifests(&js).await.unwrap();
    publish(&js, &plan(702, &Profile::everything(1_500)))
        .await
        .unwrap();
    let (folder, db) = place();
    catch_up(&db, &server.url());
    let conn = dump::open(&db);
    (folder, conn)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_the_sql_page_runs_and_finds_something() {
    let (_folder, conn) = filled().await;
    let document = document();
    let queries = queries(&document);
    assert!(queries.len() >= 10, "{}", queries.len());
    for (sentence, query) in &queries {
        assert!(
            sentence.ends_with('?') && !sentence.contains('\n'),
            "no sentence before {query}: {sentence}"
        );
        let mut select = conn
            .prepare(query)
            .unwrap_or_else(|error| panic!("{sentence}\n{error}"));
        assert!(select.readonly(), "{sentence}");
        let names: BTreeSet<String> = select.column_names().map(str::to_owned).collect();
        assert_eq!(names.len(), select.column_count(), "{sentence}: {names:?}");
        let mut rows = select.query([]).unwrap();
        let mut count = 0;
        while rows
            .next()
            .unwrap_or_else(|error| panic!("{sentence}\n{error}"))
            .is_some()
        {
            count += 1;
        }
        assert!(
            count > 0 || sentence.contains("may be empty"),
            "{sentence}\nfinds nothing"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sql_page_names_every_table_and_column_and_no_other() {
    let (_folder, conn) = filled().await;
    let described = described(&document());
    let exploded = ["inventory_disks", "inventory_software_apps"];
    let made: BTreeSet<String> = conn
        .prepare(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
        )
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .filter(|name: &String| !exploded.contains(&name.as_str()))
        .collect();
    assert_eq!(described.keys().cloned().collect::<BTreeSet<_>>(), made);
    for (table, described) in &described {
        assert_eq!(described.ours, table.starts_with("projector_"), "{table}");
        let columns = columns(&conn, table);
        let names = |of: &mut dyn Iterator<Item = &String>| of.cloned().collect::<Vec<_>>();
        assert_eq!(
            names(&mut described.columns.iter().map(|(name, ..)| name)),
            names(&mut columns.iter().map(|(name, ..)| name)),
            "{table}"
        );
        for ((name, kind, null), (_, real, nullable, _)) in described.columns.iter().zip(&columns) {
            assert_eq!(kind, real, "{table}.{name}");
            assert_eq!(null != "no", *nullable, "{table}.{name}: NULL {null}");
        }
        let mut key: Vec<_> = columns.iter().filter(|(.., place)| *place > 0).collect();
        key.sort_by_key(|(.., place)| *place);
        assert_eq!(
            described.key,
            names(&mut key.iter().map(|(name, ..)| name)),
            "the key of {table}"
        );
    }
}

#[test]
fn the_sql_page_has_the_words_that_the_columns_and_books_have() {
    let document = document();
    let words: BTreeSet<String> = in_ticks(&document).collect();
    for attempt in [
        Attempt::Pending(String::new()),
        Attempt::Gone(String::new()),
        Attempt::Refused,
        Attempt::TooLarge { size: 9, limit: 8 },
    ] {
        let object = "NAME".into();
        let column = Output { object, attempt }.column(Field::Stdout).into_owned();
        assert!(
            words.contains(&column.replace(" 8 bytes", " N bytes")),
            "{column}"
        );
    }
    for state in State::ALL {
        assert!(words.contains(state.as_str()), "{state}");
    }
    for code in IssueCode::ALL {
        assert!(words.contains(code.as_str()), "{code}");
    }
}
