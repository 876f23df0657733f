//! INVENTORY: hardware snapshots of agents before 0.14, and whatever else lies in the stream (contract §4.1, §4.2).

use bytes::Bytes;
use bytestring::ByteString;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::kv;
use super::subject::{self, Subject};
use super::text::{self, DecodeError};
use super::time::Timestamp;

/// What agents before 0.14 named; only the first was ever sent (§2.1).
pub const CATEGORIES: [&str; 3] = [kv::INVENTORY_HW, kv::INVENTORY_SW, kv::INVENTORY_NET];

/// How a hardware snapshot is shown; agents of that age sent no manifest that would say it (§4.2).
pub const HW_DISPLAY: &str = concat!(
    r#"[{"field":"hostname","label":"Hostname"},{"field":"os_name","label":"OS"},"#,
    r#"{"field":"os_version","label":"OS version"},{"field":"os_build","label":"OS build"},"#,
    r#"{"field":"cpu_model","label":"CPU"},{"field":"cpu_cores","label":"Cores","type":"number"},"#,
    r#"{"field":"ram_bytes","label":"RAM","type":"bytes"},{"field":"disks","label":"Disks","type":"table","#,
    r#""columns":[{"field":"device_id","label":"Drive"},{"field":"size_bytes","label":"Size","type":"bytes"},"#,
    r#"{"field":"free_bytes","label":"Free","type":"bytes"},{"field":"file_system","label":"File system"}]}]"#,
);

/// A hardware snapshot (§4.1).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct HwInventory {
    /// The host.
    pub pc_id: String,
    /// Its name.
    pub hostname: String,
    /// Its operating system.
    pub os_name: String,
    /// The system's version.
    pub os_version: String,
    /// The system's build.
    #[serde(default)]
    pub os_build: Option<String>,
    /// The processor.
    pub cpu_model: String,
    /// Of the processor.
    pub cpu_cores: u32,
    /// Memory.
    pub ram_bytes: u64,
    /// May be empty, but is always sent.
    pub disks: Vec<Disk>,
    /// By the agent's clock.
    pub collected_at: Timestamp,
}

/// A drive of a hardware snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Disk {
    /// Its letter or device.
    pub device_id: String,
    /// In all.
    pub size_bytes: u64,
    /// Of these.
    pub free_bytes: u64,
    /// Absent when unformatted.
    #[serde(default)]
    pub file_system: Option<String>,
}

/// What one message of INVENTORY puts into `inventory_facts` (§4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The host.
    pub pc_id: String,
    /// `inventory.<category>`.
    pub job_id: String,
    /// The payload's text without surrounding blanks; shares its bytes.
    pub facts_json: ByteString,
    /// [`HW_DISPLAY`] for hardware.
    pub display_json: Option<&'static str>,
    /// Known for hardware only.
    pub collected_at: Option<Timestamp>,
}

/// Decodes a hardware snapshot.
///
/// # Errors
/// What is wrong and where; never longer than a line.
pub fn decode_hw(payload: &[u8]) -> Result<HwInventory, DecodeError> {
    text::json(text::utf8(payload)?)
}

/// Decodes a message of INVENTORY. Hardware names its PC in the payload; of other categories only the subject does.
///
/// # Errors
/// What is wrong and where; never longer than a line.
pub fn decode(subject: &str, payload: &Bytes) -> Result<Snapshot, DecodeError> {
    let Some(Subject::Inventory { pc_id, category }) = subject::parse(subject) else {
        return Err(DecodeError::Subject);
    };
    let whole = text::shared(payload)?;
    let (pc_id, display_json, collected_at) = if category == kv::INVENTORY_HW {
        let hardware: HwInventory = text::json(&whole)?;
        (hardware.pc_id, Some(HW_DISPLAY), Some(hardware.collected_at))
    } else {
        let _is_an_object: Map<String, Value> = text::json(&whole)?;
        (pc_id.to_owned(), None, None)
    };
    Ok(Snapshot {
        pc_id,
        job_id: format!("inventory.{category}"),
        facts_json: whole.slice_ref(whole.trim()),
        display_json,
        collected_at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_object_is_a_snapshot_of_another_category() {
        let decoded = |text: &'static str| decode("inventory.a.b.net", &Bytes::from_static(text.as_bytes()));
        let snapshot = decoded(" \n{\"ip\": \"10.0.0.1\"}\t").unwrap();
        assert_eq!((&*snapshot.pc_id, &*snapshot.job_id), ("a.b", "inventory.net"));
        assert_eq!(&*snapshot.facts_json, "{\"ip\": \"10.0.0.1\"}");
        assert_eq!((snapshot.display_json, snapshot.collected_at), (None, None));
        for text in ["[1]", "null", "\"{}\"", "{} {}", ""] {
            assert!(decoded(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_subject_without_a_category_is_said_to_be_the_fault() {
        let error = decode("inventory.x", &Bytes::from_static(b"{}")).unwrap_err();
        assert_eq!(error, DecodeError::Subject);
    }

    #[test]
    fn a_payload_nested_ten_thousand_deep_is_an_error_and_not_a_crash() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(decode("inventory.a.net", &Bytes::from(deep)).is_err());
    }
}
