//! Fuzz entry of the configuration (`crate::fuzz`).

use super::{expand, from_text, raw};
use std::path::Path;

pub const TARGETS: &[(&str, fn(&[u8]))] = &[("config", config)];

/// Any text is a configuration or has problems, each with a message; what variables hold never changes the structure.
pub fn config(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    // Reads as structure, as a variable, and as an escape to whoever expands too early or twice.
    let variable = |name: &str| (name != "UNSET").then(|| "a: [${A}] # $$\n- b".to_owned());
    if let Err(problems) = from_text(text, Path::new("folder"), &variable) {
        assert!(!problems.0.is_empty() && problems.0.iter().all(|problem| !problem.message.is_empty()));
    }
    if let Ok(mut root) = raw::parse(text) {
        let before = shape(&root);
        let _ = expand::expand(&mut root, &variable);
        assert_eq!(shape(&root), before);
    }
}

/// Lines, keys and kinds, scalars left out.
fn shape(node: &raw::Node) -> String {
    match &node.value {
        raw::Value::Null => format!("{}~", node.line),
        raw::Value::Scalar(_) | raw::Value::Unusable => format!("{}.", node.line),
        raw::Value::List(items) => format!("{}[{}]", node.line, items.iter().map(shape).collect::<String>()),
        raw::Value::Map(entries) => {
            let entries = entries.iter().map(|entry| format!("{:?}{}", entry.key, shape(&entry.node)));
            format!("{}{{{}}}", node.line, entries.collect::<String>())
        }
    }
}
