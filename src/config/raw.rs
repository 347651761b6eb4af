//! The configuration as written: a tree of YAML nodes that remember their lines. What the keys mean is not known here.
//!
//! Scalars stay text (a key `0123` keeps its zero); the type that a key wants reads them (`reader.rs`). Anchors, aliases
//! and merge keys (`<<`) are resolved.

use super::problem::Problems;
use granit_parser::{Event, Parser, ScalarStyle, Span};
use std::borrow::Cow;
use std::collections::HashMap;

/// Aliases of aliases must not grow without bound.
const NODES_MAX: usize = 100_000;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    pub line: usize,
    pub value: Value,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// `key:` with nothing after it, `~` or `null`.
    Null,
    Scalar(String),
    /// A scalar that could not be expanded (`expand.rs`), which was reported.
    Unusable,
    List(Vec<Node>),
    /// In the order written; no key twice.
    Map(Vec<Entry>),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub key: String,
    pub line: usize,
    pub node: Node,
}

impl Value {
    /// What it is, for error messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Scalar(_) | Self::Unusable => "a single value",
            Self::List(_) => "a list",
            Self::Map(_) => "a section",
        }
    }
}

/// The one document of a file. An empty file is an empty section.
pub fn parse(text: &str) -> Result<Node, Problems> {
    let mut reader = Reader { events: Parser::new_from_str(text), anchors: HashMap::new(), nodes: 0 };
    let mut document = None;
    loop {
        match reader.next()? {
            (Event::StreamEnd, _) => break,
            (Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd, _) => {}
            (_, span) if document.is_some() => {
                return Err(Problems::one(span.start.line(), "", "a second YAML document; the file must hold one"));
            }
            (event, span) => document = Some(reader.node(event, &span)?),
        }
    }
    match document {
        None | Some(Node { value: Value::Null, .. }) => Ok(Node { line: 1, value: Value::Map(Vec::new()) }),
        Some(node) => Ok(node),
    }
}

struct Reader<'a> {
    events: Parser<'a, granit_parser::StrInput<'a>>,
    /// Complete nodes by anchor id; an alias inside its own anchor is therefore unknown.
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Problems> {
        match self.events.next() {
            Some(Ok(step)) => Ok(step),
            Some(Err(error)) => {
                Err(Problems::one(error.marker().line(), "", format!("not valid YAML: {}", error.info())))
            }
            None => Err(Problems::one(0, "", "the file ends in the middle of a value")),
        }
    }

    fn node(&mut self, event: Event<'a>, span: &Span) -> Result<Node, Problems> {
        let line = span.start.line();
        self.count(line, 1)?;
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, _) => (scalar(text, style), anchor),
            Event::SequenceStart(_, anchor, _) => (self.list()?, anchor),
            Event::MappingStart(_, anchor, _) => (self.map()?, anchor),
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned();
                let node = node.ok_or_else(|| Problems::one(line, "", "this alias stands inside its own anchor"))?;
                self.count(line, size(&node))?;
                return Ok(node);
            }
            other => return Err(Problems::one(line, "", format!("not valid YAML here: {other:?}"))),
        };
        let node = Node { line, value };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn count(&mut self, line: usize, nodes: usize) -> Result<(), Problems> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > NODES_MAX {
            return Err(Problems::one(line, "", format!("more than {NODES_MAX} values, with aliases resolved")));
        }
        Ok(())
    }

    fn list(&mut self) -> Result<Value, Problems> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::List(items)),
                (event, span) => items.push(self.node(event, &span)?),
            }
        }
    }

    fn map(&mut self) -> Result<Value, Problems> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let line = span.start.line();
            let (key, plain) = match event {
                Event::MappingEnd => break,
                Event::Scalar(text, style, ..) => (text.into_owned(), style == ScalarStyle::Plain),
                _ => return Err(Problems::one(line, "", "a key must be a single word")),
            };
            let (event, span) = self.next()?;
            let node = self.node(event, &span)?;
            if plain && key == "<<" {
                merged.extend(merge_sources(node)?);
            } else if let Some(first) = entries.iter().find(|entry| entry.key == key) {
                let message = format!("this key stands here and on line {}; keep one of them", first.line);
                return Err(Problems::one(line, key, message));
            } else {
                entries.push(Entry { key, line, node });
            }
        }
        for entry in merged {
            if !entries.iter().any(|own| own.key == entry.key) {
                entries.push(entry);
            }
        }
        Ok(Value::Map(entries))
    }
}

/// `<<: *a` and `<<: [*a, *b]`; earlier ones win, and the section's own keys win over all.
fn merge_sources(node: Node) -> Result<Vec<Entry>, Problems> {
    match node.value {
        Value::Map(entries) => Ok(entries),
        Value::List(nodes) => Ok(nodes.into_iter().map(merge_sources).collect::<Result<Vec<_>, _>>()?.concat()),
        _ => Err(Problems::one(node.line, "<<", "only sections can be merged")),
    }
}

fn scalar(text: Cow<'_, str>, style: ScalarStyle) -> Value {
    match (style, text.as_ref()) {
        (ScalarStyle::Plain, "" | "~" | "null" | "Null" | "NULL") => Value::Null,
        _ => Value::Scalar(text.into_owned()),
    }
}

fn size(node: &Node) -> usize {
    1 + match &node.value {
        Value::Null | Value::Scalar(_) | Value::Unusable => 0,
        Value::List(items) => items.iter().map(size).sum(),
        Value::Map(entries) => entries.iter().map(|entry| size(&entry.node)).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(node: &Node) -> String {
        match &node.value {
            Value::Null | Value::Unusable => "null".into(),
            Value::Scalar(text) => format!("{text:?}@{}", node.line),
            Value::List(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(", ")),
            Value::Map(entries) => {
                let entry = |e: &Entry| format!("{}@{}: {}", e.key, e.line, show(&e.node));
                format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(", "))
            }
        }
    }

    fn check(text: &str, want: &str) {
        let got = match parse(text) {
            Ok(node) => show(&node),
            Err(problems) => problems.to_string(),
        };
        assert_eq!(got, want, "{text}");
    }

    #[test]
    fn trees_keep_text_and_lines() {
        check("", "{}");
        check("# nothing\n---\n", "{}");
        check("a: 0123\nb: 'x: y'\n", r#"{a@1: "0123"@1, b@2: "x: y"@2}"#);
        check("a:\n  - b: true\n    c:\n  - ~\n", r#"{a@1: [{b@2: "true"@2, c@3: null}, null]}"#);
        check("a: ''\nb: [1, {c: 2}]", r#"{a@1: ""@1, b@2: ["1"@2, {c@2: "2"@2}]}"#);
        check("a: |\n  x\n  y\n", r#"{a@1: "x\ny\n"@2}"#);
        check("- a", r#"["a"@1]"#);
    }

    #[test]
    fn aliases_and_merges_are_resolved() {
        check("a: &x 1\nb: *x", r#"{a@1: "1"@1, b@2: "1"@1}"#);
        check(
            "a: &x {p: 1, q: 2}\nb:\n  <<: *x\n  q: 3",
            r#"{a@1: {p@1: "1"@1, q@1: "2"@1}, b@2: {q@4: "3"@4, p@1: "1"@1}}"#,
        );
        check("'<<': 1", r#"{<<@1: "1"@1}"#);
        check("<<: 1", "line 1: <<: only sections can be merged");
    }

    #[test]
    fn what_is_not_a_configuration() {
        check("a: 1\nb: 2\na: 3\n", "line 3: a: this key stands here and on line 1; keep one of them");
        check("a: 1\n---\nb: 2\n", "line 3: a second YAML document; the file must hold one");
        check("[1]: 2", "line 1: a key must be a single word");
        let problem = |text: &str| parse(text).expect_err("not valid").to_string();
        assert!(problem("a: [1\nb: 2").contains("not valid YAML"), "{}", problem("a: [1\nb: 2"));
        assert!(problem("a: *nowhere").starts_with("line 1: not valid YAML"), "{}", problem("a: *nowhere"));
        let bomb = (0..30)
            .fold("x0: &x0 [1, 1]\n".to_owned(), |text, i| format!("{text}x{}: &x{} [*x{i}, *x{i}]\n", i + 1, i + 1));
        assert!(problem(&bomb).contains("more than 100000 values"), "{}", problem(&bomb));
    }
}
