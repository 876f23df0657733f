//! The one place where source meets store: stages, channels, limits, the writer's thread, the end of it all.
//! May touch: `source`, `store`, `projection`, `wire`, `config`. May not: print, or hold a rule of its own.

pub mod pipeline;
pub mod repair;
pub mod resolve;
pub mod writer;
