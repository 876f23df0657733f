//! Manifests, the documents of the bucket `jobs`: the parts that say how to read a job's output (contract §4.3).

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use chrono::TimeDelta;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::duration;
use super::text::{self, DecodeError};
use super::time::Timestamp;

/// What a projector reads of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// As written inside; the bucket's key is the one that counts.
    pub id: String,
    /// The job's version.
    pub version: String,
    /// `execute.timeout`; may be absent where no shell runs.
    pub timeout: Option<String>,
    /// How to keep the output as facts.
    pub inventory: Option<Inventory>,
    /// How to read the output as a check.
    pub check: Option<Check>,
    /// How to keep the output as reference data.
    pub feeds: Vec<Feed>,
}

/// `inventory` (§7.4).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Inventory {
    /// The fields of the detail view.
    pub display: Vec<Display>,
    /// The fields of the fleet's list.
    #[serde(default)]
    pub summary: Option<Vec<Display>>,
    /// Arrays that become tables.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub explode: Vec<Explode>,
    /// Top-level names whose changes are recorded.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub history_scalars: Vec<String>,
}

/// A field of a view; written back in the order of these fields, absent ones left out (§6.3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Display {
    /// Top-level key of the output.
    pub field: String,
    /// Its heading.
    pub label: String,
    /// How it is rendered.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The columns of a table inside the field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<Self>>,
}

/// An explode spec as it was written; nothing of it is checked yet (§7.5).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Explode {
    /// Top-level key of the array.
    pub field: String,
    /// The table to fill.
    pub table: String,
    /// The columns that identify an element on one PC.
    pub primary_key: Vec<String>,
    /// The columns.
    pub columns: Vec<Column>,
    /// Whether changes are recorded.
    #[serde(default)]
    pub track_history: bool,
}

/// A column of an explode spec as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Column {
    /// An element's key, and the column's name.
    pub field: String,
    /// `text`, `integer`, `real`, or nonsense.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    /// Whether the column has an index.
    #[serde(default)]
    pub index: bool,
}

/// `check` (§7.7).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Check {
    /// The check's name, its key.
    pub name: String,
    /// What people read instead.
    #[serde(default)]
    pub label: Option<String>,
    /// Top-level key of the status.
    #[serde(default = "status")]
    pub status_field: String,
    /// Top-level key of the detail.
    #[serde(default = "detail")]
    pub detail_field: String,
    /// False: not projected.
    #[serde(default = "yes")]
    pub fleet: bool,
    /// Ours sends none (§7.12), but a wrong one makes the document undecodable.
    #[serde(default)]
    alert: Option<Alert>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Alert {
    #[serde(default, rename = "on")]
    _on: Vec<AlertStatus>,
    #[serde(rename = "title")]
    _title: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AlertStatus {
    Warn,
    Fail,
    Unknown,
}

/// One feed (§7.8).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Feed {
    /// The feed's id; counts without blanks around it.
    pub id: String,
    /// Top-level key of the array.
    pub field: String,
    /// The keys that identify an element.
    pub primary_key: Vec<String>,
}

/// The document as it was sent.
#[derive(Deserialize)]
struct Document {
    id: String,
    version: String,
    execute: Execute,
    #[serde(default)]
    inventory: Option<Inventory>,
    #[serde(default)]
    check: Option<Check>,
    #[serde(default)]
    feed: Vec<Feed>,
}

#[derive(Deserialize)]
struct Execute {
    #[serde(default)]
    kind: ExecuteKind,
    shell: Option<Shell>,
    timeout: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ExecuteKind {
    #[default]
    Shell,
    TypedOperation,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Shell {
    Powershell,
    Cmd,
    Sh,
    Pwsh,
}

fn status() -> String {
    "status".to_owned()
}

fn detail() -> String {
    "detail".to_owned()
}

fn yes() -> bool {
    true
}

fn null_is_empty<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Decodes a document of the bucket. What a projector has no use for may be of any shape, but no key may stand
/// twice in one object, wherever it is.
///
/// # Errors
/// What is wrong and where; never longer than a line.
pub fn decode(document: &[u8]) -> Result<Manifest, DecodeError> {
    let text = text::utf8(document)?;
    let UniqueKeys = text::json(text)?;
    let document: Document = text::json(text)?;
    let execute = document.execute;
    if let ExecuteKind::Shell = execute.kind {
        let missing = |field: &str| DecodeError::Json(format!("missing field `{field}` in `execute`"));
        let _one_of_the_four = execute.shell.ok_or_else(|| missing("shell"))?;
        execute.timeout.as_ref().ok_or_else(|| missing("timeout"))?;
    }
    Ok(Manifest {
        id: document.id,
        version: document.version,
        timeout: execute.timeout,
        inventory: document.inventory,
        check: document.check,
        feeds: document.feed,
    })
}

/// The text of `display_json` and `summary_json` (§6.3).
#[must_use]
pub fn display_json(fields: &[Display]) -> String {
    // Texts and lists of texts always serialise.
    serde_json::to_string(fields).unwrap_or_default()
}

/// A manifest as the bucket holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posted {
    /// The document, undecoded.
    pub document: Bytes,
    /// When it was put there, by the server's clock; `None`: not known.
    pub changed: Option<Timestamp>,
}

impl From<Bytes> for Posted {
    fn from(document: Bytes) -> Self {
        Self {
            document,
            changed: None,
        }
    }
}

/// When the backend gives up on a run that was published as started (§5.4). `None`: the timeout is no duration.
#[must_use]
pub fn expires_at(published: Timestamp, timeout: &str) -> Option<Timestamp> {
    const GRACE_MIN: Duration = Duration::from_secs(120);
    const INSTEAD_OF_TOO_LARGE: TimeDelta = TimeDelta::days(365);
    let timeout = duration::parse(timeout)?;
    timeout
        .checked_add(GRACE_MIN.max(timeout / 2))
        .and_then(|sum| TimeDelta::from_std(sum).ok())
        .and_then(|sum| published.checked_add(sum))
        .or_else(|| published.checked_add(INSTEAD_OF_TOO_LARGE))
}

/// Any JSON value in which no object has a key twice.
struct UniqueKeys;

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for UniqueKeys {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut seen = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let Self = map.next_value()?;
            if let Some(twice) = seen.replace(key) {
                return Err(de::Error::custom(format_args!("duplicate field `{twice}`")));
            }
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self, A::Error> {
        while let Some(Self) = seq.next_element()? {}
        Ok(self)
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self, E> {
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const JOB: &str = r#"{"id":"j","version":"1","execute":{"shell":"sh","timeout":"30s"}"#;

    fn with(more: &str) -> Result<Manifest, DecodeError> {
        decode(format!("{JOB},{more}}}").as_bytes())
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), timeout in any::<String>()) {
            let _decoded_or_not = decode(&bytes).is_ok();
            let _deadline_or_none = expires_at(Timestamp::from_unix_nanos(0), &timeout);
        }
    }

    #[test]
    fn a_key_twice_is_an_error_even_where_nobody_reads() {
        assert!(with(r#""client":{"a":[{"b":1,"c":{},"b":2}]}"#).is_err());
        assert!(with(r#""client":{"a":[{"b":1},{"b":2}],"b":3}"#).is_ok());
    }

    #[test]
    fn null_is_none_where_the_contract_says_so_and_an_error_elsewhere() {
        assert!(
            with(r#""inventory":{"display":[],"summary":null,"explode":null,"history_scalars":null}"#)
                .is_ok()
        );
        assert!(with(r#""check":{"name":"c","label":null,"alert":null}"#).is_ok());
        assert!(with(r#""check":{"name":"c","status_field":null}"#).is_err());
        assert!(with(r#""inventory":{"display":null}"#).is_err());
    }

    #[test]
    fn only_a_shell_needs_a_shell_and_a_timeout() {
        let execute =
            |text: &str| decode(format!(r#"{{"id":"j","version":"1","execute":{text}}}"#).as_bytes());
        assert!(execute(r#"{"kind":"shell","shell":"pwsh","timeout":"1s"}"#).is_ok());
        assert!(execute(r#"{"shell":"cmd"}"#).is_err());
        assert!(execute(r#"{"timeout":"1s"}"#).is_err());
        assert!(execute(r#"{"kind":"typed_operation","payload_version":1,"operation":{}}"#).is_ok());
        assert!(execute(r#"{"kind":"miracle","timeout":"1s"}"#).is_err());
    }

    #[test]
    fn a_view_is_written_in_its_own_order_without_what_is_absent() {
        let manifest = with(
            r#""inventory":{"display":[{"columns":[{"label":"D","field":"d"}],"type":"table","label":"A","field":"a"}]}"#,
        );
        assert_eq!(
            display_json(&manifest.unwrap().inventory.unwrap().display),
            r#"[{"field":"a","label":"A","type":"table","columns":[{"field":"d","label":"D"}]}]"#
        );
    }

    #[test]
    fn a_document_nested_ten_thousand_deep_is_an_error_and_not_a_crash() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(with(&format!(r#""client":{deep}"#)).is_err());
    }

    #[test]
    fn a_deadline_that_no_text_can_show_is_a_year_away() {
        let published = Timestamp::parse_wire("2026-06-01T00:00:00Z").unwrap();
        for timeout in ["10000y", "400000y", "18446744073709551615s"] {
            let deadline = expires_at(published, timeout).unwrap();
            assert_eq!(deadline.stored(), "2027-06-01T00:00:00+00:00", "{timeout}");
        }
        assert_eq!(expires_at(published, "18446744073709551615s 1000ms"), None);
    }
}
