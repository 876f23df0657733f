//! Names in SQL.

/// A name as SQL takes it literally.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Columns as a list, each behind `prefix`.
pub(super) fn listed<'a>(columns: impl IntoIterator<Item = &'a str>, prefix: &str) -> String {
    columns
        .into_iter()
        .map(|column| format!("{prefix}{}", quoted(column)))
        .collect::<Vec<_>>()
        .join(", ")
}
