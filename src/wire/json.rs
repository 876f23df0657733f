//! JSON as it is written into columns (contract §6.3).

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::text::Borrowed;

/// Reads some top-level fields of an object, the last of repeated keys, and only checks the rest. `None` for a text that
/// is no object.
#[must_use]
pub fn fields(text: &str, names: &[String]) -> Option<Map<String, Value>> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let found = Fields(names).deserialize(&mut deserializer).ok()?;
    deserializer.end().ok()?;
    Some(found)
}

struct Fields<'a>(&'a [String]);

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = Map<String, Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = Map::new();
        while let Some(Borrowed(key)) = map.next_key()? {
            if self.0.iter().any(|name| *name == key) {
                found.insert(key.into_owned(), map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Compact text: keys sorted by their bytes, no blanks, numbers as short as they read back the same.
#[must_use]
pub fn compact(value: &Value) -> String {
    // `Value` holds its objects sorted and prints in just this form.
    value.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            prop::num::f64::NORMAL.prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|object| Value::Object(object.into_iter().collect())),
            ]
        })
    }

    #[test]
    fn of_a_field_that_comes_twice_the_last_is_read() {
        let names = ["a".to_owned(), "\u{e9}\n".to_owned()];
        let text = r#" {"a": 1, "b": [{}], "\u00e9\n": null, "a": {"x": 2}} "#;
        assert_eq!(
            fields(text, &names).map(Value::Object),
            Some(json!({"a": {"x": 2}, "\u{e9}\n": null}))
        );
        for no_object in ["", "[1]", "{\"a\":1", "{\"a\":1} x", "{\"b\":nul}"] {
            assert_eq!(fields(no_object, &names), None, "{no_object}");
        }
    }

    proptest! {
        #[test]
        fn fields_are_those_of_the_whole_object(value in values(), name in any::<String>()) {
            let text = compact(&value);
            let whole = value.as_object().map(|object| {
                object.iter().filter(|(key, _)| **key == name || *key == "a").map(|(k, v)| (k.clone(), v.clone())).collect()
            });
            prop_assert_eq!(fields(&text, &[name, "a".to_owned()]), whole);
        }

        #[test]
        fn a_compact_text_reads_back_equal_and_is_written_the_same_again(value in values()) {
            let text = compact(&value);
            let read: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(&read, &value);
            prop_assert_eq!(compact(&read), text);
        }
    }

    #[test]
    fn control_characters_have_their_short_or_lower_case_form() {
        assert_eq!(
            compact(&json!("\u{8}\u{c}\n\r\t\u{1f}\u{7f}/")),
            "\"\\b\\f\\n\\r\\t\\u001f\u{7f}/\""
        );
    }
}
