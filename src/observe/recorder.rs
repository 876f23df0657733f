//! The recorder behind `crate::meters`, and what is read off for it when somebody asks.

use chrono::{DateTime, Utc};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::document::Document;
use crate::meters::{BUCKETS, Gauge, register};
use crate::service::board::Watched;
use crate::store::WRITTEN_TABLES;
use crate::wire::kv::StreamName;
use crate::wire::time::Timestamp;

/// Renders what was recorded.
#[derive(Clone, Debug)]
pub(super) struct Recorder {
    handle: PrometheusHandle,
}

impl Recorder {
    /// Installs the recorder of this process.
    ///
    /// # Errors
    /// When there is one already.
    pub(super) fn install(started: Timestamp) -> Result<Self, String> {
        let mut builder = PrometheusBuilder::new();
        for (name, bounds) in BUCKETS {
            builder = builder
                .set_buckets_for_metric(Matcher::Full((*name).to_owned()), bounds)
                .map_err(|error| error.to_string())?;
        }
        let handle = builder.install_recorder().map_err(|error| error.to_string())?;
        register(&WRITTEN_TABLES);
        Gauge::Start.set(unix_seconds(started));
        Gauge::BuildInfo.set_with(&super::build_labels(), 1.0);
        Ok(Self { handle })
    }

    /// What histograms have recorded is folded; without it they would grow until they are asked for.
    pub(super) fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// The text that Prometheus reads.
    pub(super) fn render(&self, document: &Document, watched: &Watched) -> String {
        refresh(document, watched);
        self.handle.render()
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge is a float; sequences below 2^53 stay exact"
)]
fn refresh(document: &Document, watched: &Watched) {
    let float = |number: u64| number as f64;
    for stream in &document.streams {
        let Some(name) = StreamName::parse(&stream.report.stream) else {
            continue;
        };
        Gauge::Position.set_of(name, float(stream.report.position));
        for (gauge, value) in [
            (Gauge::StreamLastSequence, stream.last_seq.map(float)),
            (Gauge::StreamLagMessages, stream.lag_messages.map(float)),
            // A gauge keeps its value until it gets another: what is no longer so needs one of its own.
            (
                Gauge::StreamLagSeconds,
                stream.last_seq.map(|_| stream.lag_seconds.unwrap_or(f64::NAN)),
            ),
            (Gauge::StreamBytes, stream.bytes.map(float)),
            (
                Gauge::StreamBytesMax,
                stream
                    .bytes
                    .map(|_| stream.bytes_max.map_or(f64::INFINITY, float)),
            ),
        ] {
            if let Some(value) = value {
                gauge.set_of(name, value);
            }
        }
        let floor = watched
            .readers
            .get(&name)
            .and_then(|reader| reader.borrow().ack_floor);
        if let Some(floor) = floor {
            Gauge::ConsumerAckFloor.set_of(name, float(floor.0));
        }
    }
    let database = &document.database;
    let service = document.service.as_ref();
    let time = |stored: Option<&str>| {
        let time = stored.and_then(|text| Timestamp::parse_stored(text).ok());
        time.map_or(0.0, unix_seconds)
    };
    let outputs = |state: &str| document.outputs.get(state).copied().unwrap_or(0);
    let gauges = [
        (Gauge::OutputsPending, float(outputs("pending"))),
        (Gauge::OutputsGone, float(outputs("gone"))),
        (
            Gauge::OldestPendingOutput,
            time(document.oldest_pending_output.as_deref()),
        ),
        (
            Gauge::OutputStoreAge,
            document
                .output_store
                .as_ref()
                .and_then(|store| store.max_age_seconds)
                .map_or(0.0, float),
        ),
        (Gauge::DeadLetters, float(document.dead_letters)),
        (Gauge::Issues, float(document.issues_total)),
        (Gauge::Gaps, float(document.gaps_total)),
    ];
    // While the database cannot be read, these keep what was last read.
    if database.unreadable.is_none() {
        for (gauge, value) in gauges {
            gauge.set(value);
        }
    }
    Gauge::DatabaseBytes.set(float(database.bytes));
    Gauge::WalBytes.set(float(database.wal_bytes));
    if let Some(free) = database.disk_free_bytes {
        Gauge::DiskFree.set(float(free));
    }
    let ready = service.is_some_and(|service| service.ready);
    Gauge::Ready.set(if ready { 1.0 } else { 0.0 });
    Gauge::LastCommit.set(time(
        service.and_then(|service| service.last_commit_at.as_deref()),
    ));
    Gauge::CheckpointBlockedSince.set(time(
        service.and_then(|service| service.log_held_since.as_deref()),
    ));
    for (budget, bytes) in service.into_iter().flat_map(|service| &service.in_flight_bytes) {
        Gauge::InFlightBytes.set_with(&[("budget", (*budget).to_owned())], float(*bytes));
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds since 1970 are below 2^53"
)]
fn unix_seconds(time: Timestamp) -> f64 {
    DateTime::<Utc>::from(time).timestamp_millis() as f64 / 1_000.0
}
