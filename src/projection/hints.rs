//! Which of a result's outputs its hints are derived from, and so wait for (contract §7.11, D12).

use super::manifests::Hints;
use crate::wire::result::Field;

/// The output that the hints of a result need: stdout after a success, stderr for a check that failed. Never both.
/// `check_evidence`: whether a check may learn from this result at all (§3.3).
#[must_use]
pub fn needs(hints: &Hints, exit_code: i32, check_evidence: bool) -> Option<Field> {
    let check = hints.check.is_some() && check_evidence;
    if exit_code != 0 {
        return check.then_some(Field::Stderr);
    }
    (check || hints.inventory.is_some() || !hints.feeds.is_empty()).then_some(Field::Stdout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projection::manifests::Manifests;

    #[test]
    fn a_result_waits_for_the_one_output_that_its_hints_read() {
        let inventory = r#""inventory":{"display":[]}"#;
        let check = r#""check":{"name":"c"}"#;
        let feed = r#""feed":[{"id":"f","field":"x","primary_key":["k"]}]"#;
        for (hint, exit_code, evidence, expected) in [
            (inventory, 0, false, Some(Field::Stdout)),
            (inventory, 1, true, None),
            (feed, 0, true, Some(Field::Stdout)),
            (feed, 7, true, None),
            (check, 0, true, Some(Field::Stdout)),
            (check, 0, false, None),
            (check, 1, true, Some(Field::Stderr)),
            (check, 126, false, None),
        ] {
            let document =
                format!(r#"{{"id":"j","version":"1","execute":{{"shell":"sh","timeout":"1s"}},{hint}}}"#);
            let manifests = Manifests::compile([("j".to_owned(), document.into())]);
            let hints = manifests.hints("j").unwrap();
            assert_eq!(
                needs(hints, exit_code, evidence),
                expected,
                "{hint} {exit_code} {evidence}"
            );
        }
    }
}
