//! When a pipeline has done what it was asked for.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::super::board::Watched;
use crate::source::connect::ConnectionState;
use crate::wire::sequence::StreamSeq;

/// Catching up ends when nothing has answered for so long.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);

/// See [`SILENCE_LIMIT`].
pub(super) fn silence_limit() -> Duration {
    Duration::from_secs(super::super::unless_tested(
        SILENCE_LIMIT.as_secs(),
        "RESULTS_PROJECTOR_SILENCE_SECONDS",
    ))
}

/// Returns when every position has reached its stream's end as seen at the first opening; never, unless asked for.
pub(super) async fn caught_up(
    watched: Watched,
    mut connection: watch::Receiver<ConnectionState>,
    asked_for: bool,
) -> Result<(), String> {
    if !asked_for {
        std::future::pending::<()>().await;
    }
    let limit = silence_limit();
    let mut silent_since: Option<Instant> = None;
    loop {
        let positions = watched.writer.borrow().positions.clone();
        // A stream that is not read says why; one that still is only names itself.
        let (mut why, mut behind) = (None, None);
        for (stream, reader) in &watched.readers {
            let reader = reader.borrow();
            let position = positions.get(stream).copied().unwrap_or(StreamSeq(0));
            match reader.first_last {
                Some(last) if position >= last => {}
                _ => {
                    why = why.or_else(|| reader.not_reading.clone());
                    behind = Some(format!("{stream} is still read"));
                }
            }
        }
        let Some(waiting) = why.or(behind) else {
            return Ok(());
        };
        let stuck = !connection.borrow_and_update().connected
            || watched
                .readers
                .values()
                .any(|reader| reader.borrow().not_reading.is_some())
            || watched.writer.borrow().not_writing.is_some();
        let missing = watched.readers.values().any(|reader| reader.borrow().missing);
        let since = *silent_since.get_or_insert_with(Instant::now);
        if !stuck {
            silent_since = None;
        } else if missing || since.elapsed() > limit {
            let writing = watched.writer.borrow().not_writing.clone();
            return Err(writing.unwrap_or(waiting));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
