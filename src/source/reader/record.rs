//! What an opening found, said to people and handed on to the writer.

use tracing::{info, warn};

use super::super::flow::Read;
use super::super::reconcile::{GAP_BEFORE_FIRST, Opening, StreamFound};
use super::{End, Reader};

impl Reader {
    /// Says and hands on what the opening found, before any message of it.
    pub(super) fn record(
        &self,
        stream: &StreamFound,
        opening: &Opening,
        read_before: bool,
    ) -> Result<(), End> {
        if let Some(owner) = &opening.taken_from {
            info!(stream = %self.stream, owner, "taking over the consumer of a process that is gone");
        }
        if let Some(incarnation) = opening.incarnation {
            match incarnation.common {
                Some(common) => {
                    warn!(stream = %self.stream, common_seq = common.seq.0, last_seq = stream.last.0, "the stream was restored or lost its tail: its sequences stand for other messages now; going on after the last message in common");
                }
                None if read_before => {
                    warn!(stream = %self.stream, last_seq = stream.last.0, "the stream was made anew: no message is the one that was read; starting at its first");
                }
                None => {}
            }
            self.send(Read::Incarnation {
                incarnation,
                last: stream.last,
            })?;
        }
        if let Some((first, last)) = opening.gap {
            self.gap(first, last, GAP_BEFORE_FIRST)?;
        }
        Ok(())
    }
}
