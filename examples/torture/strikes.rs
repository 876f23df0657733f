//! Each strike, as it is dealt.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::change::damage;
use super::plan::{Interrupted, Strike};
use super::storm::{STREAMS, Storm};
use super::victim::{beside, cut_wal};
use crate::harness::projector::text;

impl Storm {
    pub async fn strike(&mut self, strike: &Strike) {
        let victim = &mut self.victim;
        match *strike {
            Strike::Kill => {
                victim.kill();
                victim.start();
            }
            Strike::Terminate => {
                victim.terminate();
                victim.start();
            }
            Strike::DieAt(point, count) => {
                victim.kill();
                let kills = victim.kills;
                victim.start_with(&[("RESULTS_PROJECTOR_DIE_AT", &format!("{point}:{count}"))]);
                let started = Instant::now();
                // A point that is not reached now may still be later.
                while victim.kills == kills && started.elapsed() < Duration::from_secs(4) {
                    victim.wait(10).await;
                }
            }
            Strike::Pause(length) => {
                victim.tend();
                victim.running().pause();
                tokio::time::sleep(Duration::from_millis(length)).await;
                victim.running().resume();
            }
            Strike::KillServer(down) => {
                self.server.kill();
                self.tally.server_kills += 1;
                victim.wait(down).await;
                self.server.start_again();
            }
            Strike::StopServer(down) => {
                self.server.stop();
                victim.wait(down).await;
                self.server.start_again();
            }
            Strike::Cut => self.proxy.cut(),
            Strike::CutAfter(bytes) => self.proxy.cut_after(bytes),
            Strike::Delay { each, for_ms } => {
                self.proxy.delay(Duration::from_millis(each));
                victim.wait(for_ms).await;
                self.proxy.delay(Duration::ZERO);
            }
            Strike::Throttle { rate, for_ms } => {
                self.proxy.throttle(rate);
                victim.wait(for_ms).await;
                self.proxy.throttle(0);
            }
            Strike::DeleteConsumers => {
                for name in STREAMS {
                    if let Ok(stream) = self.js.get_stream(name).await {
                        let consumer = format!("results_projector_{}", name.to_lowercase());
                        // It may not be there at this moment.
                        let _absent = stream.delete_consumer(&consumer).await;
                    }
                }
            }
            Strike::ObjectsAway(length) => {
                let _absent = self.js.delete_object_store("result_output").await;
                self.victim.wait(length).await;
                self.objects_back().await;
            }
            Strike::DamageObjects(how) => {
                let names: Vec<String> = {
                    let objects = self.objects.lock().unwrap();
                    objects.keys().rev().take(5).cloned().collect()
                };
                for name in names {
                    self.damaged.extend(damage(&self.js, &name, how).await);
                }
            }
            Strike::WriteLock(length) => {
                if let Some(conn) = locked(&victim.db) {
                    victim.wait(length).await;
                    let _rolled_back = conn.execute_batch("ROLLBACK");
                }
            }
            Strike::EndlessReader => {
                let conn = rusqlite::Connection::open(&victim.db).unwrap();
                let begun = conn.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema");
                if begun.is_ok() {
                    self.readers.push(conn);
                }
            }
            Strike::DiskFull(length) => {
                if let Some(disk) = &self.disk {
                    let ballast = disk.path().join("ballast");
                    fill(&ballast);
                    victim.may_refuse = true;
                    victim.wait(length).await;
                    fs::remove_file(ballast).unwrap();
                    victim.may_refuse = false;
                }
            }
            Strike::ReadOnly(length) => {
                if let Some(disk) = &self.disk {
                    self.readers.clear();
                    victim.kill();
                    disk.remount("ro");
                    victim.may_refuse = true;
                    victim.start();
                    victim.wait(length).await;
                    victim.kill();
                    disk.remount("rw");
                    victim.may_refuse = false;
                    victim.start();
                }
            }
            Strike::ClockJump(seconds) => {
                if let Some((_, offset)) = &self.clock {
                    write_in_place(offset, seconds);
                }
            }
            Strike::SecondInstance => {
                victim.reads().await;
                let mut second = victim.begin(&["run"]);
                let status = second.wait_exit(Duration::from_secs(30));
                assert_eq!(status.code(), Some(2), "a second instance: {}", second.stderr());
            }
            Strike::Backup => {
                let to = self.folder.path().join("backup.db");
                let part = self.folder.path().join("backup.new.db");
                let output = victim.run(&["backup", &part.display().to_string()], &[]);
                if output.status.success() {
                    fs::rename(part, to).unwrap();
                } else {
                    // It was not there yet, or just in the middle of something.
                    assert!(
                        matches!(output.status.code(), Some(1..=3)),
                        "backup: {}",
                        text(&output)
                    );
                }
            }
            Strike::OldBackup => {
                let backup = self.folder.path().join("backup.db");
                if backup.exists() {
                    self.readers.clear();
                    victim.kill();
                    victim.remove_database();
                    fs::copy(backup, &victim.db).unwrap();
                    victim.start();
                }
            }
            Strike::ReplaceFile => {
                let backup = self.folder.path().join("backup.db");
                if backup.exists() {
                    self.readers.clear();
                    victim.reads().await;
                    let other = beside(&victim.db, ".other");
                    fs::copy(backup, &other).unwrap();
                    victim.running().pause();
                    fs::rename(other, &victim.db).unwrap();
                    for suffix in ["-wal", "-shm"] {
                        let _absent = fs::remove_file(beside(&victim.db, suffix));
                    }
                    victim.running().resume();
                }
            }
            Strike::CutWal(share) => {
                self.readers.clear();
                victim.kill();
                cut_wal(&victim.db, share);
                victim.start();
            }
            Strike::DropDatabase => {
                self.readers.clear();
                victim.kill();
                victim.remove_database();
                victim.start();
            }
            Strike::Rebuild(how) => self.rebuild(how).await,
            Strike::Replay => {
                self.readers.clear();
                victim.terminate();
                let output = victim.run(&["replay"], &[]);
                let said = text(&output);
                // A moment ago everything was cut, or the file is not made yet, or the backend's has not been read through.
                assert!(
                    output.status.success()
                        || output.status.code() == Some(3)
                        || !victim.db.exists()
                        || said.contains("the first pass over"),
                    "replay: {said}"
                );
                victim.start();
            }
            Strike::Verify => {
                let output = victim.run(&["verify"], &[]);
                assert!(
                    output.status.success() || matches!(output.status.code(), Some(2 | 3)),
                    "verify beside the service: {}",
                    text(&output)
                );
            }
            Strike::RetryAll => {
                for args in [["outputs", "retry", "--all"], ["dead-letters", "retry", "--all"]] {
                    let _whatever_it_says = victim.run(&args, &[]);
                }
            }
        }
    }

    async fn rebuild(&mut self, how: Interrupted) {
        self.readers.clear();
        let victim = &mut self.victim;
        victim.terminate();
        match how {
            Interrupted::Never => {
                let output = victim.run(&["rebuild"], &[]);
                assert!(
                    output.status.success() || output.status.code() == Some(3),
                    "rebuild: {}",
                    text(&output)
                );
            }
            Interrupted::After(length) => {
                let rebuild = victim.begin(&["rebuild"]);
                tokio::time::sleep(Duration::from_millis(length)).await;
                rebuild.kill();
                victim.kills += 1;
            }
            Interrupted::At(point, count) => {
                let at = format!("{point}:{count}");
                let output = victim.run(&["rebuild"], &[("RESULTS_PROJECTOR_DIE_AT", &at)]);
                victim.kills += u64::from(output.status.code().is_none());
            }
        }
        victim.start();
    }
}

fn locked(db: &Path) -> Option<rusqlite::Connection> {
    let conn = rusqlite::Connection::open_with_flags(db, rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE).ok()?;
    conn.busy_timeout(Duration::from_secs(10)).ok()?;
    conn.execute_batch("BEGIN IMMEDIATE").ok()?;
    Some(conn)
}

fn fill(ballast: &Path) {
    use std::io::Write;
    let mut file = fs::File::create(ballast).unwrap();
    let block = vec![0; 1 << 20];
    while file.write_all(&block).is_ok() {}
}

/// The file is mapped by a process: it must stay the same one.
pub fn write_in_place(path: &Path, seconds: i64) {
    use std::os::unix::fs::FileExt;
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
}
