//! A load beside a database that is there: what that one knows better than the streams (DESIGN §8.1).

use rusqlite::Connection;

use super::super::StoreError;
use super::super::carry::Foreknowledge;
use super::super::output_book::Repair;
use super::Group;
use crate::projection::output::Output;
use crate::projection::result::ResultMessage;
use crate::wire::kv::StreamName;
use crate::wire::output::Attempt;
use crate::wire::result::Field;
use crate::wire::sequence::StreamSeq;
use crate::wire::time::Timestamp;

/// The number of the first line of a load in `projector_results`; `None` once there is one, and outside of a load.
pub(super) fn first_entry(
    conn: &Connection,
    known: Option<&Foreknowledge>,
) -> Result<Option<i64>, StoreError> {
    let Some(known) = known else {
        return Ok(None);
    };
    conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM projector_results)")
        .and_then(|mut select| select.query_row([], |row| row.get(0)))
        .map(|any: bool| (!any).then(|| known.last_entry() + 1))
        .map_err(StoreError::sqlite("look at projector_results"))
}

impl Group<'_> {
    /// Whether the database that is there knows this message as a duplicate.
    pub(super) fn is_known_duplicate(&self, seq: StreamSeq, published: Timestamp) -> bool {
        let known = self.context.foreknown.as_ref();
        known.is_some_and(|known| known.is_duplicate(seq, published))
    }

    /// The message with the outputs that only the database that is there still has, and how many those are; `None` when
    /// there are none.
    pub(super) fn with_carried_outputs(
        &self,
        message: &ResultMessage,
    ) -> Result<Option<(ResultMessage, u64)>, StoreError> {
        let Some(known) = &self.context.foreknown else {
            return Ok(None);
        };
        let mut kept: Option<(ResultMessage, u64)> = None;
        for field in [Field::Stdout, Field::Stderr] {
            let Some(Output { object, attempt }) = message.output(field) else {
                continue;
            };
            if matches!(attempt, Attempt::Fetched { .. }) {
                continue;
            }
            let Some(attempt) = known.output(&message.result.row_key(), field, object)? else {
                continue;
            };
            let output = Some(Output {
                object: object.clone(),
                attempt,
            });
            let (message, count) = kept.get_or_insert_with(|| (message.clone(), 0));
            *count += 1;
            match field {
                Field::Stdout => message.stdout = output,
                Field::Stderr => message.stderr = output,
            }
        }
        Ok(kept)
    }

    /// Takes an output late from the database that is there. Returns whether that has it by now.
    pub(in super::super) fn take_kept(
        &mut self,
        result_id: &str,
        field: Field,
        object: &str,
    ) -> Result<bool, StoreError> {
        let known = self.context.foreknown.as_ref();
        let Some(attempt) = known
            .map(|known| known.output(result_id, field, object))
            .transpose()?
            .flatten()
        else {
            return Ok(false);
        };
        let object = object.into();
        self.repair(&Repair {
            result_id: result_id.to_owned(),
            field,
            output: Output { object, attempt },
        })?;
        self.carried_outputs += 1;
        Ok(true)
    }

    /// Why an operator has discarded this message, if one has: then it is not projected again.
    #[must_use]
    pub fn discarded(&self, stream: StreamName, seq: StreamSeq, published: Timestamp) -> Option<String> {
        let known = self.context.foreknown.as_ref()?;
        known.discarded(stream, seq, published).map(str::to_owned)
    }
}
