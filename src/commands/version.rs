//! `--version`: what this program is built from, and which databases it can open.

use std::sync::OnceLock;

use crate::observe::COMMIT;
use crate::store::versions;

/// The version's long form: the commit, SQLite's version, the schemas' versions. A database with higher ones is refused.
#[must_use]
pub fn long() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        let versions = versions();
        format!(
            "{}\ncommit {}\nSQLite {}\nschema: read model {}, books {}",
            env!("CARGO_PKG_VERSION"),
            COMMIT,
            versions.sqlite,
            versions.read_model,
            versions.books
        )
    })
}
