//! Medians, ratios, and the outcome of a scenario as a table and as JSON.

use comfy_table::{CellAlignment, Table};
use serde_json::{Value, json};

/// The middle of the values; NaN if there are none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match (values.len(), values.len() / 2) {
        (0, _) => f64::NAN,
        (len, half) if len % 2 == 1 => values[half],
        (_, half) => f64::midpoint(values[half - 1], values[half]),
    }
}

/// One line of a scenario's table.
#[derive(Debug)]
pub struct Row {
    pub label: String,
    /// One per column of the outcome.
    pub values: Vec<f64>,
}

/// A figure and the target that it is held against.
#[derive(Debug)]
pub struct Verdict {
    pub what: String,
    pub value: f64,
    pub limit: f64,
    pub is_met: bool,
}

impl Verdict {
    pub fn at_most(what: impl Into<String>, value: f64, limit: f64) -> Self {
        Self { what: what.into(), value, limit, is_met: value <= limit }
    }

    pub fn at_least(what: impl Into<String>, value: f64, limit: f64) -> Self {
        Self { what: what.into(), value, limit, is_met: value >= limit }
    }
}

/// What a scenario found.
#[derive(Debug, Default)]
pub struct Outcome {
    pub title: String,
    pub columns: Vec<&'static str>,
    pub rows: Vec<Row>,
    pub verdicts: Vec<Verdict>,
    pub notes: Vec<String>,
}

impl Outcome {
    pub fn new(title: impl Into<String>, columns: impl Into<Vec<&'static str>>) -> Self {
        Self { title: title.into(), columns: columns.into(), ..Self::default() }
    }

    pub fn row(&mut self, label: impl Into<String>, values: impl Into<Vec<f64>>) {
        let row = Row { label: label.into(), values: values.into() };
        assert_eq!(row.values.len(), self.columns.len(), "a value for each column of {}", self.title);
        self.rows.push(row);
    }

    pub fn is_met(&self) -> bool {
        self.verdicts.iter().all(|verdict| verdict.is_met)
    }

    pub fn text(&self) -> String {
        let mut table = Table::new();
        table.set_header([""].into_iter().chain(self.columns.iter().copied()));
        for row in &self.rows {
            table.add_row([row.label.clone()].into_iter().chain(row.values.iter().copied().map(show)));
        }
        table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
        let mut lines = vec![self.title.clone()];
        if !self.rows.is_empty() {
            lines.push(table.to_string());
        }
        lines.extend(self.notes.iter().cloned());
        for Verdict { what, value, limit, is_met } in &self.verdicts {
            let word = if *is_met { "met" } else { "MISSED" };
            lines.push(format!("{word}: {what}: {} (target {})", show(*value), show(*limit)));
        }
        lines.join("\n")
    }

    pub fn json(&self) -> Value {
        let row = |row: &Row| {
            let values = self.columns.iter().zip(&row.values).map(|(name, value)| ((*name).to_owned(), json!(value)));
            json!({ "label": row.label, "values": values.collect::<serde_json::Map<_, _>>() })
        };
        let verdict = |Verdict { what, value, limit, is_met }: &Verdict| json!({ "what": what, "value": value, "target": limit, "met": is_met });
        json!({
            "title": self.title,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
            "verdicts": self.verdicts.iter().map(verdict).collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }
}

/// Three significant digits or so; a dash for what was not measured.
fn show(value: f64) -> String {
    match value.abs() {
        _ if value.is_nan() => "-".to_owned(),
        size if size >= 100.0 || value == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median([]).is_nan());
    }

    #[test]
    fn an_outcome_shows_what_was_met_and_missed() {
        let mut outcome = Outcome::new("title", ["us"]);
        outcome.row("a", [12.345]);
        outcome.row("absent", [f64::NAN]);
        outcome.verdicts.push(Verdict::at_most("ratio", 1.2, 1.3));
        assert!(outcome.is_met());
        outcome.verdicts.push(Verdict::at_least("rate", 4000.0, 5000.0));
        assert!(!outcome.is_met());
        let text = outcome.text();
        for words in ["title", "12.3", "met: ratio: 1.20 (target 1.30)", "MISSED: rate: 4000 (target 5000)"] {
            assert!(text.contains(words), "{words} is not in\n{text}");
        }
        assert_eq!(outcome.json()["verdicts"][1]["met"], false);
    }
}
