//! Exit codes that agents keep for themselves (contract §1.7).

use super::kv;

/// What an agent says with a reserved exit code; `None` for a code of the script's own.
///
/// A script may exit with any of these numbers: only with the flag `skipped`, or the id of a refusal, is it the agent's word.
#[must_use]
pub fn meaning(code: i32) -> Option<&'static str> {
    Some(match code {
        kv::EXIT_RESTARTED_OUTCOME_UNKNOWN => "the agent restarted while it ran; the outcome is unknown",
        kv::EXIT_SKIP_UNSUPPORTED => "the system cannot evaluate the schedule's gate",
        kv::EXIT_REJECTED_UNSIGNED => "the command's signature was refused",
        kv::EXIT_SKIP_VERSION_PIN => "its version is not the one in script_current",
        kv::EXIT_SKIP_DEADLINE => "its start deadline had passed",
        kv::EXIT_SKIP_REVOKED => "the script is revoked",
        kv::EXIT_SKIP_STALENESS => "the agent's copy was too stale for its policy",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserved_codes_are_121_to_127() {
        let reserved: Vec<i32> = (-1..256).filter(|code| meaning(*code).is_some()).collect();
        assert_eq!(reserved, (121..=127).collect::<Vec<i32>>());
    }
}
