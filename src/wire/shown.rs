//! Sizes, lengths of time and lists, for people.

use std::time::Duration;

use super::inert::inert;

/// Names of a list that are told.
const NAMED_MAX: usize = 5;
/// Characters of each.
const NAME_CHARS_MAX: usize = 60;

/// `1234567` as `1,234,567`.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes for people.
#[must_use]
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" {
                format!("{bytes} B")
            } else {
                format!("{value:.1} {unit}")
            };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// A length of time for people: in its largest unit, with one decimal where that says more.
#[must_use]
pub fn span(length: Duration) -> String {
    let millis = length.as_millis();
    for (unit, each) in [
        ("days", 86_400_000_u128),
        ("h", 3_600_000),
        ("min", 60_000),
        ("s", 1_000),
    ] {
        if millis >= each {
            let tenths = millis * 10 / each;
            return match tenths % 10 {
                0 if unit == "days" && tenths == 10 => "1 day".to_owned(),
                0 => format!("{} {unit}", tenths / 10),
                rest => format!("{}.{rest} {unit}", tenths / 10),
            };
        }
    }
    format!("{millis} ms")
}

/// The first names of a list, inert, and how many more there are.
pub fn names<'a>(all: impl IntoIterator<Item = &'a str>) -> String {
    let mut all = all.into_iter();
    let told: Vec<String> = all
        .by_ref()
        .take(NAMED_MAX)
        .map(|name| inert(name, NAME_CHARS_MAX).into_owned())
        .collect();
    match all.count() {
        0 => told.join(", "),
        more => format!("{} and {more} more", told.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_times_and_lists_read_easily() {
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(999), "999");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(12), "12 B");
        assert_eq!(span(Duration::from_secs(7 * 86_400)), "7 days");
        assert_eq!(span(Duration::from_secs(86_400)), "1 day");
        assert_eq!(span(Duration::from_secs(129_600)), "1.5 days");
        assert_eq!(span(Duration::from_secs(90)), "1.5 min");
        assert_eq!(span(Duration::from_millis(12)), "12 ms");
        assert_eq!(names(["a", "b\n"]), "a, b\\n");
        assert_eq!(
            names(["1", "2", "3", "4", "5", "6", "7"]),
            "1, 2, 3, 4, 5 and 2 more"
        );
    }
}
