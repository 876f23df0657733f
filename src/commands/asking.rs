//! Who changes the books: the service that runs, asked through its socket, or this process under the lock.

use super::CommandError;
use crate::config::Config;
use crate::service::alone::Alone;
use crate::service::books::{Answer, LetterLine, OutputLine, Request};
use crate::service::socket;

/// See the module's words.
pub(super) enum Hands<'c> {
    Service(&'c Config),
    Own(Box<Alone>),
}

impl<'c> Hands<'c> {
    /// Looks for a service; without one, takes its place.
    pub(super) async fn take(config: &'c Config) -> Result<Self, CommandError> {
        Ok(if socket::is_served(&config.store.path).await? {
            Self::Service(config)
        } else {
            Self::Own(Box::new(Alone::start(config).await?))
        })
    }

    async fn ask(&self, request: Request) -> Result<Answer, CommandError> {
        Ok(match self {
            Self::Service(config) => socket::ask(&config.store.path, &request).await?,
            Self::Own(alone) => alone.answer(request).await,
        })
    }

    /// What became of some dead letters.
    pub(super) async fn letters(&self, request: Request) -> Result<Vec<LetterLine>, CommandError> {
        match self.ask(request).await? {
            Answer::Letters(lines) => Ok(lines),
            other => Err(undone(other)),
        }
    }

    /// What became of some outputs.
    pub(super) async fn outputs(&self, request: Request) -> Result<Vec<OutputLine>, CommandError> {
        match self.ask(request).await? {
            Answer::Outputs(lines) => Ok(lines),
            other => Err(undone(other)),
        }
    }

    /// Leaves the database as a service would.
    pub(super) async fn finish(self) -> Result<(), CommandError> {
        match self {
            Self::Service(_) => Ok(()),
            Self::Own(alone) => Ok(alone.finish().await?),
        }
    }
}

fn undone(answer: Answer) -> CommandError {
    CommandError::Undone(match answer {
        Answer::Failed(why) => why,
        _ => "the service answered something else; is the command as new as the service?".to_owned(),
    })
}
