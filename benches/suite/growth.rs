//! How the rate falls as the database grows: one drain of a long stream with the settings as they are, and the bare loop over
//! the same rows, slice by slice.

use std::path::Path;
use std::time::UNIX_EPOCH;

use chrono::DateTime;

use crate::limits::{assert_same_rows, insert_alone};
use crate::plot;
use crate::record::{Part, Record, Records};
use crate::report::slices;
use crate::support::{Run, live};
use crate::workload::Filled;

/// Rows of a slice; fewer where there would not be ten.
const SLICE: usize = 100_000;

/// Measures, and draws into a file.
pub async fn measure(rows: usize, picture: &str, records: &mut Records) {
    eprintln!("growth: publishing {rows} results");
    let filled = Filled::plain(rows).await;
    let size = SLICE.min(rows / 10).max(1);
    let folder = tempfile::tempdir().unwrap();
    let (db, bare_db) = (folder.path().join("results.db"), folder.path().join("bare.db"));
    rustix::fs::sync();
    let run = live(&filled.server.url, &db, &[]);
    eprintln!("growth: the whole path took {:.1} s", run.seconds);
    slice(records, Part::Product, size, &commits(&run));
    rustix::fs::sync();
    let bare = insert_alone(&filled.file, &db, &bare_db);
    eprintln!("growth: insert took {:.1} s", bare.seconds);
    assert_same_rows(&db, &bare_db);
    slice(records, Part::Insert, size, &bare.groups);
    if !picture.is_empty() {
        draw(records, Path::new(picture));
    }
}

/// Of each commit: its rows, and the seconds since the process began, by the service's own log.
fn commits(run: &Run) -> Vec<(usize, f64)> {
    let began = run.began.duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    run.log
        .iter()
        .filter(|line| line["fields"]["message"] == "committed")
        .map(|line| {
            let at = DateTime::parse_from_rfc3339(line["timestamp"].as_str().unwrap()).unwrap();
            let rows = line["fields"]["rows"].as_u64().unwrap() as usize;
            (rows, at.timestamp_micros() as f64 / 1e6 - began)
        })
        .collect()
}

/// Cuts groups into slices of one size; within a group, rows are taken to come evenly.
fn slice(records: &mut Records, part: Part, size: usize, groups: &[(usize, f64)]) {
    let (mut stored, mut before, mut cut_at) = (0, 0.0, 0.0);
    let mut next = size;
    for (rows, at) in groups {
        while next <= stored + rows {
            let now = before + (at - before) * (next - stored) as f64 / *rows as f64;
            records.add(Record::Slice {
                part,
                stored: next,
                rows: size,
                seconds: now - cut_at,
            });
            (cut_at, next) = (now, next + size);
        }
        (stored, before) = (stored + rows, *at);
    }
}

fn draw(records: &Records, picture: &Path) {
    std::fs::write(picture, plot::svg(&slices(&records.kept))).unwrap();
}
