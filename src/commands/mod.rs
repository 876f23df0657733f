//! One file a command: gathers, decides the exit code, prints to the writer it is handed.
//! May touch everything; nothing touches it.

pub mod backup;
pub mod completions;
pub mod config;
pub mod dead_letters;
pub mod detach;
pub mod doctor;
pub mod dump;
mod hands;
pub mod man;
pub mod outputs;
mod progress;
pub mod rebuild;
pub mod replay;
pub mod run;
pub mod status;
mod text;
pub mod verify;
pub mod version;

pub use self::text::Lines;

use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::config::ConfigError;
use crate::observe::document::JSON_VERSION;
use crate::service::error::ServiceError;
use crate::service::socket::SocketError;
use crate::store::StoreError;
use crate::store::dump::DumpError;

/// Why a command failed, with its exit code (DESIGN §8).
#[derive(Debug, Error)]
pub enum CommandError {
    /// Exit code 2.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its own.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its own.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// Exit code 3, or 2 where it does not take us.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The service could not do it: exit code 3.
    #[error("{0}")]
    Undone(String),
    /// A name or number that means nothing: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// Whoever read our output has gone.
    #[error("cannot write the output: {0}")]
    Output(#[from] std::io::Error),
    /// A value that JSON cannot hold.
    #[error("cannot write JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl CommandError {
    /// DESIGN §8. A closed pipe is a reader who has seen enough.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Usage(_) | Self::Socket(SocketError::Refused { .. }) => 2,
            Self::Socket(SocketError::Silent { .. }) | Self::Undone(_) => 3,
            Self::Store(error) => error.exit_code(),
            Self::Service(error) => error.exit_code(),
            Self::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe => 0,
            Self::Output(_) | Self::Json(_) => 3,
        }
    }
}

impl From<DumpError> for CommandError {
    fn from(error: DumpError) -> Self {
        match error {
            DumpError::Store(error) => error.into(),
            DumpError::Output(error) => error.into(),
            DumpError::NoTable { .. } => Self::Usage(error.to_string()),
        }
    }
}

/// An answer once it is told: a reader who leaves early changes nothing about it, nor about its exit code.
fn told<T>(telling: Result<(), CommandError>, answer: T) -> Result<T, CommandError> {
    match telling {
        Err(CommandError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(answer),
        other => other.map(|()| answer),
    }
}

/// True once the process is asked to end; asked twice, it ends at once.
fn stop_signal() -> Result<watch::Receiver<bool>, ServiceError> {
    let (stop, stopped) = watch::channel(false);
    let broken = |error: std::io::Error| ServiceError::Broken(format!("cannot listen for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(broken)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(broken)?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.send_replace(true);
        // A second signal is a person who will not wait.
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        std::process::exit(130);
    });
    Ok(stopped)
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    #[test]
    fn a_reader_who_leaves_early_does_not_change_the_answer() {
        let failed = |kind| Err(CommandError::Output(Error::from(kind)));
        for good in [false, true] {
            assert_eq!(told(failed(ErrorKind::BrokenPipe), good).unwrap(), good);
            assert_eq!(told(Ok(()), good).unwrap(), good);
            assert_eq!(
                told(failed(ErrorKind::StorageFull), good)
                    .unwrap_err()
                    .exit_code(),
                3
            );
        }
    }
}
