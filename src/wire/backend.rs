//! What kanade's backend makes at the server, as data: streams, object stores and buckets with their limits
//! (contract §2.3–§2.5).

use super::kv::{self, StreamName};
use super::{inventory, subject};

/// Seconds of a day.
const DAY: u64 = 86_400;

/// A stream as the backend creates or updates it at every start (§2.3). All of them: storage file, retention by limits,
/// discard old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamSpec {
    /// Its name.
    pub name: &'static str,
    /// What it takes.
    pub subjects: &'static str,
    /// Oldest message, seconds.
    pub max_age_seconds: u64,
    /// Most bytes.
    pub max_bytes: u64,
    /// It keeps the newest message of each subject only.
    pub one_per_subject: bool,
    /// See [`StreamSpec::carried`].
    carries: &'static [&'static str],
}

impl StreamSpec {
    /// The spec of a stream that this service reads.
    #[must_use]
    pub fn of(stream: StreamName) -> Self {
        match stream {
            StreamName::Results => RESULTS,
            StreamName::Events => EVENTS,
            StreamName::Inventory => INVENTORY,
        }
    }

    /// What is sent to it (§2.1): subjects and filters that it must take.
    pub fn carried(&self) -> impl Iterator<Item = String> {
        let categories = (self.ours() == Some(StreamName::Inventory)).then_some(inventory::CATEGORIES);
        let snapshots = categories.into_iter().flatten();
        self.carries
            .iter()
            .map(|subject| (*subject).to_owned())
            .chain(snapshots.map(|category| subject::inventory("*", category)))
    }

    /// The stream, if this service reads it.
    #[must_use]
    pub fn ours(&self) -> Option<StreamName> {
        StreamName::ALL
            .into_iter()
            .find(|stream| stream.as_str() == self.name)
    }
}

const RESULTS: StreamSpec = StreamSpec {
    name: kv::STREAM_RESULTS,
    subjects: "results.>",
    max_age_seconds: 30 * DAY,
    max_bytes: 2 << 30,
    one_per_subject: false,
    carries: &["results.*"],
};
const EVENTS: StreamSpec = StreamSpec {
    name: kv::STREAM_EVENTS,
    subjects: "events.>",
    max_age_seconds: 7 * DAY,
    max_bytes: 256 << 20,
    one_per_subject: false,
    carries: &[
        kv::EVENTS_STARTED_FILTER,
        kv::EVENTS_NOTIFICATIONS_FILTER,
        kv::EVENTS_NOTIFICATIONS_ACKED_FILTER,
    ],
};
const INVENTORY: StreamSpec = StreamSpec {
    name: kv::STREAM_INVENTORY,
    subjects: "inventory.>",
    max_age_seconds: 90 * DAY,
    max_bytes: 1 << 30,
    one_per_subject: false,
    carries: &[],
};

/// Every stream of the contract (§1.1); those that this service reads come first.
pub const STREAMS: [StreamSpec; 7] = [
    RESULTS,
    EVENTS,
    INVENTORY,
    StreamSpec {
        name: kv::STREAM_EXEC,
        subjects: "commands.>",
        max_age_seconds: 7 * DAY,
        max_bytes: 64 << 20,
        one_per_subject: true,
        carries: &[kv::COMMANDS_ALL, "commands.group.*", "commands.pc.>"],
    },
    StreamSpec {
        name: kv::STREAM_AUDIT,
        subjects: "audit.>",
        max_age_seconds: 90 * DAY,
        max_bytes: 512 << 20,
        one_per_subject: false,
        carries: &["audit.>"],
    },
    StreamSpec {
        name: kv::STREAM_OBS_EVENTS,
        subjects: kv::OBS_FILTER,
        max_age_seconds: 90 * DAY,
        max_bytes: 512 << 20,
        one_per_subject: false,
        carries: &[kv::OBS_FILTER],
    },
    StreamSpec {
        name: kv::STREAM_NOTIFICATIONS,
        subjects: "notifications.>",
        max_age_seconds: 90 * DAY,
        max_bytes: 512 << 20,
        one_per_subject: false,
        carries: &[
            kv::NOTIFICATIONS_ALL,
            kv::NOTIFICATIONS_GROUP_PREFIX,
            kv::NOTIFICATIONS_PC_PREFIX,
        ],
    },
];

/// An object store as the backend creates it (§2.4). All of them: storage file, discard new, direct gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreSpec {
    /// Its name.
    pub name: &'static str,
    /// Oldest object, seconds; `None`: no limit.
    pub max_age_seconds: Option<u64>,
    /// Most bytes.
    pub max_bytes: u64,
    /// The name inside `server_settings` by which an operator sets the age, in days.
    pub setting: Option<&'static str>,
}

impl StoreSpec {
    /// The store of outputs, the only one that this service reads.
    pub const OUTPUTS: Self = Self {
        name: kv::OBJECT_RESULT_OUTPUT,
        max_age_seconds: Some(7 * DAY),
        max_bytes: 1 << 30,
        setting: Some("result_output_retention_days"),
    };
}

/// Every object store of the contract (§1.3).
pub const STORES: [StoreSpec; 5] = [
    StoreSpec::OUTPUTS,
    StoreSpec {
        name: kv::OBJECT_COLLECTIONS,
        max_age_seconds: Some(30 * DAY),
        max_bytes: 5 << 30,
        setting: Some("collect_retention_days"),
    },
    StoreSpec {
        name: kv::OBJECT_AGENT_RELEASES,
        max_age_seconds: None,
        max_bytes: 2 << 30,
        setting: None,
    },
    StoreSpec {
        name: kv::OBJECT_APP_PACKAGES,
        max_age_seconds: None,
        max_bytes: 5 << 30,
        setting: None,
    },
    StoreSpec {
        name: kv::OBJECT_SCRIPTS,
        max_age_seconds: None,
        max_bytes: 256 << 20,
        setting: None,
    },
];

/// A key-value bucket (§1.2, §2.5). None has a limit of size or age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketSpec {
    /// Its name.
    pub name: &'static str,
    /// Revisions kept of a key; `None`: made when first used, with a history of its own.
    pub history: Option<i64>,
}

const fn kept(name: &'static str, history: i64) -> BucketSpec {
    BucketSpec {
        name,
        history: Some(history),
    }
}

const fn on_demand(name: &'static str) -> BucketSpec {
    BucketSpec { name, history: None }
}

/// Every bucket of the contract (§1.2).
pub const BUCKETS: [BucketSpec; 20] = [
    kept(kv::BUCKET_JOBS, 5),
    kept(kv::BUCKET_JOBS_YAML, 5),
    kept(kv::BUCKET_SCHEDULES, 5),
    kept(kv::BUCKET_SCHEDULES_YAML, 5),
    kept(kv::BUCKET_SCRIPT_CURRENT, 5),
    kept(kv::BUCKET_SCRIPT_STATUS, 5),
    kept(kv::BUCKET_AGENT_META, 5),
    kept(kv::BUCKET_GROUP_CONTACTS, 5),
    kept(kv::BUCKET_AGENTS_STATE, 1),
    kept(kv::BUCKET_AGENT_CONFIG, 1),
    kept(kv::BUCKET_AGENT_GROUPS, 1),
    kept(kv::BUCKET_AGENT_GROUPS_DERIVED, 1),
    kept(kv::BUCKET_FLEET_CONFIG, 1),
    kept(kv::BUCKET_SERVER_SETTINGS, 1),
    kept(kv::BUCKET_NOTIFICATIONS_READ, 1),
    on_demand(kv::BUCKET_VIEWS),
    on_demand(kv::BUCKET_VIEWS_YAML),
    on_demand(kv::BUCKET_GROUP_DEFS),
    on_demand(kv::BUCKET_GROUP_DEFS_YAML),
    on_demand(kv::BUCKET_SCHEDULER_DISPATCH),
];

/// Buckets that hold the same things twice, by the same keys: as JSON, and as the YAML that they were written in.
pub const TWINS: [(&str, &str); 4] = [
    (kv::BUCKET_JOBS, kv::BUCKET_JOBS_YAML),
    (kv::BUCKET_SCHEDULES, kv::BUCKET_SCHEDULES_YAML),
    (kv::BUCKET_VIEWS, kv::BUCKET_VIEWS_YAML),
    (kv::BUCKET_GROUP_DEFS, kv::BUCKET_GROUP_DEFS_YAML),
];

/// The stream behind a bucket.
#[must_use]
pub fn bucket_stream(bucket: &str) -> String {
    format!("KV_{bucket}")
}

/// The subject of a key, of all keys for `>`.
#[must_use]
pub fn key_subject(bucket: &str, key: &str) -> String {
    format!("$KV.{bucket}.{key}")
}

#[cfg(test)]
mod tests {
    use super::super::subject::covers;
    use super::*;

    #[test]
    fn every_stream_takes_what_it_carries_and_no_other_stream_does() {
        for spec in STREAMS {
            for subject in spec.carried() {
                let takers: Vec<&str> = STREAMS
                    .iter()
                    .filter(|spec| covers(spec.subjects, &subject))
                    .map(|spec| spec.name)
                    .collect();
                assert_eq!(takers, [spec.name], "{subject}");
            }
            assert!(!covers(spec.subjects, kv::NOTIFICATIONS_AMEND_SUBJECT));
        }
    }

    #[test]
    fn the_streams_that_are_read_come_first() {
        let ours: Vec<_> = STREAMS.iter().map_while(StreamSpec::ours).collect();
        assert_eq!(ours, StreamName::ALL);
    }
}
