//! Which rows of two lists belong together, so that a difference is named as what it is: a row too few, one too many, a
//! cell, or another order.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::cells::Line;

/// One difference between two lists; numbers are places in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// Only in the first.
    Missing(usize),
    /// Only in the first, and old enough to have been cleaned up.
    Cleaned(usize),
    /// Only in the second.
    Unexpected(usize),
    /// In both, not the same.
    Changed(usize, usize),
}

/// Compares the lists of what should be and of what is. `levels`: columns by which rows that are not the same belong
/// together, the strictest first. `is_cleaned`: whether a row is old enough to have been cleaned up.
pub(super) fn align(
    should: &[Line],
    is: &[Line],
    levels: &[Vec<usize>],
    is_cleaned: impl Fn(&Line) -> bool,
) -> Vec<Finding> {
    let mut left: BTreeSet<usize> = (0..should.len()).collect();
    let mut right: BTreeSet<usize> = (0..is.len()).collect();
    let columns = should.iter().chain(is).next().map_or(0, Line::columns);
    let every: Vec<usize> = (0..columns).collect();
    let same = pairs(should, is, &mut left, &mut right, &every);
    let mut findings = Vec::new();
    for level in levels {
        let changed = pairs(should, is, &mut left, &mut right, level);
        findings.extend(
            changed
                .into_iter()
                .map(|(one, other)| Finding::Changed(one, other)),
        );
    }
    for place in left {
        findings.push(match should.get(place) {
            Some(line) if is_cleaned(line) => Finding::Cleaned(place),
            _ => Finding::Missing(place),
        });
    }
    findings.extend(right.into_iter().map(Finding::Unexpected));
    let in_order = same
        .iter()
        .zip(same.iter().skip(1))
        .all(|((_, one), (_, next))| one < next);
    if !in_order
        && findings
            .iter()
            .all(|finding| matches!(finding, Finding::Cleaned(_)))
    {
        // The same rows in another order: named by the places where another row stands.
        let mut places: Vec<usize> = same.iter().map(|(_, other)| *other).collect();
        places.sort_unstable();
        let moved = same.iter().zip(places).filter(|((one, _), place)| {
            should
                .get(*one)
                .zip(is.get(*place))
                .is_some_and(|(one, other)| !one.is_same(other))
        });
        findings.extend(moved.map(|((one, _), place)| Finding::Changed(*one, place)));
    }
    findings
}

/// Takes from both what agrees in these columns, in order.
fn pairs(
    should: &[Line],
    is: &[Line],
    left: &mut BTreeSet<usize>,
    right: &mut BTreeSet<usize>,
    columns: &[usize],
) -> Vec<(usize, usize)> {
    fn cells<'a>(line: &'a Line, columns: &[usize]) -> Vec<&'a [u8]> {
        columns.iter().map(|column| line.raw(*column)).collect()
    }
    let mut by_cells: HashMap<Vec<&[u8]>, VecDeque<usize>> = HashMap::new();
    for place in right.iter() {
        if let Some(line) = is.get(*place) {
            by_cells
                .entry(cells(line, columns))
                .or_default()
                .push_back(*place);
        }
    }
    let mut found = Vec::new();
    for place in left.iter() {
        let other = should
            .get(*place)
            .and_then(|line| by_cells.get_mut(&cells(line, columns))?.pop_front());
        found.extend(other.map(|other| (*place, other)));
    }
    for (one, other) in &found {
        left.remove(one);
        right.remove(other);
    }
    found
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    /// Lines of two columns: a time, a text.
    fn lines(rows: &[(i64, &str)]) -> Vec<Line> {
        let conn = Connection::open_in_memory().unwrap();
        rows.iter()
            .map(|row| {
                let mut line = Line::default();
                conn.query_row("SELECT ?1, ?2", *row, |row| line.read(row, 0, 2))
                    .unwrap();
                line
            })
            .collect()
    }

    fn check(should: &[(i64, &str)], is: &[(i64, &str)], expected: &[Finding]) {
        let found = align(&lines(should), &lines(is), &[vec![0]], |line| {
            line.value(0).as_i64().unwrap() < 10
        });
        assert_eq!(found, expected, "{should:?} {is:?}");
    }

    #[test]
    fn a_difference_is_named_as_what_it_is() {
        use Finding::*;
        check(&[], &[], &[]);
        check(&[(10, "a"), (10, "b")], &[(10, "a"), (10, "b")], &[]);
        check(&[(10, "a"), (10, "b")], &[(10, "b")], &[Missing(0)]);
        check(&[(10, "b")], &[(10, "a"), (10, "b")], &[Unexpected(0)]);
        check(&[(10, "a"), (11, "b")], &[(10, "x"), (11, "b")], &[Changed(0, 0)]);
        check(&[(9, "old"), (10, "a")], &[(10, "a")], &[Cleaned(0)]);
        check(
            &[(10, "a"), (10, "b")],
            &[(10, "b"), (10, "a")],
            &[Changed(0, 0), Changed(1, 1)],
        );
        check(
            &[(9, "old"), (10, "a"), (10, "b")],
            &[(10, "b"), (10, "a")],
            &[Cleaned(0), Changed(1, 0), Changed(2, 1)],
        );
        check(&[(10, "a"), (10, "a")], &[(10, "a")], &[Missing(1)]);
    }
}
