//! The storms themselves, for the program and for the tests.

// Tests include this file from elsewhere; a path attribute counts from this file's folder for both.
#[path = "change.rs"]
mod change;
#[path = "plan.rs"]
pub mod plan;
#[path = "storm.rs"]
mod storm;
#[path = "victim.rs"]
mod victim;

pub use plan::schedule;
pub use storm::{Tally, play};
