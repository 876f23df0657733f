//! The command line as written: names, help, exit codes. Knows neither NATS nor SQLite.

mod args;
pub mod pages;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

pub use self::args::{DetachArgs, LetterArgs, OutputArgs, RebuildArgs, ReplayArgs, RunArgs, VerifyArgs};

const EXIT_CODES: &str = "Examples:
  results-projector run
  results-projector status
  results-projector doctor

Exit codes:
  0  good
  1  the answer is bad
  2  usage, configuration, database in use, newer schema, somebody else's consumer
  3  the outside is unavailable: no server, no disk";

/// Projects kanade's result streams from NATS JetStream into SQLite: nothing lost, nothing twice.
#[derive(Debug, Parser)]
#[command(name = "results-projector", version, propagate_version = true, after_help = EXIT_CODES)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Reads a command line; `--version` says `long_version`, `-V` its first line.
    ///
    /// # Errors
    /// What is wrong with it; also help and version, which clap prints as it prints errors.
    pub fn read(
        args: impl IntoIterator<Item = OsString>,
        long_version: &'static str,
    ) -> Result<Self, clap::Error> {
        let mut command = Self::command().long_version(long_version);
        let mut matches = command.try_get_matches_from_mut(args)?;
        Self::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
    }
}

impl Command {
    /// Whether it does anything with a configuration: what packages are made with runs where there is none, or a wrong one.
    #[must_use]
    pub fn needs_configuration(&self) -> bool {
        !matches!(
            self,
            Self::Completions { .. } | Self::Man { .. } | Self::Config(ConfigCommand::Example)
        )
    }
}

/// Flags of every command. They beat the environment, which beats the file, which beats the defaults.
#[derive(Clone, Debug, Default, Args)]
pub struct GlobalArgs {
    /// Configuration file (default: /etc/results-projector/config.toml, where it exists)
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "RESULTS_PROJECTOR_CONFIG",
        hide_env_values = true
    )]
    pub config: Option<PathBuf>,
    /// The database [env: RESULTS_PROJECTOR_DB]
    #[arg(long, global = true, value_name = "FILE")]
    pub db: Option<String>,
    /// NATS servers, separated by commas [env: NATS_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub nats_url: Option<String>,
    /// Credentials file: user JWT and seed [env: NATS_CREDS]
    #[arg(long, global = true, value_name = "FILE")]
    pub nats_creds: Option<String>,
    /// File with an nkey seed [env: NATS_NKEY]
    #[arg(long, global = true, value_name = "FILE")]
    pub nats_nkey: Option<String>,
    /// File with a token [env: RESULTS_PROJECTOR_NATS_TOKEN_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub nats_token_file: Option<String>,
    /// User name; the password comes from a file [env: RESULTS_PROJECTOR_NATS_USER]
    #[arg(long, global = true, value_name = "NAME")]
    pub nats_user: Option<String>,
    /// File with the user's password [env: RESULTS_PROJECTOR_NATS_PASSWORD_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub nats_password_file: Option<String>,
    /// JetStream domain [env: RESULTS_PROJECTOR_NATS_JS_DOMAIN]
    #[arg(long, global = true, value_name = "NAME")]
    pub nats_js_domain: Option<String>,
    /// Certificates that the server's is checked against [env: NATS_CA]
    #[arg(long, global = true, value_name = "FILE")]
    pub nats_ca: Option<String>,
    /// Client certificate [env: NATS_CERT]
    #[arg(long, global = true, value_name = "FILE")]
    pub nats_cert: Option<String>,
    /// Key of the client certificate [env: NATS_KEY]
    #[arg(long, global = true, value_name = "FILE")]
    pub nats_key: Option<String>,
    /// How log lines look on stderr [env: RESULTS_PROJECTOR_LOG_FORMAT]
    #[arg(long, global = true, value_name = "FORMAT", value_parser = ["text", "json", "journald"])]
    pub log_format: Option<String>,
    /// More log lines; twice: each message
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Fewer log lines; twice: errors only
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "verbose")]
    pub quiet: u8,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Project the streams into the database: the service
    ///
    /// Reads RESULTS, EVENTS and INVENTORY from their positions in the database, follows pointers into the object store, writes
    /// rows and positions in one transaction, and acknowledges what is committed. Waits for a server that is away. Serves the
    /// status page, /metrics and /readyz (observe.listen). SIGTERM ends it within five seconds.
    #[command(after_help = concat!("Examples:
  results-projector run --db /var/lib/results-projector/results.db
  results-projector run --until-caught-up --nats-url nats://10.0.0.5:4222

Exit codes: 0 stopped or caught up; 2 configuration, database in use, damaged or of a newer schema, somebody else's consumer, wrong \
retention; 3 no server (with --until-caught-up), or the database or its log was moved or replaced"))]
    Run(RunArgs),
    /// Make the database anew from the streams, in bulk, keeping what only the old file knows
    ///
    /// Loads a side file from the first message of every stream, carries over what no message holds any more (rows older
    /// than the stream, outputs that expired, completions), proves it, and puts it in the old file's place by one rename.
    /// Until then the old file is as it was, whatever happens. The service must be stopped. The backend's own file is
    /// refilled in a copy, with the backend stopped too, and --swap puts the copy in its place.
    #[command(after_help = "Examples:
  results-projector rebuild --db /var/lib/results-projector/results.db
  results-projector rebuild --keep-old

Exit codes: 0 the new file is in place; 2 the database is in use, or cannot be carried over; 3 no server, no disk, or \
stopped: the old file is as it was")]
    Rebuild(RebuildArgs),
    /// Mend the database in place: what differs from the streams is written anew, and nothing else
    ///
    /// Loads a side file from the streams, compares, and writes what differs: rows deleted or changed by hand, outputs that
    /// came back, derived tables under changed hints. What no message holds any more is left as it is. Where nothing was
    /// wrong, nothing changes. The service must be stopped.
    #[command(after_help = "Examples:
  results-projector replay
  results-projector replay --from-seq 120000
  results-projector replay --since 2026-06-01T00:00:00Z --json
  results-projector replay --job disk-inventory

Exit codes: 0 done; 2 the database is in use, or the job of --job has no hints; 3 no server, no disk, or stopped: nothing \
was changed")]
    Replay(ReplayArgs),
    /// Prove the database right against the streams, or name what differs
    ///
    /// Works beside the running service. Loads a side file from the streams up to exactly where the database stands, and
    /// compares every table. What the streams hold no more is vouched for by the database only: counted, no difference.
    #[command(after_help = "Examples:
  results-projector verify
  results-projector verify --sample 500
  results-projector verify --json | python3 -m json.tool

Exit codes: 0 nothing differs; 1 something does, named by row and column; 2 no usable database; 3 no server, no disk")]
    Verify(VerifyArgs),
    /// Show how far each stream is, what failed and what is missing
    ///
    /// Reads the database, also while the service runs; asks the server for the streams' ends where it answers.
    #[command(after_help = "Examples:
  results-projector status
  results-projector status --json | python3 -m json.tool

Exit codes: 0 shown; 2 no usable database; 3 it cannot be read")]
    Status {
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
    /// Look at messages that could not be projected, try them again, or give them up
    ///
    /// They are kept whole, each with its reason, and never hold back their neighbours.
    #[command(
        subcommand,
        after_help = "Examples:
  results-projector dead-letters list
  results-projector dead-letters retry --all

Exit codes: see each command"
    )]
    DeadLetters(DeadLetters),
    /// Look at outputs behind pointers that are missing, or ask for them again
    #[command(
        subcommand,
        after_help = "Examples:
  results-projector outputs list --state pending
  results-projector outputs retry --all

Exit codes: see each command"
    )]
    Outputs(Outputs),
    /// Copy the live database, checked before it is called done
    ///
    /// Works with the service running or stopped, and never writes to the database. The copy is written to FILE.part and
    /// takes its name once it is whole, sound and on disk; a backup that fails or is killed leaves no FILE. A restored copy
    /// catches up by itself: the streams bring what is missing.
    #[command(after_help = "Examples:
  results-projector backup /var/backups/results.db
  results-projector backup --force --json /mnt/backup/results.db

Exit codes: 0 done; 2 FILE is there already, or no usable database; 3 no space, or it cannot be read or written")]
    Backup {
        /// Where to
        file: PathBuf,
        /// Replace FILE where it is there
        #[arg(long)]
        force: bool,
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
    /// Leave the backend's own file, and the server, as if the service had never been there
    ///
    /// Deletes our consumers, and drops our tables from an adopted file: positions, dead letters, what is still owed. What was
    /// projected stays. A database of our own is left as it is. The service must be stopped. Asks first.
    #[command(after_help = "Examples:
  results-projector --db /var/lib/kanade/kanade.db detach
  results-projector --db /var/lib/kanade/kanade.db detach --yes --database-only

Exit codes: 0 done; 1 the answer was no; 2 nobody to ask and no --yes, no usable database, or it is in use; 3 no server, or \
it does not delete a consumer: then the tables are still there")]
    Detach(DetachArgs),
    /// Write the read model as canonical text, by which two databases are compared
    ///
    /// A line of JSON a table, {"table":…,"columns":[…]}, then one a row: the values of the columns. Rows come in the order
    /// of their keys; rowids, the ids of history rows and the projector's own books are left out.
    #[command(after_help = "Examples:
  results-projector dump | sha256sum
  results-projector dump --table execution_results --table feeds --out results.jsonl

Exit codes: 0 written; 2 no such table, FILE.part is there already, or no usable database; 3 it cannot be read or \
written")]
    Dump {
        /// Only this table; may be repeated
        #[arg(long, value_name = "NAME")]
        table: Vec<String>,
        /// Into a file, which is there once it is whole (default: stdout)
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Look at the world outside, and say what is wrong with it, why it matters and what to do
    ///
    /// Every stream, bucket and object store of kanade against what its backend makes; permissions, tried one by one; the
    /// backend's own projector; clocks; configuration keys that nobody reads; documents that drifted apart; revoked scripts
    /// that still run; PCs that never sent a result; stores that fill up; outputs that expire before their messages. Changes
    /// nothing, works beside the running service, and tells what it may not look at. With -v it also lists what is good.
    #[command(after_help = "Examples:
  results-projector doctor
  results-projector doctor --nats-user admin --nats-password-file admin.password -v
  results-projector doctor --json | python3 -m json.tool

Exit codes: 0 nothing is bad; 1 something is; 2 usage, configuration; 3 no server: the rest is told")]
    Doctor {
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
    /// Check or show the configuration
    #[command(
        subcommand,
        after_help = "Examples:
  results-projector config check
  results-projector config show

Exit codes: see each command"
    )]
    Config(ConfigCommand),
    /// Print the script that completes commands and flags in a shell
    ///
    /// Needs no configuration, no database and no server.
    #[command(after_help = "Examples:
  results-projector completions bash > /usr/share/bash-completion/completions/results-projector
  results-projector completions zsh > ~/.zfunc/_results-projector

Exit codes: 0 printed; 2 no such shell; 3 it cannot be written")]
    Completions {
        /// Of which shell
        shell: Shell,
    },
    /// Print the manual page, or write all of them, one a command
    ///
    /// Needs no configuration, no database and no server.
    #[command(after_help = "Examples:
  results-projector man | man -l -
  results-projector man --out /usr/local/share/man/man1

Exit codes: 0 written; 3 it cannot be written")]
    Man {
        /// Into this folder, as results-projector-COMMAND.1
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

/// Arguments of `dead-letters`.
#[derive(Debug, Subcommand)]
pub enum DeadLetters {
    /// List them in stream order
    #[command(after_help = "Examples:
  results-projector dead-letters list
  results-projector dead-letters list --stream RESULTS --limit 20 --json

Exit codes: 0 listed (none is good too); 2 no usable database; 3 it cannot be read")]
    List {
        /// One JSON document
        #[arg(long)]
        json: bool,
        /// Of one stream only
        #[arg(long, value_name = "NAME")]
        stream: Option<String>,
        /// At most so many
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
    },
    /// Show one, whole; control characters are escaped
    #[command(after_help = "Examples:
  results-projector dead-letters show RESULTS 4711
  results-projector dead-letters show RESULTS 4711 --json

Exit codes: 0 shown; 1 there is none; 2 no usable database; 3 it cannot be read")]
    Show {
        /// The stream
        stream: String,
        /// Its stream sequence
        seq: u64,
        /// Of this life of the stream's sequences (default: the newest)
        #[arg(long, value_name = "N")]
        incarnation: Option<u64>,
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
    /// Project them again, as after an upgrade
    ///
    /// What can be projected now becomes what it would have been in its turn, and leaves the book; the rest is kept with the
    /// reason of now. Of several messages with one result id the first in the stream counts. The position does not move.
    /// Done by the running service, or, when none runs, by this command. A discarded one is tried only when it is named.
    #[command(after_help = "Examples:
  results-projector dead-letters retry RESULTS 4711 4712
  results-projector dead-letters retry --all --stream RESULTS --json

Exit codes: 0 all were projected (none is good too); 1 some are still dead letters, or not there; 2 usage, no usable \
database, or it is in use by a service that takes no requests; 3 no server, or the service does not answer")]
    Retry(LetterArgs),
    /// Give them up: they stay in the book, marked, and count no more
    ///
    /// Whoever meets the message again, in a restored stream or a replay, leaves it. Done by the running service, or, when
    /// none runs, by this command.
    #[command(after_help = "Examples:
  results-projector dead-letters discard RESULTS 4711
  results-projector dead-letters discard --all --yes

Exit codes: 0 discarded; 1 some are not there; 2 usage, --all without --yes, no usable database, or it is in use by a \
service that takes no requests; 3 the service does not answer")]
    Discard {
        /// Which ones
        #[command(flatten)]
        which: LetterArgs,
        /// Yes, all of them
        #[arg(long)]
        yes: bool,
    },
}

/// Arguments of `outputs`.
#[derive(Debug, Subcommand)]
pub enum Outputs {
    /// List outputs that are not fetched, or those in one state
    #[command(after_help = "Examples:
  results-projector outputs list
  results-projector outputs list --state gone --limit 50 --json

Exit codes: 0 listed (none is good too); 2 no usable database; 3 it cannot be read")]
    List {
        /// One JSON document
        #[arg(long)]
        json: bool,
        /// Only this state
        #[arg(long, value_enum)]
        state: Option<StateArg>,
        /// At most so many
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
    },
    /// Ask for outputs again now
    ///
    /// What is there is written into its row, and what is derived from it follows. For an output that was too large, only
    /// raising outputs.max_bytes helps. Done by the running service, or, when none runs, by this command.
    #[command(after_help = "Examples:
  results-projector outputs retry --result 0197c2d4-5a3e-7c11-9f6e-2b8a4d1c0e55 --field stdout
  results-projector outputs retry --state gone --json

Exit codes: 0 all were fetched (none is good too); 1 some are still missing; 2 usage, no usable database, or it is in use \
by a service that takes no requests; 3 no server, or the service does not answer")]
    Retry(OutputArgs),
}

/// States of an output, as written on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum StateArg {
    /// Read whole.
    Fetched,
    /// Asked for again.
    Pending,
    /// Certainly not there any more.
    Gone,
    /// Over the limit.
    TooLarge,
    /// Another result's.
    Refused,
}

/// Arguments of `config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check the effective configuration
    #[command(after_help = "Examples:
  results-projector config check
  results-projector config check --config new.toml

Exit codes: 0 good; 2 it is not")]
    Check,
    /// Show every setting, its value and where it came from
    #[command(after_help = "Examples:
  results-projector config show
  results-projector config show --json

Exit codes: 0 shown; 2 the configuration is wrong")]
    Show {
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
    /// Print a configuration file with every setting, its default and what it is for, all commented out
    ///
    /// Needs no configuration itself.
    #[command(after_help = "Examples:
  results-projector config example > config.toml

Exit codes: 0 printed; 3 it cannot be written")]
    Example,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(command: &clap::Command, see: &mut dyn FnMut(&clap::Command)) {
        see(command);
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            walk(sub, see);
        }
    }

    #[test]
    fn every_command_and_flag_has_help_and_no_secret_is_a_flag() {
        let mut root = Cli::command();
        root.build();
        walk(&root, &mut |command| {
            assert!(
                command.get_about().is_some(),
                "{} has no help",
                command.get_name()
            );
            for arg in command.get_arguments() {
                let name = arg.get_id().as_str();
                assert!(
                    arg.get_help().is_some() || ["help", "version"].contains(&name),
                    "--{name} has no help"
                );
                for secret in ["password", "token", "seed", "nkey", "creds"] {
                    let takes_a_file = name.ends_with("_file") || ["nats_nkey", "nats_creds"].contains(&name);
                    assert!(!name.contains(secret) || takes_a_file, "--{name} takes a secret");
                }
            }
        });
    }

    #[test]
    fn the_help_of_every_command_is_as_it_was_reviewed() {
        let mut root = Cli::command().term_width(110);
        root.build();
        let mut text = String::new();
        walk(&root, &mut |command| {
            text.push_str(&format!(
                "===== {}\n{}\n",
                command.get_name(),
                command.clone().render_long_help()
            ));
        });
        insta::assert_snapshot!(text);
    }

    #[test]
    fn every_last_command_stands_in_the_table_of_the_readme() {
        let mut named = std::collections::BTreeSet::new();
        for line in include_str!("../README.md").lines() {
            let Some(cell) = line.strip_prefix("| `").and_then(|line| line.split('|').next()) else {
                continue;
            };
            // As in "`config check`, `show`" and in "`completions`, `man`".
            let first = cell.split([' ', '`']).next().unwrap_or_default();
            for name in cell.split('`').step_by(2) {
                let name = name.trim_end_matches(|c: char| c.is_uppercase() || c == ' ');
                named.extend([name.to_owned(), format!("{first} {name}")]);
            }
        }
        let mut root = Cli::command();
        root.build();
        walk(&root, &mut |command| {
            if command.get_subcommands().any(|sub| sub.get_name() != "help") {
                return;
            }
            let name = command.get_bin_name().unwrap_or_default();
            let name = name.strip_prefix("results-projector ").unwrap_or(name);
            assert!(named.contains(name), "README says nothing of {name}");
        });
    }

    #[test]
    fn every_last_command_shows_examples_and_exit_codes() {
        let mut root = Cli::command();
        root.build();
        walk(&root, &mut |command| {
            if command.get_subcommands().any(|sub| sub.get_name() != "help") {
                return;
            }
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(
                help.contains("Examples:") && help.contains("Exit codes:"),
                "{}: {help}",
                command.get_name()
            );
        });
    }
}
