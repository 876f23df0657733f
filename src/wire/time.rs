//! The wire's times, and the text that `TIMESTAMP` columns hold (contract §3.2, §6.2).

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Datelike, TimeDelta, Timelike, Utc};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use thiserror::Error;

/// A moment in UTC, to the nanosecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(DateTime<Utc>);

/// A text that is no time.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("not a time with a zone: {0}")]
pub struct TimeError(String);

impl Timestamp {
    /// Reads a time from the wire: RFC 3339 with a zone, and the relaxed forms of §3.2.
    ///
    /// # Errors
    /// Says why a text is none.
    pub fn parse_wire(text: &str) -> Result<Self, TimeError> {
        let time = text
            .parse::<DateTime<Utc>>()
            .map_err(|error| TimeError(error.to_string()))?;
        // RFC 3339 has four digits for the year; with more, the order of texts is no longer the order of times.
        if !(0..=9999).contains(&time.year()) {
            return Err(TimeError("the year has more than four digits".to_owned()));
        }
        Ok(Self(time))
    }

    /// Reads what [`Timestamp::stored`] wrote.
    ///
    /// # Errors
    /// Says why a text is none.
    pub fn parse_stored(text: &str) -> Result<Self, TimeError> {
        Self::parse_wire(text)
    }

    /// The text of a `TIMESTAMP` column: no fraction, or 3, 6 or 9 digits, the fewest that lose nothing, and `+00:00`.
    #[must_use]
    pub fn stored(&self) -> String {
        // Without an offset: each question to a `DateTime` would add it anew.
        let time = self.0.naive_utc();
        let (date, nanos) = (time.date(), time.nanosecond());
        let year = date.year();
        if !(0..=9999).contains(&year) || nanos >= 1_000_000_000 {
            // Beyond four digits, or in a leap second: rare enough for the general way.
            return self.0.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, false);
        }
        let mut text = Vec::with_capacity(35);
        let year = year.unsigned_abs();
        digits(&mut text, year / 100, 2);
        digits(&mut text, year % 100, 2);
        text.push(b'-');
        digits(&mut text, date.month(), 2);
        text.push(b'-');
        digits(&mut text, date.day(), 2);
        text.push(b'T');
        digits(&mut text, time.hour(), 2);
        text.push(b':');
        digits(&mut text, time.minute(), 2);
        text.push(b':');
        digits(&mut text, time.second(), 2);
        if nanos.is_multiple_of(1_000_000) {
            if nanos != 0 {
                text.push(b'.');
                digits(&mut text, nanos / 1_000_000, 3);
            }
        } else if nanos.is_multiple_of(1_000) {
            text.push(b'.');
            digits(&mut text, nanos / 1_000, 6);
        } else {
            text.push(b'.');
            digits(&mut text, nanos, 9);
        }
        text.extend_from_slice(b"+00:00");
        // Nothing but ASCII.
        String::from_utf8(text).unwrap_or_default()
    }

    /// Nanoseconds since 1970.
    #[must_use]
    pub fn from_unix_nanos(nanos: i64) -> Self {
        Self(DateTime::from_timestamp_nanos(nanos))
    }

    /// Nanoseconds since 1970; `None` outside the years 1677 to 2262.
    #[must_use]
    pub fn unix_nanos(&self) -> Option<i64> {
        self.0.timestamp_nanos_opt()
    }

    /// Later by `delta`; `None` beyond what can be represented, which is a year of four digits (§6.2).
    #[must_use]
    pub fn checked_add(self, delta: TimeDelta) -> Option<Self> {
        let sum = self.0.checked_add_signed(delta)?;
        (0..=9999).contains(&sum.year()).then_some(Self(sum))
    }

    /// Time since an earlier moment; `None` when that one is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Option<Duration> {
        (self.0 - earlier.0).to_std().ok()
    }
}

/// Appends a number of at most nine digits, with leading zeros to a width.
fn digits(text: &mut Vec<u8>, mut value: u32, width: usize) {
    let mut places = [b'0'; 9];
    for place in places.iter_mut().rev().take(width) {
        *place += (value % 10) as u8;
        value /= 10;
    }
    text.extend(places.iter().skip(9 - width));
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(time: DateTime<Utc>) -> Self {
        Self(time)
    }
}

impl From<Timestamp> for DateTime<Utc> {
    fn from(time: Timestamp) -> Self {
        time.0
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.stored())
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Timestamp;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time with a zone, as text")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Timestamp, E> {
                Timestamp::parse_wire(text).map_err(|error| {
                    let shown: String = text.chars().take(60).collect();
                    E::custom(format_args!("{error} ({shown:?})"))
                })
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_stored_time_reads_back_and_is_what_the_general_formatter_writes(
            seconds in -62_167_219_200_i64..253_402_300_800, nanos in 0_u32..1_000_000_000, coarse in 0_u32..3
        ) {
            let nanos = [nanos, nanos / 1_000 * 1_000, nanos / 1_000_000 * 1_000_000][coarse as usize];
            let time = DateTime::from_timestamp(seconds, nanos).unwrap();
            let stored = Timestamp(time).stored();
            prop_assert_eq!(&stored, &time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, false));
            prop_assert_eq!(Timestamp::parse_stored(&stored).unwrap().0, time);
        }

        #[test]
        fn the_order_of_stored_texts_is_the_order_of_times(
            one in -62_167_219_200_i64..253_402_300_800, other in -62_167_219_200_i64..253_402_300_800,
            nanos in 0_u32..1_000_000_000, more in 0_u32..1_000_000_000
        ) {
            let one = Timestamp(DateTime::from_timestamp(one, nanos).unwrap());
            let other = Timestamp(DateTime::from_timestamp(other, more).unwrap());
            prop_assert_eq!(one.cmp(&other), one.stored().cmp(&other.stored()));
        }
    }

    #[test]
    fn an_age_is_none_when_a_clock_is_behind() {
        let (earlier, later) = (Timestamp::from_unix_nanos(1), Timestamp::from_unix_nanos(3));
        assert_eq!(later.since(earlier), Some(Duration::from_nanos(2)));
        assert_eq!(later.since(later), Some(Duration::ZERO));
        assert_eq!(earlier.since(later), None);
    }

    #[test]
    fn a_text_without_a_zone_is_no_time() {
        for text in [
            "",
            "2026-06-01",
            "2026-06-01T00:00:00",
            "2026-06-01T24:00:00Z",
            "1780272000",
            "99999999-01-01T00:00:00Z",
            "+10000-01-01T00:00:00Z",
        ] {
            assert!(Timestamp::parse_wire(text).is_err(), "{text}");
        }
    }
}
