//! What the server answered, as a person reads it.

use comfy_table::{CellAlignment, Table, presets};
use serde_json::Value;

/// A column: heading, the field of each row, and how it is shown.
pub type Column = (&'static str, &'static str, Shown);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shown {
    Text,
    Number,
    /// With a unit; 0 as it is.
    Bytes,
    /// 0 means that there is no limit.
    Limit,
}

/// One line per row.
pub fn table(columns: &[Column], rows: &[Value]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(columns.iter().map(|(heading, _, _)| *heading));
    for row in rows {
        table.add_row(columns.iter().map(|(_, field, shown)| show(row.get(*field).unwrap_or(&Value::Null), *shown)));
    }
    for (index, _) in columns.iter().enumerate().filter(|(_, column)| column.2 != Shown::Text) {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

pub fn show(value: &Value, shown: Shown) -> String {
    match (value, shown) {
        (Value::Null, _) => String::new(),
        (Value::Bool(true), _) => "yes".to_owned(),
        (Value::Bool(false), _) => "no".to_owned(),
        (Value::Number(number), Shown::Limit) if number.as_u64() == Some(0) => "unlimited".to_owned(),
        (Value::Number(number), Shown::Bytes | Shown::Limit) => bytes(number.as_u64().unwrap_or(0)),
        (Value::String(text), _) => on_one_line(text),
        (other, _) => other.to_string(),
    }
}

/// A text that others may have chosen, such as a key, with its control characters escaped: it must not end the line, and not
/// speak to the terminal.
pub fn on_one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

/// `1.5 GiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let power = ((count.ilog2() / 10) as usize).min(UNITS.len());
    let whole = count as f64 / (1u64 << (10 * power)) as f64;
    format!("{whole:.1} {}", UNITS[power - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (count, want) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(bytes(count), want);
        }
    }

    #[test]
    fn a_key_stays_on_its_line() {
        for (key, want) in [("a b/ü", "a b/ü"), ("a\nb", "a\\nb"), ("\u{1b}[2J\u{9b}", "\\u{1b}[2J\\u{9b}")] {
            assert_eq!(show(&Value::String(key.to_owned()), Shown::Text), want);
        }
    }

    #[test]
    fn a_table_has_a_heading_and_a_line_per_row() {
        let rows = [serde_json::json!({"name": "a", "used": 2048, "limit": 0}), serde_json::json!({"name": "bb"})];
        let columns = [("NAME", "name", Shown::Text), ("USED", "used", Shown::Bytes), ("LIMIT", "limit", Shown::Limit)];
        let text = table(&columns, &rows);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines, [vec!["NAME", "USED", "LIMIT"], vec!["a", "2.0", "KiB", "unlimited"], vec!["bb"]]);
    }
}
