//! Names that the wire fixes: streams, buckets, keys, object stores, thresholds, markers, exit codes (contract §1).

use std::fmt;

/// A stream that this service reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StreamName {
    /// [`STREAM_RESULTS`].
    Results,
    /// [`STREAM_EVENTS`].
    Events,
    /// [`STREAM_INVENTORY`].
    Inventory,
}

impl StreamName {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Results, Self::Events, Self::Inventory];

    /// The stream's name at the server.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Results => STREAM_RESULTS,
            Self::Events => STREAM_EVENTS,
            Self::Inventory => STREAM_INVENTORY,
        }
    }

    /// Reads a name in any letter case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|stream| stream.as_str().eq_ignore_ascii_case(text))
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The durables of the backend's own projector, each with its stream (§2.6). Looked at, never touched.
pub const BACKEND_DURABLES: [(&str, &str); 2] = [
    (STREAM_RESULTS, "backend_results_projector"),
    (STREAM_EVENTS, "backend_events_projector"),
];

// §1.1 Streams
/// The audit trail; not ours.
pub const STREAM_AUDIT: &str = "AUDIT";
/// Start events, and others that are not ours.
pub const STREAM_EVENTS: &str = "EVENTS";
/// Commands to agents; not ours.
pub const STREAM_EXEC: &str = "EXEC";
/// Hardware snapshots of agents before 0.14.
pub const STREAM_INVENTORY: &str = "INVENTORY";
/// Notifications; not ours.
pub const STREAM_NOTIFICATIONS: &str = "NOTIFICATIONS";
/// Observations; not ours.
pub const STREAM_OBS_EVENTS: &str = "OBS_EVENTS";
/// One `ExecResult` per script run.
pub const STREAM_RESULTS: &str = "RESULTS";

// §1.2 Key-value buckets, keys, values
/// PC → last hardware snapshot.
pub const BUCKET_AGENTS_STATE: &str = "agents_state";
/// Layered agent configuration (§1.4).
pub const BUCKET_AGENT_CONFIG: &str = "agent_config";
/// PC → groups set by operators.
pub const BUCKET_AGENT_GROUPS: &str = "agent_groups";
/// PC → groups computed by the backend.
pub const BUCKET_AGENT_GROUPS_DERIVED: &str = "agent_groups_derived";
/// PC → free notes.
pub const BUCKET_AGENT_META: &str = "agent_meta";
/// `freeze` and `support_codes`.
pub const BUCKET_FLEET_CONFIG: &str = "fleet_config";
/// Group → mail addresses.
pub const BUCKET_GROUP_CONTACTS: &str = "group_contacts";
/// Group id → definition.
pub const BUCKET_GROUP_DEFS: &str = "group_defs";
/// Group id → YAML source.
pub const BUCKET_GROUP_DEFS_YAML: &str = "group_defs_yaml";
/// Manifest id → JSON (§4.3); the only bucket that the projection reads.
pub const BUCKET_JOBS: &str = "jobs";
/// Manifest id → YAML source.
pub const BUCKET_JOBS_YAML: &str = "jobs_yaml";
/// Read marks.
pub const BUCKET_NOTIFICATIONS_READ: &str = "notifications_read";
/// Dispatch marks.
pub const BUCKET_SCHEDULER_DISPATCH: &str = "scheduler_dispatch";
/// Schedule id → JSON.
pub const BUCKET_SCHEDULES: &str = "schedules";
/// Schedule id → YAML source.
pub const BUCKET_SCHEDULES_YAML: &str = "schedules_yaml";
/// Manifest id → version text.
pub const BUCKET_SCRIPT_CURRENT: &str = "script_current";
/// Manifest id → `ACTIVE` or `REVOKED`.
pub const BUCKET_SCRIPT_STATUS: &str = "script_status";
/// One document.
pub const BUCKET_SERVER_SETTINGS: &str = "server_settings";
/// View id → definition.
pub const BUCKET_VIEWS: &str = "views";
/// View id → YAML source.
pub const BUCKET_VIEWS_YAML: &str = "views_yaml";
/// In `agent_config`.
pub const KEY_AGENT_CONFIG_GLOBAL: &str = "global";
/// In `agent_config`.
pub const KEY_AGENT_TARGET_VERSION: &str = "target_version";
/// In `fleet_config`.
pub const KEY_FREEZE: &str = "freeze";
/// In `server_settings`.
pub const KEY_SERVER_SETTINGS: &str = "current";
/// In `fleet_config`.
pub const KEY_SUPPORT_CODES: &str = "support_codes";
/// In `script_status`.
pub const SCRIPT_STATUS_ACTIVE: &str = "ACTIVE";
/// In `script_status`.
pub const SCRIPT_STATUS_REVOKED: &str = "REVOKED";

// §1.3 Object stores
/// Agent binaries.
pub const OBJECT_AGENT_RELEASES: &str = "agent_releases";
/// Installers.
pub const OBJECT_APP_PACKAGES: &str = "app_packages";
/// Zip files of `collect:` jobs.
pub const OBJECT_COLLECTIONS: &str = "collections";
/// Outputs too long for a message; the only object store we read.
pub const OBJECT_RESULT_OUTPUT: &str = "result_output";
/// Script bodies.
pub const OBJECT_SCRIPTS: &str = "scripts";

// §1.4 Layered configuration keys
/// Scope of a group in `agent_config`.
pub const PREFIX_AGENT_CONFIG_GROUPS: &str = "groups.";
/// Scope of a PC in `agent_config`.
pub const PREFIX_AGENT_CONFIG_PCS: &str = "pcs.";

// §1.5 Sizes
/// Bytes: the server's default limit of one message.
pub const NATS_DEFAULT_MAX_PAYLOAD: usize = 1_048_576;
/// Bytes: a quarter of it.
pub const NATS_PAYLOAD_BUDGET: usize = 262_144;
/// Bytes of UTF-8 per field: longer output goes to the object store.
pub const STDOUT_INLINE_THRESHOLD: usize = 262_144;
/// A PC's id has at most so many labels between dots.
pub const MAX_PC_ID_LABELS: usize = 4;

// §1.6 Markers
/// Line-start marker of a check block (§4.4).
pub const CHECK_BLOCK_BEGIN: &str = "#KANADE-CHECK-BEGIN";
/// End of a check block (§4.4).
pub const CHECK_BLOCK_END: &str = "#KANADE-CHECK-END";
/// Line-start marker of a collect block (§4.4).
pub const COLLECT_BLOCK_BEGIN: &str = "#KANADE-COLLECT-BEGIN";
/// End of a collect block (§4.4).
pub const COLLECT_BLOCK_END: &str = "#KANADE-COLLECT-END";
/// Line-start marker of a feed block (§4.4).
pub const FEED_BLOCK_BEGIN: &str = "#KANADE-FEED-BEGIN";
/// End of a feed block (§4.4).
pub const FEED_BLOCK_END: &str = "#KANADE-FEED-END";
/// Line-start marker of a inventory block (§4.4).
pub const INVENTORY_BLOCK_BEGIN: &str = "#KANADE-INVENTORY-BEGIN";
/// End of a inventory block (§4.4).
pub const INVENTORY_BLOCK_END: &str = "#KANADE-INVENTORY-END";

// §1.7 Reserved exit codes
/// The agent restarted while the command ran.
pub const EXIT_RESTARTED_OUTCOME_UNKNOWN: i32 = 121;
/// The OS cannot evaluate the schedule's gate.
pub const EXIT_SKIP_UNSUPPORTED: i32 = 122;
/// The command's signature was refused.
pub const EXIT_REJECTED_UNSIGNED: i32 = 123;
/// The version differs from `script_current`.
pub const EXIT_SKIP_VERSION_PIN: i32 = 124;
/// The start deadline passed.
pub const EXIT_SKIP_DEADLINE: i32 = 125;
/// The script is revoked.
pub const EXIT_SKIP_REVOKED: i32 = 126;
/// Strict staleness policy.
pub const EXIT_SKIP_STALENESS: i32 = 127;

// §2.1 Subjects
/// Not ours.
pub const COMMANDS_ALL: &str = "commands.all";
/// Not ours.
pub const EVENTS_NOTIFICATIONS_ACKED_FILTER: &str = "events.notifications.acked.>";
/// Not ours.
pub const EVENTS_NOTIFICATIONS_FILTER: &str = "events.notifications.>";
/// Start events, the projected part of EVENTS.
pub const EVENTS_STARTED_FILTER: &str = "events.started.>";
/// Category of hardware snapshots.
pub const INVENTORY_HW: &str = "hw";
/// Named, never sent.
pub const INVENTORY_NET: &str = "net";
/// Named, never sent.
pub const INVENTORY_SW: &str = "sw";
/// Not ours.
pub const NOTIFICATIONS_ALL: &str = "notifications.all";
/// Not ours.
pub const NOTIFICATIONS_AMEND_SUBJECT: &str = "notif-amend";
/// Not ours.
pub const NOTIFICATIONS_GROUP_PREFIX: &str = "notifications.group.";
/// Not ours.
pub const NOTIFICATIONS_PC_PREFIX: &str = "notifications.pc.";
/// Not ours.
pub const OBS_FILTER: &str = "obs.>";

/// The key of a group's layer in `agent_config`; nothing is escaped or checked (§1.4).
#[must_use]
pub fn agent_config_group_key(group: &str) -> String {
    format!("{PREFIX_AGENT_CONFIG_GROUPS}{group}")
}

/// The key of a PC's layer in `agent_config`; nothing is escaped or checked (§1.4).
#[must_use]
pub fn agent_config_pc_key(pc_id: &str) -> String {
    format!("{PREFIX_AGENT_CONFIG_PCS}{pc_id}")
}

/// The group that a key of `agent_config` is about; `None` for keys of other scopes (§1.4).
#[must_use]
pub fn parse_agent_config_group_key(key: &str) -> Option<&str> {
    key.strip_prefix(PREFIX_AGENT_CONFIG_GROUPS)
}

/// The PC that a key of `agent_config` is about; `None` for keys of other scopes (§1.4).
#[must_use]
pub fn parse_agent_config_pc_key(key: &str) -> Option<&str> {
    key.strip_prefix(PREFIX_AGENT_CONFIG_PCS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_key_parser_undoes_its_builder_for_every_text(text in any::<String>()) {
            let (group, pc) = (agent_config_group_key(&text), agent_config_pc_key(&text));
            prop_assert_eq!(parse_agent_config_group_key(&group), Some(text.as_str()));
            prop_assert_eq!(parse_agent_config_pc_key(&pc), Some(text.as_str()));
            prop_assert_eq!(parse_agent_config_pc_key(&group), None);
            prop_assert_eq!(parse_agent_config_group_key(&pc), None);
        }
    }

    #[test]
    fn the_inline_threshold_is_a_quarter_of_a_message() {
        assert_eq!(NATS_PAYLOAD_BUDGET, NATS_DEFAULT_MAX_PAYLOAD / 4);
        assert_eq!(STDOUT_INLINE_THRESHOLD, NATS_PAYLOAD_BUDGET);
    }
}
