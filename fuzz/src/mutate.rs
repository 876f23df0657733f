//! Changes a case. libFuzzer's own changes of bytes break JSON nearly always, so that two of three are made on the tree of
//! one of the case's parts instead: values taken from a list of hard ones or from elsewhere in the tree, members and
//! elements that go, come twice, change places or names. A text that holds JSON is changed as a tree itself.

use libfuzzer_sys::fuzzer_mutate;
use serde_json::{Map, Value, json};

use crate::targets::{BETWEEN_PARTS, parts};

/// Enough for one change; the same seed makes the same one.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound.max(1) as u64) as usize
    }
}

/// libFuzzer's call: changes `data[..size]` in place, within `max_size`, and returns the new size.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let mut dice = Dice(seed.into());
    if dice.below(3) > 0
        && let Some(case) = changed(&data[..size], &mut dice)
        && case.len() <= max_size
    {
        data[..case.len()].copy_from_slice(&case);
        return case.len();
    }
    fuzzer_mutate(data, size, max_size)
}

fn changed(case: &[u8], dice: &mut Dice) -> Option<Vec<u8>> {
    let mut parts: Vec<Vec<u8>> = parts(case).into_iter().map(<[u8]>::to_vec).collect();
    if parts.len() > 1 && dice.below(12) == 0 {
        let (one, other) = (dice.below(parts.len()), dice.below(parts.len()));
        match dice.below(3) {
            0 => parts.swap(one, other),
            1 => parts.insert(one, parts[other].clone()),
            _ => drop(parts.remove(one)),
        }
        return Some(parts.join(BETWEEN_PARTS));
    }
    let at = dice.below(parts.len());
    let mut tree: Value = serde_json::from_slice(&parts[at]).ok()?;
    for _ in 0..=dice.below(3) {
        change(&mut tree, dice);
    }
    parts[at] = serde_json::to_vec(&tree).ok()?;
    Some(parts.join(BETWEEN_PARTS))
}

fn count(tree: &Value) -> usize {
    1 + match tree {
        Value::Array(elements) => elements.iter().map(count).sum(),
        Value::Object(members) => members.values().map(count).sum(),
        _ => 0,
    }
}

/// The node of that number, counted as they are written.
fn node<'a>(tree: &'a mut Value, number: &mut usize) -> Option<&'a mut Value> {
    if *number == 0 {
        return Some(tree);
    }
    *number -= 1;
    match tree {
        Value::Array(elements) => elements.iter_mut().find_map(|element| node(element, number)),
        Value::Object(members) => members.values_mut().find_map(|member| node(member, number)),
        _ => None,
    }
}

fn change(tree: &mut Value, dice: &mut Dice) {
    let nodes = count(tree);
    let elsewhere = node(tree, &mut dice.below(nodes)).cloned().unwrap_or_default();
    let mut keys = Vec::new();
    names(tree, &mut keys);
    let Some(found) = node(tree, &mut dice.below(nodes)) else {
        return;
    };
    match (dice.below(8), &mut *found) {
        (0, _) => *found = hard(dice),
        (1, _) => *found = elsewhere,
        (_, Value::Array(elements)) => list(elements, elsewhere, dice),
        (_, Value::Object(members)) => object(members, &keys, elsewhere, dice),
        (_, Value::String(text)) => *text = string(text, dice),
        (2, Value::Number(number)) => *found = Value::from(number.to_string()),
        (3, Value::Number(number)) => *found = json!(number.as_f64().map_or(0.0, |number| number / 2.0)),
        (_, Value::Number(number)) => {
            let by = [1, -1, 1000, i64::from(i32::MAX)][dice.below(4)];
            *found = Value::from(number.as_i64().unwrap_or(0).wrapping_add(by));
        }
        (_, other) => *other = hard(dice),
    }
}

fn names(tree: &Value, found: &mut Vec<String>) {
    match tree {
        Value::Array(elements) => elements.iter().for_each(|element| names(element, found)),
        Value::Object(members) => {
            for (name, member) in members {
                found.push(name.clone());
                names(member, found);
            }
        }
        _ => {}
    }
}

fn list(elements: &mut Vec<Value>, elsewhere: Value, dice: &mut Dice) {
    let at = dice.below(elements.len());
    match dice.below(6) {
        0 if at < elements.len() => drop(elements.remove(at)),
        1 if at < elements.len() => elements.insert(dice.below(at + 1), elements[at].clone()),
        2 if at < elements.len() => elements.swap(at, 0),
        3 => elements.truncate(at),
        4 => elements.insert(at, hard(dice)),
        _ => elements.insert(at, elsewhere),
    }
}

fn object(members: &mut Map<String, Value>, keys: &[String], elsewhere: Value, dice: &mut Dice) {
    let name = members.keys().nth(dice.below(members.len())).cloned();
    let other = keys.get(dice.below(keys.len())).cloned();
    match (dice.below(5), name, other) {
        (0, Some(name), _) => drop(members.remove(&name)),
        (1, Some(name), Some(other)) => {
            let member = members.remove(&name).unwrap_or_default();
            members.insert(other, member);
        }
        (2, Some(name), Some(other)) => {
            let member = members.get(&name).cloned().unwrap_or_default();
            members.insert(other, member);
        }
        (3, Some(name), _) => drop(members.insert(name, hard(dice))),
        (_, _, Some(other)) => drop(members.insert(other, elsewhere)),
        (_, _, None) => drop(members.insert("a".to_owned(), elsewhere)),
    }
}

fn string(text: &str, dice: &mut Dice) -> String {
    if let Ok(mut inside) = serde_json::from_str::<Value>(text)
        && (inside.is_object() || inside.is_array())
        && dice.below(8) > 0
    {
        change(&mut inside, dice);
        return inside.to_string();
    }
    let mut bytes = text.as_bytes().to_vec();
    let size = bytes.len();
    bytes.resize(size + 16, 0);
    let max_size = bytes.len();
    let size = fuzzer_mutate(&mut bytes, size, max_size);
    String::from_utf8_lossy(&bytes[..size]).into_owned()
}

/// Values at which rules part.
fn hard(dice: &mut Dice) -> Value {
    let values = [
        Value::Null,
        json!(true),
        json!(false),
        json!(0),
        json!(1),
        json!(-1),
        json!(1.0),
        json!(-0.0),
        json!(1e300),
        json!(5e-324),
        json!(i32::MAX),
        json!(i64::from(i32::MAX) + 1),
        json!(i64::MIN),
        json!(i64::MAX),
        json!(u64::MAX),
        json!(9_007_199_254_740_993_i64),
        json!(""),
        json!(" "),
        json!("0"),
        json!("1"),
        json!(" 42 "),
        json!("4.0"),
        json!("-0.0"),
        json!("1e999"),
        json!("0x10"),
        json!("9223372036854775808"),
        json!("a"),
        json!("A"),
        json!("null"),
        json!("\u{0}"),
        json!("\u{1b}[2J\u{202e}"),
        json!("\u{3042}"),
        json!("2026-06-01T00:00:00Z"),
        json!("2026-06-30T23:59:60.999999999Z"),
        json!("0000-01-01T00:00:00+23:59"),
        json!("9999-12-31T23:59:59.1Z"),
        json!("1h 30m"),
        json!("18446744073709551615s"),
        json!([]),
        json!({}),
        json!([[]]),
        json!([{}, {}]),
        json!({"a": null}),
    ];
    values[dice.below(values.len())].clone()
}
