//! The rules: a message and what is known give changes. Pure: no I/O, no clock, no random value (I4).
//! May touch: `wire`. May not: NATS, SQLite, tokio.

pub mod output;
pub mod result;
