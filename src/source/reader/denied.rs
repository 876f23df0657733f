//! Pulls that the server does not allow: nobody answers them, and the consumer looks healthy.

use std::time::Duration;

use tokio::time::timeout;

use super::{End, Reader, Session};

/// The server's word about a pull that was just sent comes well within this.
const WORD_WITHIN: Duration = Duration::from_millis(500);

impl Reader {
    /// How often the server has denied our pulls.
    pub(super) fn denied_pulls(&self) -> u64 {
        self.wiring.connection.borrow().denied.times(&self.pulls)
    }

    /// Why a session has no connection any more: it was lost, or our pulls are not allowed.
    pub(super) fn why_disconnected(&mut self, session: &Session) -> String {
        let denied = self.denied_since(session.denied);
        self.denied = denied.is_some();
        denied.unwrap_or_else(|| "the connection was lost".to_owned())
    }

    /// After a session that was denied, the next one counts as reading only once its pull was not.
    pub(super) async fn still_denied(&mut self, before: u64) -> Result<(), End> {
        if !std::mem::take(&mut self.denied) {
            return Ok(());
        }
        let pulls = &self.pulls;
        let mut connection = self.wiring.connection.clone();
        let denied = connection.wait_for(|state| state.denied.times(pulls) > before);
        // Silence means that the pull was taken.
        if timeout(WORD_WITHIN, denied).await.is_err() {
            return Ok(());
        }
        self.denied = true;
        Err(End::OpenAnew(self.denied_since(before).unwrap_or_default()))
    }

    fn denied_since(&self, before: u64) -> Option<String> {
        let state = self.wiring.connection.borrow();
        let denied = state.denied.since(&self.pulls, before, state.epoch);
        denied.map(|denied| denied.to_string())
    }
}
