//! The list of mutations (`tests/mutations`, run by `scripts/mutants`) does not rot: each still applies to today's source,
//! names a test that is there, and every invariant has enough of them.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// As `scripts/mutants` knows them.
const KINDS: [&str; 6] = ["lib", "bin", "it", "vectors", "vectors_rules", "tidy"];
const OF_EACH_INVARIANT: usize = 5;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    invariant: String,
    mutation: Vec<Mutation>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutation {
    id: String,
    breaks: String,
    file: String,
    find: String,
    replace: String,
    caught_by: String,
    /// A mutated product hangs: the test's running for so long is being caught.
    #[serde(default, rename = "hangs_after_seconds")]
    _hangs_after_seconds: Option<u64>,
    /// Why surviving is right.
    #[serde(default)]
    argued: Option<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn lists() -> Vec<List> {
    let mut paths: Vec<PathBuf> = fs::read_dir(root().join("tests/mutations"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| {
            let text = fs::read_to_string(path).unwrap();
            toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        })
        .collect()
}

#[test]
fn every_mutation_applies_to_one_place_of_todays_source_and_changes_it() {
    for mutation in lists().into_iter().flat_map(|list| list.mutation) {
        let Mutation {
            id,
            file,
            find,
            replace,
            ..
        } = &mutation;
        let text =
            fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{id}: {file}: {error}"));
        let code = text.split("#[cfg(test)]").next().unwrap();
        let found = code.matches(find.as_str()).count();
        assert_eq!(found, 1, "{id}: found {found} times in {file}:\n{find}");
        assert_eq!(
            text.matches(find.as_str()).count(),
            1,
            "{id}: its tests hold it too"
        );
        assert_ne!(find, replace, "{id}");
    }
}

#[test]
fn every_mutation_says_what_it_breaks_and_names_a_test_that_is_there() {
    for mutation in lists().into_iter().flat_map(|list| list.mutation) {
        let id = &mutation.id;
        assert!(mutation.breaks.len() > 20, "{id}");
        assert!(mutation.argued.is_none_or(|why| why.len() > 20), "{id}");
        let (kind, path) = mutation.caught_by.split_once(' ').unwrap();
        assert!(KINDS.contains(&kind), "{id}: {kind}");
        let modules: Vec<&str> = path.split("::").collect();
        let (name, modules) = modules.split_last().unwrap();
        // A module is a file of its name, or stands in the file of the one around it.
        let mut folder = match kind {
            "lib" => root().join("src"),
            "bin" | "it" => root().join("tests/it"),
            kind => root().join("tests").join(kind),
        };
        let mut file = folder.with_extension("rs");
        for module in modules {
            let beside = folder.join(module).with_extension("rs");
            let inside = folder.join(module).join("mod.rs");
            folder = folder.join(module);
            file = [beside, inside]
                .into_iter()
                .find(|path| path.exists())
                .unwrap_or(file);
        }
        let text =
            fs::read_to_string(&file).unwrap_or_else(|error| panic!("{id}: {}: {error}", file.display()));
        // The scenarios' tests are made by a macro, which takes their names.
        let is_there = text.contains(&format!("fn {name}(")) || text.contains(&format!("    {name} \""));
        assert!(is_there, "{id}: {} has no test {name}", file.display());
    }
}

#[test]
fn every_invariant_is_broken_in_enough_ways() {
    let mut ids = BTreeSet::new();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for list in lists() {
        for mutation in &list.mutation {
            assert!(
                mutation.id.starts_with(&format!("{}-", list.invariant)),
                "{} in the list of {}",
                mutation.id,
                list.invariant
            );
            assert!(ids.insert(mutation.id.clone()), "{} twice", mutation.id);
        }
        *counts.entry(list.invariant).or_default() += list.mutation.len();
    }
    let invariants: Vec<String> = (1..=8).map(|number| format!("I{number}")).collect();
    assert_eq!(counts.keys().cloned().collect::<Vec<_>>(), invariants);
    for (invariant, count) in &counts {
        assert!(*count >= OF_EACH_INVARIANT, "{invariant}: {count}");
    }
    assert!(counts.values().sum::<usize>() >= 50, "{counts:?}");
}

#[test]
fn the_table_in_the_docs_is_the_list() {
    let docs = fs::read_to_string(root().join("docs/RELIABILITY.md")).unwrap();
    let listed: Vec<String> = lists()
        .iter()
        .flat_map(|list| &list.mutation)
        .map(|mutation| format!("| {} | {} |", mutation.id, mutation.breaks))
        .collect();
    for row in &listed {
        assert!(
            docs.contains(row),
            "not in docs/RELIABILITY.md (scripts/mutants --table): {row}"
        );
    }
    let rows = docs
        .lines()
        .filter(|line| line.starts_with("| I") && line.contains("` |"))
        .count();
    assert_eq!(rows, listed.len());
}
