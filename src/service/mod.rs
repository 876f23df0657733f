//! The one place where source meets store: stages, channels, limits, the writer's thread, the end of it all.
//! May touch: `source`, `store`, `projection`, `wire`, `config`. May not: print, or hold a rule of its own.

pub mod alone;
pub mod beside;
pub mod board;
pub mod books;
pub mod derive;
pub mod detach;
pub mod doctor;
mod equip;
pub mod load;
mod outside;
pub mod pipeline;
pub mod rebuild;
pub mod repair;
pub mod replay;
pub mod resolve;
pub mod socket;
pub mod verify;
pub mod work;
pub mod writer;

use crate::source::raised;

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
