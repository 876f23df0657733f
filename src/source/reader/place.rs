//! What a delivery's reply subject says of it.

use async_nats::jetstream::Message;

use super::super::order::Numbers;
use crate::wire::sequence::{ConsumerSeq, StreamSeq};
use crate::wire::time::Timestamp;

/// Where it stands in its stream.
pub(super) struct Place {
    pub(super) seq: StreamSeq,
    pub(super) published: Timestamp,
    pub(super) more_follows: bool,
}

pub(super) fn of(message: &Message) -> Result<(Numbers, Place), String> {
    let info = message
        .info()
        .map_err(|error| format!("a delivery without numbers: {error}"))?;
    let numbers = Numbers {
        stream: StreamSeq(info.stream_sequence),
        consumer: ConsumerSeq(info.consumer_sequence),
        delivered: u64::try_from(info.delivered).unwrap_or(0),
    };
    let place = Place {
        seq: numbers.stream,
        published: Timestamp::from(info.published),
        more_follows: info.pending > 0,
    };
    Ok((numbers, place))
}
