//! Our durable, looked at before it is made anew. One whose group has no leader says nothing of itself and serves nobody: after a
//! few seconds that is no election any more. A node that died with the consumer just made leaves such a one until it is back.

use std::time::Duration;

use tokio::time::Instant;

use super::super::opening::{Durable, DurableInfo};
use super::{End, Reader};

/// An election takes four to six seconds.
const ELECTION_LIMIT: Duration = Duration::from_secs(12);

impl Reader {
    /// What there is of it; `None` when there is none, or only one that this process has made and that has been without a leader
    /// for longer than elections take: it is made anew, as at every opening. One that may be another's is waited for.
    pub(super) async fn durable(&mut self) -> Result<Option<DurableInfo>, End> {
        let before = self.leaderless.take();
        match self.desk.durable_info().await? {
            Durable::Leaderless(why) => {
                let since = *self.leaderless.insert(before.unwrap_or_else(Instant::now));
                if self.opened.is_none() || since.elapsed() < ELECTION_LIMIT {
                    return Err(End::OpenAnew(why.to_string()));
                }
                Ok(None)
            }
            Durable::There(info) => Ok(Some(info)),
            Durable::Missing => Ok(None),
        }
    }
}
