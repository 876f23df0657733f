//! The table of settings: one line each, from which parsing, `config show` and the documents follow.

use crate::cli::GlobalArgs;

/// One setting.
#[derive(Debug)]
pub(super) struct Setting {
    pub(super) key: &'static str,
    /// Besides `RESULTS_PROJECTOR_` and the key in capitals.
    pub(super) env: Option<&'static str>,
    /// The flag without its dashes.
    pub(super) flag: Option<&'static str>,
    /// What was given by the flag.
    pub(super) given: Given,
    /// `None`: not set.
    pub(super) default: Option<&'static str>,
    pub(super) doc: &'static str,
}

type Given = fn(&GlobalArgs) -> Option<&str>;

const fn plain(key: &'static str, default: &'static str, doc: &'static str) -> Setting {
    Setting {
        key,
        env: None,
        flag: None,
        given: |_| None,
        default: Some(default),
        doc,
    }
}

const fn nats(
    key: &'static str,
    env: Option<&'static str>,
    flag: &'static str,
    given: Given,
    doc: &'static str,
) -> Setting {
    Setting {
        key,
        env,
        flag: Some(flag),
        given,
        default: None,
        doc,
    }
}

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "store.path",
        env: Some("RESULTS_PROJECTOR_DB"),
        flag: Some("db"),
        given: |flags| flags.db.as_deref(),
        default: Some("/var/lib/results-projector/results.db"),
        doc: "the database",
    },
    plain(
        "store.synchronous",
        "full",
        "full: every commit survives a power cut; normal: the stream brings the last ones back",
    ),
    plain(
        "store.page_cache",
        "256 MiB",
        "SQLite's page cache at most: it follows the file's size; it should hold the indexes, about 0.3 KB a row",
    ),
    plain(
        "store.wal_limit",
        "512 MiB",
        "size past which the write-ahead log is cut back",
    ),
    plain(
        "store.disk_reserve",
        "256 MiB",
        "free space below which nothing is written; 0: none",
    ),
    plain(
        "store.bulk_from",
        "50000",
        "messages from which on a database that has read nothing yet is loaded in bulk",
    ),
    plain(
        "store.bulk_memory",
        "384 MiB",
        "page cache and sorting at most while a database is made in bulk or compared; what is sorted goes to files in \
         TMPDIR, else in /var/tmp",
    ),
    Setting {
        key: "nats.url",
        env: Some("NATS_URL"),
        flag: Some("nats-url"),
        given: |flags| flags.nats_url.as_deref(),
        default: Some("nats://127.0.0.1:4222"),
        doc: "servers, separated by commas, without a name or password",
    },
    nats(
        "nats.creds",
        Some("NATS_CREDS"),
        "nats-creds",
        |flags| flags.nats_creds.as_deref(),
        "credentials file: user JWT and seed",
    ),
    nats(
        "nats.nkey",
        Some("NATS_NKEY"),
        "nats-nkey",
        |flags| flags.nats_nkey.as_deref(),
        "file with an nkey seed",
    ),
    nats(
        "nats.token_file",
        None,
        "nats-token-file",
        |flags| flags.nats_token_file.as_deref(),
        "file with a token",
    ),
    nats(
        "nats.user",
        None,
        "nats-user",
        |flags| flags.nats_user.as_deref(),
        "user name",
    ),
    nats(
        "nats.password_file",
        None,
        "nats-password-file",
        |flags| flags.nats_password_file.as_deref(),
        "file with the user's password",
    ),
    nats(
        "nats.js_domain",
        None,
        "nats-js-domain",
        |flags| flags.nats_js_domain.as_deref(),
        "JetStream domain",
    ),
    plain(
        "nats.inbox_prefix",
        "_INBOX_results_projector",
        "answers come to subjects that begin with this; outside _INBOX, which others may read",
    ),
    Setting {
        key: "nats.monitor_url",
        env: None,
        flag: None,
        given: |_| None,
        default: None,
        doc: "http://HOST:PORT of the server's monitoring: after a full disk only that says that it refuses publishes",
    },
    nats(
        "nats.ca",
        Some("NATS_CA"),
        "nats-ca",
        |flags| flags.nats_ca.as_deref(),
        "certificates that the server's is checked against",
    ),
    nats(
        "nats.cert",
        Some("NATS_CERT"),
        "nats-cert",
        |flags| flags.nats_cert.as_deref(),
        "client certificate",
    ),
    nats(
        "nats.key",
        Some("NATS_KEY"),
        "nats-key",
        |flags| flags.nats_key.as_deref(),
        "key of the client certificate",
    ),
    plain(
        "source.consumer_prefix",
        "results_projector",
        "our durable consumers' names begin with this",
    ),
    plain(
        "source.ack_wait",
        "5 min",
        "the server delivers again what is not acked for so long",
    ),
    plain("source.heartbeat", "3 s", "between the server's idle heartbeats"),
    plain("source.expires", "15 s", "life of one pull request"),
    plain(
        "source.batch_messages",
        "5000",
        "messages a pull request asks for",
    ),
    plain(
        "source.batch_bytes",
        "8 MiB",
        "bytes a pull request asks for; at least the server's max_payload is asked",
    ),
    plain(
        "source.in_flight_bytes",
        "128 MiB",
        "messages between the server and their commit, with what they cost in memory",
    ),
    plain(
        "source.check_interval",
        "30 s",
        "between two checks of a reader that may have stalled",
    ),
    plain("outputs.max_bytes", "64 MiB", "longest output that is fetched"),
    plain(
        "outputs.in_flight_bytes",
        "64 MiB",
        "outputs between the object store and their commit",
    ),
    plain(
        "outputs.concurrency",
        "64",
        "outputs looked for, and read, at once, at most: as many as are answered quickly",
    ),
    plain(
        "outputs.idle_timeout",
        "2 s",
        "longest silence of the object store within a fetch",
    ),
    plain(
        "outputs.base_timeout",
        "2 s",
        "longest fetch, besides the time for its size",
    ),
    plain(
        "outputs.min_rate",
        "10 MB",
        "bytes a second: an output's size divided by this lengthens its limit",
    ),
    plain(
        "outputs.give_up_after",
        "30 days",
        "an output pending for longer counts as gone",
    ),
    plain(
        "outputs.repair_in_flight_bytes",
        "64 MiB",
        "outputs that are fetched late, at once",
    ),
    plain("group.max_rows", "20000", "items in one transaction"),
    plain("group.max_bytes", "32 MiB", "payload in one transaction"),
    plain(
        "group.max_time",
        "250 ms",
        "longest transaction on the backend's own file, which others write too",
    ),
    plain(
        "retention.execution_results",
        "off",
        "results older than this are deleted from a database of our own; at least 30 days, which is as long as RESULTS keeps \
         them; in the backend's own file the backend deletes",
    ),
    plain(
        "retention.inventory_history",
        "off",
        "the same for events of the history",
    ),
    plain(
        "observe.listen",
        "127.0.0.1:9464",
        "address and port of the status page, /metrics, /readyz and /healthz; off: none",
    ),
    plain(
        "observe.ready_lag",
        "5 min",
        "further behind than this is not ready",
    ),
    plain(
        "dead_letters.max_bytes",
        "1 GiB",
        "payloads and headers that the dead-letter book keeps; beyond it the stream holds them",
    ),
    Setting {
        key: "log.format",
        env: None,
        flag: Some("log-format"),
        given: |flags| flags.log_format.as_deref(),
        default: Some("text"),
        doc: "text, json or journald, on stderr",
    },
    plain("log.level", "info", "error, warn, info, debug or trace"),
];
