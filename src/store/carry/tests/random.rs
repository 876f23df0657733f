//! Random streams, cut at random places.

use super::*;

struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        // SplitMix64: neighbouring seeds have nothing in common.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

fn scan(dice: &mut Dice) -> String {
    let apps: Vec<Value> = (0..dice.below(4))
        .map(|_| json!({"name": format!("app-{}", dice.below(5)), "ver": dice.below(3), "size": dice.below(2)}))
        .collect();
    let status = ["ok", "warn", "fail"][dice.below(3) as usize];
    let mut scan = json!({"apps": apps, "status": status, "disks": [{"id": dice.below(2)}]});
    if dice.below(3) > 0 {
        scan["ram"] = json!(dice.below(3));
    }
    match dice.below(10) {
        0 => "no json".to_owned(),
        1 => "[]".to_owned(),
        _ => scan.to_string(),
    }
}

fn random(seed: u64, count: u64) -> Streams {
    let mut dice = Dice(seed);
    let mut streams = Streams::default();
    let mut minute = 0;
    for seq in 1..=count {
        minute += 1 + dice.below(9) as i64;
        if seq % 10 == 1 {
            streams.executions.push((format!("e-{}", seq / 10), at(minute)));
        }
        let job = [
            "inv", "inv", "chk", "all", "all", "bare", "new", "left", "other", "none",
        ][dice.below(10) as usize];
        let pc = format!("PC-{}", dice.below(3));
        let mut sent = message(seq, minute, &pc, job, &scan(&mut dice));
        sent.payload["exec_id"] = json!(format!("e-{}", (seq - 1) / 10));
        if dice.below(5) == 0 {
            sent.payload["exit_code"] = json!([1, 126][dice.below(2) as usize]);
        }
        if dice.below(4) == 0 {
            let field = ["stdout", "stderr"][dice.below(2) as usize];
            sent.payload[format!("{field}_object")] = json!(format!("q-{seq:03}/{pc}/{field}"));
            sent.object = [Object::Here, Object::Here, Object::Gone, Object::Pending][dice.below(4) as usize];
        }
        if dice.below(2) == 0 {
            let start = json!({
                "result_id": sent.id(), "request_id": "q", "exec_id": sent.payload["exec_id"], "pc_id": pc,
                "manifest_id": job, "version": "1", "started_at": "2026-06-01T00:00:01Z",
            });
            streams.starts.push((sent.published, start));
        }
        if dice.below(8) == 0 && seq > 3 {
            // Published again.
            let mut again = streams.results[dice.below(seq - 1) as usize].clone();
            (again.seq, again.published) = (seq, at(minute));
            sent = again;
        }
        streams.results.push(sent);
        if dice.below(6) == 0 {
            let pc = format!("PC-{}", dice.below(3));
            streams
                .snapshots
                .push((at(minute), pc, json!({"n": dice.below(9)})));
        }
    }
    streams
}

fn scale(few: u64, many: u64) -> u64 {
    if std::env::var_os("RESULTS_PROJECTOR_TEST_FULL").is_some() {
        many
    } else {
        few
    }
}

#[test]
fn whatever_was_cut_off_the_scratch_says_what_the_database_says() {
    let mut all = Vouched::default();
    for seed in 1..=scale(25, 2_000) {
        let mut dice = Dice(seed ^ 0x5eed);
        let count = 30 + dice.below(40);
        let streams = random(seed, count);
        let complete = dice.below(6) == 0;
        let cut = match complete {
            true => WHOLE,
            false => Cut {
                results: 1 + dice.below(count + 1),
                starts: dice.below(streams.starts.len() as u64 + 1) as usize,
                snapshots: dice.below(streams.snapshots.len() as u64 + 1) as usize,
            },
        };
        // The backend's cleanup has taken rows whose messages are gone as well.
        let touch = if dice.below(3) == 0 {
            let kept: Vec<String> = streams.results[cut.results as usize - 1..]
                .iter()
                .map(Message::id)
                .chain(
                    streams.starts[cut.starts..]
                        .iter()
                        .map(|(_, start)| start["result_id"].as_str().unwrap()),
                )
                .map(|id| format!("'{id}'"))
                .collect();
            format!(
                "DELETE FROM execution_results WHERE result_id < 'r-020' AND result_id NOT IN ({})",
                kept.join(", ")
            )
        } else {
            String::new()
        };
        let purpose = [Purpose::Rebuild, Purpose::Verify, Purpose::Replay][dice.below(3) as usize];
        // Under older hints there is nothing to prove.
        let changed = (purpose == Purpose::Verify && dice.below(2) == 0).then(|| dice.below(count) as usize);
        let bench = Bench::new(&streams, changed, &cut, &touch);
        let vouched = bench.settle(purpose, complete);
        for (kind, count) in vouched.counts {
            all.add(kind, count);
        }
        for (reason, count) in vouched.not_compared {
            all.leave_out(reason, count);
        }
        bench.assert_same(
            purpose,
            &format!("seed {seed}, {purpose:?}, from {}", cut.results),
        );
    }
    for kind in [
        "facts",
        "history_events",
        "exploded_rows",
        "checks",
        "feed_items",
        "completions",
        "executions",
    ] {
        assert!(
            all.counts.contains_key(kind),
            "nothing of {kind} was carried: {all:?}"
        );
    }
    for reason in ["older hints", "waiting"] {
        assert!(all.not_compared.contains_key(reason), "{reason}: {all:?}");
    }
}
