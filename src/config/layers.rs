//! The layers as written, laid over one another: texts, each with its origin.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use toml::de::{DeTable, DeValue};

use super::settings::{SETTINGS, Setting};
use super::{ConfigError, DEFAULT_FILE, units};
use crate::cli::GlobalArgs;

/// As long as RESULTS keeps results (contract §2.3): younger rows would be brought again by every replay.
const AGE_LEAST: Duration = Duration::from_secs(30 * 86_400);

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Built in.
    Default,
    /// File and line.
    File(PathBuf, usize),
    /// The variable's name.
    Environment(String),
    /// The flag's name.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "file {}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag --{name}"),
        }
    }
}

/// One line of `config show`.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    /// `section.key`
    pub key: &'static str,
    /// As written; `None`: not set.
    pub value: Option<String>,
    /// Where it came from.
    pub origin: String,
    /// Whether it was set, to the default or another value.
    #[serde(skip)]
    pub is_set: bool,
    /// What it is for.
    pub doc: &'static str,
}

/// The winning text of each setting.
#[derive(Debug, Default)]
pub(super) struct Layers {
    values: BTreeMap<&'static str, (String, Origin)>,
}

impl Layers {
    pub(super) fn defaults() -> Self {
        let mut layers = Self::default();
        for setting in SETTINGS {
            if let Some(default) = setting.default {
                layers
                    .values
                    .insert(setting.key, (default.to_owned(), Origin::Default));
            }
        }
        layers
    }

    pub(super) fn read(
        flags: &GlobalArgs,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let mut layers = Self::defaults();
        match &flags.config {
            Some(path) => layers.file(path)?,
            None if Path::new(DEFAULT_FILE).exists() => layers.file(Path::new(DEFAULT_FILE))?,
            None => {}
        }
        for setting in SETTINGS {
            let own = format!(
                "RESULTS_PROJECTOR_{}",
                setting.key.replace('.', "_").to_ascii_uppercase()
            );
            for name in setting.env.map(str::to_owned).into_iter().chain([own]) {
                if let Some(value) = env(&name).filter(|value| !value.is_empty()) {
                    layers
                        .values
                        .insert(setting.key, (value, Origin::Environment(name)));
                }
            }
            if let (Some(flag), Some(value)) = (setting.flag, (setting.given)(flags)) {
                layers
                    .values
                    .insert(setting.key, (value.to_owned(), Origin::Flag(flag)));
            }
        }
        Ok(layers)
    }

    fn file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            ConfigError(format!(
                "cannot read the configuration file {}: {error}",
                path.display()
            ))
        })?;
        let table = DeTable::parse(&text).map_err(|error| {
            let line = error.span().map_or(0, |span| line_of(&text, span.start));
            ConfigError(format!("{}:{line}: {}", path.display(), error.message()))
        })?;
        for (section, value) in table.get_ref() {
            let line = line_of(&text, section.span().start);
            let known = SETTINGS
                .iter()
                .any(|setting| setting.key.split('.').next() == Some(section.get_ref()));
            let (true, DeValue::Table(entries)) = (known, value.get_ref()) else {
                return Err(unknown(path, line, section.get_ref()));
            };
            for (name, value) in entries {
                let line = line_of(&text, name.span().start);
                let key = format!("{}.{}", section.get_ref(), name.get_ref());
                let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) else {
                    return Err(unknown(path, line, &key));
                };
                let value = match value.get_ref() {
                    DeValue::String(text) => text.to_string(),
                    DeValue::Integer(number) => number.to_string(),
                    _ => {
                        return Err(ConfigError(format!(
                            "{}:{line}: {key}: expected a text or a whole number",
                            path.display()
                        )));
                    }
                };
                self.values
                    .insert(setting.key, (value, Origin::File(path.to_owned(), line)));
            }
        }
        Ok(())
    }

    /// A setting's text; empty when it is not set.
    pub(super) fn text(&self, key: &str) -> &str {
        self.values.get(key).map_or("", |(text, _)| text)
    }

    pub(super) fn optional(&self, key: &str) -> Option<&str> {
        self.values
            .get(key)
            .map(|(text, _)| text.as_str())
            .filter(|text| !text.is_empty())
    }

    pub(super) fn bytes(&self, key: &str) -> Result<u64, ConfigError> {
        units::bytes(self.text(key)).map_err(|expected| self.wrong(key, &expected))
    }

    pub(super) fn duration(&self, key: &str) -> Result<Duration, ConfigError> {
        units::duration(self.text(key)).map_err(|expected| self.wrong(key, &expected))
    }

    /// How old rows may become; `off`: as old as may be.
    pub(super) fn age(&self, key: &str) -> Result<Option<Duration>, ConfigError> {
        if self.text(key).trim() == "off" {
            return Ok(None);
        }
        match self.duration(key)? {
            age if age >= AGE_LEAST => Ok(Some(age)),
            _ => Err(self.wrong(
                key,
                "expected at least 30 days, or off: what RESULTS still holds would come again",
            )),
        }
    }

    /// An address with a port; `off`: none.
    pub(super) fn address(&self, key: &str) -> Result<Option<SocketAddr>, ConfigError> {
        match self.text(key).trim() {
            "off" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                self.wrong(
                    key,
                    "expected an address and a port such as 127.0.0.1:9464 or [::1]:9464, or off",
                )
            }),
        }
    }

    pub(super) fn count(&self, key: &str) -> Result<usize, ConfigError> {
        // Sums of these must not overflow.
        let number = self.text(key).trim().parse::<u32>().ok();
        number
            .and_then(|number| usize::try_from(number).ok())
            .ok_or_else(|| self.wrong(key, "expected a whole number of at most 4294967295"))
    }

    /// What one of some words stands for.
    pub(super) fn choice<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Result<T, ConfigError> {
        let text = self.text(key);
        let found = words.iter().find(|(word, _)| *word == text);
        found.map(|(_, meant)| *meant).ok_or_else(|| {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.wrong(key, &format!("expected one of {}", words.join(", ")))
        })
    }

    /// Where a setting was set, for messages.
    pub(super) fn place(&self, key: &str) -> String {
        match self.values.get(key) {
            Some((_, Origin::File(path, line))) => format!("{}:{line}: {key}", path.display()),
            Some((_, Origin::Default)) | None => key.to_owned(),
            Some((_, origin)) => format!("{origin}: {key}"),
        }
    }

    fn wrong(&self, key: &str, expected: &str) -> ConfigError {
        ConfigError(format!(
            "{}: {}: {expected}",
            self.place(key),
            quoted(self.text(key))
        ))
    }

    pub(super) fn shown(&self) -> Vec<Shown> {
        SETTINGS
            .iter()
            .map(|Setting { key, doc, .. }| {
                let found = self.values.get(key);
                Shown {
                    key,
                    value: found.map(|(text, _)| text.clone()),
                    origin: found.map_or("not set".to_owned(), |(_, origin)| origin.to_string()),
                    is_set: found.is_some_and(|(_, origin)| *origin != Origin::Default),
                    doc,
                }
            })
            .collect()
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

fn unknown(path: &Path, line: usize, key: &str) -> ConfigError {
    let nearest = SETTINGS
        .iter()
        .map(|setting| setting.key)
        .min_by_key(|known| strsim::levenshtein(key, known))
        .unwrap_or_default();
    ConfigError(format!(
        "{}:{line}: unknown setting {}; the nearest is {nearest} (`config show` lists all)",
        path.display(),
        quoted(key)
    ))
}

/// What was written, in a message of one line: quoted, escaped, cut.
pub(super) fn quoted(text: &str) -> String {
    format!("{:?}", text.chars().take(80).collect::<String>())
}
