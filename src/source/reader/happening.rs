//! What happens to a reader, and what a session that ends by it is counted as.

use std::fmt::Display;

use tokio::sync::OwnedSemaphorePermit;

use super::Held;
use crate::meters::Reopened;

/// What happened next.
pub(super) enum Happening {
    Delivered(async_nats::jetstream::Message),
    Permitted(Held, OwnedSemaphorePermit),
    Failed(String),
    Feedback,
    Disconnected,
    CheckDue,
    Shutdown,
}

impl Happening {
    /// What a session that ends by it is counted as.
    pub(super) fn kind(&self) -> Reopened {
        match self {
            Self::Delivered(_) | Self::Permitted(..) => Reopened::Order,
            Self::Failed(_) | Self::Shutdown => Reopened::Iterator,
            Self::Feedback => Reopened::Writer,
            Self::Disconnected => Reopened::Connection,
            Self::CheckDue => Reopened::Check,
        }
    }
}

/// What the client's iterator gave.
pub(super) fn taken<E: Display>(next: Option<Result<async_nats::jetstream::Message, E>>) -> Happening {
    match next {
        Some(Ok(message)) => Happening::Delivered(message),
        Some(Err(error)) => Happening::Failed(error.to_string()),
        None => Happening::Failed("the client's iterator ended".to_owned()),
    }
}
