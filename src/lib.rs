//! `results-projector`: kanade's result streams, projected from NATS JetStream into SQLite.

pub mod projection;
pub mod store;
pub mod wire;
