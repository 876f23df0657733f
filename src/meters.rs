//! The service's instruments: every name, unit and label value in one place (DESIGN §9), recorded through the facade of
//! `metrics`, which costs next to nothing while nobody listens. May touch: `metrics`, `wire`. May not: know who records.

use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::wire::kv::StreamName;
use crate::wire::output::State;

/// Upper bounds of the histograms' buckets, by metric: seconds, or rows.
pub const BUCKETS: &[(&str, &[f64])] = &[
    (COMMIT_SECONDS, SECONDS),
    (CHECKPOINT_SECONDS, SECONDS),
    (
        PUBLISH_TO_COMMIT_SECONDS,
        &[
            0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0,
        ],
    ),
    (
        GROUP_ROWS,
        &[
            1.0, 2.0, 5.0, 10.0, 50.0, 100.0, 500.0, 1_000.0, 5_000.0, 10_000.0, 50_000.0,
        ],
    ),
];
const SECONDS: &[f64] = &[
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

const MESSAGES: &str = "results_projector_messages_total";
const GAP_MESSAGES: &str = "results_projector_gap_messages_total";
const ROWS_WRITTEN: &str = "results_projector_rows_written_total";
const OUTPUTS: &str = "results_projector_outputs_total";
const REOPENS: &str = "results_projector_reopens_total";
const REDELIVERIES: &str = "results_projector_redeliveries_total";
const BUSY_RETRIES: &str = "results_projector_busy_retries_total";
const CLIENT_EVENTS: &str = "results_projector_client_events_total";
const COMMIT_SECONDS: &str = "results_projector_commit_seconds";
const CHECKPOINT_SECONDS: &str = "results_projector_checkpoint_seconds";
const PUBLISH_TO_COMMIT_SECONDS: &str = "results_projector_publish_to_commit_seconds";
const GROUP_ROWS: &str = "results_projector_group_rows";

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A row, or a copy of one.
    Projected,
    /// A dead letter.
    Dead,
    /// Not ours by rule.
    Ignored,
}

impl Outcome {
    const ALL: [Self; 3] = [Self::Projected, Self::Dead, Self::Ignored];

    fn label(self) -> &'static str {
        match self {
            Self::Projected => "projected",
            Self::Dead => "dead",
            Self::Ignored => "ignored",
        }
    }
}

/// Why a consumer that was read is opened anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reopened {
    /// The connection was lost.
    Connection,
    /// The server does not allow our pulls.
    Denied,
    /// The client's iterator failed or ended.
    Iterator,
    /// A delivery was out of order.
    Order,
    /// The reader's look at itself found something.
    Check,
    /// The writer refused an item.
    Writer,
}

impl Reopened {
    const ALL: [Self; 6] = [
        Self::Connection,
        Self::Denied,
        Self::Iterator,
        Self::Order,
        Self::Check,
        Self::Writer,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Denied => "denied",
            Self::Iterator => "iterator",
            Self::Order => "order",
            Self::Check => "check",
            Self::Writer => "writer",
        }
    }
}

/// What the client tells of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientEvent {
    /// It stands.
    Connected,
    /// It is lost.
    Disconnected,
    /// Messages were dropped that the client had no room for.
    SlowConsumer,
    /// The server told an error.
    ServerError,
    /// Anything else.
    Other,
}

impl ClientEvent {
    const ALL: [Self; 5] = [
        Self::Connected,
        Self::Disconnected,
        Self::SlowConsumer,
        Self::ServerError,
        Self::Other,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::SlowConsumer => "slow_consumer",
            Self::ServerError => "server_error",
            Self::Other => "other",
        }
    }
}

/// Messages that a commit has dealt with.
pub fn messages(stream: StreamName, outcome: Outcome, count: u64) {
    counter!(MESSAGES, "stream" => stream.as_str(), "outcome" => outcome.label()).increment(count);
}

/// Messages that were deleted or had expired before they could be read.
pub fn gap_messages(stream: StreamName, count: u64) {
    counter!(GAP_MESSAGES, "stream" => stream.as_str()).increment(count);
}

/// Rows that a commit has inserted, changed or deleted.
pub fn rows_written(table: &'static str, count: u64) {
    counter!(ROWS_WRITTEN, "table" => table).increment(count);
}

/// A pointer was judged: an attempt to read its output has ended, or it is none that is asked for.
pub fn output(state: State) {
    counter!(OUTPUTS, "outcome" => state.as_str()).increment(1);
}

/// A consumer that was read is opened anew.
pub fn reopened(stream: StreamName, reason: Reopened) {
    counter!(REOPENS, "stream" => stream.as_str(), "reason" => reason.label()).increment(1);
}

/// A message came again, and was dropped.
pub fn redelivered(stream: StreamName) {
    counter!(REDELIVERIES, "stream" => stream.as_str()).increment(1);
}

/// A group is tried again, since somebody else held the file.
pub fn busy_retry() {
    counter!(BUSY_RETRIES).increment(1);
}

/// The client has told something.
pub fn client_event(event: ClientEvent) {
    counter!(CLIENT_EVENTS, "event" => event.label()).increment(1);
}

/// A group is on disk.
pub fn committed(rows: usize, commit_time: Duration, oldest_published: Option<Duration>) {
    histogram!(COMMIT_SECONDS).record(commit_time);
    #[expect(clippy::cast_precision_loss, reason = "a group has fewer rows than 2^52")]
    histogram!(GROUP_ROWS).record(rows as f64);
    if let Some(age) = oldest_published {
        histogram!(PUBLISH_TO_COMMIT_SECONDS).record(age);
    }
}

/// The write-ahead log was copied into the database.
pub fn checkpointed(time: Duration) {
    histogram!(CHECKPOINT_SECONDS).record(time);
}

/// Variant, name and help of each gauge, in one table.
macro_rules! gauges {
    ($($gauge:ident, $name:literal, $help:literal;)*) => {
        /// What is read off when somebody asks, not recorded when it happens.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Gauge {
            $(#[doc = $help] $gauge,)*
        }

        impl Gauge {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$gauge),*];

            /// Its name and help.
            #[must_use]
            pub fn told(self) -> (&'static str, &'static str) {
                match self {
                    $(Self::$gauge => ($name, $help),)*
                }
            }
        }
    };
}

gauges! {
    Position, "results_projector_position",
        "Last stream sequence whose effect is committed";
    StreamLastSequence, "results_projector_stream_last_sequence",
        "Last sequence of the stream, as of the reader's last look";
    StreamLagMessages, "results_projector_stream_lag_messages",
        "Messages between the position and the stream's end";
    StreamLagSeconds, "results_projector_stream_lag_seconds",
        "Age of the message at the position while there are newer ones; 0 when caught up, NaN when not known";
    StreamBytes, "results_projector_stream_bytes",
        "Bytes that the stream holds";
    StreamBytesMax, "results_projector_stream_bytes_max",
        "Bytes that the stream may hold before its oldest messages go; +Inf without a limit";
    ConsumerAckFloor, "results_projector_consumer_ack_floor",
        "Stream sequence up to which the server knows of our acks; nothing depends on it";
    InFlightBytes, "results_projector_in_flight_bytes",
        "Bytes taken of each budget for what is between the server and its commit";
    LastCommit, "results_projector_last_commit_timestamp_seconds",
        "When a group was last committed; 0: not yet";
    OutputsPending, "results_projector_outputs_pending",
        "Outputs behind pointers that are asked for again";
    OutputsGone, "results_projector_outputs_gone",
        "Outputs behind pointers that are certainly not there any more";
    OldestPendingOutput, "results_projector_oldest_pending_output_timestamp_seconds",
        "Publish time of the oldest result with a pending output; 0: none is pending";
    OutputStoreAge, "results_projector_output_store_max_age_seconds",
        "How long the object store keeps an output; 0: not known, or for ever";
    DeadLetters, "results_projector_dead_letters",
        "Messages kept because they could not be projected";
    Issues, "results_projector_issues",
        "Parts of good messages that could not be projected, and refused specs";
    Gaps, "results_projector_gaps",
        "Gaps in the book";
    Ready, "results_projector_ready",
        "1 while connected, reading, writing and not far behind; /readyz says why not";
    WalBytes, "results_projector_wal_bytes",
        "Size of the write-ahead log (WAL)";
    CheckpointBlockedSince, "results_projector_checkpoint_blocked_since_timestamp_seconds",
        "Since when a reader keeps the write-ahead log (WAL) from being cut back; 0: nobody does";
    DatabaseBytes, "results_projector_database_bytes",
        "Size of the database file";
    DiskFree, "results_projector_disk_free_bytes",
        "Free space on the database's disk";
    BuildInfo, "results_projector_build_info",
        "1; what was built in is in the labels";
    Start, "results_projector_start_timestamp_seconds",
        "When this process started";
}

impl Gauge {
    /// Sets one without labels.
    pub fn set(self, value: f64) {
        gauge!(self.told().0).set(value);
    }

    /// Sets one of a stream.
    pub fn set_of(self, stream: StreamName, value: f64) {
        gauge!(self.told().0, "stream" => stream.as_str()).set(value);
    }

    /// Sets one with a label of another name.
    pub fn set_with(self, labels: &[(&'static str, String)], value: f64) {
        gauge!(self.told().0, labels).set(value);
    }
}

/// Describes every instrument and sets each counter's label values to 0, or an increase from nothing would be missed.
pub fn register(tables: &[&'static str]) {
    describe_counter!(
        MESSAGES,
        "Messages that a commit has dealt with, by what became of them"
    );
    describe_counter!(
        GAP_MESSAGES,
        "Messages deleted or expired before they could be read"
    );
    describe_counter!(
        ROWS_WRITTEN,
        "Rows inserted, changed or deleted, by table of the read model"
    );
    describe_counter!(
        OUTPUTS,
        "Pointers judged, by outcome; refused ones are not asked for"
    );
    describe_counter!(
        REOPENS,
        "Times a consumer was deleted and made again while reading"
    );
    describe_counter!(REDELIVERIES, "Messages that came again and were dropped");
    describe_counter!(
        BUSY_RETRIES,
        "Groups tried again since another process held the file"
    );
    describe_counter!(CLIENT_EVENTS, "Connection events, by kind");
    describe_histogram!(COMMIT_SECONDS, "Time of a commit, without the work before it");
    describe_histogram!(
        CHECKPOINT_SECONDS,
        "Time of copying the write-ahead log (WAL) into the database"
    );
    describe_histogram!(
        PUBLISH_TO_COMMIT_SECONDS,
        "From the server's storing of a group's oldest message to its commit"
    );
    describe_histogram!(GROUP_ROWS, "Items in one transaction");
    for gauge in Gauge::ALL {
        let (name, help) = gauge.told();
        describe_gauge!(name, help);
    }
    for stream in StreamName::ALL {
        for outcome in Outcome::ALL {
            messages(stream, outcome, 0);
        }
        for reason in Reopened::ALL {
            counter!(REOPENS, "stream" => stream.as_str(), "reason" => reason.label()).increment(0);
        }
        gap_messages(stream, 0);
        counter!(REDELIVERIES, "stream" => stream.as_str()).increment(0);
    }
    for state in State::ALL {
        counter!(OUTPUTS, "outcome" => state.as_str()).increment(0);
    }
    for event in ClientEvent::ALL {
        counter!(CLIENT_EVENTS, "event" => event.label()).increment(0);
    }
    for table in tables {
        rows_written(table, 0);
    }
    counter!(BUSY_RETRIES).increment(0);
}
