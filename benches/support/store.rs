//! The store without the service around it: groups of results, as the writer commits them.

use std::path::Path;
use std::sync::Arc;

use bytestring::ByteString;
use results_projector::projection::manifests::Manifests;
use results_projector::projection::result::ResultMessage;
use results_projector::store::{Advance, Counts, Owner, Standing, Store, StoreOptions};
use results_projector::wire::kv::StreamName;
use results_projector::wire::result::ExecResult;
use results_projector::wire::sequence::StreamSeq;
use results_projector::wire::time::Timestamp;

pub struct Groups {
    store: Store,
    manifests: Arc<Manifests>,
    standing: Standing,
    begun: bool,
}

impl Groups {
    pub fn create(db: &Path) -> Self {
        let me = Owner {
            pid: std::process::id(),
            ..Owner::default()
        };
        let store = Store::open(db, &StoreOptions::default(), &me).unwrap();
        // As in a backlog.
        store.checkpoint_every(400 << 20).unwrap();
        Self {
            store,
            manifests: Arc::new(Manifests::default()),
            standing: Standing::new(1, StreamSeq(1)),
            begun: false,
        }
    }

    /// Projects and commits results, which come next in the stream.
    pub fn project(&mut self, messages: &[ResultMessage]) {
        let now = Timestamp::from_unix_nanos(0);
        let mut tx = self.store.begin(&self.manifests, now).unwrap();
        if !std::mem::replace(&mut self.begun, true) {
            tx.begin_incarnation(StreamName::Results, &self.standing).unwrap();
        }
        let from = self.standing.position;
        for (at, message) in messages.iter().enumerate() {
            let seq = StreamSeq(from.0 + at as u64 + 1);
            tx.result(1, seq, message.result.finished_at, message, None)
                .unwrap();
        }
        let to = StreamSeq(from.0 + messages.len() as u64);
        self.standing.advance(
            to,
            None,
            Counts {
                projected: to.0,
                ..Counts::default()
            },
        );
        tx.advance(&Advance {
            stream: StreamName::Results,
            from,
            to: self.standing.clone(),
        })
        .unwrap();
        tx.commit().unwrap();
    }

    pub fn close(self) {
        self.store.close();
    }
}

/// What the writer is given: nothing behind pointers.
pub fn without_outputs(decoded: &[ExecResult<ByteString>]) -> Vec<ResultMessage> {
    decoded
        .iter()
        .map(|result| ResultMessage {
            result: result.clone(),
            stdout: None,
            stderr: None,
        })
        .collect()
}
