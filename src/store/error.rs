//! What went wrong in the database, and what to do about it (DESIGN §6).

use std::path::Path;
use std::{fmt, io};

use rusqlite::ErrorCode;
use thiserror::Error;

/// What a failure asks for. The two kinds are never mixed up: nothing is dead-lettered for the environment's
/// sake, and bad data never holds back its neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Busy, full, an I/O error: roll back, keep the group, try again for ever. `reopen`: on a new connection.
    Environment {
        /// The handle can no longer be trusted.
        reopen: bool,
    },
    /// This message cannot be stored, whatever the weather: a dead letter.
    Data,
    /// The schema may have changed under us: look again, then retry or stop.
    Schema,
    /// Nothing we may do heals this: end the process with this exit code.
    Stop(u8),
}

/// A failure of the store: what was tried, what SQLite or the system said, and the way out.
#[derive(Debug, Error)]
pub enum StoreError {
    /// SQLite refused.
    #[error("cannot {what}: {source}")]
    Sqlite {
        /// What was tried, in the infinitive.
        what: String,
        /// SQLite's own words.
        source: rusqlite::Error,
    },
    /// The system refused.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried, in the infinitive.
        what: String,
        /// The system's own words.
        source: io::Error,
    },
    /// The file is not one we may write, or not as we left it. Carries the way out.
    #[error("{0}")]
    Unusable(String),
    /// The path cannot be opened as it is; while running this may heal, at the start only an operator can help.
    #[error("cannot open the database {path}: {hint}")]
    Unopenable {
        /// The database's path.
        path: String,
        /// What is wrong, and the way out.
        hint: &'static str,
    },
    /// Another process holds the database.
    #[error("{0}")]
    Locked(String),
    /// The path no longer names the file that was opened.
    #[error(
        "{path} no longer names the file that was opened: it was moved or replaced; start again to work on \
         the file that is there now"
    )]
    Moved {
        /// The database's path.
        path: String,
    },
    /// Another process has written the database between what was read of it and what was to be written by that.
    #[error(
        "another process (the backend) wrote {path} while it was being compared, so it was not mended and is as it was: \
         stop that process until this is done, or try again when it is quieter"
    )]
    Overtaken {
        /// The database's path.
        path: String,
    },
    /// I1: the position in the database is not the one that the advance starts from.
    #[error("the position of {stream} is not {from}: refused to advance it to {to}")]
    RefusedAdvance {
        /// The stream.
        stream: String,
        /// Where the advance starts.
        from: u64,
        /// Where it would have ended.
        to: u64,
    },
    /// A value does not fit its column, or a stored one is not what we wrote.
    #[error("{0}")]
    Value(String),
}

impl StoreError {
    /// Wraps SQLite's error with what was tried; told only when there is an error.
    pub fn sqlite(what: impl fmt::Display) -> impl FnOnce(rusqlite::Error) -> Self {
        move |source| Self::Sqlite {
            what: what.to_string(),
            source,
        }
    }

    /// Wraps the system's error with what was tried.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// A file that SQLite cannot read, and the way out.
    #[must_use]
    pub fn damaged(path: &Path, why: impl fmt::Display) -> Self {
        Self::Unusable(format!(
            "{} is damaged: {why}; put back a backup, or, in the place of a file of this service's own, let \
             `rebuild --no-carry-over --forget-completions` make a new one from the streams, which forgets which jobs have \
             succeeded where",
            path.display()
        ))
    }

    /// What SQLite says to a file that is opened.
    pub(super) fn opening(path: &Path, source: rusqlite::Error) -> Self {
        match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => Self::Unusable(format!(
                "{} is not an SQLite database: name another file with --db, or put back a backup",
                path.display()
            )),
            Some(ErrorCode::DatabaseCorrupt) => Self::damaged(path, source),
            _ => Self::Sqlite {
                what: format!("open the database {}", path.display()),
                source,
            },
        }
    }

    /// What the system says to a file that is to be opened: what only an operator can change is told from what may heal
    /// by itself.
    pub(super) fn no_file(path: &Path, source: io::Error) -> Self {
        use io::ErrorKind as K;
        let hint = match source.kind() {
            K::NotFound => "no such file or folder; name another with --db, or make the folder",
            K::PermissionDenied => {
                "permission denied; give this user read and write access to the file and its folder"
            }
            K::ReadOnlyFilesystem => {
                "it is on a read-only file system; mount it writable, or name another with --db"
            }
            K::IsADirectory | K::NotADirectory => "not a file; name another with --db",
            _ => {
                return Self::Io {
                    what: format!("open the database {}", path.display()),
                    source,
                };
            }
        };
        Self::Unopenable {
            path: path.display().to_string(),
            hint,
        }
    }

    /// The same with the way out, where it is the database itself that cannot be read.
    #[must_use]
    pub fn or_damaged(self, path: &Path) -> Self {
        match self.is_damage() {
            true => Self::damaged(path, self),
            false => self,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Sqlite { source, .. } => class_of(source),
            Self::Io { .. } | Self::Unopenable { .. } => Class::Environment { reopen: true },
            Self::Unusable(_) | Self::Locked(_) => Class::Stop(2),
            Self::Moved { .. } => Class::Stop(3),
            Self::RefusedAdvance { .. } | Self::Overtaken { .. } => Class::Environment { reopen: false },
            Self::Value(_) => Class::Data,
        }
    }

    /// Whether a file cannot be read as the database that it should be.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Sqlite { source, .. } => is_damage(source),
            _ => false,
        }
    }

    /// Whether another connection has the file for itself at this moment.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Sqlite { source, .. } if source.sqlite_error_code() == Some(ErrorCode::DatabaseBusy))
    }

    /// The exit code of a command that ends with this error (DESIGN §8): 2 when the operator must change
    /// something, 3 when the world outside must.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match (self, self.class()) {
            (_, Class::Stop(code)) => code,
            (Self::Unopenable { .. }, _) => 2,
            _ => 3,
        }
    }
}

/// Whether it is the file itself that cannot be read.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt)
    )
}

/// The table of errors. Every code not named under data or stop is the environment's.
fn class_of(error: &rusqlite::Error) -> Class {
    use rusqlite::Error as E;
    match error {
        E::SqliteFailure(failure, _) => match failure.code {
            ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch => Class::Data,
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Class::Stop(2),
            ErrorCode::ReadOnly
            | ErrorCode::SystemIoFailure
            | ErrorCode::CannotOpen
            | ErrorCode::PermissionDenied => Class::Environment { reopen: true },
            ErrorCode::SchemaChanged => Class::Schema,
            // SQLITE_ERROR: a missing table or column, as far as our own statements can cause it.
            ErrorCode::Unknown if failure.extended_code & 0xff == 1 => Class::Schema,
            _ => Class::Environment { reopen: false },
        },
        E::ToSqlConversionFailure(_) | E::IntegralValueOutOfRange(..) | E::Utf8Error(..) => Class::Data,
        E::SqlInputError { .. } => Class::Schema,
        _ => Class::Environment { reopen: false },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: std::ffi::c_int) -> StoreError {
        StoreError::Sqlite {
            what: "commit".into(),
            source: rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None),
        }
    }

    #[test]
    fn the_environment_is_never_taken_for_data() {
        use rusqlite::ffi::*;
        for code in [
            SQLITE_BUSY,
            SQLITE_LOCKED,
            SQLITE_FULL,
            SQLITE_NOMEM,
            SQLITE_INTERRUPT,
            SQLITE_PROTOCOL,
        ] {
            assert_eq!(
                failure(code).class(),
                Class::Environment { reopen: false },
                "code {code}"
            );
        }
        for code in [
            SQLITE_IOERR,
            SQLITE_IOERR_FSYNC,
            SQLITE_IOERR_WRITE,
            SQLITE_READONLY,
            SQLITE_CANTOPEN,
        ] {
            assert_eq!(
                failure(code).class(),
                Class::Environment { reopen: true },
                "code {code}"
            );
        }
    }

    #[test]
    fn what_a_message_can_cause_is_data() {
        use rusqlite::ffi::*;
        for code in [
            SQLITE_CONSTRAINT,
            SQLITE_CONSTRAINT_TRIGGER,
            SQLITE_TOOBIG,
            SQLITE_MISMATCH,
        ] {
            assert_eq!(failure(code).class(), Class::Data, "code {code}");
        }
    }

    #[test]
    fn a_damaged_file_stops_the_service() {
        use rusqlite::ffi::*;
        for code in [SQLITE_CORRUPT, SQLITE_NOTADB] {
            assert_eq!(failure(code).class(), Class::Stop(2), "code {code}");
        }
        assert_eq!(failure(SQLITE_ERROR).class(), Class::Schema);
        assert_eq!(failure(SQLITE_SCHEMA).class(), Class::Schema);
    }
}
