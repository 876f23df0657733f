//! The one place where source meets store: stages, channels, limits, the writer's thread, the end of it all.
//! May touch: `source`, `store`, `projection`, `wire`, `config`. May not: print, or hold a rule of its own.

pub mod alone;
pub mod board;
pub mod books;
mod derive;
pub mod detach;
pub mod doctor;
mod equip;
pub mod load;
pub mod outside;
pub mod pipeline;
pub mod rebuild;
mod repair;
pub mod replay;
pub mod resolve;
pub mod socket;
pub mod verify;
pub mod work;
pub mod writer;

use crate::wire::time::Timestamp;

/// Waits until a flag is raised, or its owner is gone.
async fn raised(flag: &mut tokio::sync::watch::Receiver<bool>) {
    // An error is an owner that is gone: the end as well.
    let _raised = flag.wait_for(|raised| *raised).await.is_ok();
}

/// The wall clock.
pub(crate) fn now() -> Timestamp {
    Timestamp::from(chrono::Utc::now())
}

/// A number; builds for tests take another one from the environment.
pub(crate) fn unless_tested(number: u64, name: &str) -> u64 {
    #[cfg(debug_assertions)]
    if let Some(other) = std::env::var(name).ok().and_then(|text| text.parse().ok()) {
        return other;
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
    number
}
