//! Where source meets store: the live path's stages, channels and limits, the writer's thread, the end of it all (`pipeline`);
//! a database loaded, made anew, mended and proved (`load`, `rebuild`, `replay`, `verify`); what an operator changes in the books,
//! through a running service or without one (`socket`, `books`, `alone`); leaving (`detach`); whether the world outside is as the
//! contract has it (`doctor`).
//! May touch: `source`, `store`, `projection`, `wire`, `config`, `meters`. May not: print, or decide what a message becomes, which
//! is the projection's.

pub mod alone;
pub mod board;
pub mod books;
mod derive;
pub mod detach;
pub mod doctor;
mod equip;
pub mod error;
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

use crate::source::raised;
use crate::wire::time::Timestamp;

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
