//! How commands ask a running service: a Unix socket beside the database, `<database>.sock`, mode 0600. One connection
//! carries one request and its answer, a line of JSON each; while the service works it sends empty lines as a sign of
//! life. The lock decides who serves: a socket that is there at the start is a leftover, and replaced.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::books::{Answer, Books, Request};
use crate::store::{FileIdentity, meeting_path, remove_if_there, with_suffix};

/// What the kernel takes as a socket's path, its closing zero not counted.
const PATH_BYTES_MAX: usize = 107;
/// A request or an answer.
const LINE_BYTES_MAX: u64 = 4 << 20;
/// A request is sent in one go.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// One request: objects that come slowly, a writer that waits for its disk.
pub(super) const WORK_LIMIT: Duration = Duration::from_secs(120);
/// Between two signs of life, and how long their absence is borne.
const SIGN_EVERY: Duration = Duration::from_secs(1);
const SILENCE_LIMIT: Duration = Duration::from_secs(10);
/// Requests that are worked on at once.
const CONCURRENCY: usize = 4;

/// Why a service that is there gave no answer.
#[derive(Debug, Error)]
pub enum SocketError {
    /// It does not take us.
    #[error(
        "cannot ask the service at {path}: {why}; run this as the service's user, or stop the service and try again"
    )]
    Refused {
        /// The socket.
        path: String,
        /// The system's words.
        why: String,
    },
    /// It is stuck, or has ended.
    #[error(
        "the service at {path} does not answer ({why}); what was asked for may still be done: look at its log, and ask \
         again"
    )]
    Silent {
        /// The socket.
        path: String,
        /// What happened.
        why: String,
    },
}

/// The socket of a database: its path with `.sock` appended; one for all links to it.
#[must_use]
pub(super) fn socket_path(database: &Path) -> PathBuf {
    with_suffix(&meeting_path(database), ".sock")
}

/// A socket that is listened on; its file goes with it.
#[derive(Debug)]
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    identity: Option<FileIdentity>,
}

impl Socket {
    /// Listens beside the database, whose lock the caller holds. `None`, with a warning, where that cannot be: then commands
    /// that change the books need the service stopped.
    #[must_use]
    pub(super) fn listen(database: &Path) -> Option<Self> {
        match Self::try_listen(database) {
            Ok(socket) => Some(socket),
            Err(reason) => {
                warn!(
                    reason,
                    "no socket for commands: `dead-letters retry`, `discard` and `outputs retry` need the service stopped"
                );
                None
            }
        }
    }

    fn try_listen(database: &Path) -> Result<Self, String> {
        let path = socket_path(database);
        // Under a name of its own until its mode is right.
        let new = with_suffix(&path, ".new");
        let length = new.as_os_str().as_bytes().len();
        if length > PATH_BYTES_MAX {
            return Err(format!(
                "the path {} has {length} bytes, {PATH_BYTES_MAX} is the most that a socket can have",
                new.display()
            ));
        }
        let listen = || -> std::io::Result<Self> {
            remove_if_there(&new)?;
            let listener = UnixListener::bind(&new)?;
            fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
            fs::rename(&new, &path)?;
            Ok(Self {
                listener,
                identity: FileIdentity::of(&path).ok(),
                path: path.clone(),
            })
        };
        listen().map_err(|error| format!("cannot make {}: {error}", path.display()))
    }

    /// Answers until shutdown.
    pub(super) async fn serve(self, books: Books, mut shutdown: watch::Receiver<bool>) {
        let places = Arc::new(Semaphore::new(CONCURRENCY));
        loop {
            let accepted = tokio::select! {
                () = super::raised(&mut shutdown) => return,
                accepted = self.listener.accept() => accepted,
            };
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            match accepted {
                Ok((stream, _)) => {
                    let books = books.clone();
                    tokio::spawn(async move {
                        if let Err(error) = answer(stream, &books).await {
                            debug!(%error, "a command went away before its answer");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    warn!(%error, "a command could not be listened to");
                    tokio::time::sleep(SIGN_EVERY).await;
                }
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Another service may have put its own there.
        if self.identity.is_some() && FileIdentity::of(&self.path).ok() == self.identity {
            // What stays is replaced at the next start.
            let _removed = fs::remove_file(&self.path);
        }
    }
}

async fn answer(stream: UnixStream, books: &Books) -> std::io::Result<()> {
    let (from, mut to) = stream.into_split();
    let mut line = String::new();
    let mut from = BufReader::new(from.take(LINE_BYTES_MAX));
    match timeout(REQUEST_LIMIT, from.read_line(&mut line)).await {
        Ok(read) => read?,
        Err(_) => return Ok(()),
    };
    // A look whether anybody is here.
    if line.is_empty() {
        return Ok(());
    }
    let answer = match serde_json::from_str::<Request>(&line) {
        Err(error) => Answer::Failed(format!(
            "the request is not understood: {error}; is the command as new as the service?"
        )),
        Ok(request) => {
            let mut work = std::pin::pin!(timeout(WORK_LIMIT, books.answer(request)));
            loop {
                tokio::select! {
                    answered = &mut work => break answered.unwrap_or_else(|_| Answer::Failed(format!(
                        "not done within {} s: the service's log says what it waits for; it may still be done",
                        WORK_LIMIT.as_secs()
                    ))),
                    () = tokio::time::sleep(SIGN_EVERY) => to.write_all(b"\n").await?,
                }
            }
        }
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    timeout(REQUEST_LIMIT, to.write_all(&line))
        .await
        .unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}

/// Connects to the service of a database; `None` when none listens.
async fn connect(path: &Path) -> Result<Option<UnixStream>, SocketError> {
    let refused = |why: String| SocketError::Refused {
        path: path.display().to_string(),
        why,
    };
    match timeout(SILENCE_LIMIT, UnixStream::connect(path)).await {
        Ok(Ok(stream)) => Ok(Some(stream)),
        Ok(Err(error)) => match error.kind() {
            // A path that is too long for a socket is invalid.
            ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::InvalidInput => Ok(None),
            _ => Err(refused(error.to_string())),
        },
        Err(_) => Err(SocketError::Silent {
            path: path.display().to_string(),
            why: format!("it took no connection within {} s", SILENCE_LIMIT.as_secs()),
        }),
    }
}

/// Whether a service listens for this database's commands.
///
/// # Errors
/// See [`SocketError`].
pub async fn is_served(database: &Path) -> Result<bool, SocketError> {
    Ok(connect(&socket_path(database)).await?.is_some())
}

/// Asks the service of a database.
///
/// # Errors
/// See [`SocketError`].
pub async fn ask(database: &Path, request: &Request) -> Result<Answer, SocketError> {
    let path = socket_path(database);
    let silent = |why: String| SocketError::Silent {
        path: path.display().to_string(),
        why,
    };
    let stream = connect(&path)
        .await?
        .ok_or_else(|| silent("it has ended".to_owned()))?;
    let exchange = async {
        let (from, mut to) = stream.into_split();
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        to.write_all(&line).await?;
        let mut from = BufReader::new(from.take(LINE_BYTES_MAX));
        let mut line = String::new();
        loop {
            line.clear();
            match timeout(SILENCE_LIMIT, from.read_line(&mut line)).await {
                Err(_) => return Err(ErrorKind::TimedOut.into()),
                Ok(Ok(0)) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(Ok(_)) if line.trim().is_empty() => {}
                Ok(Ok(_)) => return Ok(serde_json::from_str(&line)?),
                Ok(Err(error)) => return Err(error),
            }
        }
    };
    let outcome: Result<Answer, std::io::Error> = timeout(WORK_LIMIT + SILENCE_LIMIT, exchange)
        .await
        .unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
    outcome.map_err(|error| {
        silent(match error.kind() {
            ErrorKind::TimedOut => format!("nothing came within {} s", SILENCE_LIMIT.as_secs()),
            ErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
            _ => error.to_string(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_leftover_is_replaced_and_the_own_socket_goes_with_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("results.db");
        let path = socket_path(&database);
        assert!(!is_served(&database).await.unwrap());
        // As a killed service leaves it.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists() && !is_served(&database).await.unwrap());
        let socket = Socket::listen(&database).unwrap();
        assert!(is_served(&database).await.unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_link_to_the_database_finds_its_socket() {
        let folder = tempfile::tempdir().unwrap();
        let (database, link) = (folder.path().join("results.db"), folder.path().join("link.db"));
        fs::write(&database, b"").unwrap();
        std::os::unix::fs::symlink(&database, &link).unwrap();
        for (one, other) in [(&database, &link), (&link, &database)] {
            let socket = Socket::listen(one).unwrap();
            assert!(is_served(other).await.unwrap());
            drop(socket);
            assert!(!is_served(other).await.unwrap());
        }
    }

    #[tokio::test]
    async fn another_ones_socket_stays() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("results.db");
        let first = Socket::listen(&database).unwrap();
        let second = Socket::listen(&database).unwrap();
        drop(first);
        assert!(is_served(&database).await.unwrap());
        drop(second);
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_is_told_and_nobody_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("x".repeat(PATH_BYTES_MAX));
        let why = Socket::try_listen(&database).unwrap_err();
        assert!(why.contains("107"), "{why}");
        assert!(!is_served(&database).await.unwrap());
    }
}
