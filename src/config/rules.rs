//! What no value says alone.

use std::time::Duration;

use super::layers::{Layers, quoted};
use super::{Config, ConfigError};

/// A setting, and what is wrong with it.
type Wrong = (&'static str, String);

/// # Errors
/// The first rule that is broken.
pub(super) fn check(config: &Config, layers: &Layers) -> Result<(), ConfigError> {
    for rule in [sizes, names, addresses, times, logins] {
        rule(config).map_err(|(key, why)| ConfigError(format!("{}: {why}", layers.place(key))))?;
    }
    Ok(())
}

fn sizes(config: &Config) -> Result<(), Wrong> {
    let (source, outputs, group) = (&config.source, &config.outputs, &config.group);
    if outputs.max_bytes > outputs.in_flight_bytes.min(outputs.repair_in_flight_bytes) {
        return Err((
            "outputs.max_bytes",
            "an output of this size would not fit into outputs.in_flight_bytes and \
             outputs.repair_in_flight_bytes; raise those, or lower this"
                .to_owned(),
        ));
    }
    for (key, value, least) in [
        ("store.bulk_memory", config.store.bulk_memory_bytes, 16 << 20),
        ("source.in_flight_bytes", source.in_flight_bytes, 4 << 20),
        ("outputs.in_flight_bytes", outputs.in_flight_bytes, 1 << 20),
        ("group.max_bytes", group.max_bytes, 1),
        ("group.max_rows", group.max_rows as u64, 1),
        ("source.batch_messages", source.batch_messages as u64, 1),
        ("outputs.concurrency", outputs.concurrency as u64, 1),
    ] {
        if value < least {
            return Err((key, format!("must be at least {least}")));
        }
    }
    // Each byte is a permit, and permits are taken by a u32.
    if source.in_flight_bytes >= u64::from(u32::MAX) {
        return Err(("source.in_flight_bytes", "must be below 4 GiB".to_owned()));
    }
    Ok(())
}

fn names(config: &Config) -> Result<(), Wrong> {
    let prefix = &config.source.consumer_prefix;
    if !is_plain(prefix) {
        return Err((
            "source.consumer_prefix",
            format!(
                "{} cannot begin a consumer's name; use ASCII letters, digits, '_' and '-'",
                quoted(prefix)
            ),
        ));
    }
    let inbox = &config.nats.inbox_prefix;
    if !inbox.split('.').all(is_plain) {
        return Err((
            "nats.inbox_prefix",
            format!(
                "{} cannot begin a subject; use ASCII letters, digits, '_' and '-', with dots between",
                quoted(inbox)
            ),
        ));
    }
    Ok(())
}

/// Whether a text can be a token of a subject, or begin a consumer's name.
fn is_plain(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    !text.is_empty() && text.chars().all(plain)
}

fn addresses(config: &Config) -> Result<(), Wrong> {
    let wrong = |key, url: &str, why: &str| Err((key, format!("{}: {why}", quoted(without_login(url)))));
    let url = &config.nats.url;
    if config.nats.servers().next().is_none() {
        return wrong(
            "nats.url",
            url,
            "names no server; give at least one, such as nats://127.0.0.1:4222",
        );
    }
    if url.contains('@') {
        return wrong(
            "nats.url",
            url,
            "a name or password does not belong here, it would not be sent; use nats.user and nats.password_file, or \
             nats.token_file",
        );
    }
    let Some(url) = &config.nats.monitor_url else {
        return Ok(());
    };
    let host = url.strip_prefix("http://").unwrap_or_default();
    let why = match url.split_once("://") {
        Some(("https", _)) => {
            "that port is asked without TLS; give its http:// address, on this machine or in a network that is trusted"
        }
        Some(("http", _)) if host.contains('@') => {
            "a name or password does not belong here; that port asks for none"
        }
        Some(("http", _)) if !host.is_empty() && !host.contains([' ', ',', '?', '#']) => return Ok(()),
        _ => "expected one address, such as http://127.0.0.1:8222",
    };
    wrong("nats.monitor_url", url, why)
}

/// What follows the last `@`: no message tells what stands before it.
fn without_login(url: &str) -> &str {
    url.rsplit_once('@').map_or(url, |(_, hosts)| hosts)
}

fn times(config: &Config) -> Result<(), Wrong> {
    let source = &config.source;
    if source.heartbeat * 2 > source.expires {
        return Err((
            "source.heartbeat",
            "must be at most half of source.expires".to_owned(),
        ));
    }
    for (key, length) in [
        ("source.heartbeat", source.heartbeat),
        ("source.check_interval", source.check_interval),
        ("source.ack_wait", source.ack_wait),
    ] {
        if length < Duration::from_millis(100) {
            return Err((key, "must be at least 100 ms".to_owned()));
        }
    }
    Ok(())
}

fn logins(config: &Config) -> Result<(), Wrong> {
    let nats = &config.nats;
    let ways = [
        ("nats.creds", nats.creds.is_some()),
        ("nats.nkey", nats.nkey.is_some()),
        ("nats.token_file", nats.token_file.is_some()),
        ("nats.user", nats.user.is_some()),
    ];
    let mut given = ways.iter().filter(|(_, given)| *given).map(|(key, _)| *key);
    if let (Some(first), Some(second)) = (given.next(), given.next()) {
        return Err((
            second,
            format!("{first} is set as well; a connection has one way to log in: keep one of them"),
        ));
    }
    let (user, password) = (nats.user.is_some(), nats.password_file.is_some());
    let (cert, key) = (nats.cert.is_some(), nats.key.is_some());
    for (given, one, other, beside) in [
        (user, "nats.user", "nats.password_file", password),
        (password, "nats.password_file", "nats.user", user),
        (cert, "nats.cert", "nats.key", key),
        (key, "nats.key", "nats.cert", cert),
    ] {
        if given && !beside {
            return Err((one, format!("{other} is missing beside it")));
        }
    }
    Ok(())
}
