//! The code base tests itself: layers, named places for dangerous things, nothing left over, nothing undocumented.
//!
//! Reads the source as text (comments and literals blanked where they must not count), so it needs no build of its own and
//! says file and line. A rule that a file must break for a good reason names that file here, with the reason.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The layers, bottom to top; an import points only downwards (src/lib.rs).
const LAYERS: [&str; 12] = [
    "base", "proto", "policy", "config", "observe", "store", "backend", "handlers", "workers", "reactor", "control",
    "cli",
];

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of the work tree with one of these extensions (none given: every file), by its path from the top.
fn files(extensions: &[&str]) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    let mut folders = vec![top().to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of the work tree can be read") {
            let path = entry.expect("an entry can be read").path();
            let name = path.file_name().and_then(|name| name.to_str()).expect("names are UTF-8").to_owned();
            if ["target", ".git", "s3o-dev", "__pycache__"].contains(&name.as_str()) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if extensions.is_empty() || extensions.iter().any(|one| name.ends_with(&format!(".{one}"))) {
                let from_top = path.strip_prefix(top()).expect("below the top").to_str().expect("UTF-8").to_owned();
                found.push((from_top, path));
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The source with comments, strings and characters blanked, line by line the same.
fn code_of(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut code = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_or_comment_end(bytes, at);
        if end > at {
            code.extend(bytes[at..end].iter().map(|&b| if b == b'\n' { b'\n' } else { b' ' }));
            at = end;
        } else {
            code.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(code).expect("only whole literals were blanked")
}

/// Where the comment or literal that starts at `at` ends; `at` itself if none starts there.
fn literal_or_comment_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let find = |from: usize, what: &[u8]| {
        rest[from..]
            .windows(what.len())
            .position(|window| window == what)
            .map_or(bytes.len(), |i| at + from + i + what.len())
    };
    let in_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    match rest {
        [b'/', b'/', ..] => find(0, b"\n") - usize::from(find(0, b"\n") < bytes.len()),
        [b'/', b'*', ..] => find(2, b"*/"),
        [b'"', ..] => quoted_end(bytes, at, b'"'),
        [b'r', b'"' | b'#', ..] | [b'b', b'r', b'"' | b'#', ..] if !in_word => {
            let start = rest.iter().position(|&b| b != b'r' && b != b'b').expect("matched above");
            let hashes = rest[start..].iter().take_while(|&&b| b == b'#').count();
            if rest.get(start + hashes) != Some(&b'"') {
                return at;
            }
            find(start + hashes + 1, &[b"\"".as_slice(), &b"#".repeat(hashes)].concat())
        }
        // A character, not a lifetime.
        [b'\'', b'\\', ..] => quoted_end(bytes, at, b'\''),
        [b'\'', ..]
            if rest.iter().skip(2).take(4).position(|&b| b == b'\'').is_some_and(|i| i == 0 || rest[1] >= 0x80) =>
        {
            quoted_end(bytes, at, b'\'')
        }
        _ => at,
    }
}

fn quoted_end(bytes: &[u8], at: usize, quote: u8) -> usize {
    let mut i = at + 1;
    while i < bytes.len() && bytes[i] != quote {
        i += if bytes[i] == b'\\' { 2 } else { 1 };
    }
    (i + 1).min(bytes.len())
}

/// The identifiers of a line of code with their columns.
fn words(line: &str) -> impl Iterator<Item = (usize, &str)> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    line.split(move |c| !word(c))
        .filter(|w| !w.is_empty())
        .map(move |w| (w.as_ptr() as usize - line.as_ptr() as usize, w))
}

struct Source {
    path: String,
    layer: Option<usize>,
    /// Comments and literals blanked.
    code: String,
    /// `code` without the test module at its end; empty for a file that is only compiled for tests.
    product: String,
}

impl Source {
    fn has(&self, word: &str) -> bool {
        words(&self.product).any(|(_, w)| w == word)
    }
}

/// The product's own sources.
fn sources() -> Vec<Source> {
    let reached = reachable();
    files(&["rs"])
        .into_iter()
        .filter(|(path, _)| path.starts_with("src/"))
        .map(|(path, full)| {
            let code = code_of(&read(&full));
            let layer = path.split('/').nth(1).and_then(|folder| LAYERS.iter().position(|one| *one == folder));
            let test_only = reached.get(&path) == Some(&true);
            let product = if test_only { String::new() } else { without_tests(&code).to_owned() };
            Source { path, layer, code, product }
        })
        .collect()
}

/// Tests stand last in a file.
fn without_tests(code: &str) -> &str {
    let mut from = 0;
    while let Some(i) = code[from..].find("#[cfg(test)]") {
        let after = &code[from + i + "#[cfg(test)]".len()..];
        let item = after.trim_start();
        if item.starts_with("mod ")
            && item.find('{').is_some_and(|brace| item.find(';').is_none_or(|semi| brace < semi))
        {
            return &code[..from + i];
        }
        from += i + 1;
    }
    code
}

/// The files that `lib.rs` and `main.rs` reach by `mod`, and whether only tests do.
fn reachable() -> BTreeMap<String, bool> {
    let mut reached = BTreeMap::new();
    let mut open = vec![("src/lib.rs".to_owned(), false), ("src/main.rs".to_owned(), false)];
    while let Some((path, test_only)) = open.pop() {
        let code = code_of(&read(&top().join(&path)));
        let folder =
            match path.strip_suffix("/mod.rs").or(path.strip_suffix("/lib.rs")).or(path.strip_suffix("/main.rs")) {
                Some(folder) => folder.to_owned(),
                None => path.strip_suffix(".rs").expect("a Rust file").to_owned(),
            };
        for (i, line) in code.lines().enumerate() {
            let declared = line.trim().trim_start_matches("pub ").trim_start_matches("pub(crate) ");
            let declared = declared.trim_start_matches("pub(super) ").trim_start_matches("#[cfg(test)] ");
            let Some(name) = declared.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) else { continue };
            let marked =
                line.contains("#[cfg(test)]") || i > 0 && code.lines().nth(i - 1).unwrap().contains("#[cfg(test)]");
            let candidates = [format!("{folder}/{name}.rs"), format!("{folder}/{name}/mod.rs")];
            let Some(file) = candidates.into_iter().find(|one| top().join(one).exists()) else { continue };
            open.push((file, test_only || marked));
        }
        reached.insert(path, test_only);
    }
    reached
}

/// Ends the test with every finding, so that one run shows them all.
fn report(rule: &str, findings: Vec<String>) {
    assert!(findings.is_empty(), "{rule}:\n  {}\n", findings.join("\n  "));
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// The layers that a source names in paths from the crate's root (`crate::x`, `crate::{x, y}`), with their lines.
fn layers_named(code: &str) -> Vec<(usize, usize)> {
    let mut named = Vec::new();
    let layer = |word: &str| LAYERS.iter().position(|one| *one == word);
    for root in ["crate::", "s3_orchestrator::"] {
        for (at, _) in code.match_indices(root) {
            let rest = &code[at + root.len()..];
            if let Some(group) = rest.strip_prefix('{') {
                let mut depth = 1;
                let mut fresh = true;
                for (i, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        ',' if depth == 1 => fresh = true,
                        c if fresh && depth == 1 && c.is_alphanumeric() => {
                            fresh = false;
                            let word = words(&group[i..]).next().map_or("", |(_, w)| w);
                            named.extend(layer(word).map(|l| (l, line_of(code, at))));
                        }
                        _ => {}
                    }
                    if depth == 0 {
                        break;
                    }
                }
            } else if let Some((0, word)) = words(rest).next() {
                named.extend(layer(word).map(|l| (l, line_of(code, at))));
            }
        }
    }
    named
}

#[test]
fn imports_point_only_downwards() {
    let mut findings = Vec::new();
    for source in sources() {
        let Some(own) = source.layer else { continue };
        for (layer, line) in layers_named(&source.code) {
            if layer > own {
                findings.push(format!(
                    "{}:{line}: {} names {}, which is above it",
                    source.path, LAYERS[own], LAYERS[layer]
                ));
            }
        }
        for (at, _) in source.code.match_indices("super::super::") {
            let word = words(source.code[at..].trim_start_matches("super::")).next().map_or("", |(_, w)| w);
            if LAYERS.contains(&word) {
                findings.push(format!("{}:{}: name other layers from crate::", source.path, line_of(&source.code, at)));
            }
        }
    }
    report("an import points upwards", findings);
}

/// (word, layers that may say it, why).
const NAMED_PLACES: [(&str, &[&str], &str); 9] = [
    ("monoio", &["reactor"], "only the reactors know the runtime"),
    ("io_uring", &["reactor"], "only the reactors know the runtime"),
    ("tokio", &["store", "control", "cli"], "nothing on the request path runs on tokio"),
    ("rusqlite", &["store"], "only the store knows a database"),
    ("axum", &["control"], "only control serves administrators"),
    ("clap", &["cli"], "only the command line parses arguments"),
    ("println", &["cli"], "everything else logs"),
    ("eprintln", &["cli"], "everything else logs"),
    ("mimalloc", &["reactor", "control"], "the allocator is chosen in main"),
];

#[test]
fn libraries_are_named_only_where_they_belong() {
    let mut findings = Vec::new();
    for source in sources() {
        let Some(own) = source.layer else { continue };
        for (word, places, why) in NAMED_PLACES {
            if source.has(word) && !places.contains(&LAYERS[own]) {
                findings.push(format!("{}: {word} ({why})", source.path));
            }
        }
    }
    report("a library is named outside its layer", findings);
}

/// (path of a call, layers that may make it, why). clippy bans clocks, the environment and sleeping (.clippy.toml).
const CALLS: [(&str, &[&str], &str); 7] = [
    ("std::fs", &["config", "store", "reactor", "control", "cli"], "pure layers open no files"),
    ("std::net::TcpStream", &["reactor", "control", "cli"], "pure layers open no sockets"),
    ("std::net::TcpListener", &["reactor", "control", "cli"], "pure layers open no sockets"),
    (
        "to_socket_addrs",
        &["reactor", "cli"],
        "resolving blocks: on a thread of its own, or in a command that serves nobody",
    ),
    ("std::thread::spawn", &["store", "reactor", "control", "cli"], "threads are started where they are listed"),
    ("std::process::exit", &["reactor", "control", "cli"], "a request never ends the program"),
    ("std::process::Command", &[], "the program starts no others"),
];

#[test]
fn calls_are_made_only_where_they_belong() {
    let mut findings = Vec::new();
    for source in sources() {
        let Some(own) = source.layer else { continue };
        for (call, places, why) in CALLS {
            // `fs::` after `use std::fs` is found by the import.
            if let Some(at) = source.product.find(call)
                && !places.contains(&LAYERS[own])
            {
                findings.push(format!("{}:{}: {call} ({why})", source.path, line_of(&source.product, at)));
            }
        }
    }
    report("a call outside its layer", findings);
}

/// Whoever reserves asks which run it is, and all that follows is done as that one: the run may have become another meanwhile.
const ASKS_WHICH_RUN: [(&str, usize); 2] = [("src/handlers/reservation.rs", 1), ("src/handlers/upload_part.rs", 1)];

#[test]
fn handlers_end_a_write_as_the_run_that_began_it() {
    let mut findings = Vec::new();
    for source in sources().iter().filter(|one| one.path.starts_with("src/handlers/")) {
        let asked = source.product.matches(".incarnation()").count();
        let may = ASKS_WHICH_RUN.iter().find(|(path, _)| *path == source.path).map_or(0, |(_, times)| *times);
        if asked != may {
            findings.push(format!("{}: asks {asked} times which run it is, not {may}", source.path));
        }
    }
    report("a write goes on as another run", findings);
}

/// Where `unsafe` may stand: system calls that no safe wrapper offers, the runtime's buffer traits, and memory that threads
/// share without locks.
const UNSAFE_PLACES: [&str; 2] = ["src/reactor/", "src/store/location_cache"];

#[test]
fn unsafe_stands_only_in_named_places_and_gives_its_reason() {
    let mut findings = Vec::new();
    for source in sources() {
        let allowed = UNSAFE_PLACES.iter().any(|place| source.path.starts_with(place));
        if source.has("unsafe") && !allowed {
            findings.push(format!("{}: unsafe", source.path));
        }
        let text = read(&top().join(&source.path));
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines.iter().enumerate().filter(|(_, line)| line.contains("allow(unsafe_code)")) {
            let reasoned =
                line.contains("//") || line.contains("reason") || i > 0 && lines[i - 1].trim().starts_with("//");
            if !allowed || !reasoned {
                findings.push(format!(
                    "{}:{}: without a reason beside it, or outside the named places",
                    source.path,
                    i + 1
                ));
            }
        }
    }
    report("unsafe code", findings);
}

#[test]
fn every_source_is_compiled() {
    let reached = reachable();
    let lost = files(&["rs"]).into_iter().map(|(path, _)| path).filter(|path| path.starts_with("src/"));
    report("a file that no mod declares", lost.filter(|path| !reached.contains_key(path)).collect());
}

#[test]
fn nothing_is_left_over() {
    // Spelled apart, so that this file does not find itself.
    let words = [
        concat!("#[", "ignore"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("dbg", "!("),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("pytest.mark.", "skip"),
        concat!("pytest.", "skip("),
        concat!("mark.", "xfail"),
        concat!("print", "ln!(\"DEBUG"),
    ];
    let mut findings = Vec::new();
    for (path, full) in files(&["rs", "py", "sh", "toml", "yaml", "md"]) {
        for (i, line) in read(&full).lines().enumerate() {
            findings.extend(words.iter().filter(|w| line.contains(**w)).map(|w| format!("{path}:{}: {w}", i + 1)));
        }
    }
    report("left over", findings);
}

#[test]
fn no_path_of_a_machine_is_written_down() {
    let paths = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/Us", "ers/")];
    let mut findings = Vec::new();
    for (path, full) in files(&[]) {
        let Ok(text) = std::fs::read_to_string(&full) else { continue };
        if path == "Cargo.lock" {
            continue;
        }
        for (i, line) in text.lines().enumerate() {
            findings.extend(paths.iter().filter(|p| line.contains(**p)).map(|p| format!("{path}:{}: {p}", i + 1)));
        }
    }
    report("a path of somebody's machine", findings);
}

#[test]
fn lines_fit_a_screen() {
    const CHARACTERS_MAX: usize = 150;
    let mut findings = Vec::new();
    for (path, full) in files(&["rs", "py"]) {
        for (i, line) in read(&full).lines().enumerate() {
            let length = line.chars().count();
            if length > CHARACTERS_MAX {
                findings.push(format!("{path}:{}: {length} characters", i + 1));
            }
        }
    }
    report("a line that is longer than a screen", findings);
}

/// One that is said again tells of a part that an edit has doubled.
#[test]
fn documents_say_each_heading_once() {
    let mut findings = Vec::new();
    for (name, path) in files(&["md"]) {
        let mut said = BTreeSet::new();
        for (number, line) in read(&path).lines().enumerate() {
            if line.starts_with("## ") && !said.insert(line.to_owned()) {
                findings.push(format!("{name}:{}: {line}", number + 1));
            }
        }
    }
    report("headings are said again: was a part of the document doubled?", findings);
}

/// Files `VNNN__name.sql` or `VN__name.sql`, the same names for every database, numbered from 1 without doubles.
#[test]
fn migrations_are_numbered_once() {
    let mut folders: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    let mut findings = Vec::new();
    for (path, _) in files(&["sql"]) {
        let Some((folder, name)) = path.strip_prefix("migrations/").and_then(|rest| rest.rsplit_once('/')) else {
            continue;
        };
        match name.strip_prefix('V').and_then(|rest| rest.split_once("__")).and_then(|(n, _)| n.parse().ok()) {
            Some(number) => folders.entry(folder.to_owned()).or_default().push(number),
            None => findings.push(format!("{path}: not VN__name.sql")),
        }
    }
    let names = |database: &str| -> BTreeSet<String> {
        let of = format!("migrations/{database}/");
        files(&["sql"]).into_iter().filter_map(|(path, _)| path.strip_prefix(&of).map(str::to_owned)).collect()
    };
    let only_one: Vec<_> = names("sqlite").symmetric_difference(&names("postgres")).cloned().collect();
    findings.extend(only_one.into_iter().map(|name| format!("{name}: of one database only")));
    for (folder, mut numbers) in folders {
        numbers.sort_unstable();
        let twice = numbers.windows(2).any(|pair| pair[0] == pair[1]);
        if twice || numbers.first() != Some(&1) {
            findings.push(format!("migrations/{folder}: {numbers:?}"));
        }
    }
    report("migrations", findings);
}

#[test]
fn blanking_finds_the_code() {
    let check = |source: &str, want: &str| assert_eq!(code_of(source), want, "source {source:?}");
    check("a // b\nc", "a     \nc");
    check("a /* b\n */ c", "a     \n    c");
    check("f(\"x\\\"y\") g", "f(      ) g");
    check("f(r#\"a\"b\"#) g", "f(        ) g");
    check("f('x', '\\'', b'\\n') g", "f(   ,     , b    ) g");
    check("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}");
    check("for_each(\"a\")", "for_each(   )");
}

#[test]
fn paths_are_understood() {
    let check = |code: &str, want: &[&str]| {
        let got: Vec<&str> = layers_named(code).into_iter().map(|(layer, _)| LAYERS[layer]).collect();
        assert_eq!(got, want, "code {code:?}");
    };
    check("use crate::store::port::Query;", &["store"]);
    check("use crate::{base::{self, Failure}, handlers::ports::{Ports, X}, cli};", &["base", "handlers", "cli"]);
    check("let x = crate::reactor::run();", &["reactor"]);
    check("use super::store;", &[]);
}
