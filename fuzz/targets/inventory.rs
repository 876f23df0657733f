//! A subject and a payload of INVENTORY (contract §4.1, §4.2).

use bytes::Bytes;
use results_projector::wire::inventory::{HW_DISPLAY, HwInventory, decode, decode_hw};
use serde_json::{Value, json};

use super::model::{Members, Says, agrees, assert_one_line, assert_times, is_sure};
use super::parts;

pub(crate) fn run(data: &[u8]) {
    let parts = parts(data);
    let (Some(Ok(subject)), Some(payload)) =
        (parts.first().map(|part| std::str::from_utf8(part)), parts.get(1))
    else {
        return;
    };
    let hardware = decode_hw(payload);
    compare(payload, hardware.as_ref().ok());
    if let Ok(hardware) = &hardware {
        assert_times(&[hardware.collected_at]);
        assert_eq!(
            decode_hw(written(hardware).to_string().as_bytes()).as_ref(),
            Ok(hardware)
        );
    }
    let found = decode(subject, &Bytes::copy_from_slice(payload));
    let Some((pc_id, category)) = subject
        .strip_prefix("inventory.")
        .and_then(|rest| rest.rsplit_once('.'))
    else {
        assert_one_line(&found.unwrap_err().to_string());
        return;
    };
    let is_object = matches!(Members::of(payload), Says::Is(_));
    match found {
        Ok(snapshot) => {
            let text = std::str::from_utf8(payload).unwrap();
            assert_eq!(&*snapshot.facts_json, text.trim());
            assert_eq!(snapshot.job_id, format!("inventory.{category}"));
            if category == "hw" {
                let hardware = hardware.unwrap();
                assert_eq!(
                    (snapshot.pc_id, snapshot.collected_at),
                    (hardware.pc_id, Some(hardware.collected_at))
                );
                assert_eq!(snapshot.display_json, Some(HW_DISPLAY));
            } else {
                assert!(is_object);
                assert_eq!(
                    (&*snapshot.pc_id, snapshot.collected_at, snapshot.display_json),
                    (pc_id, None, None)
                );
            }
        }
        Err(error) => {
            assert_one_line(&error.to_string());
            // Beyond the depth that a reader follows, or with numbers beyond all size, an object is no snapshot.
            let whole: Result<Value, _> = serde_json::from_slice(payload);
            assert!(if category == "hw" {
                hardware.is_err()
            } else {
                !is_object || whole.is_err()
            });
        }
    }
}

fn compare(payload: &[u8], found: Option<&HwInventory>) {
    let members = match Members::of(payload) {
        Says::Is(members) => members,
        Says::Nothing => return,
        Says::Wrong => {
            assert!(found.is_none(), "no JSON object, and taken for hardware");
            return;
        }
    };
    let mut right = true;
    let mut sure = true;
    macro_rules! field {
        ($says:expr, $name:ident, $found:expr) => {
            let says = $says;
            right &= agrees(&says, found.map($found), stringify!($name));
            sure &= is_sure(&says);
        };
    }
    field!(members.text("pc_id"), pc_id, |hardware| hardware.pc_id.clone());
    field!(members.text("hostname"), hostname, |hardware| hardware
        .hostname
        .clone());
    field!(members.text("os_name"), os_name, |hardware| hardware
        .os_name
        .clone());
    field!(members.text("os_version"), os_version, |hardware| hardware
        .os_version
        .clone());
    field!(members.optional_text("os_build"), os_build, |hardware| hardware
        .os_build
        .clone());
    field!(members.text("cpu_model"), cpu_model, |hardware| hardware
        .cpu_model
        .clone());
    field!(
        members.integer("cpu_cores", 0, u32::MAX.into()),
        cpu_cores,
        |hardware| hardware.cpu_cores.into()
    );
    field!(
        members.integer("ram_bytes", 0, u64::MAX.into()),
        ram_bytes,
        |hardware| hardware.ram_bytes.into()
    );
    field!(members.time("collected_at"), collected_at, |hardware| hardware
        .collected_at);
    match members.value("disks") {
        Says::Is(Value::Array(disks)) => {
            sure &= disks.is_empty();
            assert!(found.is_none_or(|hardware| hardware.disks.len() == disks.len()));
        }
        Says::Nothing => sure = false,
        Says::Wrong | Says::Is(_) => {
            right = false;
            assert!(found.is_none(), "disks that are no list");
        }
    }
    assert!(!(right && sure) || found.is_some(), "good hardware is refused");
}

fn written(hardware: &HwInventory) -> Value {
    let disks: Vec<Value> = hardware
        .disks
        .iter()
        .map(|disk| {
            json!({"device_id": disk.device_id, "size_bytes": disk.size_bytes, "free_bytes": disk.free_bytes,
                   "file_system": disk.file_system})
        })
        .collect();
    json!({
        "pc_id": hardware.pc_id, "hostname": hardware.hostname, "os_name": hardware.os_name,
        "os_version": hardware.os_version, "os_build": hardware.os_build, "cpu_model": hardware.cpu_model,
        "cpu_cores": hardware.cpu_cores, "ram_bytes": hardware.ram_bytes, "disks": disks,
        "collected_at": hardware.collected_at.stored(),
    })
}
