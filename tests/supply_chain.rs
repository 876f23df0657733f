//! What can be known offline of the crates that are built in, by the rules of `deny.toml`: their licences, their sources, and
//! that none is there twice without a reason. Advisories need the network: `scripts/supply-chain`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rules() -> toml::Table {
    fs::read_to_string(root().join("deny.toml"))
        .unwrap()
        .parse()
        .unwrap()
}

fn texts(value: &toml::Value) -> Vec<&str> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|text| text.as_str().unwrap())
        .collect()
}

/// The crates of this platform, but for our own.
fn crates() -> Vec<Value> {
    let version = Command::new("rustc").arg("-vV").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .unwrap();
    let args = [
        "metadata",
        "--format-version",
        "1",
        "--offline",
        "--locked",
        "--filter-platform",
        host,
    ];
    let output = Command::new(env!("CARGO"))
        .args(args)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let Value::Array(packages) = metadata["packages"].take() else {
        panic!("no packages");
    };
    packages
        .into_iter()
        .filter(|package| package["name"] != env!("CARGO_PKG_NAME"))
        .collect()
}

/// Whether a licence, as crates write it (SPDX; older ones with `/` for OR), can be met with what is allowed.
fn is_met(expression: &str, allowed: &[&str]) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = any(&tokens, &mut at, allowed);
    assert_eq!(at, tokens.len(), "{expression:?} is no expression");
    met
}

fn any(tokens: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    let mut met = all(tokens, at, allowed);
    while tokens.get(*at) == Some(&"OR") {
        *at += 1;
        met |= all(tokens, at, allowed);
    }
    met
}

fn all(tokens: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    let mut met = one(tokens, at, allowed);
    while tokens.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(tokens, at, allowed);
    }
    met
}

fn one(tokens: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    let name = tokens.get(*at).expect("an expression ends too early");
    *at += 1;
    if *name == "(" {
        let met = any(tokens, at, allowed);
        assert_eq!(tokens.get(*at), Some(&")"));
        *at += 1;
        return met;
    }
    if tokens.get(*at) == Some(&"WITH") {
        let name = format!("{name} WITH {}", tokens[*at + 1]);
        *at += 2;
        return allowed.contains(&name.as_str());
    }
    allowed.contains(name)
}

#[test]
fn licence_expressions_are_read_as_they_are_meant() {
    let allowed = ["MIT", "ISC", "A WITH x"];
    for (expression, wanted) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("MIT AND ISC OR GPL-3.0", true),
        ("(MIT OR GPL-3.0) AND GPL-2.0", false),
        ("A WITH x", true),
        ("A", false),
        ("B WITH x OR ISC", true),
    ] {
        assert_eq!(is_met(expression, &allowed), wanted, "{expression}");
    }
}

#[test]
fn every_licence_is_one_of_those_that_are_allowed_and_each_of_those_is_needed() {
    let rules = rules();
    let allowed = texts(&rules["licenses"]["allow"]);
    let crates = crates();
    assert!(crates.len() > 100, "{} crates", crates.len());
    let licence = |package: &Value| {
        let name = &package["name"];
        package["license"]
            .as_str()
            .unwrap_or_else(|| panic!("{name} has no licence"))
            .to_owned()
    };
    for package in &crates {
        let licence = licence(package);
        assert!(
            is_met(&licence, &allowed),
            "{} is under {licence}",
            package["name"]
        );
    }
    let written: Vec<String> = crates.iter().map(licence).collect();
    for allowed in &allowed {
        assert!(
            written.iter().any(|licence| licence.contains(allowed)),
            "nothing is under {allowed}"
        );
    }
}

#[test]
fn every_crate_comes_from_the_one_registry_with_its_sum() {
    let rules = rules();
    let registries = texts(&rules["sources"]["allow-registry"]);
    let lock: toml::Table = fs::read_to_string(root().join("Cargo.lock"))
        .unwrap()
        .parse()
        .unwrap();
    for package in lock["package"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        if name == env!("CARGO_PKG_NAME") {
            continue;
        }
        let source = package
            .get("source")
            .unwrap_or_else(|| panic!("{name} has no source"));
        let registry = source.as_str().unwrap().strip_prefix("registry+");
        assert!(
            registry.is_some_and(|registry| registries.contains(&registry)),
            "{name} is from {source}"
        );
        assert!(package.get("checksum").is_some(), "{name} has no checksum");
    }
}

#[test]
fn no_crate_is_there_twice_without_a_reason_and_no_reason_outlives_its_crate() {
    let rules = rules();
    let reasons: BTreeSet<String> = rules["bans"]["skip"]
        .as_array()
        .unwrap()
        .iter()
        .map(|skip| {
            assert!(skip["reason"].as_str().unwrap().len() > 20, "{skip} is argued");
            skip["crate"].as_str().unwrap().to_owned()
        })
        .collect();
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in crates() {
        let text = |key: &str| package[key].as_str().unwrap().to_owned();
        versions.entry(text("name")).or_default().push(text("version"));
    }
    let mut used = BTreeSet::new();
    for (name, versions) in versions.iter().filter(|(_, versions)| versions.len() > 1) {
        let named: Vec<String> = versions
            .iter()
            .map(|version| format!("{name}@{version}"))
            .collect();
        let unexplained: Vec<&String> = named.iter().filter(|name| !reasons.contains(*name)).collect();
        assert!(
            unexplained.len() <= 1,
            "{unexplained:?}: each but one needs a reason in deny.toml, or an end"
        );
        used.extend(named);
    }
    let stale: Vec<&String> = reasons.difference(&used).collect();
    assert!(stale.is_empty(), "no longer there twice: {stale:?}");
}

#[test]
fn every_direct_dependency_has_its_line_in_the_documents_and_no_line_is_stale() {
    let table =
        |path: &str| -> toml::Table { fs::read_to_string(root().join(path)).unwrap().parse().unwrap() };
    let names = |manifest: &toml::Table, section: &str| -> BTreeSet<String> {
        let mut names: BTreeSet<String> = manifest[section].as_table().unwrap().keys().cloned().collect();
        names.remove(env!("CARGO_PKG_NAME"));
        names
    };
    let (ours, fuzz) = (table("Cargo.toml"), table("fuzz/Cargo.toml"));
    let page = fs::read_to_string(root().join("docs/DEPENDENCIES.md")).unwrap();
    for (heading, wanted) in [
        ("## In the program", names(&ours, "dependencies")),
        ("## In tests and measurements", names(&ours, "dev-dependencies")),
        ("## For fuzzing", names(&fuzz, "dependencies")),
    ] {
        let (_, section) = page.split_once(heading).unwrap();
        let section = section.split("\n## ").next().unwrap();
        let lines = section.lines().filter_map(|line| line.strip_prefix("| `"));
        let told: Vec<&str> = lines.map(|line| line.split('`').next().unwrap()).collect();
        let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
        assert_eq!(told, wanted, "{heading}: each once, in their order");
    }
}

#[test]
fn no_target_of_ours_allows_unsafe_code() {
    let manifest: toml::Table = fs::read_to_string(root().join("Cargo.toml"))
        .unwrap()
        .parse()
        .unwrap();
    // The table of the package holds for each of its targets: library, program, benches, examples and tests.
    assert_eq!(manifest["lints"]["rust"]["unsafe_code"].as_str(), Some("forbid"));
    let mut folders = vec![root().to_owned()];
    let mut read = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !name.starts_with('.') && name != "target" {
                folders.push(path);
            } else if path == root().join("fuzz/Cargo.toml") {
                // Its entry is made by libFuzzer's macro, which is not safe code; what we write there is looked at below.
            } else if name == "Cargo.toml" && path != root().join("Cargo.toml") {
                // A package of its own has lints of its own.
                let package: toml::Table = fs::read_to_string(&path).unwrap().parse().unwrap();
                let lint = package
                    .get("lints")
                    .map(|lints| lints["rust"]["unsafe_code"].as_str() == Some("forbid"));
                assert_eq!(lint, Some(true), "{}", path.display());
            } else if name.ends_with(".rs") {
                read += 1;
                let text = fs::read_to_string(&path).unwrap();
                let word = ["unsafe", " {"].concat();
                assert!(!text.contains(&word), "{}", path.display());
            }
        }
    }
    assert!(read > 100);
}
