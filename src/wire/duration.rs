//! Durations as people write them (contract §5.4): `30s`, `1h 30m`, `2 days`, `1.5h`.
//!
//! The rules are those of the crate `humantime`, which agents and backend use. The crate itself panics where a sum
//! reaches the last second of its range, so a manifest could stop us; a test compares the two everywhere else.

use std::time::Duration;

const NANOS_PER_SEC: u64 = 1_000_000_000;

/// What one of a unit is: whole seconds, or nanoseconds of units below a second.
#[derive(Clone, Copy)]
enum Unit {
    Seconds(u64),
    Nanos(u64),
}

impl Unit {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "nanos" | "nsec" | "ns" => Self::Nanos(1),
            "usec" | "us" | "µs" => Self::Nanos(1_000),
            "millis" | "msec" | "ms" => Self::Nanos(1_000_000),
            "seconds" | "second" | "secs" | "sec" | "s" => Self::Seconds(1),
            "minutes" | "minute" | "min" | "mins" | "m" => Self::Seconds(60),
            "hours" | "hour" | "hr" | "hrs" | "h" => Self::Seconds(3_600),
            "days" | "day" | "d" => Self::Seconds(86_400),
            "weeks" | "week" | "wk" | "wks" | "w" => Self::Seconds(7 * 86_400),
            // 30.44 and 365.25 days.
            "months" | "month" | "M" => Self::Seconds(2_630_016),
            "years" | "year" | "yr" | "yrs" | "y" => Self::Seconds(31_557_600),
            _ => return None,
        })
    }

    fn times(self, number: u64) -> Option<Duration> {
        Some(match self {
            Self::Seconds(each) => Duration::from_secs(number.checked_mul(each)?),
            Self::Nanos(each) => Duration::from_nanos(number.checked_mul(each)?),
        })
    }

    /// A fraction of the unit, which must come out even: in seconds from the hour up, else in nanoseconds.
    fn fraction(self, Digits { value, scale }: Digits) -> Option<Duration> {
        let scale = scale?;
        let even = |each: u64| {
            let product = value.checked_mul(each)?;
            product.is_multiple_of(scale).then(|| product / scale)
        };
        Some(match self {
            Self::Nanos(1) => return None,
            Self::Nanos(each) => Duration::from_nanos(even(each)?),
            Self::Seconds(each) if each < 3_600 => Duration::from_nanos(even(each * NANOS_PER_SEC)?),
            Self::Seconds(each) => Duration::from_secs(even(each)?),
        })
    }
}

/// Reads a duration; `None` for a text that is none, or one beyond 64 bits of seconds.
pub(super) fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        // The one number that needs no unit.
        return Some(Duration::ZERO);
    }
    let mut rest = text.trim_start();
    let mut sum = Duration::ZERO;
    loop {
        let (number, after) = digits(rest)?;
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => {
                let (fraction, after) = digits(after)?;
                (Some(fraction), after)
            }
            None => (None, after),
        };
        let is_letter = |c: char| c.is_ascii_alphabetic() || c == 'µ';
        let (unit, after) = after.split_at_checked(after.find(|c| !is_letter(c)).unwrap_or(after.len()))?;
        let unit = Unit::parse(unit)?;
        sum = sum.checked_add(unit.times(number.value)?)?;
        if let Some(fraction) = fraction {
            sum = sum.checked_add(unit.fraction(fraction)?)?;
        }
        rest = after.trim_start();
        if rest.is_empty() {
            return Some(sum);
        }
    }
}

struct Digits {
    value: u64,
    /// Ten to the number of digits; only a fraction has a use for it.
    scale: Option<u64>,
}

/// One or more digits, with blanks between and after them. Blanks before are for the caller.
fn digits(text: &str) -> Option<(Digits, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && !c.is_whitespace())
        .unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    let mut found = Digits {
        value: 0,
        scale: Some(1),
    };
    for digit in digits.bytes().filter(u8::is_ascii_digit) {
        found.value = found
            .value
            .checked_mul(10)?
            .checked_add(u64::from(digit - b'0'))?;
        found.scale = found.scale.and_then(|scale| scale.checked_mul(10));
    }
    (found.scale != Some(1)).then_some((found, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str) {
        assert_eq!(parse(text), humantime::parse_duration(text).ok(), "{text:?}");
    }

    proptest! {
        #[test]
        fn durations_are_those_of_humantime(
            parts in prop::collection::vec(
                (
                    "[ \t\u{3000}]{0,1}[0-9]{0,12}[ ]{0,1}", prop::option::of("\\.[0-9]{0,5}"),
                    prop::sample::select(vec![
                        "ns", "usec", "µs", "ms", "millis", "s", "sec", "m", "min", "h", "hr", "hours", "d", "day",
                        "w", "wk", "M", "month", "y", "years", "", "x", "S", "parsecs",
                    ]),
                    "[ ]{0,2}",
                ),
                0..4,
            )
        ) {
            let text: String = parts
                .into_iter()
                .map(|(number, fraction, unit, blank)| format!("{number}{}{unit}{blank}", fraction.unwrap_or_default()))
                .collect();
            check(&text);
        }

        #[test]
        fn any_text_is_read_as_humantime_reads_it(text in "[0-9. smhdyMµ\u{3042}-]{0,12}") {
            check(&text);
        }
    }

    #[test]
    fn a_bare_zero_needs_no_unit() {
        for text in ["0", " 0", "0 ", "00", "0s", "1"] {
            check(text);
        }
    }

    #[test]
    fn a_text_that_makes_humantime_panic_is_no_duration() {
        assert_eq!(parse("18446744073709551615s 1000ms"), None);
        assert_eq!(
            parse("18446744073709551615s"),
            Some(Duration::from_secs(u64::MAX))
        );
    }
}
