//! What the streams beside RESULTS bring into a transaction.

use bytestring::ByteString;

use super::super::rows::{self, Started};
use super::super::{StoreError, snapshots};
use super::{Group, clip};
use crate::projection::result::completion;
use crate::projection::start;
use crate::wire::inventory::Snapshot;
use crate::wire::started::EventStarted;
use crate::wire::time::Timestamp;

impl Group<'_> {
    /// Projects a start event: its part of the row, the ledgers, its execution's status (contract §5.3, §7.3).
    ///
    /// # Errors
    /// As [`Group::result`].
    pub fn started(
        &mut self,
        event: &EventStarted<ByteString>,
        published: Timestamp,
    ) -> Result<(), StoreError> {
        let manifests = self.manifests.clone();
        let timeout = manifests
            .job(&event.manifest_id)
            .and_then(|job| job.timeout.as_deref());
        let row = start::row(event, published, timeout);
        let what = |error| {
            StoreError::sqlite(format_args!("write the start of {:?}", clip(&event.result_id)))(error)
        };
        match rows::start(self.tx, &row).map_err(what)? {
            Started::Duplicate if self.context.adopted => rows::fill_deadline(self.tx, &row).map_err(what)?,
            Started::Duplicate => {}
            Started::InFlight | Started::Joined { ended: None, .. } => {
                if let Some(tally) = &mut self.tally {
                    tally.started(&event.exec_id);
                }
            }
            Started::Joined {
                exec_before,
                ended: Some(exit_code),
                job_id,
                finished_at,
            } => {
                if let Some(tally) = &mut self.tally {
                    for (exec_id, delta) in rows::moves(exec_before.as_deref(), &event.exec_id, exit_code) {
                        tally.moved(exec_id, delta);
                    }
                }
                let completion = completion(job_id.as_deref(), &event.pc_id, Some(&event.version), exit_code);
                if let (Some(completion), Some(finished_at)) = (completion, finished_at) {
                    self.complete(&completion, &finished_at);
                }
            }
        }
        Ok(())
    }

    /// Projects a snapshot of the stream INVENTORY.
    ///
    /// # Errors
    /// As [`Group::result`].
    pub fn snapshot(&mut self, snapshot: &Snapshot, published: Timestamp) -> Result<(), StoreError> {
        snapshots::write(self.tx, snapshot, published)
    }
}
