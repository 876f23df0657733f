//! What each message writes, known beforehand: decoded, converted, compared with what was there. The bare loops are timed
//! without this work, so they are limits of writing alone.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytestring::ByteString;
use results_projector::projection::check::{CheckState, evaluate};
use results_projector::projection::explode::{Cell, ExplodeSpec};
use results_projector::projection::feed::{FeedOutcome, Item, items};
use results_projector::projection::history::{Event, element_events, scalar_events};
use results_projector::projection::manifests::{Hints, Manifests, SpecState};
use results_projector::projection::scan::{Found, Scan};
use results_projector::wire::fence::{Hint, block};
use results_projector::wire::inventory::{self, Snapshot};
use results_projector::wire::manifest::{Check, expires_at};
use results_projector::wire::result::{ExecResult, decode_shared};
use results_projector::wire::started;
use serde_json::{Map, Value};

use crate::messages::{Does, Message};
use crate::support::fleet;

/// What one message writes.
pub enum Writes {
    Result(Box<Row>),
    Start(Box<Start>),
    Snapshot(Box<Snapshot>, Change),
    Nothing,
}

/// Whether the row of a key is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Insert,
    Update,
}

pub struct Row {
    pub change: Change,
    pub key: String,
    pub result: ExecResult<ByteString>,
    /// Of its start event, if that came before.
    pub version: Option<ByteString>,
    pub started: String,
    pub finished: String,
    pub derived: Vec<Derived>,
}

pub struct Start {
    pub change: Change,
    pub event: started::EventStarted<ByteString>,
    pub started: String,
    pub expires: Option<String>,
}

/// What a result writes besides its row.
pub enum Derived {
    Facts {
        change: Change,
        facts: String,
        hints: Arc<Hints>,
    },
    Elements(Elements),
    History(Vec<Event>),
    Check {
        change: Change,
        check: Check,
        state: CheckState,
    },
    Feed {
        id: String,
        items: Vec<Item>,
        count: i64,
    },
}

/// A pair's rows of one exploded table: what makes them of those before.
pub struct Elements {
    pub table: Arc<Table>,
    pub removed: Vec<Vec<Cell>>,
    pub changed: Vec<Vec<Cell>>,
    pub added: Vec<Vec<Cell>>,
    /// Rows that stay, or change in place, have the new scan's time.
    pub stay: bool,
}

/// An exploded table's statements.
pub struct Table {
    pub spec: ExplodeSpec,
    pub insert: String,
    pub touch: String,
    /// By pair and key: the other columns first.
    pub update: String,
    pub remove: String,
}

impl Table {
    fn of(spec: &ExplodeSpec) -> Self {
        let name = |at: usize| &spec.columns[at].name;
        let (table, others) = (&spec.table, spec.others().collect::<Vec<_>>());
        let marks = vec!["?"; 3 + spec.columns.len()].join(", ");
        let assignments: Vec<String> = others.iter().map(|at| format!("{} = ?", name(*at))).collect();
        let key: String = spec
            .key
            .iter()
            .map(|at| format!(" AND {} = ?", name(*at)))
            .collect();
        let pair = "WHERE pc_id = ? AND job_id = ?";
        Self {
            spec: spec.clone(),
            insert: format!("INSERT INTO {table} VALUES ({marks})"),
            touch: format!("UPDATE {table} SET collected_at = ? {pair}"),
            update: format!("UPDATE {table} SET {} {pair}{key}", assignments.join(", ")),
            remove: format!("DELETE FROM {table} {pair}{key}"),
        }
    }
}

/// A PC and a job.
pub type Pair = (ByteString, ByteString);

/// What the messages so far have left.
pub struct Known {
    manifests: Manifests,
    pub tables: HashMap<String, Arc<Table>>,
    versions: HashMap<ByteString, ByteString>,
    facts: HashMap<Pair, Map<String, Value>>,
    /// By the name of their table.
    pub rows: HashMap<(Pair, String), Vec<Vec<Cell>>>,
    checks: HashSet<(ByteString, String)>,
}

impl Known {
    pub fn new() -> Self {
        let documents = fleet::manifests().into_iter();
        Self {
            manifests: Manifests::compile(
                documents.map(|(id, document)| (id.to_owned(), document.to_string().into())),
            ),
            tables: HashMap::new(),
            versions: HashMap::new(),
            facts: HashMap::new(),
            rows: HashMap::new(),
            checks: HashSet::new(),
        }
    }

    pub fn group(&mut self, group: Vec<Message>) -> Vec<Writes> {
        group.into_iter().map(|message| self.writes(message)).collect()
    }

    fn writes(&mut self, message: Message) -> Writes {
        let change = match message.does {
            Does::Nothing => return Writes::Nothing,
            Does::Result | Does::Start => Change::Insert,
            Does::Finish | Does::LateStart => Change::Update,
            Does::Snapshot => return self.snapshot(&message),
        };
        match message.does {
            Does::Start | Does::LateStart => Writes::Start(Box::new(self.start(change, &message))),
            _ => Writes::Result(Box::new(self.result(change, message))),
        }
    }

    fn snapshot(&mut self, message: &Message) -> Writes {
        let pc = inventory::decode_hw(&message.payload).unwrap().pc_id;
        let snapshot = inventory::decode(&format!("inventory.{pc}.hw"), &message.payload).unwrap();
        let pair = (ByteString::from(pc), ByteString::from(snapshot.job_id.clone()));
        let change = changed(self.facts.insert(pair, Map::new()).is_none());
        Writes::Snapshot(Box::new(snapshot), change)
    }

    fn start(&mut self, change: Change, message: &Message) -> Start {
        let event = started::decode_shared(&message.payload).unwrap();
        self.versions
            .insert(event.result_id.clone(), event.version.clone());
        let timeout = self
            .manifests
            .job(&event.manifest_id)
            .and_then(|job| job.timeout.as_deref());
        Start {
            change,
            started: event.started_at.stored(),
            expires: timeout
                .and_then(|timeout| expires_at(event.started_at, timeout))
                .map(|at| at.stored()),
            event,
        }
    }

    fn result(&mut self, change: Change, message: Message) -> Row {
        let mut result = decode_shared(&message.payload).unwrap();
        if let Some(output) = message.output {
            result.stdout = ByteString::try_from(output).unwrap();
        }
        let hints = result
            .manifest_id
            .as_deref()
            .and_then(|job| self.manifests.hints(job))
            .cloned();
        Row {
            change,
            key: result.row_key().into_owned(),
            version: self.versions.get(&result.result_id).cloned(),
            started: result.started_at.stored(),
            finished: result.finished_at.stored(),
            derived: hints.map_or_else(Vec::new, |hints| self.derived(&hints, &result)),
            result,
        }
    }

    fn derived(&mut self, hints: &Arc<Hints>, result: &ExecResult<ByteString>) -> Vec<Derived> {
        let mut derived = Vec::new();
        if let Some(check) = &hints.check
            && !result.carries_no_check_evidence()
            && let Some(state) = evaluate(
                check,
                result.exit_code,
                Some(&result.stdout),
                Some(&result.stderr),
            )
        {
            let key = (result.pc_id.clone(), check.name.clone());
            derived.push(Derived::Check {
                change: changed(self.checks.insert(key)),
                check: check.clone(),
                state,
            });
        }
        if result.exit_code != 0 {
            return derived;
        }
        self.scan(hints, result, &mut derived);
        if !hints.feeds.is_empty()
            && let Ok(payload) = serde_json::from_str(block(&result.stdout, Hint::Feed))
        {
            derived.extend(hints.feeds.iter().filter_map(|feed| match items(feed, &payload) {
                FeedOutcome::Items {
                    items, item_count, ..
                } => Some(Derived::Feed {
                    id: feed.id.clone(),
                    items,
                    count: item_count,
                }),
                _ => None,
            }));
        }
        derived
    }

    fn scan(&mut self, hints: &Arc<Hints>, result: &ExecResult<ByteString>, derived: &mut Vec<Derived>) {
        let Some(inventory) = &hints.inventory else { return };
        let Ok(payload) = Scan::of(hints, &result.stdout).payload else {
            return;
        };
        let pair = (result.pc_id.clone(), result.manifest_id.clone().unwrap());
        let before = self.facts.get(&pair);
        let mut events = scalar_events(&inventory.scalars, before, &payload);
        derived.push(Derived::Facts {
            change: changed(before.is_none()),
            facts: block(&result.stdout, Hint::Inventory).to_owned(),
            hints: hints.clone(),
        });
        self.facts
            .insert(pair.clone(), payload.as_object().cloned().unwrap());
        for spec in &inventory.specs {
            let SpecState::Valid(spec) = spec else { continue };
            let found = Found::of(spec, &payload).elements(spec, &payload, |_| Ok::<_, ()>(()));
            let (elements, _) = found.unwrap();
            let old = self.rows.entry((pair.clone(), spec.table.clone())).or_default();
            events.extend(element_events(spec, old, &elements));
            let all: Vec<Vec<Cell>> = elements.into_iter().map(|element| element.cells).collect();
            let table = self
                .tables
                .entry(spec.table.clone())
                .or_insert_with(|| Arc::new(Table::of(spec)));
            derived.push(Derived::Elements(difference(table, old, &all)));
            *old = all;
        }
        derived.push(Derived::History(events));
    }
}

fn changed(is_new: bool) -> Change {
    if is_new { Change::Insert } else { Change::Update }
}

fn difference(table: &Arc<Table>, old: &[Vec<Cell>], new: &[Vec<Cell>]) -> Elements {
    let spec = &table.spec;
    let before: HashMap<Vec<&Cell>, &Vec<Cell>> = old.iter().map(|row| (spec.identity(row), row)).collect();
    let after: HashSet<Vec<&Cell>> = new.iter().map(|row| spec.identity(row)).collect();
    let removed: Vec<Vec<Cell>> = old
        .iter()
        .filter(|row| !after.contains(&spec.identity(row)))
        .cloned()
        .collect();
    let (mut changed, mut added) = (Vec::new(), Vec::new());
    for row in new {
        match before.get(&spec.identity(row)) {
            None => added.push(row.clone()),
            Some(same) if *same == row => {}
            Some(_) => changed.push(row.clone()),
        }
    }
    Elements {
        table: table.clone(),
        stay: removed.len() < old.len(),
        removed,
        changed,
        added,
    }
}
