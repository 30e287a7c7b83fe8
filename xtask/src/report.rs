//! `target/reports/NAME.json`: an array of rows for machines, beside the text a person reads.

use std::fmt::Write as _;
use std::fs;

use crate::run;

/// One row of a report. Empty strings and `None` are written as null.
#[derive(Default)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) value: Option<f64>,
    pub(crate) unit: &'static str,
    pub(crate) goal: Option<f64>,
    pub(crate) reached: Option<bool>,
    pub(crate) note: String,
}

/// Writes the rows of the chore `name`.
pub(crate) fn write(name: &str, rows: &[Row]) -> Result<(), String> {
    let mut out = String::from("[\n");
    for (n, row) in rows.iter().enumerate() {
        let comma = if n + 1 < rows.len() { "," } else { "" };
        let _ = writeln!(
            out,
            "  {{\"id\": {}, \"value\": {}, \"unit\": {}, \"peer\": null, \"peer_value\": null, \"ratio\": null, \"goal\": {}, \"reached\": {}, \"note\": {}}}{comma}",
            text(&row.id),
            number(row.value),
            text(row.unit),
            number(row.goal),
            row.reached.map_or_else(|| "null".to_owned(), |r| r.to_string()),
            text(&row.note),
        );
    }
    out.push_str("]\n");
    let dir = run::root().join("target/reports");
    fs::create_dir_all(&dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
    let file = dir.join(format!("{name}.json"));
    fs::write(&file, out).map_err(|e| format!("cannot write {}: {e}", file.display()))
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "null".to_owned(), |v| v.to_string())
}

/// A JSON string, or null for an empty one (RFC 8259 section 7).
fn text(value: &str) -> String {
    if value.is_empty() {
        return "null".to_owned();
    }
    let mut out = String::from("\"");
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if u32::from(c) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn quotes_and_control_characters_are_escaped() {
        assert_eq!(text("a\"b\\c\n\u{1}"), "\"a\\\"b\\\\c\\n\\u0001\"");
        assert_eq!(text(""), "null");
    }
}
