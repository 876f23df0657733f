//! Bytes and types: what agents put on the wire and what it means. Pure, never panics on outside data.
//! May touch: `serde`, `serde_json`, `chrono`, `bytes`, `bytestring`, `uuid`, `sha2`, `base64`. May not: NATS,
//! SQLite, the clock, the file system.
//!
//! What only tests ask for pins the contract: the builders of subjects (§2.2), the names of objects (§3.5) and their parts, a
//! hardware snapshot by itself (§4.1), a result that borrows its texts.

pub mod backend;
mod duration;
pub mod exit;
pub mod fence;
pub mod hex;
pub mod inert;
pub mod inventory;
pub mod json;
pub mod kv;
pub mod manifest;
pub mod object;
pub mod output;
pub mod result;
pub mod sequence;
pub mod shown;
pub mod started;
pub mod subject;
mod text;
pub mod time;
