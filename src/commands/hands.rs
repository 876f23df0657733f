//! Who changes the books: the service that runs, asked through its socket, or this process under the lock.

use super::CommandError;
use crate::config::Config;
use crate::service::alone::Alone;
use crate::service::books::{Answer, REQUEST_MAX, Request};
use crate::service::socket;

/// See the module's words.
enum Hands<'c> {
    Service(&'c Config),
    Own(Box<Alone>),
}

impl<'c> Hands<'c> {
    /// Looks for a service; without one, takes its place.
    async fn take(config: &'c Config) -> Result<Self, CommandError> {
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

    /// Leaves the database as a service would.
    async fn finish(self) -> Result<(), CommandError> {
        match self {
            Self::Service(_) => Ok(()),
            Self::Own(alone) => Ok(alone.finish().await?),
        }
    }
}

/// Asks for all of them, as many at once as one request takes; `lines` finds what became of them in an answer. What is done
/// stays done when a later request fails.
pub(super) async fn ask_all<K, T>(
    config: &Config,
    all: &[K],
    request: impl Fn(&[K]) -> Request,
    lines: impl Fn(Answer) -> Result<Vec<T>, Answer>,
) -> Result<Vec<T>, CommandError> {
    let mut done = Vec::new();
    if all.is_empty() {
        return Ok(done);
    }
    let hands = Hands::take(config).await?;
    let mut outcome = Ok(());
    for some in all.chunks(REQUEST_MAX) {
        match hands
            .ask(request(some))
            .await
            .and_then(|answer| lines(answer).map_err(undone))
        {
            Ok(told) => done.extend(told),
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }
    let finished = hands.finish().await;
    match outcome.and(finished) {
        Err(CommandError::Undone(why)) if !done.is_empty() => Err(CommandError::Undone(format!(
            "{} of {} were done, then: {why}",
            done.len(),
            all.len()
        ))),
        outcome => outcome.map(|()| done),
    }
}

fn undone(answer: Answer) -> CommandError {
    CommandError::Undone(match answer {
        Answer::Failed(why) => why,
        _ => "the service answered something else; is the command as new as the service?".to_owned(),
    })
}
