//! What an output says under an `inventory` hint, as far as that can be said without the database (contract §7.4, §7.5): it
//! may be read before its turn comes, by whoever has the time.

use std::sync::Arc;

use serde_json::Value;

use super::explode::{
    Cell, Element, ExplodeSpec, array, cells, drop_marked, needs_affinity, repeated, with_cells,
};
use super::manifests::{Hints, SpecState};
use crate::wire::fence::{Hint, block};

/// Cells of one spec that are converted before their turn; more wait for it, so that they are in memory once.
const CELLS_AHEAD_MAX: usize = 20_000;

/// An output, read under a job's hints.
#[derive(Debug)]
pub struct Scan {
    /// The block as JSON, or why it is none.
    pub payload: Result<Arc<Value>, String>,
    hints: Arc<Hints>,
    /// By the place of their spec in the hint.
    found: Vec<Option<Found>>,
}

impl Scan {
    /// Reads an output in its turn.
    #[must_use]
    pub fn of(hints: &Arc<Hints>, stdout: &str) -> Self {
        Self {
            payload: serde_json::from_str(block(stdout, Hint::Inventory))
                .map(Arc::new)
                .map_err(|error| error.to_string()),
            hints: hints.clone(),
            found: Vec::new(),
        }
    }

    /// Reads an output before its turn, its elements too where they are few.
    #[must_use]
    pub fn ahead(hints: &Arc<Hints>, stdout: &str) -> Self {
        let mut scan = Self::of(hints, stdout);
        if let (Ok(payload), Some(inventory)) = (&scan.payload, &hints.inventory) {
            let found = |spec: &SpecState| match spec {
                SpecState::Valid(spec)
                    if array(spec, payload).len() * spec.columns.len() <= CELLS_AHEAD_MAX =>
                {
                    Some(Found::of(spec, payload))
                }
                _ => None,
            };
            scan.found = inventory.specs.iter().map(found).collect();
        }
        scan
    }

    /// Whether it was read under just these hints.
    #[must_use]
    pub fn is_under(&self, hints: &Arc<Hints>) -> bool {
        Arc::ptr_eq(&self.hints, hints)
    }

    /// The elements of a spec, by its place in the hint, if they were read already. Taken once.
    pub fn take_found(&mut self, place: usize) -> Option<Found> {
        self.found.get_mut(place)?.take()
    }
}

/// A spec's elements as they are handed to SQLite.
#[derive(Debug)]
pub struct Found {
    cells: Vec<Vec<Cell>>,
    /// For each: whether an earlier one has its key. `None` where SQLite's affinity comes before that can be said.
    repeated: Option<Vec<bool>>,
}

impl Found {
    /// Converts the elements of a payload.
    #[must_use]
    pub fn of(spec: &ExplodeSpec, payload: &Value) -> Self {
        let cells = cells(spec, payload);
        let only_sqlite_can_tell = cells.iter().any(|cells| {
            let mut columns = spec.columns.iter().zip(cells);
            columns.any(|(column, cell)| needs_affinity(column.kind, cell))
        });
        Self {
            repeated: (!only_sqlite_can_tell).then(|| repeated(spec, &cells)),
            cells,
        }
    }

    /// The elements that rows are made of, and how many were left out since an earlier one has their key. `affinity` makes the
    /// cells what SQLite will store.
    ///
    /// # Errors
    /// Those of `affinity`.
    pub fn elements<'a, E>(
        self,
        spec: &ExplodeSpec,
        payload: &'a Value,
        affinity: impl FnOnce(&mut [Vec<Cell>]) -> Result<(), E>,
    ) -> Result<(Vec<Element<'a>>, usize), E> {
        let Self {
            mut cells,
            repeated: known,
        } = self;
        let repeated = match known {
            Some(known) => known,
            None => {
                affinity(&mut cells)?;
                repeated(spec, &cells)
            }
        };
        Ok(drop_marked(with_cells(spec, payload, cells), repeated))
    }
}
