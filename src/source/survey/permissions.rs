//! What the service asks of the server, each tried without any effect.
//!
//! The server looks at the permission before anybody sees a message, and tells of each one that it refuses. So every
//! subject is published to once, with a body that is no request of any kind: whoever is asked by it (`STREAM.INFO`,
//! `CONSUMER.CREATE`, `CONSUMER.DELETE` and the rest of the API) refuses what it cannot read before it does anything; a
//! pull (`MSG.NEXT`) that is none is answered with 400 before the consumer looks at its state; an ack counts only with one
//! of the protocol's words as its body, and no message has the sequence 0; to a flow control of no consumer nobody listens.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::timeout;

use super::super::asking::api_prefix;
use super::super::connect;
use super::super::denials::{Denied, pattern};
use super::super::opening::durable_name;
use crate::config;
use crate::wire::backend::bucket_stream;
use crate::wire::kv::{BACKEND_DURABLES, BUCKET_JOBS, OBJECT_RESULT_OUTPUT, StreamName};
use crate::wire::object;

/// No request, no pull, no ack.
const BODY: &str = "results-projector doctor: no request";
/// The server's word comes well within this.
const WORD_WITHIN: Duration = Duration::from_secs(3);
/// What was denied is told in order, but by another way than a message: so long after the last is enough.
const SETTLES_WITHIN: Duration = Duration::from_millis(250);
/// The client keeps so many of the server's words while nobody listens.
const AT_ONCE: usize = 32;

/// What needs a permission: the sections of `deploy/nats-permissions.conf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// The service, and everything else.
    Run,
    /// A watch that is begun anew.
    Watch,
    /// `rebuild`, `replay`, `verify`.
    Load,
    /// The backend's own file.
    Adopted,
}

impl Section {
    /// Its name in the list.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Watch => "watch",
            Self::Load => "load",
            Self::Adopted => "adopted",
        }
    }
}

/// One line of a list of permissions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Who needs it.
    pub section: Section,
    /// To subscribe, not to publish.
    pub subscribe: bool,
    /// The line.
    pub subject: String,
    /// A subject that it allows.
    probe: String,
}

/// Everything that the service and its commands use, in the order of the list.
#[must_use]
pub fn needed(nats: &config::Nats, source: &config::Source) -> Vec<Need> {
    let api = api_prefix(nats.js_domain.as_deref());
    let mut all = Vec::new();
    let mut add = |section: Section, subject: String, probe: String| {
        all.push(Need {
            section,
            subscribe: false,
            subject,
            probe,
        });
    };
    for verb in ["STREAM.INFO", "STREAM.MSG.GET"] {
        for stream in StreamName::ALL {
            let subject = format!("{api}.{verb}.{stream}");
            add(Section::Run, subject.clone(), subject);
        }
    }
    // As the consumers of a load are named, with a number; there is none by this one.
    let temporary = format!("{}_00000000", source.consumer_prefix);
    for (section, prefix) in [
        (Section::Run, &source.consumer_prefix),
        (Section::Load, &temporary),
    ] {
        for stream in StreamName::ALL {
            let name = durable_name(prefix, stream);
            let listed = match section {
                Section::Load => "*",
                _ => name.as_str(),
            };
            for verb in ["INFO", "DELETE", "CREATE", "MSG.NEXT"] {
                add(
                    section,
                    format!("{api}.CONSUMER.{verb}.{stream}.{listed}"),
                    format!("{api}.CONSUMER.{verb}.{stream}.{name}"),
                );
            }
            add(
                section,
                format!("$JS.ACK.{stream}.{listed}.>"),
                format!("$JS.ACK.{stream}.{name}.1.0.0.0.0"),
            );
        }
    }
    let (jobs, outputs) = (
        bucket_stream(BUCKET_JOBS),
        object::stream_name(OBJECT_RESULT_OUTPUT),
    );
    for question in [
        format!("STREAM.INFO.{jobs}"),
        format!("CONSUMER.CREATE.{jobs}"),
        format!("STREAM.INFO.{outputs}"),
        format!("STREAM.MSG.GET.{outputs}"),
        format!("DIRECT.GET.{outputs}"),
    ] {
        add(
            Section::Run,
            format!("{api}.{question}"),
            format!("{api}.{question}"),
        );
    }
    add(
        Section::Run,
        format!("{api}.DIRECT.GET.{outputs}.>"),
        format!(
            "{api}.DIRECT.GET.{outputs}.{}",
            object::meta_subject(OBJECT_RESULT_OUTPUT, "doctor")
        ),
    );
    add(
        Section::Run,
        format!("$JS.FC.{jobs}.>"),
        format!("$JS.FC.{jobs}.{temporary}.0"),
    );
    add(
        Section::Watch,
        format!("{api}.CONSUMER.DELETE.{jobs}.*"),
        format!("{api}.CONSUMER.DELETE.{jobs}.{temporary}"),
    );
    for (stream, durable) in BACKEND_DURABLES {
        let subject = format!("{api}.CONSUMER.INFO.{stream}.{durable}");
        add(Section::Adopted, subject.clone(), subject);
    }
    all.push(Need {
        section: Section::Run,
        subscribe: true,
        subject: format!("{}.>", nats.inbox_prefix),
        probe: String::new(),
    });
    all
}

/// Tries each, on a connection of its own: true where it is allowed.
///
/// # Errors
/// Why it is not known.
pub async fn tried(nats: &config::Nats, needs: Vec<Need>) -> Result<Vec<(Need, bool)>, String> {
    let connection = connect::to_look(nats).await.map_err(|error| error.to_string())?;
    let client = &connection.client;
    let inbox = client.new_inbox();
    let mut echo = client
        .subscribe(inbox.clone())
        .await
        .map_err(|error| error.to_string())?;
    let deaf = |state: &connect::ConnectionState| {
        let mut all = state.denied.all();
        all.any(|denied| matches!(denied, Denied::Subscribe(_)))
    };
    let publishing: Vec<&Need> = needs.iter().filter(|need| !need.subscribe).collect();
    for probes in publishing.chunks(AT_ONCE) {
        for need in probes {
            client
                .publish(need.probe.clone(), Bytes::from_static(BODY.as_bytes()))
                .await
                .map_err(|error| error.to_string())?;
        }
        // The server takes them in order: once it has said something of this one, it has of all. Whether it comes back or
        // is denied, both are a word.
        client
            .publish(inbox.clone(), Bytes::new())
            .await
            .map_err(|error| error.to_string())?;
        let mut state = connection.state.clone();
        let end = Denied::Publish(inbox.to_string());
        let denied = state.wait_for(|state| deaf(state) || state.denied.all().any(|denied| *denied == end));
        let word = async {
            tokio::select! {
                _ = denied => {}
                _ = echo.next() => {}
            }
        };
        timeout(WORD_WITHIN, word)
            .await
            .map_err(|_| "the server said nothing of them in time".to_owned())?;
        tokio::time::sleep(SETTLES_WITHIN).await;
    }
    let state = connection.state.borrow().clone();
    let tried = needs.into_iter().map(|need| {
        let allowed = if need.subscribe {
            !deaf(&state)
        } else {
            let probe = Denied::Publish(pattern(&need.probe));
            !state.denied.all().any(|denied| *denied == probe)
        };
        (need, allowed)
    });
    Ok(tried.collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::cli::GlobalArgs;
    use crate::wire::backend::{BUCKETS, STORES, STREAMS};

    /// The lines of the shipped list, with the section each stands in.
    fn shipped() -> BTreeSet<(String, String)> {
        let list = include_str!("../../../deploy/nats-permissions.conf");
        let (mut section, mut allows) = (String::new(), false);
        let mut lines = BTreeSet::new();
        for text in list.lines().map(str::trim) {
            if let Some(rest) = text.strip_prefix("# [") {
                section = rest.split(']').next().unwrap().to_owned();
            }
            match text {
                "allow: [" => allows = true,
                "]" => allows = false,
                _ => {}
            }
            let text = text.strip_prefix("# ").unwrap_or(text);
            if allows && text.starts_with('"') {
                lines.insert((section.clone(), text.trim_matches('"').to_owned()));
            }
        }
        lines
    }

    /// What a look at everything needs besides.
    fn needed_to_look(nats: &config::Nats) -> Vec<String> {
        let api = api_prefix(nats.js_domain.as_deref());
        let others = STREAMS
            .iter()
            .filter(|spec| spec.ours().is_none())
            .map(|spec| spec.name.to_owned());
        let buckets = BUCKETS
            .iter()
            .filter(|spec| spec.name != BUCKET_JOBS)
            .map(|spec| bucket_stream(spec.name));
        let stores = STORES
            .iter()
            .filter(|spec| spec.name != OBJECT_RESULT_OUTPUT)
            .map(|spec| object::stream_name(spec.name));
        others
            .chain(buckets)
            .chain(stores)
            .map(|stream| format!("{api}.STREAM.INFO.{stream}"))
            .chain(
                super::super::READ
                    .iter()
                    .map(|bucket| format!("{api}.STREAM.MSG.GET.{}", bucket_stream(bucket))),
            )
            .collect()
    }

    #[test]
    fn what_is_tried_is_the_shipped_list() {
        let config = config::Config::load(&GlobalArgs::default(), &|_| None).unwrap();
        let needs = needed(&config.nats, &config.source);
        let mut all: BTreeSet<(String, String)> = needs
            .iter()
            .map(|need| (need.section.as_str().to_owned(), need.subject.clone()))
            .collect();
        assert_eq!(all.len(), needs.len());
        let looks = needed_to_look(&config.nats);
        all.extend(looks.into_iter().map(|subject| ("doctor".to_owned(), subject)));
        let mut shipped = shipped();
        shipped.retain(|(section, _)| section != "create-missing");
        let missing: Vec<_> = all.difference(&shipped).collect();
        let unknown: Vec<_> = shipped.difference(&all).collect();
        assert!(
            missing.is_empty() && unknown.is_empty(),
            "{missing:#?} {unknown:#?}"
        );
    }

    #[test]
    fn every_probe_matches_its_permission() {
        let config = config::Config::load(&GlobalArgs::default(), &|_| None).unwrap();
        for need in needed(&config.nats, &config.source) {
            assert!(
                need.subscribe || crate::wire::subject::covers(&need.subject, &need.probe),
                "{need:?}"
            );
        }
    }
}
