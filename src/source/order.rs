//! The order of deliveries: two numbers of every delivery against what must come next (DESIGN §3). Pure.

use crate::wire::sequence::{ConsumerSeq, StreamSeq};

/// What a delivery says about itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    /// Its message's number in the stream.
    pub(super) stream: StreamSeq,
    /// Its own number.
    pub(super) consumer: ConsumerSeq,
    /// How often this message has been delivered, this time included.
    pub(super) delivered: u64,
}

/// What to do with a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The next message; `gap` is the range missing before it, if any.
    Accept {
        /// First and last missing sequence.
        gap: Option<(StreamSeq, StreamSeq)>,
    },
    /// A message that was accepted before: drop it, count it.
    Redelivered,
    /// Something was lost or forgotten: accept nothing more, open anew.
    OpenAnew(&'static str),
}

/// What must come next after one opening.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    last_stream: StreamSeq,
    last_consumer: ConsumerSeq,
}

impl Order {
    /// An opening whose first delivery is at or after `start`.
    #[must_use]
    pub(super) fn from(start: StreamSeq) -> Self {
        Self {
            last_stream: start.before(),
            last_consumer: ConsumerSeq(0),
        }
    }

    /// The last accepted sequence; `start - 1` before the first.
    #[must_use]
    pub(super) fn last(&self) -> StreamSeq {
        self.last_stream
    }

    /// Accounts for sequences up to `last` that will never be delivered.
    pub(super) fn skip_to(&mut self, last: StreamSeq) {
        self.last_stream = self.last_stream.max(last);
    }

    /// Judges a delivery.
    ///
    /// The consumer sequence rises by one with each delivery. A jump means that deliveries were lost on a broken
    /// connection and newer ones came first: acking those would ack the lost ones. A fall means that the server
    /// forgot. Only with that right does a hole in the stream's own numbers mean that messages are gone.
    pub(super) fn judge(&mut self, numbers: Numbers) -> Verdict {
        if numbers.consumer != self.last_consumer.next() {
            return Verdict::OpenAnew(if numbers.consumer > self.last_consumer {
                "deliveries were lost"
            } else {
                "the consumer's count went back"
            });
        }
        self.last_consumer = numbers.consumer;
        if numbers.stream <= self.last_stream {
            return if numbers.delivered >= 2 {
                Verdict::Redelivered
            } else {
                Verdict::OpenAnew("the stream went back")
            };
        }
        let expected = self.last_stream.next();
        self.last_stream = numbers.stream;
        Verdict::Accept {
            gap: (numbers.stream > expected).then(|| (expected, numbers.stream.before())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(stream: u64, consumer: u64, delivered: u64) -> Numbers {
        Numbers {
            stream: StreamSeq(stream),
            consumer: ConsumerSeq(consumer),
            delivered,
        }
    }

    const GOOD: Verdict = Verdict::Accept { gap: None };

    #[test]
    fn messages_in_order_are_accepted() {
        let mut order = Order::from(StreamSeq(11));
        assert_eq!(order.judge(numbers(11, 1, 1)), GOOD);
        assert_eq!(order.judge(numbers(12, 2, 1)), GOOD);
        assert_eq!(order.last(), StreamSeq(12));
    }

    #[test]
    fn a_hole_in_the_stream_is_a_gap_in_its_place() {
        let mut order = Order::from(StreamSeq(11));
        assert_eq!(
            order.judge(numbers(14, 1, 1)),
            Verdict::Accept {
                gap: Some((StreamSeq(11), StreamSeq(13)))
            }
        );
        assert_eq!(order.judge(numbers(15, 2, 1)), GOOD);
    }

    #[test]
    fn a_jump_of_the_consumer_sequence_is_a_loss_even_where_the_stream_seems_whole() {
        let mut order = Order::from(StreamSeq(1));
        assert_eq!(order.judge(numbers(1, 1, 1)), GOOD);
        assert!(matches!(order.judge(numbers(2, 3, 1)), Verdict::OpenAnew(_)));
        let mut order = Order::from(StreamSeq(1));
        assert!(matches!(order.judge(numbers(1, 2, 1)), Verdict::OpenAnew(_)));
    }

    #[test]
    fn a_falling_consumer_sequence_means_that_the_server_forgot() {
        let mut order = Order::from(StreamSeq(1));
        order.judge(numbers(1, 1, 1));
        order.judge(numbers(2, 2, 1));
        assert!(matches!(order.judge(numbers(3, 1, 1)), Verdict::OpenAnew(_)));
    }

    #[test]
    fn a_redelivery_is_dropped_and_counted_and_the_order_goes_on() {
        let mut order = Order::from(StreamSeq(1));
        order.judge(numbers(1, 1, 1));
        order.judge(numbers(2, 2, 1));
        assert_eq!(order.judge(numbers(1, 3, 2)), Verdict::Redelivered);
        assert_eq!(order.judge(numbers(3, 4, 1)), GOOD);
    }

    #[test]
    fn an_old_sequence_delivered_for_the_first_time_means_that_the_store_went_back() {
        let mut order = Order::from(StreamSeq(10));
        order.judge(numbers(10, 1, 1));
        assert!(matches!(order.judge(numbers(9, 2, 1)), Verdict::OpenAnew(_)));
    }
}
