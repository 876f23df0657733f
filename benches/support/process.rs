//! What the kernel says of a running process: memory, threads, open handles by kind.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

/// Open handles by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handles(pub BTreeMap<String, usize>);

impl Handles {
    pub fn count(&self) -> usize {
        self.0.values().sum()
    }
}

impl fmt::Display for Handles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<String> = self
            .0
            .iter()
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect();
        f.write_str(&kinds.join(", "))
    }
}

/// A process at one moment.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// Bytes of memory that no file is behind.
    pub anonymous: u64,
    /// Resident bytes.
    pub resident: u64,
    pub threads: usize,
}

/// Memory and threads; all zero when there is no such process.
pub fn look(pid: u32) -> Look {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let number = |name: &str| -> u64 {
        status
            .lines()
            .find_map(|line| {
                line.strip_prefix(name)?
                    .strip_prefix(':')?
                    .split_whitespace()
                    .next()?
                    .parse()
                    .ok()
            })
            .unwrap_or(0)
    };
    Look {
        anonymous: number("RssAnon") << 10,
        resident: number("VmRSS") << 10,
        threads: number("Threads") as usize,
    }
}

/// The open handles; of files the name, of the rest the kind.
pub fn handles(pid: u32) -> Handles {
    let mut kinds = BTreeMap::new();
    let entries = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    for target in entries.filter_map(|entry| fs::read_link(entry.path()).ok()) {
        let text = target.to_string_lossy().into_owned();
        let kind = match text.split_once(':') {
            Some((kind, _)) if !text.starts_with('/') => kind.to_owned(),
            _ => Path::new(&text)
                .file_name()
                .map_or(text.clone(), |name| name.to_string_lossy().into_owned()),
        };
        *kinds.entry(kind).or_default() += 1;
    }
    Handles(kinds)
}

/// The names in the folder of a file that begin with the file's own, sorted.
pub fn files_beside(db: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(db.parent().unwrap_or(db))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
