//! NATS and nothing else: deliveries out, acks in; objects by name.
//! May touch: `async-nats`, `tokio`, `wire`, `config`, `meters`; `ureq` for the server's monitoring port. May not: SQLite, the
//! rules.
//!
//! Why nothing is lost and nothing counts twice: the position in the database is the only record of progress. Each
//! opening deletes our durable consumer and makes it again at `position + 1`, so the server's memory of us cannot
//! mislead us; every delivery proves its place by two numbers (`order`); an ack follows the commit that carries its
//! message (I2), and nothing depends on its arrival.

pub mod asking;
pub mod census;
pub mod connect;
pub mod create;
mod denials;
pub mod fetch;
pub mod flow;
pub mod leader;
pub mod manifests;
pub mod monitor;
pub mod opening;
mod order;
pub mod reader;
pub mod reconcile;
pub mod survey;

/// Waits until a flag is raised, or its owner is gone.
pub(crate) async fn raised(flag: &mut tokio::sync::watch::Receiver<bool>) {
    // An error is an owner that is gone: the end as well.
    let _raised = flag.wait_for(|raised| *raised).await.is_ok();
}
