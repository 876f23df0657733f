//! A configuration file, and after it lines of the environment, `NAME=value` (README, Configuration).

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use results_projector::cli::GlobalArgs;
use results_projector::config::{Config, ConfigError};

use super::model::assert_one_line;
use super::parts;

const SECTIONS: [&str; 7] = [
    "store.",
    "nats.",
    "source.",
    "outputs.",
    "group.",
    "dead_letters.",
    "log.",
];

pub(crate) fn run(data: &[u8]) {
    thread_local! {
        static FOLDER: OnceCell<tempfile::TempDir> = const { OnceCell::new() };
    }
    FOLDER.with(|folder| {
        // In memory, where there is such a place.
        let folder = folder.get_or_init(|| {
            tempfile::tempdir_in("/dev/shm")
                .or_else(|_| tempfile::tempdir())
                .unwrap()
        });
        let parts = parts(data);
        let environment = parts
            .get(1)
            .map(|part| String::from_utf8_lossy(part).into_owned())
            .unwrap_or_default();
        check(&folder.path().join("config.toml"), parts[0], &environment);
    });
}

fn load(path: &Path, environment: &str) -> Result<Config, ConfigError> {
    let environment: BTreeMap<&str, &str> = environment
        .lines()
        .take(50)
        .filter_map(|line| line.split_once('='))
        .collect();
    let flags = GlobalArgs {
        config: Some(path.to_owned()),
        ..GlobalArgs::default()
    };
    Config::load(&flags, &|name| {
        environment.get(name).map(|value| (*value).to_owned())
    })
}

fn check(path: &Path, file: &[u8], environment: &str) {
    fs::write(path, file).unwrap();
    match load(path, environment) {
        Ok(config) => {
            meant(&config);
            shown(&config, path, file);
        }
        Err(error) => names_the_place(&error.to_string(), path, file),
    }
}

/// What the rest of the program may count on.
fn meant(config: &Config) {
    let (source, outputs, group) = (&config.source, &config.outputs, &config.group);
    assert!(outputs.max_bytes <= outputs.in_flight_bytes.min(outputs.repair_in_flight_bytes));
    assert!((4 << 20..u64::from(u32::MAX)).contains(&source.in_flight_bytes));
    assert!(
        group.max_rows > 0 && group.max_bytes > 0 && source.batch_messages > 0 && outputs.concurrency > 0
    );
    assert!(source.heartbeat >= Duration::from_millis(100) && source.expires >= source.heartbeat * 2);
    let nats = &config.nats;
    let ways = [&nats.creds, &nats.nkey, &nats.token_file]
        .map(Option::is_some)
        .into_iter()
        .filter(|given| *given);
    assert!(ways.count() + usize::from(nats.user.is_some()) <= 1);
    assert_eq!(nats.user.is_some(), nats.password_file.is_some());
    assert_eq!(nats.cert.is_some(), nats.key.is_some());
    assert!(!nats.url.contains('@') && nats.url.split(',').any(|server| !server.trim().is_empty()));
}

/// What `config show` prints is the configuration: written as a file, it is read as the same.
fn shown(config: &Config, path: &Path, file: &[u8]) {
    let mut text = String::new();
    for setting in config.shown() {
        if let Some(rest) = setting.origin.strip_prefix(&format!("file {}:", path.display())) {
            assert_stands_there(setting.key, rest, file);
        }
        let Some(value) = &setting.value else { continue };
        let (section, key) = setting.key.split_once('.').unwrap();
        text.push_str(&format!("{section}.{key} = {}\n", quoted(value)));
    }
    fs::write(path, text).unwrap();
    let again = load(path, "").unwrap();
    let values = |config: &Config| -> Vec<_> {
        config
            .shown()
            .iter()
            .map(|setting| (setting.key, setting.value.clone()))
            .collect()
    };
    assert_eq!(values(&again), values(config));
    let told = |config: &Config| {
        format!(
            "{:?}{:?}{:?}{:?}{:?}",
            config.store, config.nats, config.source, config.outputs, config.group
        )
    };
    assert_eq!(told(&again), told(config));
}

/// A TOML text.
fn quoted(text: &str) -> String {
    let escaped: String = text
        .chars()
        .map(|c| match c {
            '"' | '\\' => format!("\\{c}"),
            c if c.is_control() => format!("\\u{:04X}", u32::from(c)),
            c => c.to_string(),
        })
        .collect();
    format!("\"{escaped}\"")
}

/// A setting stands in the line that is named, by its last name. Escapes may hide it.
fn assert_stands_there(key: &str, line: &str, file: &[u8]) {
    let number: usize = line.parse().unwrap_or_else(|_| panic!("no line in {line:?}"));
    let lines: Vec<&[u8]> = file.split(|byte| *byte == b'\n').collect();
    let line = number.checked_sub(1).and_then(|at| lines.get(at));
    let line = String::from_utf8_lossy(line.unwrap_or_else(|| panic!("line {number} of {}", lines.len())));
    let name = key.rsplit('.').next().unwrap_or_default();
    assert!(
        line.contains(name) || line.contains('\\'),
        "no {key} in line {number}: {line}"
    );
}

fn names_the_place(error: &str, path: &Path, file: &[u8]) {
    assert_one_line(error);
    let path = path.display().to_string();
    if let Some(place) = error.strip_prefix(&path).and_then(|rest| rest.strip_prefix(':')) {
        let mut words = place.split(": ");
        let (line, key) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let is_setting = |key: &str| SECTIONS.iter().any(|section| key.starts_with(section));
        assert_stands_there(if is_setting(key) { key } else { "" }, line, file);
        return;
    }
    // Else a variable, the name of a setting, or the whole file.
    let starts = |beginning: &str| error.starts_with(beginning);
    assert!(
        starts("environment ") || error.contains(&path) || SECTIONS.iter().any(|section| starts(section)),
        "no place in {error:?}"
    );
}
