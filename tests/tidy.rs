//! The house's own rules: imports point inwards, files stay rooms that one can hold in one's head.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::string_slice)]

#[path = "support/sources.rs"]
mod sources;

use std::fs;
use std::path::{Path, PathBuf};

/// What each room may use of the others, besides itself (ARCHITECTURE.md).
const ARROWS: [(&str, &[&str]); 10] = [
    ("wire", &[]),
    ("cli", &[]),
    ("config", &["cli"]),
    ("projection", &["wire"]),
    ("meters", &["wire"]),
    ("source", &["wire", "config", "meters"]),
    ("store", &["projection", "wire"]),
    (
        "service",
        &["source", "store", "projection", "wire", "config", "meters"],
    ),
    (
        "observe",
        &[
            "service",
            "source",
            "store",
            "projection",
            "wire",
            "config",
            "meters",
        ],
    ),
    (
        "commands",
        &[
            "service",
            "source",
            "store",
            "projection",
            "wire",
            "config",
            "cli",
            "observe",
        ],
    ),
];
/// Crates that only some rooms may touch.
const CRATES: [(&str, &[&str]); 6] = [
    ("rusqlite", &["store"]),
    ("async_nats", &["source", "service"]),
    ("clap", &["cli"]),
    ("metrics", &["meters"]),
    ("hyper", &["observe"]),
    ("sd_notify", &["observe"]),
];
/// A longer file asks to be two; the tests inside it do not count.
const LINES_MAX: usize = 520;

/// A source without its tests: up to the module of tests that ends it, written out there or in a file of its own.
fn product(text: &str) -> &str {
    let ends_it = |module: &str| {
        let opened = module.lines().nth(1).unwrap().ends_with('{');
        let end = if opened { "\n}\n" } else { ";\n" };
        module.find(end).unwrap() + end.len() == module.len()
    };
    text.match_indices("#[cfg(test)]\nmod ")
        .find(|(at, _)| ends_it(&text[*at..]))
        .map_or(text, |(at, _)| &text[..at])
}

fn rooms() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources::sources(&root, &mut files);
    files
        .into_iter()
        .filter_map(|path| {
            let inside = path.strip_prefix(&root).unwrap().to_owned();
            let room = inside
                .components()
                .next()
                .unwrap()
                .as_os_str()
                .to_str()
                .unwrap()
                .trim_end_matches(".rs")
                .to_owned();
            let text = fs::read_to_string(&path).unwrap();
            let code = product(&text).to_owned();
            (!["main", "lib"].contains(&room.as_str())).then_some((room, inside, code))
        })
        .collect()
}

#[test]
fn imports_point_inwards() {
    for (room, path, code) in rooms() {
        let (_, allowed) = ARROWS
            .iter()
            .find(|(name, _)| *name == room)
            .unwrap_or_else(|| panic!("no rule for {room}"));
        for (other, _) in ARROWS
            .iter()
            .filter(|(other, _)| *other != room && !allowed.contains(other))
        {
            assert!(
                !code.contains(&format!("crate::{other}")),
                "{} uses {other} against the arrow",
                path.display()
            );
        }
        for (name, rooms) in CRATES.iter().filter(|(_, rooms)| !rooms.contains(&room.as_str())) {
            assert!(
                !code.contains(&format!("{name}::")),
                "{} uses {name}, which belongs to {}",
                path.display(),
                rooms.join(", ")
            );
        }
    }
}

#[test]
fn no_file_outgrows_its_room() {
    for (_, path, code) in rooms() {
        let lines = code.lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines", path.display());
    }
}

#[test]
fn the_projection_knows_no_clock() {
    for (room, path, code) in rooms() {
        if room == "projection" || room == "wire" {
            for clock in ["Utc::now", "SystemTime", "Instant", "new_v4", "rand::"] {
                assert!(!code.contains(clock), "{} uses {clock} (I4)", path.display());
            }
        }
    }
}

/// What stands between the bracket that opens first and the one that closes it.
fn bracketed(text: &str, open: char, close: char) -> &str {
    let from = text.find(open).unwrap();
    let mut depth = 0;
    for (at, c) in text[from..].char_indices() {
        depth += i32::from(c == open) - i32::from(c == close);
        if depth == 0 {
            return &text[from + 1..from + at];
        }
    }
    panic!("{open} is not closed: {text}");
}

/// An enum without fields has no gap in its list of all: what is left out there is never registered, read back or documented.
#[test]
fn a_list_of_all_has_every_variant() {
    let mut lists = 0;
    for (_, path, code) in rooms() {
        for (at, _) in code.match_indices("const ALL: [Self;") {
            let name = code[..at]
                .rsplit("impl ")
                .next()
                .unwrap()
                .split_whitespace()
                .next()
                .unwrap();
            let listed = bracketed(code[at..].split_once(" = ").unwrap().1, '[', ']');
            let listed: Vec<&str> = listed
                .split("Self::")
                .skip(1)
                .map(|text| text.trim_end_matches([',', ' ', '\n']))
                .collect();
            let declared = bracketed(
                code.split_once(&format!("enum {name} {{"))
                    .map(|(before, _)| &code[before.len()..])
                    .unwrap(),
                '{',
                '}',
            );
            let declared: Vec<&str> = declared
                .lines()
                .map(str::trim)
                .filter(|line| !line.is_empty() && !line.starts_with("//") && !line.starts_with('#'))
                .map(|line| line.trim_end_matches(','))
                .collect();
            assert_eq!(listed, declared, "{name} in {}", path.display());
            lists += 1;
        }
    }
    assert!(lists >= 7, "{lists}");
}

/// Whether a name stands in a text as a word of its own.
fn has_word(text: &str, word: &str) -> bool {
    let inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(word).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + word.len()..]);
        !inside(before.chars().next_back()) && !inside(after.chars().next())
    })
}

#[test]
fn every_name_of_the_wire_is_used_by_the_product() {
    let declared = Path::new("wire/kv.rs");
    let all = rooms();
    let (_, _, kv) = all.iter().find(|(_, path, _)| path == declared).unwrap();
    let names: Vec<&str> = kv
        .lines()
        .filter_map(|line| line.strip_prefix("pub const ")?.split(':').next())
        .collect();
    assert!(names.len() > 60, "{names:?}");
    // Comments use nothing, and files of tests are none of the product.
    let used: Vec<String> = all
        .iter()
        .filter(|(_, path, _)| {
            let mut parts = path.components();
            path != declared && !parts.any(|part| part.as_os_str().to_string_lossy().starts_with("tests"))
        })
        .map(|(_, _, code)| {
            let lines: Vec<&str> = code
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .collect();
            lines.join("\n")
        })
        .collect();
    let only_declared: Vec<&str> = names
        .into_iter()
        .filter(|name| !used.iter().any(|code| has_word(code, name)))
        .collect();
    assert!(only_declared.is_empty(), "only declared: {only_declared:?}");
}

#[test]
fn only_tests_that_end_a_file_are_cut_off() {
    for (text, so) in [
        ("a\n#[cfg(test)]\nmod tests {\n    b\n}\n", "a\n"),
        ("a\n#[cfg(test)]\nmod tests;\n", "a\n"),
        ("#[cfg(test)]\nmod tests;\na\n", "#[cfg(test)]\nmod tests;\na\n"),
        (
            "#[cfg(test)]\nmod tests;\nfn a() {\n}\nb\n",
            "#[cfg(test)]\nmod tests;\nfn a() {\n}\nb\n",
        ),
        (
            "#[cfg(test)]\nmod tests;\nfn a() {\n}\n",
            "#[cfg(test)]\nmod tests;\nfn a() {\n}\n",
        ),
        ("#[cfg(test)]\nuse a;\nb\n", "#[cfg(test)]\nuse a;\nb\n"),
    ] {
        assert_eq!(product(text), so, "{text}");
    }
}

#[test]
fn a_word_is_found_as_a_word_only() {
    for (text, so) in [
        ("kv::AB,", true),
        ("AB", true),
        ("AB_C", false),
        ("XAB", false),
        ("AB_ AB", true),
    ] {
        assert_eq!(has_word(text, "AB"), so, "{text}");
    }
}
