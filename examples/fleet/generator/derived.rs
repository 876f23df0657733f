//! What a projector makes more of than rows: start events, scans, checks, feeds, snapshots. All of it has dice of its
//! own, so that the plain results stay the same bytes.

use bytes::Bytes;
use chrono::{DateTime, Duration, SecondsFormat};
use serde_json::{Value, json};

use super::machines::{List, Machine, Verdict};
use super::manifests::{BITLOCKER, DEFENDER, DISKS, KEV, SOFTWARE, version};
use super::{Dice, Kind, Planned, Profile, sha, text, time};

/// Messages that lie between one and what comes late after it, at most.
const LATE: u64 = 200;

/// Dice for each kind: switching one on leaves the others as they are.
fn dice(seed: u64, kind: Kind) -> Dice {
    Dice::new(seed.wrapping_add((kind as u64) << 40))
}

/// Mixes everything else that the profile asks for into its results.
pub(super) fn add(seed: u64, profile: &Profile, results: Vec<Planned>) -> Vec<Planned> {
    let mut extra = Extra {
        messages: Vec::new(),
        profile,
    };
    scans(&mut dice(seed, Kind::Inventory), &mut extra);
    checks(&mut dice(seed, Kind::Check), &mut extra);
    feeds(&mut dice(seed, Kind::Feed), &mut extra);
    snapshots(&mut dice(seed, Kind::Snapshot), &mut extra);
    let all = extra.mixed_into(results);
    if profile.started_permille == 0 {
        return all;
    }
    let mut extra = Extra {
        messages: Vec::new(),
        profile,
    };
    starts(&mut dice(seed, Kind::Started), &mut extra, &all);
    extra.mixed_into(all)
}

/// Messages with the place among the others before which each goes.
struct Extra<'a> {
    messages: Vec<(u64, Planned)>,
    profile: &'a Profile,
}

impl Extra<'_> {
    /// With its duplicate, now and then.
    fn put(&mut self, dice: &mut Dice, at: u64, planned: Planned) {
        if dice.permille(self.profile.duplicate_permille) {
            let late = at + 1 + dice.below(LATE);
            self.messages.push((late, planned.again()));
        }
        self.messages.push((at, planned));
    }

    /// Where the one of so many goes, evenly.
    fn place(&self, number: usize, of: usize) -> u64 {
        (number * self.profile.results / of.max(1)) as u64
    }

    /// Every PC again and again: number of the round, the PC's index and name, the place.
    fn rounds(&self, rounds: usize) -> Vec<(usize, usize, String, u64)> {
        let pcs = self.profile.pcs.max(1);
        (0..rounds * pcs)
            .map(|number| {
                let (round, pc) = (number / pcs, number % pcs);
                (
                    round,
                    pc,
                    format!("PC-{:04}", pc + 1),
                    self.place(number, rounds * pcs),
                )
            })
            .collect()
    }

    fn mixed_into(mut self, others: Vec<Planned>) -> Vec<Planned> {
        // Stable: of one place, in the order in which they were put.
        self.messages.sort_by_key(|(at, _)| *at);
        let mut mixed = Vec::with_capacity(others.len() + self.messages.len());
        let mut extra = self.messages.into_iter().peekable();
        for (place, other) in others.into_iter().enumerate() {
            while let Some((_, planned)) = extra.next_if(|(at, _)| *at <= place as u64) {
                mixed.push(planned);
            }
            mixed.push(other);
        }
        mixed.extend(extra.map(|(_, planned)| planned));
        mixed
    }
}

/// Where a run's stdout is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stdout {
    Inline,
    Object,
    Missing,
}

struct Run<'a> {
    job: &'a str,
    /// Of the broadcast, shared by all PCs.
    request: &'a str,
    round: usize,
    pc_id: &'a str,
    at: u64,
    exit_code: i32,
    skipped: bool,
    stdout: String,
    stderr: &'a str,
}

impl Run<'_> {
    fn planned(self, dice: &mut Dice, kind: Kind, place: Stdout) -> Planned {
        let result_id = dice.uuid();
        let mut fields = json!({
            "result_id": result_id, "request_id": self.request, "exec_id": format!("exec-{}-{}", self.job, self.round),
            "pc_id": self.pc_id, "manifest_id": self.job, "exit_code": self.exit_code, "skipped": self.skipped,
            "stdout": self.stdout, "stderr": self.stderr, "started_at": time(self.at / 20, self.at % 1_000),
            "finished_at": time(self.at / 20 + 1 + dice.below(20), dice.below(1_000)),
        });
        let name = format!("{}/{}/stdout", self.request, self.pc_id);
        if place != Stdout::Inline {
            fields["stdout"] = json!("");
            fields["stdout_object"] = json!(name);
        }
        let subject = format!("results.{}", self.request);
        let mut planned = Planned {
            result_id: Some(result_id),
            stdout_sha256: sha(&self.stdout),
            stderr_sha256: sha(self.stderr),
            ..Planned::new(kind, subject, fields.to_string())
        };
        match place {
            Stdout::Inline => {}
            Stdout::Object => planned.objects = vec![(name, Bytes::from(self.stdout))],
            Stdout::Missing => {
                planned.kind = Kind::Missing;
                planned.missing = vec![name];
                planned.stdout_sha256 = None;
            }
        }
        planned
    }
}

/// One script prints its document between log lines, the other nothing else.
fn scans(dice: &mut Dice, extra: &mut Extra) {
    let profile = extra.profile;
    let rounds = extra.rounds(profile.scans);
    let missing_every = (rounds.len() / profile.missing_scans.max(1)).max(1);
    let mut machines: Vec<Machine> = Vec::new();
    let (mut requests, mut missing) = ([String::new(), String::new()], 0);
    for (number, (round, pc, pc_id, at)) in rounds.into_iter().enumerate() {
        if pc == 0 {
            requests = [dice.uuid(), dice.uuid()];
        }
        match machines.get_mut(pc) {
            Some(machine) => machine.change(dice),
            None => machines.push(Machine::new(dice, &pc_id)),
        }
        let documents = [machines[pc].software(dice), machines[pc].disks(dice)];
        let stdouts = [
            fenced(dice, "INVENTORY", pc, &documents[0]),
            format!("{:#}\n", documents[1]),
        ];
        for ((job, request), stdout) in [SOFTWARE, DISKS].into_iter().zip(&requests).zip(stdouts) {
            let mut run = Run {
                job,
                request,
                round,
                pc_id: &pc_id,
                at,
                exit_code: 0,
                skipped: false,
                stdout,
                stderr: "",
            };
            let mut place = Stdout::Inline;
            if job == SOFTWARE
                && missing < profile.missing_scans
                && number % missing_every == missing_every / 2
            {
                missing += 1;
                place = Stdout::Missing;
            } else if job == SOFTWARE && dice.permille(profile.overflow_permille) {
                let (from, to) = profile.overflow_bytes;
                let size = from + dice.below((to - from).max(1) as u64) as usize;
                run.stdout.insert_str(0, &text(dice, size));
                place = Stdout::Object;
            }
            match dice.below(200) {
                0 | 1 => (run.exit_code, run.stderr) = (1, "Get-CimInstance : Access is denied.\n"),
                // The script died in the middle of its document and did not say so.
                2 if place == Stdout::Inline => run.stdout = run.stdout.chars().take(400).collect(),
                _ => {}
            }
            let planned = run.planned(dice, Kind::Inventory, place);
            extra.put(dice, at, planned);
        }
    }
}

fn fenced(dice: &mut Dice, marker: &str, pc: usize, document: &Value) -> String {
    // Half of the fleet ends its lines as Windows does.
    let end = if pc.is_multiple_of(2) { "\r\n" } else { "\n" };
    let seconds = dice.below(40);
    format!(
        "looking around{end}#KANADE-{marker}-BEGIN{end}{document}{end}#KANADE-{marker}-END{end}done after {seconds} s{end}"
    )
}

fn checks(dice: &mut Dice, extra: &mut Extra) {
    let mut verdicts: Vec<[Verdict; 2]> = Vec::new();
    let mut requests = [String::new(), String::new()];
    for (round, pc, pc_id, at) in extra.rounds(extra.profile.checks) {
        if pc == 0 {
            requests = [dice.uuid(), dice.uuid()];
        }
        if pc == verdicts.len() {
            verdicts.push([Verdict::new(dice), Verdict::new(dice)]);
        }
        for (job, request) in [BITLOCKER, DEFENDER].into_iter().zip(&requests) {
            let verdict = &mut verdicts[pc][usize::from(job == DEFENDER)];
            if dice.permille(80) {
                *verdict = Verdict::new(dice);
            }
            let stdout = if job == BITLOCKER {
                verdict.bitlocker().to_string()
            } else {
                fenced(dice, "CHECK", pc, &verdict.defender())
            };
            let mut run = Run {
                job,
                request,
                round,
                pc_id: &pc_id,
                at,
                exit_code: 0,
                skipped: false,
                stdout,
                stderr: "",
            };
            match dice.below(100) {
                0 | 1 => {
                    (run.exit_code, run.stderr) =
                        (1, "Zugriff verweigert: der Dienst läßt sich nicht öffnen.\n");
                    run.stdout.clear();
                }
                // Says nothing about the PC.
                2 | 3 => {
                    (run.exit_code, run.skipped) = (124, true);
                    run.stdout.clear();
                }
                4 => run.stdout = "WARNING: the module could not be loaded\n".into(),
                _ => {}
            }
            let planned = run.planned(dice, Kind::Check, Stdout::Inline);
            extra.put(dice, at, planned);
        }
    }
}

fn feeds(dice: &mut Dice, extra: &mut Extra) {
    let mut list = List::new(dice);
    for round in 0..extra.profile.feeds {
        let at = extra.place(round, extra.profile.feeds);
        let stdout = fenced(dice, "FEED", 0, &list.document());
        let request = dice.uuid();
        let mut run = Run {
            job: KEV,
            request: &request,
            round,
            pc_id: "PC-0001",
            at,
            exit_code: 0,
            skipped: false,
            stdout,
            stderr: "",
        };
        if dice.below(8) == 0 {
            (run.exit_code, run.stderr) = (1, "The operation has timed out.\n");
            run.stdout.clear();
        }
        let planned = run.planned(dice, Kind::Feed, Stdout::Inline);
        extra.put(dice, at, planned);
        list.change(dice);
    }
}

/// Of ten PCs whose agents are from before 0.14.
fn snapshots(dice: &mut Dice, extra: &mut Extra) {
    let all = extra.profile.legacy_inventory;
    for number in 0..all {
        let at = extra.place(number, all);
        let pc_id = format!("OLD-{:04}", number % 10 + 1);
        let mut inventory = json!({
            "pc_id": pc_id, "hostname": pc_id, "os_name": "Windows 10 Pro", "os_version": "10.0.19045",
            "os_build": "19045", "cpu_model": "Core i5-6500", "cpu_cores": 4, "ram_bytes": 8_u64 << 30,
            "disks": [{
                "device_id": "C:", "size_bytes": 256_000_000_000_u64,
                "free_bytes": dice.below(256_000_000_000), "file_system": "NTFS",
            }],
            "collected_at": time(at / 20, dice.below(1_000)),
        });
        if number % 4 == 3 {
            inventory["os_build"] = Value::Null;
            inventory["disks"] = json!([]);
        }
        let planned = Planned::new(
            Kind::Snapshot,
            format!("inventory.{pc_id}.hw"),
            inventory.to_string(),
        );
        extra.put(dice, at, planned);
    }
    if all > 0 && extra.profile.malformed > 0 {
        let planned = Planned::new(
            Kind::Malformed,
            "inventory.OLD-0001.hw".into(),
            "{\"pc_id\":\"OLD-0001\"}",
        );
        extra.messages.push((extra.place(1, 2), planned));
    }
}

/// Start events: most before their results, some after, some of runs that never end. Each stream has a clock and a queue
/// of its own at the server, so in a burst more come late than are planned to.
fn starts(dice: &mut Dice, extra: &mut Extra, others: &[Planned]) {
    for (at, planned) in others.iter().enumerate() {
        let (at, result) = (at as u64, launched(planned));
        if let Some(result) = &result
            && dice.permille(extra.profile.started_permille)
        {
            let late = if dice.permille(100) {
                1 + dice.below(LATE)
            } else {
                0
            };
            let started = start(dice, result, None);
            extra.put(dice, at + late, started);
        }
        if let Some(result) = &result
            && dice.permille(4)
        {
            let id = dice.uuid();
            let started = start(dice, result, Some(id));
            extra.put(dice, at, started);
        }
        if dice.permille(4) {
            let pc = dice.below(extra.profile.pcs.max(1) as u64) + 1;
            let subject = format!("events.notifications.acked.PC-{pc:04}");
            let payload = json!({"notification": dice.uuid()}).to_string();
            extra
                .messages
                .push((at, Planned::new(Kind::Ignored, subject, payload)));
        }
    }
    if extra.profile.malformed > 0 {
        let planned = Planned::new(
            Kind::Malformed,
            "events.started.exec-0.PC-0001".into(),
            "{\"exec_id\":\"exec-0\"}",
        );
        extra.messages.push((others.len() as u64 / 2, planned));
    }
}

/// The result's fields, where an agent has sent a start event before it: not for ad-hoc runs, skips, refusals, finalize
/// hooks, nor by agents that knew no result ids.
fn launched(planned: &Planned) -> Option<Value> {
    if planned.kind == Kind::Duplicate {
        return None;
    }
    let result: Value = serde_json::from_slice(&planned.payload).ok()?;
    let launched = result["result_id"].is_string()
        && result["exec_id"].is_string()
        && result["parent_result_id"].is_null()
        && result["skipped"] == false
        && result["exit_code"] != 123;
    launched.then_some(result)
}

/// The start event of a result, or under another id that of a run beside it.
fn start(dice: &mut Dice, result: &Value, other_id: Option<String>) -> Planned {
    let field = |name: &str| result[name].as_str().unwrap_or_default();
    let request_id = other_id.clone().unwrap_or_else(|| field("request_id").to_owned());
    let id = other_id.unwrap_or_else(|| field("result_id").to_owned());
    // The script is launched some time before the agent begins to count.
    let before = Duration::milliseconds(dice.below(40) as i64);
    let started_at = DateTime::parse_from_rfc3339(field("started_at"))
        .map(|at| {
            (at - before)
                .to_utc()
                .to_rfc3339_opts(SecondsFormat::AutoSi, true)
        })
        .unwrap_or_default();
    let payload = json!({
        "result_id": id, "request_id": request_id, "exec_id": field("exec_id"), "pc_id": field("pc_id"),
        "manifest_id": field("manifest_id"), "version": version(field("manifest_id")), "started_at": started_at,
    });
    Planned {
        started_id: Some(id),
        ..Planned::new(
            Kind::Started,
            format!("events.started.{}.{}", field("exec_id"), field("pc_id")),
            payload.to_string(),
        )
    }
}
