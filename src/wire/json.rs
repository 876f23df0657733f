//! JSON as it is written into columns (contract §6.3).

use serde_json::Value;

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

    proptest! {
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
