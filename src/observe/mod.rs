//! Reads, never steers. May touch: `tracing`. May not: change what is observed.

pub mod logging;
