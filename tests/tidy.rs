//! The house's own rules: imports point inwards, files stay rooms that one can hold in one's head.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

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

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn rooms() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
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
            let code = text.split("#[cfg(test)]").next().unwrap().to_owned();
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
