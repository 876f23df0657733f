//! Events for systemd's journal, in its own protocol: the line that people read as the message, and each value as a field of
//! its own, by which the journal can be searched.

use std::fmt::{self, Debug, Write as _};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::logging::VALUE_MAX;
use crate::wire::inert::inert;

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// Sends each event to the journal.
#[derive(Debug)]
pub(super) struct Journal {
    socket: UnixDatagram,
}

impl Journal {
    /// The journal, if it is what stderr goes to: then it listens for fields too (`JOURNAL_STREAM`, systemd.exec(5)).
    pub(super) fn behind_stderr() -> Option<Self> {
        let told = std::env::var("JOURNAL_STREAM").ok()?;
        let stderr = rustix::fs::fstat(io::stderr().as_fd()).ok()?;
        if told != format!("{}:{}", stderr.st_dev, stderr.st_ino) {
            return None;
        }
        let socket = UnixDatagram::unbound().ok()?;
        socket.connect(socket_path()).ok()?;
        Some(Self { socket })
    }
}

/// The journal's own; builds for tests take another one from the environment.
fn socket_path() -> String {
    #[cfg(debug_assertions)]
    if let Ok(other) = std::env::var("RESULTS_PROJECTOR_JOURNAL_SOCKET") {
        return other;
    }
    SOCKET.to_owned()
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut told = Told::default();
        event.record(&mut told);
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        let Told {
            message,
            values,
            fields,
        } = told;
        let datagram = format!(
            "PRIORITY={priority}\nSYSLOG_IDENTIFIER=results-projector\nMESSAGE={message}{values}\n{fields}"
        );
        // Nobody is left to tell when this fails; the journal drops what it cannot take, too.
        let _sent = self.socket.send(datagram.as_bytes());
    }
}

/// Every value as one line without control characters, so that none can forge a field.
#[derive(Default)]
struct Told {
    message: String,
    values: String,
    fields: String,
}

impl Visit for Told {
    fn record_str(&mut self, field: &Field, value: &str) {
        let value = inert(value, VALUE_MAX);
        if field.name() == "message" {
            self.message.push_str(&value);
            return;
        }
        // Writing to a text cannot fail.
        let _written = write!(self.values, " {}={value}", field.name());
        let _written: fmt::Result = writeln!(self.fields, "RP_{}={value}", field.name().to_ascii_uppercase());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}
