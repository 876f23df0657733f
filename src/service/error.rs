//! Why the service, or a command beside it, ended badly, and the exit code that says so.

use thiserror::Error;

use super::writer::WriterStopped;
use crate::source::asking::AskError;
use crate::source::connect::ConnectError;
use crate::source::flow::Refused;
use crate::store::StoreError;

/// Why the service ended badly.
#[derive(Debug, Error)]
pub enum ServiceError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Only an operator can decide.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The writer cannot go on.
    #[error(transparent)]
    Writer(#[from] WriterStopped),
    /// The server, or time, does not allow it.
    #[error("{0}")]
    Unavailable(String),
    /// What was asked for means nothing here.
    #[error("{0}")]
    Usage(String),
    /// A bug.
    #[error("{0}")]
    Broken(String),
}

impl From<AskError> for ServiceError {
    fn from(error: AskError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl ServiceError {
    /// DESIGN §8.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Store(error) => error.exit_code(),
            Self::Connect(error) => error.exit_code(),
            Self::Refused(_) | Self::Usage(_) => 2,
            Self::Writer(stopped) => stopped.exit_code,
            Self::Unavailable(_) | Self::Broken(_) => 3,
        }
    }
}
