//! Aligned, quiet text. Outside text is escaped: terminals obey control characters.

use std::io::{self, Write};

use serde::Serialize;

/// Control characters as `\n`, `\u{1b}` and the like; all else as it is, cut after `max` characters.
pub(super) fn inert(text: &str, max: usize) -> String {
    let mut shown = String::new();
    for (index, c) in text.chars().enumerate() {
        if index == max {
            shown.push('…');
            break;
        }
        if steers(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Direction marks would turn the rest of the line around.
fn steers(c: char) -> bool {
    c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c) || ('\u{2066}'..='\u{2069}').contains(&c)
}

/// Prints a document as JSON for people and programs. JSON itself escapes the first 32 control characters; the others
/// that a terminal obeys occur in its texts only, where an escape means the same.
pub(super) fn json(out: &mut dyn Write, document: &impl Serialize) -> Result<(), super::CommandError> {
    let mut shown = String::new();
    for c in serde_json::to_string_pretty(document)?.chars() {
        if c != '\n' && steers(c) {
            shown.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            shown.push(c);
        }
    }
    writeln!(out, "{shown}")?;
    Ok(())
}

/// Prints rows under their heads, each column as wide as its widest cell.
pub(super) fn table(out: &mut dyn Write, heads: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        cells
            .chain(heads.get(column).map(|head| head.chars().count()))
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| -> io::Result<()> {
        let text: Vec<String> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}", width = *width))
            .collect();
        writeln!(out, "{}", text.join("  ").trim_end())
    };
    line(&mut heads.iter().copied())?;
    for row in rows {
        line(&mut row.iter().map(String::as_str))?;
    }
    Ok(())
}

/// `1234567` as `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
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
pub(super) fn size(bytes: u64) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_text_cannot_steer_a_terminal() {
        assert_eq!(
            inert("a\u{1b}[31mred\u{7}\n\u{202e}b", 100),
            "a\\u{1b}[31mred\\u{7}\\n\\u{202e}b"
        );
        assert_eq!(inert("abcdef", 3), "abc…");
    }

    #[test]
    fn json_cannot_steer_one_either_and_reads_back_the_same() {
        let document = serde_json::json!({"a\u{9b}31m": ["\u{1b}[0m\n\u{7f}", "\u{202e}é"]});
        let mut out = Vec::new();
        json(&mut out, &document).unwrap();
        let shown = String::from_utf8(out).unwrap();
        assert!(!shown.chars().any(|c| c != '\n' && steers(c)), "{shown}");
        assert!(shown.contains('é'));
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&shown).unwrap(),
            document
        );
    }

    #[test]
    fn numbers_and_sizes_read_easily() {
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(999), "999");
        assert_eq!(size(1536), "1.5 KiB");
    }
}
