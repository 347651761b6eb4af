//! `${NAME}` in values. Runs after parsing, so that nothing in a variable can change the file's structure, and in values
//! only, never in keys. `$$` is a literal `$`. `$NAME` without braces is refused rather than guessed at: the reference
//! system expands it, and a password with a `$` in it means it literally.

use super::problem::Problem;
use super::raw::{Node, Value};

/// Expands every scalar below `node` in place; what cannot be expanded is reported under its key.
pub fn expand(node: &mut Node, variable: &dyn Fn(&str) -> Option<String>) -> Vec<Problem> {
    let mut problems = Vec::new();
    walk(node, "", variable, &mut problems);
    problems
}

fn walk(node: &mut Node, key: &str, variable: &dyn Fn(&str) -> Option<String>, problems: &mut Vec<Problem>) {
    match &mut node.value {
        Value::Null | Value::Unusable => {}
        Value::Scalar(text) => match expand_text(text, variable) {
            Ok(expanded) => *text = expanded,
            Err(message) => {
                problems.push(Problem { line: node.line, key: key.to_owned(), message });
                node.value = Value::Unusable;
            }
        },
        Value::List(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                walk(item, &format!("{key}[{i}]"), variable, problems);
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                let below = if key.is_empty() { entry.key.clone() } else { format!("{key}.{}", entry.key) };
                walk(&mut entry.node, &below, variable, problems);
            }
        }
    }
}

fn expand_text(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        rest = if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            after
        } else if let Some(braced) = after.strip_prefix('{') {
            let (name, after) = braced.split_once('}').ok_or("`${` without `}`")?;
            if !is_name(name) {
                return Err(format!("`${{{name}}}` does not name a variable"));
            }
            let value = variable(name);
            out.push_str(&value.ok_or_else(|| format!("the environment variable {name} is not set"))?);
            after
        } else {
            return Err("a single `$`: write `${NAME}` for a variable, `$$` for the character itself".to_owned());
        };
    }
    out.push_str(rest);
    Ok(out)
}

fn is_name(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && !text.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::raw::parse;

    fn check(text: &str, want: Result<&str, &str>) {
        let variable = |name: &str| match name {
            "KEY" => Some("k: [1]".to_owned()),
            "EMPTY" => Some(String::new()),
            "ODD" => Some("a$b${KEY}".to_owned()),
            _ => None,
        };
        let got = expand_text(text, &variable);
        assert_eq!(got.as_deref().map_err(String::as_str), want, "{text}");
    }

    #[test]
    fn texts() {
        check("plain", Ok("plain"));
        check("${KEY}", Ok("k: [1]"));
        check("a${KEY}b${EMPTY}c", Ok("ak: [1]bc"));
        check("${ODD}", Ok("a$b${KEY}")); // what a variable holds is not expanded again
        check("$$", Ok("$"));
        check("$${KEY}", Ok("${KEY}"));
        check("$$$$x", Ok("$$x"));
        check("${NOPE}", Err("the environment variable NOPE is not set"));
        check("${KEY", Err("`${` without `}`"));
        check("${}", Err("`${}` does not name a variable"));
        check("${KEY:-x}", Err("`${KEY:-x}` does not name a variable"));
        check("$KEY", Err("a single `$`: write `${NAME}` for a variable, `$$` for the character itself"));
        check("100$", Err("a single `$`: write `${NAME}` for a variable, `$$` for the character itself"));
    }

    #[test]
    fn every_unset_variable_is_named_with_its_key_and_line() {
        let mut node = parse("a: x\n$k: 1\nb:\n  - c: ${ONE}\n  - ${TWO}\n").expect("valid YAML");
        let problems: Vec<_> = expand(&mut node, &|_| None).iter().map(ToString::to_string).collect();
        let want = [
            "line 4: b[0].c: the environment variable ONE is not set",
            "line 5: b[1]: the environment variable TWO is not set",
        ];
        assert_eq!(problems, want);
    }
}
