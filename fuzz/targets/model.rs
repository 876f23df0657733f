//! The contract's rules of decoding once more, in another way, to compare with; and what every target asks of texts that
//! people read.

use std::fmt;

use chrono::{NaiveDate, NaiveTime, TimeDelta};
use results_projector::wire::time::Timestamp;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// What the contract says of a part of a message.
pub(crate) enum Says<T> {
    /// It must be refused.
    Wrong,
    /// Nothing that this model knows.
    Nothing,
    /// It is this.
    Is(T),
}

/// The members of an object, each as it was written.
pub(crate) struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

impl Members {
    /// Reads a payload. A JSON array may be taken for the fields in order, or not (§3.2).
    pub(crate) fn of(payload: &[u8]) -> Says<Self> {
        let Ok(text) = std::str::from_utf8(payload) else {
            return Says::Wrong;
        };
        match serde_json::from_str(text) {
            Ok(members) => Says::Is(members),
            Err(_) if text.trim_start().starts_with('[') => Says::Nothing,
            Err(_) => Says::Wrong,
        }
    }

    /// A known field: none may stand twice.
    fn raw(&self, name: &str) -> Says<Option<&str>> {
        let mut found = self
            .0
            .iter()
            .filter(|(key, _)| key == name)
            .map(|(_, raw)| raw.get());
        match (found.next(), found.next()) {
            (first, None) => Says::Is(first),
            (_, Some(_)) => Says::Wrong,
        }
    }

    /// A text that must be there.
    pub(crate) fn text(&self, name: &str) -> Says<String> {
        match self.raw(name) {
            Says::Is(Some(raw)) => serde_json::from_str(raw).map_or(Says::Wrong, Says::Is),
            _ => Says::Wrong,
        }
    }

    /// A text, or null, or nothing at all.
    pub(crate) fn optional_text(&self, name: &str) -> Says<Option<String>> {
        match self.raw(name) {
            Says::Is(None | Some("null")) => Says::Is(None),
            Says::Is(Some(raw)) => serde_json::from_str(raw).map_or(Says::Wrong, |text| Says::Is(Some(text))),
            _ => Says::Wrong,
        }
    }

    /// Absent, but not null, counts as empty.
    pub(crate) fn text_or_empty(&self, name: &str) -> Says<String> {
        match self.raw(name) {
            Says::Is(None) => Says::Is(String::new()),
            _ => self.text(name),
        }
    }

    /// A truth value, or null, or nothing.
    pub(crate) fn optional_truth(&self, name: &str) -> Says<Option<bool>> {
        match self.raw(name) {
            Says::Is(None | Some("null")) => Says::Is(None),
            Says::Is(Some("true")) => Says::Is(Some(true)),
            Says::Is(Some("false")) => Says::Is(Some(false)),
            _ => Says::Wrong,
        }
    }

    /// A whole number between two others, written without point or exponent.
    pub(crate) fn integer(&self, name: &str, least: i128, most: i128) -> Says<i128> {
        match self.raw(name) {
            // Minus nothing is no integer to some readers of JSON.
            Says::Is(Some("-0")) => Says::Nothing,
            Says::Is(Some(raw)) => match raw.parse() {
                Ok(number) if (least..=most).contains(&number) => Says::Is(number),
                _ => Says::Wrong,
            },
            _ => Says::Wrong,
        }
    }

    /// A time that must be there. Only the forms that agents write are known here; of others nothing is said.
    pub(crate) fn time(&self, name: &str) -> Says<Timestamp> {
        match self.text(name) {
            Says::Is(text) => time(&text).map_or(Says::Nothing, Says::Is),
            _ => Says::Wrong,
        }
    }

    /// Any value that must be there.
    pub(crate) fn value(&self, name: &str) -> Says<Value> {
        match self.raw(name) {
            Says::Is(Some(raw)) => serde_json::from_str(raw).map_or(Says::Nothing, Says::Is),
            _ => Says::Wrong,
        }
    }
}

/// `YYYY-MM-DDTHH:MM:SS`, perhaps a fraction, and `Z` or an offset.
fn time(text: &str) -> Option<Timestamp> {
    let number = |from: usize, to: usize| -> Option<u32> {
        let digits = text.get(from..to)?;
        digits
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| digits.parse().ok())?
    };
    let stands = |at: usize, one_of: &str| text.get(at..=at).is_some_and(|found| one_of.contains(found));
    if ![(4, "-"), (7, "-"), (10, "Tt "), (13, ":"), (16, ":")]
        .iter()
        .all(|(at, one_of)| stands(*at, one_of))
    {
        return None;
    }
    let date = NaiveDate::from_ymd_opt(number(0, 4)?.try_into().ok()?, number(5, 7)?, number(8, 10)?)?;
    let mut at = 19;
    let mut nanos = 0;
    if stands(at, ".") {
        let digits: String = text.get(20..)?.chars().take_while(char::is_ascii_digit).collect();
        at = 20 + digits.len();
        nanos = format!("{digits:0<9}")
            .get(..9)
            .filter(|_| !digits.is_empty())?
            .parse()
            .ok()?;
    }
    let time = NaiveTime::from_hms_nano_opt(number(11, 13)?, number(14, 16)?, number(17, 19)?, nanos)?;
    let offset = match text.get(at..)? {
        "Z" | "z" => 0,
        zone if zone.len() == 6 && stands(at + 3, ":") && stands(at, "+-") => {
            let (hours, minutes) = (number(at + 1, at + 3)?, number(at + 4, at + 6)?);
            let seconds = i64::from(hours * 3600 + minutes * 60);
            (hours < 24 && minutes < 60).then_some(if stands(at, "-") { -seconds } else { seconds })?
        }
        _ => return None,
    };
    let utc = date
        .and_time(time)
        .checked_sub_signed(TimeDelta::seconds(offset))?
        .and_utc();
    let first = NaiveDate::from_ymd_opt(0, 1, 1)?;
    let last = NaiveDate::from_ymd_opt(9999, 12, 31)?;
    (first..=last).contains(&utc.date_naive()).then(|| utc.into())
}

/// An error is one short line without anything that a terminal would obey.
pub(crate) fn assert_one_line(error: &str) {
    assert!(!error.is_empty(), "an error without words");
    assert!(
        error.chars().count() <= 600,
        "an error of {} characters",
        error.chars().count()
    );
    assert!(
        !error.chars().any(char::is_control),
        "control characters in {error:?}"
    );
}

/// Compares one field with the model. Returns false where the model says that the message is wrong.
pub(crate) fn agrees<T: PartialEq + fmt::Debug>(says: &Says<T>, found: Option<T>, name: &str) -> bool {
    match (says, found) {
        (Says::Is(expected), Some(found)) => {
            assert_eq!(found, *expected, "{name}");
            true
        }
        (Says::Wrong, Some(found)) => panic!("{name} is {found:?}, and must be refused"),
        (Says::Wrong, None) => false,
        (Says::Nothing, _) | (Says::Is(_), None) => true,
    }
}

/// Whether the model is sure that a field is right.
pub(crate) fn is_sure<T>(says: &Says<T>) -> bool {
    matches!(says, Says::Is(_))
}

/// A stored time reads back, and texts sort as times do (§6.2).
pub(crate) fn assert_times(times: &[Timestamp]) {
    for one in times {
        let stored = one.stored();
        assert_eq!(Timestamp::parse_stored(&stored).as_ref(), Ok(one), "{stored}");
        assert!(stored.ends_with("+00:00") && stored.len() <= 35, "{stored}");
        for other in times {
            assert_eq!(
                one.cmp(other),
                stored.cmp(&other.stored()),
                "{stored} and {}",
                other.stored()
            );
        }
    }
}
