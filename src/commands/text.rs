//! Aligned, quiet text. What comes from outside is made inert (`wire::inert`), twice: each value where it is put into a
//! line, which also bounds its length, and each line as a whole where it leaves ([`Lines`]), so that a value that was
//! forgotten can still neither steer a terminal nor forge a line.

use std::io::{self, Write};

use serde::Serialize;

use crate::wire::inert;

/// A value in a line: inert, and cut after `max` characters.
pub(super) fn inert(text: &str, max: usize) -> String {
    inert::inert(text, max).into_owned()
}

/// Where commands print to. What one `writeln!` is given becomes one line, whatever stands in its values; bytes that are
/// written as such (`json`, the dump) are inert already.
#[derive(Debug)]
pub struct Lines<W>(pub W);

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }

    fn write_fmt(&mut self, text: std::fmt::Arguments<'_>) -> io::Result<()> {
        let text = text.to_string();
        let (line, end) = text
            .strip_suffix('\n')
            .map_or((text.as_str(), ""), |line| (line, "\n"));
        self.0.write_all(inert::inert(line, usize::MAX).as_bytes())?;
        self.0.write_all(end.as_bytes())
    }
}

/// Prints a document as JSON for people and programs: its texts read back as they are, and steer nothing.
pub(super) fn json(out: &mut dyn Write, document: &impl Serialize) -> Result<(), super::CommandError> {
    let shown = serde_json::to_string_pretty(document)?;
    out.write_all(inert::inert_json(&shown).as_bytes())?;
    out.write_all(b"\n")?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_was_forgotten_forges_no_line() {
        let mut out = Lines(Vec::new());
        let forgotten = "a\n\u{1b}[31mdead 0\r";
        writeln!(out, "issue {forgotten}").unwrap();
        writeln!(out).unwrap();
        json(&mut out, &"a\n\u{9b}").unwrap();
        assert_eq!(
            String::from_utf8(out.0).unwrap(),
            "issue a\\n\\u{1b}[31mdead 0\\r\n\n\"a\\n\\u009b\"\n"
        );
    }
}
