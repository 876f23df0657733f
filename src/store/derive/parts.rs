//! One result's hints: facts, exploded tables, check, feeds, each a part that succeeds or becomes an issue
//! (contract §7.4, §7.7, §7.8, D5).

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Value;

use super::super::StoreError;
use super::super::savepoint::undone_alone;
use super::explode::{self, Exploded};
use super::shape::Shapes;
use super::{Evidence, Mode, Presence, history, issues};
use crate::projection::check::evaluate;
use crate::projection::feed::{FeedOutcome, items};
use crate::projection::history::scalar_events;
use crate::projection::issue::IssueCode;
use crate::projection::manifests::{Hints, InventoryHint, SpecState};
use crate::projection::scan::Scan;
use crate::wire::fence::{Hint, block};
use crate::wire::json::fields;
use crate::wire::manifest::{Check, Feed};

/// Characters of a name that stand in a part's name.
const NAME_LENGTH_MAX: usize = 100;

/// Writes what a result's outputs say under a job's hints. Nothing here may wait: outputs are present or absent.
pub(super) struct Parts<'a> {
    pub(super) conn: &'a Connection,
    pub(super) shapes: &'a mut Shapes,
    /// A part's data error undoes the part alone; else it is the caller's to run everything again this way.
    pub(super) isolated: bool,
    pub(super) mode: Mode,
    /// See [`Deriver::any_issues`](super::Deriver::any_issues).
    pub(super) any_issues: &'a mut bool,
    /// The pair may have issues: a part that succeeds has something to forget.
    pub(super) reported: bool,
}

/// The parts of a job's hints by their names in the book of issues.
pub(super) fn names(hints: &Hints) -> Vec<String> {
    let mut names = Vec::new();
    if let Some(inventory) = &hints.inventory {
        names.push("inventory".to_owned());
        names.extend(explode_parts(inventory));
    }
    if !hints.feeds.is_empty() {
        names.push("feeds".to_owned());
        names.extend(feed_parts(&hints.feeds));
    }
    if hints.check.is_some() {
        names.push("check".to_owned());
    }
    names
}

fn explode_parts(hint: &InventoryHint) -> Vec<String> {
    apart(hint.specs.iter().map(|spec| {
        let (field, table) = match spec {
            SpecState::Valid(spec) => (&spec.field, &spec.table),
            SpecState::Refused(spec) => (&spec.field, &spec.table),
        };
        format!("explode {} into {}", clip(field), clip(table))
    }))
}

fn feed_parts(feeds: &[Feed]) -> Vec<String> {
    apart(feeds.iter().map(|feed| format!("feed {}", clip(&feed.id))))
}

/// Names come from outside: a refused table's may be of any length.
fn clip(name: &str) -> String {
    name.chars().take(NAME_LENGTH_MAX).collect()
}

/// Two parts of one name would cure each other's issues.
fn apart(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut times = BTreeMap::<String, usize>::new();
    names
        .map(|name| {
            let times = times.entry(name.clone()).or_default();
            *times += 1;
            match times {
                1 => name,
                times => format!("{name} ({times})"),
            }
        })
        .collect()
}

/// Why a part is reported.
type Report = Vec<(IssueCode, String)>;

impl Parts<'_> {
    /// `scan`: stdout, if it was read already.
    pub(super) fn apply(
        &mut self,
        hints: &Arc<Hints>,
        evidence: &Evidence<'_>,
        scan: Option<Scan>,
    ) -> Result<(), StoreError> {
        if let (0, Presence::Here(stdout)) = (evidence.exit_code, &evidence.stdout) {
            if let Some(inventory) = &hints.inventory {
                let scan = scan.filter(|scan| scan.is_under(hints));
                self.inventory(
                    inventory,
                    evidence,
                    stdout,
                    scan.unwrap_or_else(|| Scan::of(hints, stdout)),
                )?;
            }
            if !hints.feeds.is_empty() {
                self.feeds(&hints.feeds, evidence, stdout)?;
            }
        }
        if let (Some(check), true) = (&hints.check, evidence.check_evidence) {
            self.part("check", evidence, |parts| parts.check(check, evidence))?;
        }
        Ok(())
    }

    /// Runs one part and keeps its report in step with its outcome.
    fn part(
        &mut self,
        part: &str,
        evidence: &Evidence<'_>,
        run: impl FnOnce(&mut Self) -> Result<Report, StoreError>,
    ) -> Result<(), StoreError> {
        let report = if self.isolated {
            undone_alone(self.conn, || run(self))?.unwrap_or_else(|error| {
                self.shapes.clear();
                vec![(IssueCode::NotStored, error.to_string())]
            })
        } else {
            run(self)?
        };
        self.report(evidence, part, &report)
    }

    fn report(
        &mut self,
        evidence: &Evidence<'_>,
        part: &str,
        report: &[(IssueCode, String)],
    ) -> Result<(), StoreError> {
        if report.is_empty() && !self.reported {
            return Ok(());
        }
        issues::replace(self.conn, self.any_issues, evidence, part, report)
    }

    fn inventory(
        &mut self,
        hint: &InventoryHint,
        evidence: &Evidence<'_>,
        stdout: &str,
        mut scan: Scan,
    ) -> Result<(), StoreError> {
        let payload = match &mut scan.payload {
            Ok(payload) => payload.clone(),
            Err(error) => {
                let report = vec![(IssueCode::InventoryNotJson, std::mem::take(error))];
                return self.report(evidence, "inventory", &report);
            }
        };
        let text = block(stdout, Hint::Inventory);
        let mut newest = true;
        self.part("inventory", evidence, |parts| {
            newest = parts.facts(hint, evidence, text, &payload)?;
            Ok(Report::new())
        })?;
        if !newest {
            return Ok(());
        }
        for (place, (spec, part)) in hint.specs.iter().zip(explode_parts(hint)).enumerate() {
            match spec {
                SpecState::Refused(refused) => {
                    let report = vec![(refused.code, refused.reason.clone())];
                    self.report(evidence, &part, &report)?;
                }
                SpecState::Valid(spec) => {
                    let found = scan.take_found(place);
                    self.part(&part, evidence, |parts| {
                        let exploded = explode::replace(
                            parts.conn,
                            parts.shapes,
                            spec,
                            evidence,
                            &payload,
                            found,
                            parts.mode,
                        )?;
                        Ok(match exploded {
                            Exploded::Done => Report::new(),
                            Exploded::Repeated(elements) => vec![(
                                IssueCode::ExplodeDuplicateIdentity,
                                format!(
                                    "{elements} elements have the key of an earlier one and were left out"
                                ),
                            )],
                            Exploded::Refused(reason) => vec![(IssueCode::ExplodeTableRefused, reason)],
                            Exploded::TooMany(reason) => vec![(IssueCode::NotStored, reason)],
                        })
                    })?;
                }
            }
        }
        Ok(())
    }

    /// §7.4, steps 2 to 4. Returns false when newer facts are there: then nothing of the section happens.
    fn facts(
        &self,
        hint: &InventoryHint,
        evidence: &Evidence<'_>,
        text: &str,
        payload: &Value,
    ) -> Result<bool, StoreError> {
        let Evidence {
            pair,
            published,
            finished_at,
            ..
        } = evidence;
        let what = |error| StoreError::sqlite(format_args!("write the facts of {pair}"))(error);
        let known: Option<(String, String)> = self
            .conn
            .prepare_cached(
                "SELECT recorded_at, facts_json FROM inventory_facts WHERE pc_id = ?1 AND job_id = ?2",
            )
            .and_then(|mut select| {
                select
                    .query_row([pair.pc_id, pair.job_id], |row| Ok((row.get(0)?, row.get(1)?)))
                    .optional()
            })
            .map_err(what)?;
        if known
            .as_ref()
            .is_some_and(|(recorded_at, _)| recorded_at.as_str() > *published)
        {
            return Ok(false);
        }
        // The same text says the same of every scalar.
        let same = known.as_ref().is_some_and(|(_, facts)| facts == text);
        if self.mode == Mode::WithHistory && !hint.scalars.is_empty() && !same {
            let before = known.and_then(|(_, facts)| fields(&facts, &hint.scalars));
            let events = scalar_events(&hint.scalars, before.as_ref(), payload);
            history::enter(self.conn, evidence, events)?;
        }
        self.conn
            .prepare_cached(
                "INSERT INTO inventory_facts (pc_id, job_id, facts_json, display_json, summary_json, collected_at,
                     recorded_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT (pc_id, job_id) DO UPDATE SET facts_json = excluded.facts_json,
                     display_json = excluded.display_json, summary_json = excluded.summary_json,
                     collected_at = excluded.collected_at, recorded_at = excluded.recorded_at",
            )
            .and_then(|mut upsert| {
                upsert.execute(params![
                    pair.pc_id,
                    pair.job_id,
                    text,
                    hint.display_json,
                    hint.summary_json,
                    finished_at,
                    published,
                ])
            })
            .map_err(what)?;
        Ok(true)
    }

    /// §7.7.
    fn check(&self, check: &Check, evidence: &Evidence<'_>) -> Result<Report, StoreError> {
        let Evidence {
            pair,
            published,
            exit_code,
            ..
        } = evidence;
        let Some(state) = evaluate(check, *exit_code, evidence.stdout.here(), evidence.stderr.here()) else {
            return Ok(Report::new());
        };
        self.conn
            .prepare_cached(
                "INSERT INTO check_status (pc_id, check_name, status, detail, recorded_at, label)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT (pc_id, check_name) DO UPDATE SET status = excluded.status, detail = excluded.detail,
                     recorded_at = excluded.recorded_at, label = excluded.label
                 WHERE recorded_at <= excluded.recorded_at",
            )
            .and_then(|mut upsert| {
                upsert.execute(params![
                    pair.pc_id,
                    check.name,
                    state.status,
                    state.detail,
                    published,
                    check.label,
                ])
            })
            .map_err(StoreError::sqlite(format_args!("write the check of {pair}")))?;
        Ok(Report::new())
    }

    /// §7.8.
    fn feeds(&mut self, feeds: &[Feed], evidence: &Evidence<'_>, stdout: &str) -> Result<(), StoreError> {
        let payload = match serde_json::from_str::<Value>(block(stdout, Hint::Feed)) {
            Ok(payload) => payload,
            Err(error) => {
                let report = vec![(IssueCode::FeedNotJson, error.to_string())];
                return self.report(evidence, "feeds", &report);
            }
        };
        self.report(evidence, "feeds", &[])?;
        for (feed, part) in feeds.iter().zip(feed_parts(feeds)) {
            self.part(&part, evidence, |parts| parts.feed(feed, evidence, &payload))?;
        }
        Ok(())
    }

    fn feed(&self, feed: &Feed, evidence: &Evidence<'_>, payload: &Value) -> Result<Report, StoreError> {
        let Evidence {
            published,
            finished_at,
            ..
        } = evidence;
        let feed_id = feed.id.as_str();
        let what = |error| StoreError::sqlite(format_args!("write the feed {feed_id:?}"))(error);
        let (found, item_count, without_key) = match items(feed, payload) {
            FeedOutcome::NotObject => {
                return Ok(vec![(
                    IssueCode::FeedNotObject,
                    "the output is no JSON object".to_owned(),
                )]);
            }
            FeedOutcome::NotArray => {
                return Ok(vec![(
                    IssueCode::FeedFieldNotArray,
                    format!("{:?} is no array", feed.field),
                )]);
            }
            FeedOutcome::Items {
                items,
                item_count,
                without_key,
            } => (items, item_count, without_key),
        };
        let report = match without_key {
            0 => Report::new(),
            elements => vec![(
                IssueCode::FeedItemWithoutKey,
                format!("{elements} elements without a key were left out"),
            )],
        };
        // What is reported is the result's own, whoever wrote the feed since: derived anew it meets what it wrote itself.
        let known: Option<String> = self
            .conn
            .prepare_cached("SELECT recorded_at FROM feed_meta WHERE feed_id = ?1")
            .and_then(|mut select| select.query_row([feed_id], |row| row.get(0)).optional())
            .map_err(what)?;
        if known.is_some_and(|recorded_at| recorded_at.as_str() >= *published) {
            return Ok(report);
        }
        let write = || -> Result<(), rusqlite::Error> {
            self.conn
                .prepare_cached("DELETE FROM feeds WHERE feed_id = ?1")?
                .execute([feed_id])?;
            let mut insert = self.conn.prepare_cached(
                "INSERT INTO feeds (feed_id, item_id, data, fetched_at, recorded_at) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?;
            for item in &found {
                insert.execute(params![feed_id, item.item_id, item.data, finished_at, published])?;
            }
            self.conn
                .prepare_cached(
                    "INSERT INTO feed_meta (feed_id, recorded_at, fetched_at, item_count) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (feed_id) DO UPDATE SET recorded_at = excluded.recorded_at,
                         fetched_at = excluded.fetched_at, item_count = excluded.item_count",
                )?
                .execute(params![feed_id, published, finished_at, item_count])?;
            Ok(())
        };
        write().map_err(what)?;
        Ok(report)
    }
}
