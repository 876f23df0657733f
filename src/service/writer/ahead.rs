//! Scans that are read before their turn, on a thread of its own: reading their JSON needs no database, and is no work for the
//! thread that everything waits for.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytestring::ByteString;
use tracing::warn;

use super::super::work::{Message, Unit};
use crate::projection::manifests::{Hints, Manifests};
use crate::projection::scan::Scan;

/// At once, so that a group of any size takes little memory: JSON takes up to sixteen times its text.
const SCANS_MAX: usize = 32;
const BYTES_MAX: usize = 1 << 20;
/// Longer ones are read in their turn.
const TEXT_BYTES_MAX: usize = 256 << 10;
/// Should the other thread have ended without a word.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What the two threads share.
#[derive(Debug, Default)]
struct Queues {
    /// By their place in the group, rising.
    asked: VecDeque<(usize, Arc<Hints>, ByteString)>,
    /// The place of the one that is being read.
    reading: Option<usize>,
    read: VecDeque<(usize, Scan)>,
    over: bool,
}

#[derive(Debug, Default)]
struct Shared {
    queues: Mutex<Queues>,
    changed: Condvar,
}

impl Shared {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, queues: MutexGuard<'a, Queues>) -> MutexGuard<'a, Queues> {
        let woken = self.changed.wait_timeout(queues, LOOK_AGAIN_AFTER);
        woken.unwrap_or_else(PoisonError::into_inner).0
    }

    fn read_until_over(&self) {
        // Freeing one takes nearly as long as reading it: what the writer has done with is freed here.
        let mut done_with = VecDeque::new();
        let mut bytes = 0;
        let mut queues = self.queues();
        while !queues.over {
            let Some((place, hints, stdout)) = queues.asked.pop_front() else {
                done_with.clear();
                bytes = 0;
                queues = self.wait(queues);
                continue;
            };
            queues.reading = Some(place);
            drop(queues);
            let scan = Scan::ahead(&hints, &stdout);
            bytes += stdout.len();
            done_with.push_back((stdout.len(), scan.payload.clone().ok()));
            drop((hints, stdout));
            while bytes > BYTES_MAX
                && let Some((freed, _)) = done_with.pop_front()
            {
                bytes -= freed;
            }
            queues = self.queues();
            if queues.reading.take() == Some(place) {
                queues.read.push_back((place, scan));
            }
            self.changed.notify_all();
        }
    }
}

/// Reads the scans of the results that come next, on a thread of its own.
#[derive(Debug)]
pub(super) struct Ahead {
    shared: Arc<Shared>,
    /// `None`: every scan is read in its turn.
    reader: Option<JoinHandle<()>>,
    /// Places in the group up to here were looked at.
    looked: usize,
    /// Places and bytes of what was asked and not taken.
    asked: VecDeque<(usize, usize)>,
}

impl Ahead {
    pub(super) fn begin() -> Self {
        let shared = Arc::new(Shared::default());
        let reader = std::thread::Builder::new().name("scans".to_owned()).spawn({
            let shared = shared.clone();
            move || shared.read_until_over()
        });
        if let Err(error) = &reader {
            warn!(%error, "no thread to read scans; the writer does it");
        }
        Self {
            shared,
            reader: reader.ok(),
            looked: 0,
            asked: VecDeque::new(),
        }
    }

    /// A new group, or the same once more: nothing was read of it.
    pub(super) fn forget(&mut self) {
        self.looked = 0;
        if self.asked.is_empty() {
            return;
        }
        self.asked.clear();
        let mut queues = self.shared.queues();
        queues.asked.clear();
        queues.read.clear();
        queues.reading = None;
    }

    /// Has scans behind a place read, as many as may be in memory.
    pub(super) fn look(&mut self, manifests: &Manifests, group: &[Unit], place: usize) {
        if self.reader.is_none() {
            return;
        }
        self.looked = self.looked.max(place + 1);
        let mut bytes: usize = self.asked.iter().map(|(_, bytes)| bytes).sum();
        while self.asked.len() < SCANS_MAX
            && bytes < BYTES_MAX
            && let Some(unit) = group.get(self.looked)
        {
            if let Some((hints, stdout)) = scan_of(unit, manifests) {
                bytes += stdout.len();
                self.asked.push_back((self.looked, stdout.len()));
                let mut queues = self.shared.queues();
                queues.asked.push_back((self.looked, hints, stdout));
                self.shared.changed.notify_all();
            }
            self.looked += 1;
        }
    }

    /// The scan at a place, if it was asked for and its reading has begun; else the writer is the first to have time for it.
    pub(super) fn take(&mut self, place: usize) -> Option<Scan> {
        if self.asked.front().is_none_or(|(asked, _)| *asked != place) {
            return None;
        }
        self.asked.pop_front();
        let mut queues = self.shared.queues();
        loop {
            if queues.asked.front().is_some_and(|(asked, ..)| *asked == place) {
                queues.asked.pop_front();
                return None;
            }
            if queues.reading != Some(place) {
                let (read, scan) = queues.read.pop_front()?;
                return (read == place).then_some(scan);
            }
            if self.reader.as_ref().is_none_or(JoinHandle::is_finished) {
                return None;
            }
            queues = self.shared.wait(queues);
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.shared.queues().over = true;
        self.shared.changed.notify_all();
        if let Some(reader) = self.reader.take() {
            // A panic of it was reported where it happened.
            let _ended = reader.join();
        }
    }
}

/// The output that an `inventory` hint reads, where it came within its message.
fn scan_of(unit: &Unit, manifests: &Manifests) -> Option<(Arc<Hints>, ByteString)> {
    let Message::Result(message) = &unit.message()?.content else {
        return None;
    };
    let result = &message.result;
    let hints = manifests.hints(result.manifest_id.as_deref()?)?;
    let is_read = hints.inventory.is_some()
        && result.exit_code == 0
        && message.stdout.is_none()
        && result.stdout.len() <= TEXT_BYTES_MAX;
    is_read.then(|| (hints.clone(), result.stdout.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hints() -> Arc<Hints> {
        let document =
            r#"{"id":"j","version":"1","execute":{"shell":"sh","timeout":"1s"},"inventory":{"display":[]}}"#;
        let manifests = Manifests::compile([("j".to_owned(), document.into())]);
        manifests.hints("j").unwrap().clone()
    }

    fn ask(ahead: &mut Ahead, place: usize, stdout: &str) {
        ahead.asked.push_back((place, stdout.len()));
        let asked = (place, hints(), ByteString::from(stdout));
        ahead.shared.queues().asked.push_back(asked);
        ahead.shared.changed.notify_all();
    }

    #[test]
    fn what_was_asked_is_taken_in_its_place_and_what_was_not_begun_is_left_to_the_writer() {
        let mut ahead = Ahead::begin();
        for round in 0..200 {
            for place in [1, 3, 4] {
                ask(&mut ahead, place, &format!("[{round}, {place}]"));
            }
            for place in 0..6 {
                if let Some(scan) = ahead.take(place) {
                    assert_eq!(*scan.payload.unwrap(), serde_json::json!([round, place]));
                }
            }
            assert!(ahead.asked.is_empty());
        }
        assert!(ahead.shared.queues().read.is_empty());
    }

    #[test]
    fn what_is_forgotten_is_not_taken_for_another_groups() {
        let mut ahead = Ahead::begin();
        for round in 0..200 {
            ask(&mut ahead, 2, &format!("[{round}]"));
            ahead.forget();
            ask(&mut ahead, 2, "\"the other\"");
            if let Some(scan) = ahead.take(2) {
                assert_eq!(*scan.payload.unwrap(), "the other");
            }
        }
    }
}
