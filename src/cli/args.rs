//! Arguments of single commands.

use clap::Args;

use super::StateArg;

/// Which dead letters.
#[derive(Clone, Debug, Default, Args)]
pub struct LetterArgs {
    /// The stream
    #[arg(value_name = "STREAM", requires = "seqs", conflicts_with_all = ["all", "of"])]
    pub stream: Option<String>,
    /// Stream sequences
    #[arg(value_name = "SEQ")]
    pub seqs: Vec<u64>,
    /// All that are kept
    #[arg(long)]
    pub all: bool,
    /// With --all: of this stream only
    #[arg(long = "stream", id = "of", value_name = "NAME", requires = "all")]
    pub of: Option<String>,
    /// Of this life of the stream's sequences (default: the newest that has the sequence; with --all: every one)
    #[arg(long, value_name = "N")]
    pub incarnation: Option<u64>,
    /// One JSON document
    #[arg(long)]
    pub json: bool,
}

/// Which outputs.
#[derive(Clone, Debug, Default, Args)]
pub struct OutputArgs {
    /// Of this result
    #[arg(long, value_name = "ID")]
    pub result: Option<String>,
    /// Only its stdout or its stderr
    #[arg(long, value_name = "FIELD", requires = "result", value_parser = ["stdout", "stderr"])]
    pub field: Option<String>,
    /// All in this state: pending, gone or too_large; a refused output is never asked for
    #[arg(long, value_enum, conflicts_with_all = ["result", "all"])]
    pub state: Option<StateArg>,
    /// All that are missing, but for refused ones
    #[arg(long, conflicts_with = "result")]
    pub all: bool,
    /// One JSON document
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `run`.
#[derive(Debug, Default, Args)]
pub struct RunArgs {
    /// Stop when every stream's position has reached its end as seen at the start, and each pending output had one
    /// more attempt; print what is still owed
    #[arg(long)]
    pub until_caught_up: bool,
    /// Take our consumers even from a process that is using them
    #[arg(long)]
    pub take_over_consumers: bool,
    /// Create streams and the object store where the backend has not yet
    #[arg(long)]
    pub create_missing: bool,
}

/// Arguments of `detach`.
#[derive(Debug, Default, Args)]
pub struct DetachArgs {
    /// Yes, that is meant
    #[arg(long)]
    pub yes: bool,
    /// Ask nothing of the server: it is gone for good, or its consumers were deleted already
    #[arg(long)]
    pub database_only: bool,
}

/// Arguments of `rebuild`.
#[derive(Debug, Default, Args)]
pub struct RebuildArgs {
    /// Take nothing from the old file but the completions, without which jobs would run again on the fleet
    #[arg(long)]
    pub no_carry_over: bool,
    /// With --no-carry-over: not even those
    #[arg(long, requires = "no_carry_over")]
    pub forget_completions: bool,
    /// Keep the old file beside the new one, its name with the time
    #[arg(long)]
    pub keep_old: bool,
    /// Put the copy of the backend's own file that an earlier rebuild has left in that file's place
    #[arg(long, conflicts_with_all = ["no_carry_over", "json"])]
    pub swap: bool,
    /// One JSON document, no progress
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `replay`.
#[derive(Debug, Default, Args)]
pub struct ReplayArgs {
    /// Only results from this sequence of RESULTS on
    #[arg(long, value_name = "N", conflicts_with = "job")]
    pub from_seq: Option<u64>,
    /// Only results published since then, for instance 2026-06-01T00:00:00Z
    #[arg(long, value_name = "TIME", conflicts_with = "job")]
    pub since: Option<String>,
    /// Only the derived tables of this job, from the results that the database holds, under the hints of now
    #[arg(long, value_name = "ID")]
    pub job: Option<String>,
    /// One JSON document, no progress
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `verify`.
#[derive(Debug, Default, Args)]
pub struct VerifyArgs {
    /// A quick look: so many results, chosen at random, each row against its message
    #[arg(long, value_name = "N")]
    pub sample: Option<usize>,
    /// One JSON document, no progress
    #[arg(long)]
    pub json: bool,
}
