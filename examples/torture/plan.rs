//! What a storm will be: from its seed alone, so that the same seed gives the same schedule.

use std::fmt;

use crate::harness::fleet::Dice;

/// One storm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    pub seed: u64,
    /// Results that the fleet publishes, besides what comes with them.
    pub results: usize,
    /// On a small file system of its own, which can be filled and made read-only; else on the machine's disk.
    pub small_disk: bool,
    /// The database is the backend's own file.
    pub adopted: bool,
    /// From how many messages on an empty database is loaded in bulk.
    pub bulk_from: u64,
    /// The first start dies in the middle of this migration.
    pub dies_in_migration: Option<u64>,
    pub acts: Vec<Act>,
}

/// A part of the fleet's messages is published while strikes fall; then all comes to rest and the world may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    /// Milliseconds before each strike.
    pub strikes: Vec<(u64, Strike)>,
    pub change: Option<Change>,
}

/// What must change nothing in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Strike {
    Kill,
    Terminate,
    /// At a named point of the code, when it is reached for the nth time.
    DieAt(&'static str, u64),
    /// For longer than the ack wait.
    Pause(u64),
    KillServer(u64),
    StopServer(u64),
    Cut,
    /// After so many more bytes: in the middle of a message.
    CutAfter(u64),
    Delay {
        each: u64,
        for_ms: u64,
    },
    Throttle {
        rate: u64,
        for_ms: u64,
    },
    DeleteConsumers,
    ObjectsAway(u64),
    DamageObjects(Damage),
    WriteLock(u64),
    /// Until the act ends.
    EndlessReader,
    DiskFull(u64),
    ReadOnly(u64),
    /// The wall clock of our process alone.
    ClockJump(i64),
    SecondInstance,
    Backup,
    /// While stopped.
    OldBackup,
    /// Under the running service.
    ReplaceFile,
    /// Of the last frames that a power failure could take: this share of them, in permille.
    CutWal(u64),
    DropDatabase,
    Rebuild(Interrupted),
    Replay,
    Verify,
    RetryAll,
}

/// How objects are damaged until the act ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    Corrupted,
    Truncated,
    WithoutChunks,
    Deleted,
}

/// How a rebuild ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupted {
    Never,
    After(u64),
    At(&'static str, u64),
}

/// What leaves the world another one, for the oracle too: everybody has read everything before it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Below a sequence that nobody has read yet.
    Purge,
    /// Messages that nobody has read yet, and some that everybody has.
    DeleteMessages,
    CopyStore,
    /// To the copy; then messages come under sequences that were used before.
    /// `true`: under the running service.
    RestoreStore(bool),
    /// `true`: under the running service.
    WipeStore(bool),
    EditManifests,
    /// Of messages that nobody has read yet, for good.
    LoseObjects(Damage),
    Reap,
    /// Old rows go.
    CleanUp,
    DeleteJob,
}

macro_rules! names {
    ($of:ty: $($pattern:pat => $name:literal),+ $(,)?) => {
        impl $of {
            /// For counting.
            pub fn name(&self) -> &'static str {
                match self { $($pattern => $name),+ }
            }
            /// Every kind there is.
            #[allow(dead_code)]
            pub const NAMES: &'static [&'static str] = &[$($name),+];
        }
    };
}

names! { Strike:
    Strike::Kill => "kill -9",
    Strike::Terminate => "SIGTERM",
    Strike::DieAt("before-commit", _) => "died before a commit",
    Strike::DieAt("after-commit", _) => "died after a commit, before its ack",
    Strike::DieAt("in-repair", _) => "died in a repair",
    Strike::DieAt("in-derivation", _) => "died deriving a pair anew",
    Strike::DieAt(_, _) => "died after a checkpoint",
    Strike::Pause(_) => "SIGSTOP beyond the ack wait",
    Strike::KillServer(_) => "server: kill -9",
    Strike::StopServer(_) => "server: stopped",
    Strike::Cut => "connection cut",
    Strike::CutAfter(_) => "connection cut in a message",
    Strike::Delay { .. } => "connection delayed",
    Strike::Throttle { .. } => "connection throttled",
    Strike::DeleteConsumers => "consumers deleted",
    Strike::ObjectsAway(_) => "object store deleted and back",
    Strike::DamageObjects(Damage::Corrupted) => "objects corrupted for a while",
    Strike::DamageObjects(Damage::Truncated) => "objects truncated for a while",
    Strike::DamageObjects(Damage::WithoutChunks) => "objects without chunks for a while",
    Strike::DamageObjects(Damage::Deleted) => "objects deleted for a while",
    Strike::WriteLock(_) => "write lock held by another process",
    Strike::EndlessReader => "reader that does not end",
    Strike::DiskFull(_) => "disk full",
    Strike::ReadOnly(_) => "disk read-only",
    Strike::ClockJump(_) => "clock jumps",
    Strike::SecondInstance => "second instance",
    Strike::Backup => "backup taken",
    Strike::OldBackup => "old backup put back",
    Strike::ReplaceFile => "file replaced under the service",
    Strike::CutWal(_) => "power failure: log cut at a frame",
    Strike::DropDatabase => "database deleted",
    Strike::Rebuild(Interrupted::Never) => "rebuild",
    Strike::Rebuild(Interrupted::After(_)) => "rebuild killed at random",
    Strike::Rebuild(Interrupted::At("before-commit", _)) => "rebuild died in the bulk load",
    Strike::Rebuild(Interrupted::At(_, _)) => "rebuild died in the swap",
    Strike::Replay => "replay",
    Strike::Verify => "verify beside it",
    Strike::RetryAll => "everything owed retried",
}

names! { Change:
    Change::Purge => "stream purged",
    Change::DeleteMessages => "messages deleted",
    Change::CopyStore => "server's store copied",
    Change::RestoreStore(_) => "server's store restored from an older copy",
    Change::WipeStore(_) => "server wiped",
    Change::EditManifests => "manifests edited",
    Change::LoseObjects(_) => "objects lost for good",
    Change::Reap => "backend's reaper",
    Change::CleanUp => "backend's cleanup",
    Change::DeleteJob => "backend's job deletion",
}

/// What may no longer happen, since it would rightly end in another database.
#[derive(Debug, Default)]
struct Allowed {
    /// Something was published that the streams no longer hold, or the backend has taken rows away.
    only_here: bool,
    /// Manifests were edited, or the backend has deleted what the streams would bring back.
    not_again: bool,
    /// Young rows have gone, which `verify` rightly misses: the backend's cleanup takes rows of 90 days ago, and a server's
    /// clock cannot be set back so far.
    cleaned: bool,
    /// The backend's own file is not ours to delete, and its rebuild is a copy that an operator swaps.
    adopted: bool,
    backup: bool,
    copy: bool,
}

/// The schedule of a storm with so many results.
pub fn schedule(seed: u64, results: usize) -> Schedule {
    let mut dice = Dice::new(seed);
    // The first numbers of neighbouring seeds resemble each other.
    for _ in 0..8 {
        dice.roll();
    }
    let small_disk = dice.below(2) == 0;
    let adopted = dice.below(5) == 0;
    let mut allowed = Allowed {
        adopted,
        ..Allowed::default()
    };
    // A database can only be put back up to the next change of the world: half of the storms begin with a backup.
    let mut first = (dice.below(2) == 0).then_some(Strike::Backup);
    allowed.backup = first.is_some();
    let acts = (0..3)
        .map(|_| {
            let strikes = (0..4 + dice.below(4))
                .map(|_| {
                    let wait = 20 + dice.below(400);
                    let next = || strike(&mut dice, &mut allowed, small_disk);
                    (wait, first.take().unwrap_or_else(next))
                })
                .collect();
            let change = (dice.below(3) > 0).then(|| change(&mut dice, &mut allowed));
            Act { strikes, change }
        })
        .collect();
    Schedule {
        seed,
        results,
        small_disk,
        adopted,
        bulk_from: [500, 50_000][dice.below(2) as usize],
        dies_in_migration: (dice.below(3) == 0).then(|| 1 + dice.below(3)),
        acts,
    }
}

fn strike(dice: &mut Dice, allowed: &mut Allowed, small_disk: bool) -> Strike {
    loop {
        let strike = match dice.below(64) {
            0..12 => Strike::Kill,
            12..15 => Strike::DieAt("before-commit", 1 + dice.below(20)),
            15..18 => Strike::DieAt("after-commit", 1 + dice.below(20)),
            18 => Strike::DieAt("in-repair", 1),
            19 => Strike::DieAt("in-derivation", 1),
            20 => Strike::DieAt("after-checkpoint", 1 + dice.below(3)),
            21 => Strike::Terminate,
            22 => Strike::Pause(2_500 + dice.below(1_500)),
            23..28 => Strike::KillServer(dice.below(800)),
            28 => Strike::StopServer(dice.below(800)),
            29..31 => Strike::Cut,
            31..33 => Strike::CutAfter(1 + dice.below(200_000)),
            33 => Strike::Delay {
                each: 5 + dice.below(60),
                for_ms: 500 + dice.below(1_000),
            },
            34 => Strike::Throttle {
                rate: 50_000 + dice.below(500_000),
                for_ms: 500 + dice.below(1_500),
            },
            35..37 => Strike::DeleteConsumers,
            37 => Strike::ObjectsAway(100 + dice.below(1_500)),
            38..40 => Strike::DamageObjects(damage(dice)),
            40 if dice.below(8) == 0 => Strike::WriteLock(30_000),
            40 | 41 => Strike::WriteLock(200 + dice.below(3_000)),
            42 => Strike::EndlessReader,
            43 | 44 if small_disk => Strike::DiskFull(300 + dice.below(1_500)),
            45 if small_disk => Strike::ReadOnly(300 + dice.below(1_500)),
            46 => {
                let far = 1 + dice.below(90 * 86_400) as i64;
                Strike::ClockJump(if dice.below(2) == 0 { far } else { -far })
            }
            47 => Strike::SecondInstance,
            48 => Strike::Backup,
            49 | 50 if allowed.backup => Strike::OldBackup,
            51 | 52 if allowed.backup => Strike::ReplaceFile,
            53..57 => Strike::CutWal(dice.below(1_001)),
            57 if !allowed.only_here && !allowed.not_again && !allowed.adopted => Strike::DropDatabase,
            58 if !allowed.not_again && !allowed.adopted => Strike::Rebuild(Interrupted::Never),
            59 | 60 if !allowed.not_again && !allowed.adopted => Strike::Rebuild(match dice.below(3) {
                0 => Interrupted::After(20 + dice.below(600)),
                1 => Interrupted::At("before-commit", 1 + dice.below(2)),
                _ => Interrupted::At(
                    ["before-release", "before-sync", "before-rename", "after-rename"]
                        [dice.below(4) as usize],
                    1,
                ),
            }),
            61 if !allowed.not_again => Strike::Replay,
            62 if !allowed.cleaned => Strike::Verify,
            63 => Strike::RetryAll,
            _ => continue,
        };
        allowed.backup |= strike == Strike::Backup;
        return strike;
    }
}

fn change(dice: &mut Dice, allowed: &mut Allowed) -> Change {
    loop {
        let change = match dice.below(12) {
            0 => Change::Purge,
            1 => Change::DeleteMessages,
            2 | 3 if !allowed.copy => Change::CopyStore,
            2..5 if allowed.copy => Change::RestoreStore(dice.below(2) == 0),
            5 => Change::WipeStore(dice.below(2) == 0),
            6 | 7 => Change::EditManifests,
            8 => Change::LoseObjects(damage(dice)),
            9 => Change::Reap,
            10 => Change::CleanUp,
            11 => Change::DeleteJob,
            _ => continue,
        };
        if change != Change::CopyStore {
            // A database of before the change cannot be put back: it would meet another world than the oracle did.
            allowed.backup = false;
            allowed.only_here = true;
        }
        allowed.copy |= change == Change::CopyStore;
        allowed.copy &= !matches!(change, Change::WipeStore(_));
        allowed.not_again |= matches!(
            change,
            Change::EditManifests | Change::CleanUp | Change::DeleteJob
        );
        allowed.cleaned |= change == Change::CleanUp;
        return change;
    }
}

fn damage(dice: &mut Dice) -> Damage {
    [
        Damage::Corrupted,
        Damage::Truncated,
        Damage::WithoutChunks,
        Damage::Deleted,
    ][dice.below(4) as usize]
}

impl Schedule {
    /// Whether a change of such a kind comes.
    pub fn changes(&self, is: impl Fn(Change) -> bool) -> bool {
        self.acts.iter().any(|act| act.change.is_some_and(&is))
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}: {} results, {}, {}, in bulk from {} messages{}",
            self.seed,
            self.results,
            if self.adopted {
                "the backend's file"
            } else {
                "a file of its own"
            },
            if self.small_disk {
                "on a small disk"
            } else {
                "on the machine's disk"
            },
            self.bulk_from,
            self.dies_in_migration
                .map_or(String::new(), |number| format!(", dies in migration {number}"))
        )?;
        for (number, act) in self.acts.iter().enumerate() {
            writeln!(f, "  act {}", number + 1)?;
            for (wait, strike) in &act.strikes {
                writeln!(f, "    after {wait} ms: {strike:?}")?;
            }
            if let Some(change) = act.change {
                writeln!(f, "    at rest: {change:?}")?;
            }
        }
        Ok(())
    }
}
