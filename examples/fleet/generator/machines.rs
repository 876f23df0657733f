//! What scripts find on PCs and in a feed, and how little of it changes from one look to the next.

use serde_json::{Map, Value, json};

use super::Dice;

/// Per thousand values and elements, from one look to the next.
const CHANGES_PERMILLE: u32 = 20;

const APPS: [(&str, &str); 30] = [
    ("Google Chrome", "Google LLC"),
    ("Mozilla Firefox", "Mozilla"),
    ("Microsoft Edge", "Microsoft Corporation"),
    ("Microsoft 365 Apps", "Microsoft Corporation"),
    ("Microsoft Teams", "Microsoft Corporation"),
    ("Microsoft OneDrive", "Microsoft Corporation"),
    ("Visual Studio Code", "Microsoft Corporation"),
    ("PowerShell 7", "Microsoft Corporation"),
    ("Windows Terminal", "Microsoft Corporation"),
    (".NET Runtime", "Microsoft Corporation"),
    ("Visual C++ Redistributable", "Microsoft Corporation"),
    ("7-Zip", "Igor Pavlov"),
    ("WinRAR", "win.rar GmbH"),
    ("Notepad++", "Notepad++ Team"),
    ("VLC media player", "VideoLAN"),
    ("Adobe Acrobat Reader", "Adobe"),
    ("Zoom Workplace", "Zoom Communications"),
    ("Cisco Secure Client", "Cisco Systems"),
    ("Citrix Workspace", "Citrix Systems"),
    ("TeamViewer", "TeamViewer"),
    ("PuTTY", "Simon Tatham"),
    ("WinSCP", "Martin Přikryl"),
    ("Git", "The Git Development Community"),
    ("Python 3.13", "Python Software Foundation"),
    ("Java SE Runtime", "Oracle Corporation"),
    ("LibreOffice", "The Document Foundation"),
    ("KeePassXC", "KeePassXC Team"),
    ("Wireshark", "Wireshark Foundation"),
    ("一太郎", "JustSystems"),
    ("Lexware büro easy", "Haufe-Lexware"),
];
const SCALARS: [&str; 7] = [
    "os_version",
    "os_build",
    "ram_bytes",
    "bios_version",
    "secure_boot",
    "tpm_version",
    "last_patch",
];

/// One PC.
pub struct Machine {
    facts: Map<String, Value>,
    apps: Vec<Option<(u64, u64)>>,
    disks: Vec<Disk>,
}

struct Disk {
    device: &'static str,
    size_gb: u64,
    free_gb: f64,
    health: &'static str,
    there: bool,
}

impl Machine {
    pub fn new(dice: &mut Dice, pc_id: &str) -> Self {
        let number = dice.below(60_000);
        let facts = json!({
            "hostname": pc_id, "fqdn": format!("{}.corp.example", pc_id.to_lowercase()),
            "os_name": "Windows 11 Pro", "os_architecture": "64-bit", "os_language": "de-DE",
            "manufacturer": dice.pick(&["Dell Inc.", "LENOVO", "HP"]), "model": format!("Model {}", dice.below(40)),
            "serial_number": format!("{:08X}", dice.roll() as u32), "cpu_model": "Core i7-1365U",
            "cpu_cores": 4 + 2 * dice.below(7), "cpu_ghz": 1.8 + dice.below(20) as f64 / 10.0,
            "domain": "corp.example", "ou": format!("OU=Site{},DC=corp", dice.below(12)),
            "ip_address": format!("10.{}.{}.{}", number / 2_500, number / 250 % 10, number % 250 + 1),
            "mac_address": format!("02:00:5e:{:02x}:{:02x}:01", number >> 8, number & 255),
            "dns_servers": ["10.0.0.53", "10.0.1.53"], "time_zone": "W. Europe Standard Time",
            "locale": "de-DE", "screen": {"width": 1920, "height": 1080}, "battery": Value::Null,
            "last_user": format!("CORP\\user{}", dice.below(900)), "powershell": "5.1.26100.2161",
            "virtual": false, "chassis": "Notebook",
        });
        let mut machine = Self {
            facts: facts.as_object().cloned().unwrap_or_default(),
            apps: Vec::new(),
            disks: Vec::new(),
        };
        for name in SCALARS {
            // Some PCs report it later: `added`, not `changed`.
            if name != "last_patch" || dice.permille(700) {
                machine.facts.insert(name.into(), scalar(dice, name));
            }
        }
        // 48 may be there, about 40 are.
        for _ in 0..48 {
            machine
                .apps
                .push((dice.below(6) > 0).then(|| (1 + dice.below(20), dice.below(40))));
        }
        for device in ["C:", "D:", "E:"] {
            let size_gb = 256 << dice.below(3);
            machine.disks.push(Disk {
                device,
                size_gb,
                free_gb: free(dice, size_gb),
                health: if dice.permille(30) { "Warning" } else { "Healthy" },
                there: device == "C:" || dice.permille(500),
            });
        }
        machine
    }

    /// Time goes by.
    pub fn change(&mut self, dice: &mut Dice) {
        for name in SCALARS {
            if dice.permille(CHANGES_PERMILLE) {
                self.facts.insert(name.into(), scalar(dice, name));
            }
        }
        for app in &mut self.apps {
            if dice.permille(CHANGES_PERMILLE) {
                *app = match *app {
                    Some(_) if dice.below(4) == 0 => None,
                    Some((major, minor)) => Some((major, minor + 1)),
                    None => Some((1 + dice.below(20), dice.below(40))),
                };
            }
        }
        for disk in &mut self.disks {
            if dice.permille(CHANGES_PERMILLE) {
                match dice.below(4) {
                    0 if disk.device != "C:" => disk.there = !disk.there,
                    1 => disk.health = "Warning",
                    _ => disk.free_gb = free(dice, disk.size_gb),
                }
            }
        }
    }

    /// About thirty facts and forty apps.
    pub fn software(&self, dice: &mut Dice) -> Value {
        let mut facts = self.facts.clone();
        // Differs at every scan, and no table keeps its history.
        facts.insert("uptime_hours".into(), json!(dice.below(900)));
        let apps = self.apps.iter().enumerate().filter_map(|(at, app)| {
            let ((major, minor), (name, publisher)) = ((*app)?, APPS[at % APPS.len()]);
            // Some scripts send bare numbers for what the manifest calls text.
            let version = if at % 16 == 7 {
                json!(major * 100 + minor)
            } else {
                json!(format!("{major}.{minor}.{}", minor * 7))
            };
            let per_user = at >= APPS.len();
            Some(json!({
                "name": name, "source": if per_user { "user" } else { "machine" }, "version": version,
                "publisher": publisher, "size_kb": 1_000 + at as u64 * 977 + minor, "per_user": per_user,
                // No column of its own.
                "uninstall": format!("msiexec /x {{{:08x}-{major}}}", at * 7_919),
            }))
        });
        facts.insert("apps".into(), apps.collect());
        Value::Object(facts)
    }

    pub fn disks(&self, dice: &mut Dice) -> Value {
        let there = self.disks.iter().filter(|disk| disk.there);
        let disks: Vec<Value> = there
            .map(|disk| {
                json!({
                    "device": disk.device, "model": format!("NVMe {} GB", disk.size_gb), "size_gb": disk.size_gb,
                    // A whole number stays one on the wire, in a column of reals.
                    "free_gb": if disk.free_gb.fract() == 0.0 { json!(disk.free_gb as u64) } else { json!(disk.free_gb) },
                    "health": disk.health, "temperature": 30 + dice.below(30),
                })
            })
            .collect();
        json!({"hostname": self.facts.get("hostname"), "disk_count": disks.len(), "disks": disks})
    }
}

fn free(dice: &mut Dice, size_gb: u64) -> f64 {
    dice.below(size_gb * 6) as f64 / 10.0
}

fn scalar(dice: &mut Dice, name: &str) -> Value {
    match name {
        "os_version" => json!(format!("10.0.26100.{}", 1_000 + dice.below(4_000))),
        "os_build" => json!(dice.pick(&["22631", "26100", "26200"])),
        "ram_bytes" => json!(8_u64 << (30 + dice.below(4))),
        "bios_version" => json!(format!("1.{}.{}", dice.below(30), dice.below(5))),
        "secure_boot" => json!(dice.below(5) > 0),
        "tpm_version" => json!(if dice.below(3) > 0 { 2.0 } else { 1.2 }),
        _ => json!(format!("KB{}", 5_030_000 + dice.below(40_000))),
    }
}

/// What one check says of one PC, until it says something else.
#[derive(Clone, Copy)]
pub struct Verdict {
    pub status: &'static str,
    severity: u64,
}

impl Verdict {
    pub fn new(dice: &mut Dice) -> Self {
        let status = match dice.below(100) {
            0..=7 => "fail",
            8..=15 => "warn",
            16..=18 => "unknown",
            _ => "ok",
        };
        Self {
            status,
            severity: dice.below(60),
        }
    }

    pub fn bitlocker(self) -> Value {
        let detail = match self.status {
            "fail" => json!(format!(
                "C: has not been encrypted for {} days",
                self.severity + 1
            )),
            "warn" => json!(format!("C: is encrypted to {} %", self.severity)),
            "unknown" => json!({"hresult": "0x80310000", "volume": "C:"}),
            _ => Value::Null,
        };
        json!({"status": self.status, "detail": detail, "volumes": 1 + self.severity % 2})
    }

    pub fn defender(self) -> Value {
        let message = match self.status {
            "fail" => json!(format!("signatures are {} days old", self.severity + 7)),
            "warn" => json!("real-time protection was off, and is on again"),
            "unknown" => json!(self.severity),
            _ => json!(""),
        };
        json!({"state": self.status, "message": message, "engine": "1.1.24090.11"})
    }
}

/// A list of vulnerabilities that somebody keeps on the network.
pub struct List {
    items: Vec<(u64, usize, u64)>,
    newest: u64,
}

impl List {
    pub fn new(dice: &mut Dice) -> Self {
        let mut list = Self {
            items: Vec::new(),
            newest: 0,
        };
        (0..30).for_each(|_| list.grow(dice));
        list
    }

    fn grow(&mut self, dice: &mut Dice) {
        self.newest += 1;
        self.items
            .push((self.newest, dice.below(APPS.len() as u64) as usize, dice.below(3)));
    }

    pub fn change(&mut self, dice: &mut Dice) {
        (0..=dice.below(3)).for_each(|_| self.grow(dice));
        let at = dice.below(self.items.len() as u64) as usize;
        if dice.below(3) == 0 {
            self.items.remove(at);
        } else if let Some((_, _, delay)) = self.items.get_mut(at) {
            *delay += 1;
        }
    }

    /// Newest first, with the products they are about.
    pub fn document(&self) -> Value {
        let day = |days: u64| {
            let at =
                chrono::DateTime::from_timestamp(1_778_000_000 + days as i64 * 86_400, 0).unwrap_or_default();
            at.format("%Y-%m-%d").to_string()
        };
        let vulnerabilities = self.items.iter().rev().map(|&(number, app, delay)| {
            let (product, vendor) = APPS[app];
            json!({
                "cve": format!("CVE-2026-{}", 20_000 + number * 37), "vendor": vendor, "product": product,
                "added": day(number), "due": day(number + 14 + 7 * delay), "ransomware": number % 5 == 0,
            })
        });
        let products = APPS.iter().enumerate().filter_map(|(app, (product, vendor))| {
            let count = self.items.iter().filter(|item| item.1 == app).count();
            (count > 0).then(|| json!({"vendor": vendor, "product": product, "vulnerabilities": count}))
        });
        json!({"vulnerabilities": vulnerabilities.collect::<Value>(), "products": products.collect::<Value>()})
    }
}
