//! The manifests of the jobs whose results are more than rows. The plain jobs have none.

use async_nats::jetstream;
use serde_json::{Value, json};

pub const SOFTWARE: &str = "inventory-software";
pub const DISKS: &str = "inventory-disks";
pub const BITLOCKER: &str = "check-bitlocker";
pub const DEFENDER: &str = "check-defender";
pub const KEV: &str = "feed-kev";

/// Manifest id and document, as in the bucket `jobs`.
pub fn manifests() -> Vec<(&'static str, Value)> {
    vec![
        (SOFTWARE, software()),
        (DISKS, disks()),
        (
            BITLOCKER,
            json!({
                "id": BITLOCKER, "version": version(BITLOCKER), "execute": execute("Get-BitLockerVolume", "2m"),
                "check": {"name": "bitlocker", "label": "Drive encryption"},
            }),
        ),
        (
            DEFENDER,
            json!({
                "id": DEFENDER, "version": version(DEFENDER), "execute": execute("Get-MpComputerStatus", "90s"),
                "check": {
                    "name": "defender", "label": "Virus scanner", "status_field": "state", "detail_field": "message",
                    "alert": {"on": ["fail"], "title": "Virus scanner"},
                },
            }),
        ),
        (
            KEV,
            json!({
                "id": KEV, "version": version(KEV), "execute": execute("Invoke-RestMethod $kev", "1h"),
                "tier": "controller",
                "feed": [
                    {"id": "kev", "field": "vulnerabilities", "primary_key": ["cve"]},
                    {"id": "kev-products", "field": "products", "primary_key": ["vendor", "product"]},
                ],
            }),
        ),
    ]
}

/// Of a job, with or without a manifest.
pub fn version(job: &str) -> &'static str {
    match job {
        SOFTWARE => "2.3.0",
        DISKS => "1.4.1",
        BITLOCKER => "1.0.2",
        DEFENDER => "1.1.0",
        KEV => "3.0.0",
        _ => "1.0.0",
    }
}

fn execute(script: &str, timeout: &str) -> Value {
    json!({"shell": "powershell", "script": script, "timeout": timeout})
}

fn software() -> Value {
    json!({
        "id": SOFTWARE, "version": version(SOFTWARE), "execute": execute("./inventory-software.ps1", "10m"),
        "inventory": {
            "display": [
                {"field": "hostname", "label": "Host"},
                {"field": "os_name", "label": "System"},
                {"field": "ram_bytes", "label": "Memory", "type": "bytes"},
                {"field": "apps", "label": "Software", "type": "table", "columns": [
                    {"field": "name", "label": "Name"},
                    {"field": "version", "label": "Version"},
                    {"field": "size_kb", "label": "Size", "type": "number"},
                ]},
            ],
            "summary": [
                {"field": "hostname", "label": "Host"},
                {"field": "os_version", "label": "Version"},
            ],
            "history_scalars": [
                "os_version", "os_build", "ram_bytes", "bios_version", "secure_boot", "tpm_version", "last_patch",
            ],
            "explode": [{
                "field": "apps", "table": "inventory_software_apps", "primary_key": ["name", "source"],
                "track_history": true,
                "columns": [
                    {"field": "name", "type": "text", "index": true},
                    {"field": "source", "type": "text"},
                    {"field": "version", "type": "text"},
                    {"field": "publisher"},
                    {"field": "size_kb", "type": "integer"},
                    {"field": "per_user", "type": "text"},
                ],
            }],
        },
    })
}

fn disks() -> Value {
    json!({
        "id": DISKS, "version": version(DISKS), "execute": execute("./inventory-disks.ps1", "1m 30s"),
        "inventory": {
            "display": [
                {"field": "hostname", "label": "Host"},
                {"field": "disks", "label": "Disks", "type": "table", "columns": [
                    {"field": "device", "label": "Drive"},
                    {"field": "free_gb", "label": "Free", "type": "number"},
                ]},
            ],
            "history_scalars": ["disk_count"],
            "explode": [{
                "field": "disks", "table": "inventory_disks", "primary_key": ["device"], "track_history": true,
                "columns": [
                    {"field": "device"},
                    {"field": "model", "type": "text"},
                    {"field": "size_gb", "type": "integer"},
                    {"field": "free_gb", "type": "real"},
                    {"field": "health", "index": true},
                ],
            }],
        },
    })
}

/// Into the bucket `jobs`, which must be there.
pub async fn put_manifests(js: &jetstream::Context) -> Result<(), async_nats::Error> {
    let jobs = js.get_key_value("jobs").await?;
    for (id, manifest) in manifests() {
        jobs.put(id, manifest.to_string().into()).await?;
    }
    Ok(())
}
