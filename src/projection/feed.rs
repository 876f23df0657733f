//! The items of a feed (contract §7.8).

use std::collections::HashMap;

use serde_json::Value;

use crate::wire::json::compact;
use crate::wire::manifest::Feed;

/// What a payload says about a feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedOutcome {
    /// The payload is no object: reported, the rows stay.
    NotObject,
    /// The feed's field is there and no array: reported, the rows stay.
    NotArray,
    /// The feed's rows are these from now on.
    Items {
        /// In the payload's order, no id twice.
        items: Vec<Item>,
        /// `item_count`: an item that another replaced counts as well.
        item_count: i64,
        /// Elements left out because they have no key.
        without_key: usize,
    },
}

/// A row of `feeds`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Made of the key's fields.
    pub item_id: String,
    /// The element.
    pub data: String,
}

/// Reads a feed's items from the payload. The later of two with one id replaces the earlier.
#[must_use]
pub fn items(feed: &Feed, payload: &Value) -> FeedOutcome {
    let Value::Object(payload) = payload else {
        return FeedOutcome::NotObject;
    };
    let elements = match payload.get(&feed.field) {
        None => &[][..],
        Some(Value::Array(elements)) => elements,
        Some(_) => return FeedOutcome::NotArray,
    };
    let mut items: Vec<Option<Item>> = Vec::with_capacity(elements.len());
    let mut places = HashMap::with_capacity(elements.len());
    for element in elements {
        let Some(item_id) = item_id(&feed.primary_key, element) else {
            continue;
        };
        let replaced = places.insert(item_id.clone(), items.len());
        if let Some(earlier) = replaced.and_then(|place| items.get_mut(place)) {
            *earlier = None;
        }
        items.push(Some(Item {
            item_id,
            data: compact(element),
        }));
    }
    FeedOutcome::Items {
        item_count: i64::try_from(items.len()).unwrap_or(i64::MAX),
        without_key: elements.len() - items.len(),
        items: items.into_iter().flatten().collect(),
    }
}

/// The id of an element; `None` when a field of the key is absent or null, or when there is no key.
#[must_use]
pub fn item_id(primary_key: &[String], element: &Value) -> Option<String> {
    let text = |field: &String| match element.get(field)? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(compact(other)),
    };
    if let [field] = primary_key {
        return text(field);
    }
    let texts: Option<Vec<String>> = primary_key.iter().map(text).collect();
    // With its length before it, no text can be read as part of its neighbour.
    let parts = texts?.into_iter().map(|text| format!("{}:{text}", text.len()));
    (!primary_key.is_empty()).then(|| parts.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(payload: &Value) -> FeedOutcome {
        let feed = serde_json::from_value(json!({"id": "f", "field": "v", "primary_key": ["id"]}));
        items(&feed.unwrap(), payload)
    }

    #[test]
    fn the_later_item_replaces_the_earlier_and_both_count() {
        let FeedOutcome::Items {
            items,
            item_count,
            without_key,
        } = read(&json!({"v": [{"id": 1, "n": 1}, {"id": "2"}, {"id": null}, "x", {"id": "1", "n": 2}]}))
        else {
            panic!("a list");
        };
        let data: Vec<_> = items.iter().map(|item| (&*item.item_id, &*item.data)).collect();
        assert_eq!(data, [("2", r#"{"id":"2"}"#), ("1", r#"{"id":"1","n":2}"#)]);
        assert_eq!((item_count, without_key), (3, 2));
    }

    #[test]
    fn an_absent_list_is_an_empty_one_and_a_wrong_one_is_none() {
        let empty = FeedOutcome::Items {
            items: vec![],
            item_count: 0,
            without_key: 0,
        };
        assert_eq!(read(&json!({})), empty);
        assert_eq!(read(&json!({"v": []})), empty);
        assert_eq!(read(&json!({"v": null})), FeedOutcome::NotArray);
        assert_eq!(read(&json!({"v": {}})), FeedOutcome::NotArray);
        assert_eq!(read(&json!([])), FeedOutcome::NotObject);
    }
}
