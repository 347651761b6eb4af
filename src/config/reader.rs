//! From the tree as written to single values of the types that the table of keys gives them. Collects problems instead
//! of stopping at the first, so a value that could not be read is replaced by its default and checking goes on.

use super::problem::Problem;
use super::raw::{Node, Value};
use super::schema::{self, Absent, Kind, State};
use super::values;
use crate::base::Secret;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A part of the file: the root, a section, or an item of a list of sections.
#[derive(Clone, Debug)]
pub struct Section<'a> {
    /// None when the file does not have it.
    node: Option<&'a Node>,
    /// The line to name for a key that is missing in it.
    line: usize,
    /// As the table spells it: `backends[]`.
    path: String,
    /// As the file means it: `backends[1]`.
    shown: String,
}

impl<'a> Section<'a> {
    pub fn root(node: &'a Node) -> Self {
        Self { node: Some(node), line: 0, path: String::new(), shown: String::new() }
    }

    fn entry(&self, word: &str) -> Option<(&'a Node, usize)> {
        let Value::Map(entries) = &self.node?.value else { return None };
        let entry = entries.iter().find(|entry| entry.key == word)?;
        (entry.node.value != Value::Null).then_some((&entry.node, entry.line))
    }

    pub fn has(&self, word: &str) -> bool {
        self.entry(word).is_some()
    }

    pub fn line(&self) -> usize {
        self.line
    }

    /// The line of a key in it, or its own.
    pub fn line_of(&self, word: &str) -> usize {
        self.entry(word).map_or(self.line, |(_, line)| line)
    }

    pub fn shown(&self) -> &str {
        &self.shown
    }

    pub fn key(&self, word: &str) -> String {
        join(&self.shown, word)
    }

    pub fn section(&self, word: &str) -> Self {
        let entry = self.entry(word);
        Self {
            node: entry.map(|(node, _)| node),
            line: entry.map_or(self.line, |(_, line)| line),
            path: join(&self.path, word),
            shown: join(&self.shown, word),
        }
    }

    /// The items of a list of sections; empty when it is not there.
    pub fn items(&self, word: &str) -> Vec<Self> {
        let Some((Node { value: Value::List(items), .. }, _)) = self.entry(word) else { return Vec::new() };
        let item = |(i, node): (usize, &'a Node)| Self {
            node: Some(node),
            line: node.line,
            path: format!("{}[]", join(&self.path, word)),
            shown: format!("{}[{i}]", join(&self.shown, word)),
        };
        items.iter().enumerate().map(item).collect()
    }
}

fn join(section: &str, word: &str) -> String {
    if section.is_empty() { word.to_owned() } else { format!("{section}.{word}") }
}

/// Reads and remembers what was wrong.
#[derive(Debug)]
pub struct Reader {
    /// Relative paths start here: the configuration file's folder.
    base: PathBuf,
    pub problems: Vec<Problem>,
    pub warnings: Vec<Problem>,
    /// Every key of the table that was asked for; a test compares it with the table.
    pub read: BTreeSet<&'static str>,
}

impl Reader {
    pub fn new(base: &Path) -> Self {
        Self { base: base.to_owned(), problems: Vec::new(), warnings: Vec::new(), read: BTreeSet::new() }
    }

    pub fn problem(&mut self, line: usize, key: impl Into<String>, message: impl Into<String>) {
        self.problems.push(Problem { line, key: key.into(), message: message.into() });
    }

    pub fn warn(&mut self, line: usize, key: impl Into<String>, message: impl Into<String>) {
        self.warnings.push(Problem { line, key: key.into(), message: message.into() });
    }

    /// Reports every key that the table does not know, knows as not usable, or knows in another shape.
    pub fn check_keys(&mut self, root: &Node) {
        self.check_section(root, "", "");
    }

    fn check_section(&mut self, node: &Node, path: &str, shown: &str) {
        let entries = match &node.value {
            Value::Map(entries) => entries,
            Value::Null => return,
            other => return self.problem(node.line, shown, format!("must be a section, but is {}", other.kind())),
        };
        for entry in entries {
            let below = join(path, &entry.key);
            let below_shown = join(shown, &entry.key);
            match schema::find(&below).map(|key| key.state) {
                Some(State::Known { kind: Kind::Texts, .. }) => self.check_texts(&entry.node, &below_shown),
                Some(State::Known { .. }) => self.check_scalar(&entry.node, &below_shown),
                Some(State::NotYet { feature, meanwhile }) => {
                    let message = format!("not available yet: {feature} will come in a later version; {meanwhile}");
                    self.problem(entry.line, below_shown, message);
                }
                Some(State::Gone { instead }) => {
                    self.problem(entry.line, below_shown, format!("has no use here: {instead}"));
                }
                None if schema::is_list(&below) => self.check_list(&entry.node, &below, &below_shown),
                None if schema::is_section(&below) => self.check_section(&entry.node, &below, &below_shown),
                None => {
                    let hint = schema::nearest(path, &entry.key).map_or_else(
                        || "see docs/configuration.md".to_owned(),
                        |near| format!("did you mean `{near}`?"),
                    );
                    self.problem(entry.line, below_shown, format!("unknown key; {hint}"));
                }
            }
        }
    }

    fn check_scalar(&mut self, node: &Node, shown: &str) {
        if !matches!(node.value, Value::Scalar(_) | Value::Null | Value::Unusable) {
            self.problem(node.line, shown, format!("must be a single value, but is {}", node.value.kind()));
        }
    }

    fn check_texts(&mut self, node: &Node, shown: &str) {
        match &node.value {
            Value::List(texts) => texts.iter().for_each(|text| self.check_scalar(text, shown)),
            _ => self.check_scalar(node, shown),
        }
    }

    fn check_list(&mut self, node: &Node, path: &str, shown: &str) {
        match &node.value {
            Value::Null => {}
            Value::List(items) => {
                for (i, item) in items.iter().enumerate() {
                    self.check_section(item, &format!("{path}[]"), &format!("{shown}[{i}]"));
                }
            }
            other => {
                let message = format!("must be a list (lines that start with `- `), but is {}", other.kind());
                self.problem(node.line, shown, message);
            }
        }
    }

    /// The value of a key, or its default. None: absent without a default, or wrong, which is then reported.
    fn value<T>(&mut self, section: &Section<'_>, word: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let (path, _, default) = schema::known(&join(&section.path, word));
        self.read.insert(path);
        match section.entry(word) {
            Some((Node { value: Value::Scalar(text), .. }, line)) => match parse(text) {
                Ok(value) => return Some(value),
                Err(message) => self.problem(line, section.key(word), message),
            },
            // In another shape, reported by check_keys; or a variable that is not set, reported by then.
            Some(_) => {}
            None if default == Absent::Required => self.problem(section.line, section.key(word), "is required"),
            None => {}
        }
        match default {
            Absent::Is(text) => Some(parse(text).unwrap_or_else(|error| panic!("the default of {path}: {error}"))),
            Absent::Required | Absent::Unset => None,
        }
    }

    pub fn text(&mut self, section: &Section<'_>, word: &str) -> Option<String> {
        self.value(section, word, |text| if text.is_empty() { Err("is empty".into()) } else { Ok(text.to_owned()) })
    }

    pub fn secret(&mut self, section: &Section<'_>, word: &str) -> Option<Secret> {
        self.text(section, word).map(Secret::new)
    }

    pub fn path(&mut self, section: &Section<'_>, word: &str) -> Option<PathBuf> {
        let text = self.text(section, word)?;
        Some(self.base.join(text))
    }

    pub fn address(&mut self, section: &Section<'_>, word: &str) -> Option<SocketAddr> {
        self.value(section, word, values::address)
    }

    /// Another parsed kind of text.
    pub fn parsed<T>(
        &mut self,
        section: &Section<'_>,
        word: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.value(section, word, parse)
    }

    pub fn flag(&mut self, section: &Section<'_>, word: &str) -> Option<bool> {
        self.value(section, word, values::flag)
    }

    pub fn number(&mut self, section: &Section<'_>, word: &str, range: RangeInclusive<u64>) -> Option<u64> {
        self.value(section, word, |text| within(values::count(text)?, &range, u64::to_string))
    }

    pub fn fraction(&mut self, section: &Section<'_>, word: &str) -> Option<u32> {
        self.value(section, word, values::fraction)
    }

    pub fn size(&mut self, section: &Section<'_>, word: &str, range: RangeInclusive<u64>) -> Option<u64> {
        self.value(section, word, |text| within(values::bytes(text)?, &range, |&bytes| show_bytes(bytes)))
    }

    pub fn duration(&mut self, section: &Section<'_>, word: &str, range: RangeInclusive<Duration>) -> Duration {
        self.value(section, word, |text| within(values::duration(text)?, &range, |time| format!("{time:?}")))
            .unwrap_or_default()
    }

    /// One of the table's words; `meanings` in the table's order. The first stands in for a wrong one.
    pub fn choice<T: Copy>(&mut self, section: &Section<'_>, word: &str, meanings: &[T]) -> T {
        let words = match schema::known(&join(&section.path, word)).1 {
            Kind::Choice(words) if words.len() == meanings.len() => words,
            kind => panic!("{word} has {} meanings and is {kind:?}", meanings.len()),
        };
        let parse = |text: &str| {
            let found = words.iter().position(|&word| word == text).map(|place| meanings[place]);
            found.ok_or_else(|| format!("`{text}` is none of {}", words.join(", ")))
        };
        self.value(section, word, parse).unwrap_or(meanings[0])
    }
}

impl Reader {
    /// The texts of a list, or one alone, each parsed; what is wrong is reported and left out. Empty: absent.
    pub fn texts<T>(&mut self, section: &Section<'_>, word: &str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let Some((Node { value: Value::List(items), .. }, line)) = section.entry(word) else {
            return self.value(section, word, parse).into_iter().collect();
        };
        let (path, _, default) = schema::known(&join(&section.path, word));
        self.read.insert(path);
        if items.is_empty() && default == Absent::Required {
            self.problem(line, section.key(word), "is an empty list");
        }
        let mut found = Vec::new();
        for item in items {
            // What is in another shape was reported by check_keys.
            let Value::Scalar(text) = &item.value else { continue };
            match parse(text) {
                Ok(one) => found.push(one),
                Err(message) => self.problem(item.line, section.key(word), message),
            }
        }
        found
    }
}

fn within<T: PartialOrd>(value: T, range: &RangeInclusive<T>, show: impl Fn(&T) -> String) -> Result<T, String> {
    if range.contains(&value) {
        Ok(value)
    } else if value < *range.start() {
        Err(format!("{} is too small; at least {}", show(&value), show(range.start())))
    } else {
        Err(format!("{} is too large; at most {}", show(&value), show(range.end())))
    }
}

/// In the largest unit that divides it.
pub fn show_bytes(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = units.iter().find(|(_, shift)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    unit.map_or_else(|| format!("{bytes}"), |(unit, shift)| format!("{}{unit}", bytes >> shift))
}
