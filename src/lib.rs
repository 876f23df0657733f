//! `results-projector`: kanade's result streams, projected from NATS JetStream into SQLite.
//!
//! One message, from stream to row, in six calls and one direction:
//!
//! 1. [`source::reader`]: `select` says what happened; `apply` checks a delivery's two numbers and takes a permit for its bytes.
//! 2. [`wire::result::decode_shared`]: bytes into an `ExecResult` that shares them, or a dead letter.
//! 3. [`service::resolve`]: its pointers are followed concurrently and leave in stream order.
//! 4. [`service::writer`]: what waits becomes a group.
//! 5. [`store::Group`]: rows, books and positions in one transaction; [`projection`] says which.
//! 6. [`store::Committed`]: only a commit makes one, and only that is acknowledged.

pub mod cli;
pub mod commands;
pub mod config;
pub mod meters;
pub mod observe;
pub mod projection;
pub mod service;
pub mod source;
pub mod store;
pub mod wire;
