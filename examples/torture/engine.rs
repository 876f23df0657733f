//! The storms themselves, for the program and for the tests.

// Tests include this file from elsewhere; a path attribute counts from this file's folder for both.
#[path = "change.rs"]
mod change;
#[path = "plan.rs"]
pub mod plan;
#[path = "proof.rs"]
mod proof;
#[path = "storm.rs"]
mod storm;
#[path = "strikes.rs"]
mod strikes;
#[path = "victim.rs"]
mod victim;

pub use plan::schedule;
// The tests need no name for it.
#[allow(unused_imports)]
pub use storm::Tally;
pub use storm::play;
