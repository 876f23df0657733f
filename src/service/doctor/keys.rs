//! What the buckets hold: layers of configuration, the freeze, settings, twins.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::finding::{Findings, Severity};
use crate::source::survey::facts::{Contents, Entry, Facts, Look};
use crate::wire::backend::TWINS;
use crate::wire::inert::inert;
use crate::wire::kv;
use crate::wire::shown::names;

/// Twins are written one after the other: seconds that may lie between.
const TOGETHER_SECONDS: i64 = 60;
/// Characters of a document that are told.
const DOCUMENT_CHARS: usize = 120;

/// Judges what the buckets hold.
pub(super) fn judge(facts: &Facts, found: &mut Findings) {
    agent_config(facts, found);
    fleet_config(facts, found);
    server_settings(facts, found);
    for (json, yaml) in TWINS {
        twins(facts, (json, yaml), found);
    }
    cut(facts, found);
}

pub(super) fn contents<'a>(facts: &'a Facts, bucket: &str) -> Option<&'a Contents> {
    facts.contents.get(bucket).and_then(Look::seen)
}

/// More labels than an agent's id may have (contract §1.5).
pub(super) fn is_no_pc(id: &str) -> bool {
    id.is_empty() || id.split('.').count() > kv::MAX_PC_ID_LABELS
}

fn agent_config(facts: &Facts, found: &mut Findings) {
    let looked_at = || ("agent_config", format!("bucket {}", kv::BUCKET_AGENT_CONFIG));
    let Some(keys) = facts.keys.get(kv::BUCKET_AGENT_CONFIG).and_then(Look::seen) else {
        return;
    };
    // Those of groups and PCs are many, and known by their names; of the others deleted ones are left out.
    let there = contents(facts, kv::BUCKET_AGENT_CONFIG);
    let (mut groups, mut pcs, mut fleet) = (0_usize, 0_usize, Vec::new());
    let (mut unknown, mut no_pcs, mut nameless) = (Vec::new(), Vec::new(), 0_usize);
    for name in &keys.names {
        if let Some(group) = kv::parse_agent_config_group_key(name) {
            groups += 1;
            nameless += usize::from(group.is_empty());
        } else if let Some(pc_id) = kv::parse_agent_config_pc_key(name) {
            pcs += 1;
            if is_no_pc(pc_id) {
                no_pcs.push(name.as_str());
            }
        } else if there.is_none_or(|there| there.entries.contains_key(name)) {
            let known = [kv::KEY_AGENT_CONFIG_GLOBAL, kv::KEY_AGENT_TARGET_VERSION];
            if known.contains(&name.as_str()) {
                fleet.push(name.as_str());
            } else {
                unknown.push(name.as_str());
            }
        }
    }
    let layers = format!(
        "{} for all, {groups} of groups, {pcs} of PCs",
        if fleet.is_empty() {
            "none".to_owned()
        } else {
            names(fleet)
        }
    );
    if !unknown.is_empty() {
        found.add(
            Severity::Note,
            looked_at(),
            format!("unknown keys: {} (besides {layers})", names(unknown)),
            "no agent reads them: a setting that somebody made has no effect",
            format!(
                "delete them, or write them under {}, {}, {}<group> or {}<pc>",
                kv::KEY_AGENT_CONFIG_GLOBAL,
                kv::KEY_AGENT_TARGET_VERSION,
                kv::PREFIX_AGENT_CONFIG_GROUPS,
                kv::PREFIX_AGENT_CONFIG_PCS
            ),
        );
    } else if no_pcs.is_empty() && nameless == 0 {
        found.good(looked_at(), layers);
    }
    if !no_pcs.is_empty() || nameless > 0 {
        let group = kv::agent_config_group_key("");
        let nameless = (nameless > 0).then_some(group.as_str());
        found.add(
            Severity::Note,
            looked_at(),
            format!(
                "keys of no group and no PC: {}",
                names(no_pcs.into_iter().chain(nameless))
            ),
            format!(
                "the id of a PC has one to {} labels: no agent reads them",
                kv::MAX_PC_ID_LABELS
            ),
            "delete them",
        );
    }
}

/// Whether a switch is on, as far as that can be said of a document whose form is the backend's own.
fn is_on(value: &[u8]) -> bool {
    match serde_json::from_slice::<Value>(value) {
        Ok(Value::Null | Value::Bool(false)) => false,
        Ok(Value::Object(map)) => {
            let off = ["active", "enabled", "frozen", "freeze"];
            !map.is_empty() && !off.iter().any(|name| map.get(*name) == Some(&Value::Bool(false)))
        }
        Ok(_) => true,
        Err(_) => !value.is_empty(),
    }
}

fn fleet_config(facts: &Facts, found: &mut Findings) {
    let looked_at = || ("fleet_config", format!("bucket {}", kv::BUCKET_FLEET_CONFIG));
    let Some(there) = contents(facts, kv::BUCKET_FLEET_CONFIG) else {
        return;
    };
    let before = found.wrong();
    if let Some(freeze) = there
        .entries
        .get(kv::KEY_FREEZE)
        .filter(|freeze| is_on(&freeze.value))
    {
        found.add(
            Severity::Note,
            looked_at(),
            format!(
                "the fleet is frozen since {}: {}",
                freeze.changed.stored(),
                inert(&String::from_utf8_lossy(&freeze.value), DOCUMENT_CHARS)
            ),
            "while it is, few results come: a quiet stream is no fault",
            "nothing, if it is meant",
        );
    }
    let unknown: Vec<&str> = there
        .entries
        .keys()
        .map(String::as_str)
        .filter(|name| ![kv::KEY_FREEZE, kv::KEY_SUPPORT_CODES].contains(name))
        .collect();
    if !unknown.is_empty() {
        unread(looked_at(), unknown, found);
    }
    if found.wrong() == before {
        found.good(looked_at(), "no freeze");
    }
}

fn unread(looked_at: (&'static str, String), unknown: Vec<&str>, found: &mut Findings) {
    found.add(
        Severity::Note,
        looked_at,
        format!("unknown keys: {}", names(unknown)),
        "nobody is known to read them",
        "delete them, if no newer backend has made them",
    );
}

fn server_settings(facts: &Facts, found: &mut Findings) {
    let looked_at = || {
        (
            "server_settings",
            format!("bucket {}", kv::BUCKET_SERVER_SETTINGS),
        )
    };
    let Some(there) = contents(facts, kv::BUCKET_SERVER_SETTINGS) else {
        return;
    };
    let unknown: Vec<&str> = there
        .entries
        .keys()
        .map(String::as_str)
        .filter(|name| *name != kv::KEY_SERVER_SETTINGS)
        .collect();
    let document = there.entries.get(kv::KEY_SERVER_SETTINGS);
    let readable = document.is_none_or(|document| {
        serde_json::from_slice::<Value>(&document.value).is_ok_and(|document| document.is_object())
    });
    if !readable {
        found.add(
            Severity::Note,
            looked_at(),
            format!("{} is no JSON object", kv::KEY_SERVER_SETTINGS),
            "the backend falls back to its defaults: ages of stores are not what an operator has set",
            "save the settings again in the backend's user interface",
        );
    } else if unknown.is_empty() {
        let what = if document.is_some() {
            "settings are there"
        } else {
            "defaults"
        };
        found.good(looked_at(), what);
    }
    if !unknown.is_empty() {
        unread(looked_at(), unknown, found);
    }
}

/// A plain value of a top-level key: of JSON, or of YAML that writes it on the key's own line.
pub(super) fn scalar(document: &[u8], key: &str) -> Option<String> {
    let text = std::str::from_utf8(document).ok()?;
    if let Ok(json) = serde_json::from_str::<Value>(text) {
        return match json.get(key)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
    }
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix(':'))?;
    let value = line.split(" #").next().unwrap_or_default().trim();
    let quoted = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
    let plain = quoted('"').or_else(|| quoted('\'')).unwrap_or(value);
    // What goes on below, or refers to elsewhere, is not read.
    let is_more = plain.is_empty() || plain.starts_with(['|', '>', '&', '*', '!', '{', '[']);
    (!is_more).then(|| plain.to_owned())
}

/// Why two documents of one key are not the same thing.
fn apart(json: &Entry, yaml: &Entry) -> Option<(Severity, String)> {
    for key in ["id", "version"] {
        if let (Some(one), Some(other)) = (scalar(&json.value, key), scalar(&yaml.value, key))
            && one != other
        {
            let (one, other) = (inert(&one, 40), inert(&other, 40));
            return Some((Severity::Bad, format!("{key} {one} and {other}")));
        }
    }
    let (one, other) = (
        DateTime::<Utc>::from(json.changed),
        DateTime::<Utc>::from(yaml.changed),
    );
    let seconds = (one - other).num_seconds();
    (seconds.abs() > TOGETHER_SECONDS).then(|| {
        let later = if seconds > 0 { "JSON" } else { "YAML" };
        (
            Severity::Note,
            format!("the {later} was written {} s after the other", seconds.abs()),
        )
    })
}

fn twins(facts: &Facts, (json, yaml): (&str, &str), found: &mut Findings) {
    let (Some(ours), Some(theirs)) = (contents(facts, json), contents(facts, yaml)) else {
        return;
    };
    let looked_at = || ("twins", format!("buckets {json} and {yaml}"));
    if ours.unasked + theirs.unasked > 0 {
        // Half of them say nothing of the other half.
        return;
    }
    let before = found.wrong();
    let only = |one: &Contents, other: &Contents| -> Vec<String> {
        let missing = one.entries.keys().filter(|key| !other.entries.contains_key(*key));
        missing.cloned().collect()
    };
    for (alone, bucket, other) in [(only(ours, theirs), json, yaml), (only(theirs, ours), yaml, json)] {
        if !alone.is_empty() {
            found.add(
                Severity::Note,
                looked_at(),
                format!("only in {bucket}: {}", names(alone.iter().map(String::as_str))),
                if bucket == json {
                    "they run, but an editor shows no source for them"
                } else {
                    "an editor may show them, but they do not run"
                },
                format!("save them again, or delete them from {bucket}; they are not in {other}"),
            );
        }
    }
    let mut drifted: BTreeMap<Severity, Vec<String>> = BTreeMap::new();
    for (key, entry) in &ours.entries {
        if let Some((severity, how)) = theirs.entries.get(key).and_then(|twin| apart(entry, twin)) {
            let told = format!("{} ({how})", inert(key, 60));
            drifted.entry(severity).or_default().push(told);
        }
    }
    for (severity, all) in drifted {
        let more = all.len().saturating_sub(3);
        let told: Vec<String> = all.into_iter().take(3).collect();
        found.add(
            severity,
            looked_at(),
            format!(
                "drifted apart: {}{}",
                told.join(", "),
                if more > 0 {
                    format!(" and {more} more")
                } else {
                    String::new()
                }
            ),
            "what runs is not what an editor shows: the next save brings the older one back",
            "compare both (`nats kv get`), and save the right one through the backend",
        );
    }
    if found.wrong() == before {
        found.good(looked_at(), format!("{} keys, in step", ours.entries.len()));
    }
}

/// What was not looked at whole.
fn cut(facts: &Facts, found: &mut Findings) {
    for (bucket, look) in &facts.keys {
        if let Some(of) = look.seen().and_then(|keys| keys.cut_of) {
            found.add(
                Severity::Note,
                ("bucket", format!("bucket {bucket}")),
                format!("too many keys to list: {of}"),
                "only the first of them were looked at",
                "nothing; what is said of this bucket is said of a part",
            );
        }
    }
    for (bucket, look) in &facts.contents {
        match look {
            Look::Seen(contents) if contents.unasked > 0 => found.add(
                Severity::Note,
                ("bucket", format!("bucket {bucket}")),
                format!("{} keys were not read: too many, or too slow", contents.unasked),
                "what they hold was not looked at",
                "nothing, or try again when the server has less to do",
            ),
            Look::Failed(why) => found.add(
                Severity::Note,
                ("bucket", format!("bucket {bucket}")),
                format!("its keys cannot be read: {why}"),
                "what they hold was not looked at",
                "try again",
            ),
            _ => {}
        }
    }
}
