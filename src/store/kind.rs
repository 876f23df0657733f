//! Whose a file is, told by the tables in it (contract §6.8).

use std::path::Path;

use rusqlite::Connection;

use super::error::is_damage;
use super::file::file_bytes;
use super::open::reader;
use super::{StoreError, adopt, migrate};

/// What lies where a new file is to be put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// No file, or one without anything in it.
    Nothing,
    /// A database of ours.
    Database,
    /// The backend's, adopted.
    Adopted,
    /// A file that SQLite cannot read; why.
    Unreadable(String),
}

/// Looks at what is to be replaced.
///
/// # Errors
/// [`StoreError::Unusable`] for a database that is not ours to replace.
pub fn file_kind(path: &Path) -> Result<FileKind, StoreError> {
    if file_bytes(path) == 0 {
        return Ok(FileKind::Nothing);
    }
    let (content, conn) = match reader(path).and_then(|conn| Ok((content(&conn)?, conn))) {
        Ok(found) => found,
        Err(source) if is_damage(&source) => return Ok(FileKind::Unreadable(source.to_string())),
        Err(source) => return Err(StoreError::opening(path, source)),
    };
    let kind = match content {
        Content::Empty => return Ok(FileKind::Nothing),
        Content::Ours => FileKind::Database,
        Content::Backend { ours: true } => FileKind::Adopted,
        Content::Backend { ours: false } | Content::Foreign(_) => return Err(content.refusal(path)),
    };
    migrate::check_not_newer(&conn).map(|()| kind)
}

/// Whether a file is the backend's, with nothing of ours in it.
#[must_use]
pub fn is_bare_backend(path: &Path) -> bool {
    matches!(
        reader(path).and_then(|conn| content(&conn)),
        Ok(Content::Backend { ours: false })
    )
}

/// Told apart by the tables in it (contract §6.8).
pub(super) enum Content {
    Empty,
    Ours,
    /// The backend's; `ours`: with our books in it.
    Backend {
        ours: bool,
    },
    Foreign(String),
}

impl Content {
    /// Why it is not for us.
    pub(super) fn refusal(&self, path: &Path) -> StoreError {
        let path = path.display();
        StoreError::Unusable(match self {
            Self::Foreign(table) => format!(
                "{path} is a database of something else (it has a table {table:?} and no projector_meta): name \
                 another file with --db"
            ),
            Self::Backend { ours: false } => format!(
                "{path} is the backend's database, and nothing has been projected into it yet; `results-projector run` \
                 adopts it"
            ),
            Self::Empty | Self::Ours | Self::Backend { .. } => format!("{path} is a database of ours"),
        })
    }
}

/// Looks at the tables.
pub(super) fn content(conn: &Connection) -> Result<Content, rusqlite::Error> {
    let mut tables = conn.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")?;
    let names = tables
        .query_map([], |row| row.get::<_, String>(0))?
        .collect::<Result<Vec<_>, _>>()?;
    let ours = names.iter().any(|name| name == "projector_meta");
    Ok(if names.iter().any(|name| name == adopt::MIGRATIONS) {
        Content::Backend { ours }
    } else if ours {
        Content::Ours
    } else {
        names
            .into_iter()
            .find(|name| !name.starts_with("sqlite_"))
            .map_or(Content::Empty, Content::Foreign)
    })
}

/// Whether the file is the backend's.
pub(super) fn is_adopted(conn: &Connection) -> Result<bool, StoreError> {
    let content = content(conn).map_err(StoreError::sqlite("look at the tables"))?;
    Ok(matches!(content, Content::Backend { .. }))
}

/// Refuses a file that is not ours to write.
pub(super) fn check_kind(conn: &Connection, path: &Path) -> Result<(), StoreError> {
    match content(conn).map_err(|source| StoreError::opening(path, source))? {
        Content::Empty | Content::Ours => Ok(()),
        Content::Backend { .. } => adopt::check(conn, path),
        other => Err(other.refusal(path)),
    }
}
