//! Sizes and durations as people write them.

use std::time::Duration;

/// Reads `64 MiB`, `1 GB`, `512 KB`, `4096`: bytes.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    const EXPECTED: &str = "expected a size such as 64 MiB, 1 GB or 4096";
    let (number, unit) = split(text).ok_or(EXPECTED)?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "kib" => 1 << 10,
        "mb" => 1_000_000,
        "mib" => 1 << 20,
        "gb" => 1_000_000_000,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err(EXPECTED.to_owned()),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(|| EXPECTED.to_owned())
}

/// A hundred years. Longer ones overflow where they are added to a time, or do not fit into the server's nanoseconds.
const LONGEST: Duration = Duration::from_secs(36_500 * 86_400);

/// Reads `5 min`, `30s`, `1h 30m`, `250 ms`, `30 days`; no more than [`LONGEST`].
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str =
        "expected a duration with its unit, such as 250 ms, 30 s, 5 min, 1h 30m or 30 days";
    const TOO_LONG: &str = "expected a duration of at most 36500 days";
    let mut rest = text.trim();
    let mut sum = Duration::ZERO;
    if rest.is_empty() {
        return Err(EXPECTED.to_owned());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or(EXPECTED)?;
        let (number, after) = rest.split_at(digits);
        let after = after.trim_start();
        let letters = after
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(letters);
        let number: u64 = number.parse().map_err(|_| EXPECTED)?;
        let millis: u64 = match unit {
            "ms" => 1,
            "s" | "sec" | "second" | "seconds" => 1_000,
            "m" | "min" | "minute" | "minutes" => 60_000,
            "h" | "hour" | "hours" => 3_600_000,
            "d" | "day" | "days" => 86_400_000,
            _ => return Err(EXPECTED.to_owned()),
        };
        let part = Duration::from_millis(number.checked_mul(millis).ok_or(TOO_LONG)?);
        sum = sum
            .checked_add(part)
            .filter(|sum| *sum <= LONGEST)
            .ok_or(TOO_LONG)?;
        rest = next.trim_start();
    }
    Ok(sum)
}

fn split(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    (!number.is_empty()).then(|| (number, unit.trim()))
}
