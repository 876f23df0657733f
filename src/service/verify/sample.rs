//! A quick look: some results, chosen at random, each row against its message. Derived tables are not looked at.

use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::watch;

use super::super::equip::fetcher;
use super::super::error::ServiceError;
use super::super::load::{Step, Tell, stopped};
use super::super::resolve::{decode, follow_now};
use super::super::work::Message;
use super::Verified;
use crate::config::Config;
use crate::projection::result::ResultMessage;
use crate::source::asking::Js;
use crate::source::connect;
use crate::source::fetch::Fetcher;
use crate::source::flow::Budget;
use crate::source::leader::Leader;
use crate::store::compare::sampled::{self, Checked, Line};
use crate::store::retention::Horizons;
use crate::store::{read_only, standings};
use crate::wire::kv::StreamName;
use crate::wire::sequence::StreamSeq;
use crate::wire::time::Timestamp;

/// Messages asked for at once.
const CONCURRENCY: usize = 8;

/// Looks at so many results. `now`: wall clock, for what the backend's cleanup may have deleted.
///
/// # Errors
/// See [`ServiceError`].
pub async fn sample(
    config: &Config,
    results: usize,
    now: Timestamp,
    mut stop: watch::Receiver<bool>,
    tell: Tell<'_>,
) -> Result<Verified, ServiceError> {
    tell(Step::Phase("looking at a sample"));
    tokio::select! {
        verified = look(config, results, now) => verified,
        () = super::super::raised(&mut stop) => Err(stopped()),
    }
}

async fn look(config: &Config, results: usize, now: Timestamp) -> Result<Verified, ServiceError> {
    let conn = read_only(&config.store.path)?;
    let connection = connect::once(&config.nats).await?;
    let js = connection.js();
    let fetcher = fetcher(config, &connection).await.map_err(ServiceError::Broken)?;
    let budget = Budget::new(config.outputs.in_flight_bytes);
    let mut verified = Verified {
        standings: standings(&conn)?,
        ..Verified::default()
    };
    let horizons = Horizons::read(&conn, "main", now)?;
    let comparison = &mut verified.comparison;
    let counted = comparison
        .counted
        .entry("execution_results".to_owned())
        .or_default();
    let mut messages = stream::iter(sampled::choose(&conn, results)?)
        .map(|line| message(&js, &fetcher, &budget, line))
        .buffered(CONCURRENCY);
    while let Some(found) = messages.next().await {
        let (line, message) = found?;
        let Some(message) = message else {
            counted.vouched += 1;
            continue;
        };
        counted.compared += 1;
        match sampled::check(&conn, &line, &message, &horizons)? {
            Checked::CleanedUp => counted.cleaned_up += 1,
            Checked::Same => {}
            Checked::Missing(difference) => {
                counted.missing += 1;
                comparison.differences.push(difference);
            }
            Checked::Different(differences) => {
                counted.different += 1;
                comparison.differences.extend(differences);
            }
        }
    }
    Ok(verified)
}

/// A line's message, its pointers followed; `None` when the stream does not hold it any more.
async fn message(
    js: &Js,
    fetcher: &Fetcher,
    budget: &Budget,
    line: Line,
) -> Result<(Line, Option<ResultMessage>), ServiceError> {
    let found = Leader::new(js, StreamName::Results)
        .message_at(StreamSeq(line.seq))
        .await?;
    let Some(found) = found.filter(|found| found.published == line.published) else {
        return Ok((line, None));
    };
    match decode(StreamName::Results, &found.subject, &found.payload) {
        Message::Result(mut result) => {
            // Its bytes are held until it is compared, which is at once.
            let _bytes = follow_now(fetcher, budget, &mut result, line.published).await;
            Ok((line, Some(result)))
        }
        _ => Ok((line, None)),
    }
}
