//! The rules: a message and what is known give changes. Pure: no I/O, no clock, no random value (I4).
//! May touch: `wire`, `serde_json`, `sha2`, `bytes`, `bytestring`. May not: NATS, SQLite, tokio.

pub mod check;
pub mod execution;
pub mod explode;
pub mod feed;
pub mod hints;
pub mod history;
pub mod issue;
pub mod manifests;
pub mod output;
pub mod result;
pub mod scan;
pub mod spec;
pub mod start;
