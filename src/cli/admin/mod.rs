//! `admin`: what operators ask of a running server, in words and tables, or as the server's JSON.

mod http;
mod tables;

pub use http::{AT_LENGTH, Reach, quoted};
pub use tables::on_one_line;

use clap::{Args, Subcommand};
use http::SOON;
use serde_json::Value;
use std::time::Duration;
use tables::{Column, Shown, show, table};

#[derive(Args, Debug)]
pub struct Admin {
    #[command(flatten)]
    reach: Reach,
    /// Print the server's answer as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// The database, and what every backend holds.
    Status,
    /// Copies that wait for their deletion, with the reason and what went wrong.
    CleanupQueue(Filter),
    /// Copies whose deletion failed for good: still charged, until they are tried again or written off.
    CleanupDlq(DeadLetters),
    /// Move everything off a backend; afterwards nothing new goes there.
    Drain(Backend),
    /// How far a drain is, and what cannot be moved.
    DrainStatus(Backend),
    /// Stop a drain: what was moved stays moved, and the backend takes new objects again.
    DrainCancel(Backend),
    /// Take a backend's copies out of the database: shows what that means, and how to confirm it.
    RemoveBackend(RemoveBackend),
}

#[derive(Args, Debug)]
struct Filter {
    /// Only those on this backend.
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 50)]
    limit: u32,
}

#[derive(Args, Debug)]
struct DeadLetters {
    #[command(flatten)]
    filter: Filter,
    #[command(subcommand)]
    action: Option<DeadLetterAction>,
}

#[derive(Subcommand, Debug)]
enum DeadLetterAction {
    /// List them (as without a word).
    List,
    /// Try to delete them again, at once: one by its id, or all (of --backend).
    Requeue(Which),
    /// The bytes are gone, or not wanted back: end the row and its charge, for one by its id.
    WriteOff {
        /// As `cleanup-dlq` lists it.
        #[arg(value_name = "ID")]
        id: i64,
    },
}

#[derive(Args, Debug)]
struct Which {
    /// As `cleanup-dlq` lists it; without it all.
    #[arg(value_name = "ID")]
    id: Option<i64>,
}

#[derive(Args, Debug)]
struct Backend {
    #[arg(value_name = "BACKEND")]
    backend: String,
}

#[derive(Args, Debug)]
struct RemoveBackend {
    #[arg(value_name = "BACKEND")]
    backend: String,
    /// Delete the bytes too, each by its exact name. Without it they stay where they are.
    #[arg(long)]
    purge: bool,
    /// The token that the preview has shown; valid for a minute.
    #[arg(long, value_name = "TOKEN")]
    confirm: Option<String>,
}

/// Asks, and prints what came of it.
pub fn admin(admin: &Admin) -> anyhow::Result<()> {
    let server = admin.reach.server()?;
    let (method, path) = request(&admin.command);
    let answer = server.ask(method, &path, patience(&admin.command))?.json()?;
    if admin.json {
        println!("{}", serde_json::to_string_pretty(&answer).expect("an answer is plain JSON"));
    } else {
        println!("{}", words(&admin.command, &answer));
    }
    Ok(())
}

fn patience(command: &Command) -> Duration {
    let is_long = match command {
        Command::RemoveBackend(_) => true,
        Command::CleanupDlq(letters) => matches!(letters.action, Some(DeadLetterAction::Requeue(_))),
        _ => false,
    };
    if is_long { AT_LENGTH } else { SOON }
}

fn request(command: &Command) -> (&'static str, String) {
    let of_backend = |name: &str, rest: &str| format!("/admin/api/backends/{}{rest}", quoted(name));
    match command {
        Command::Status => ("GET", "/admin/api/status".to_owned()),
        Command::CleanupQueue(filter) => ("GET", format!("/admin/api/cleanup-queue{}", filter.query())),
        Command::CleanupDlq(DeadLetters { filter, action }) => match action {
            None | Some(DeadLetterAction::List) => ("GET", format!("/admin/api/cleanup-dlq{}", filter.query())),
            Some(DeadLetterAction::Requeue(Which { id })) => {
                let id = id.map(|id| format!("&id={id}")).unwrap_or_default();
                ("POST", format!("/admin/api/cleanup-dlq/requeue{}{id}", filter.query()))
            }
            Some(DeadLetterAction::WriteOff { id }) => ("DELETE", format!("/admin/api/cleanup-dlq/{id}")),
        },
        Command::Drain(one) => ("POST", of_backend(&one.backend, "/drain")),
        Command::DrainStatus(one) => ("GET", of_backend(&one.backend, "/drain")),
        Command::DrainCancel(one) => ("DELETE", of_backend(&one.backend, "/drain")),
        Command::RemoveBackend(one) => {
            let confirm = one.confirm.as_ref().map(|token| format!("&confirm={}", quoted(token))).unwrap_or_default();
            ("DELETE", of_backend(&one.backend, &format!("?purge={}{confirm}", one.purge)))
        }
    }
}

impl Filter {
    fn query(&self) -> String {
        let backend = self.backend.as_ref().map(|name| format!("&backend={}", quoted(name))).unwrap_or_default();
        format!("?limit={}{backend}", self.limit)
    }
}

const STATUS: [Column; 11] = [
    ("BACKEND", "name", Shown::Text),
    ("HEALTHY", "healthy", Shown::Text),
    ("BREAKER", "breaker", Shown::Text),
    ("DRAINING", "draining", Shown::Text),
    ("OBJECTS", "object_count", Shown::Number),
    ("USED", "bytes_used", Shown::Bytes),
    ("RESERVED", "bytes_reserved", Shown::Bytes),
    ("ORPHANS", "orphan_bytes", Shown::Bytes),
    ("LIMIT", "bytes_limit", Shown::Limit),
    ("CLEANUP", "cleanup_queue", Shown::Number),
    ("DEAD", "cleanup_dlq", Shown::Number),
];
const LAST_KNOWN: [Column; 6] = [
    ("BACKEND", "name", Shown::Text),
    ("HEALTHY", "healthy", Shown::Text),
    ("BREAKER", "breaker", Shown::Text),
    ("DRAINING", "draining", Shown::Text),
    ("CHARGED", "bytes_charged", Shown::Bytes),
    ("LIMIT", "bytes_limit", Shown::Limit),
];
const CLEANUPS: [Column; 8] = [
    ("ID", "id", Shown::Number),
    ("BACKEND", "backend_name", Shown::Text),
    ("OBJECT", "object_key", Shown::Text),
    ("SIZE", "size_bytes", Shown::Bytes),
    ("REASON", "reason", Shown::Text),
    ("ATTEMPTS", "attempts", Shown::Number),
    ("NEXT", "next_retry", Shown::Text),
    ("LAST ERROR", "last_error", Shown::Text),
];
const DEAD_LETTERS: [Column; 8] = [
    ("ID", "id", Shown::Number),
    ("BACKEND", "backend_name", Shown::Text),
    ("OBJECT", "object_key", Shown::Text),
    ("SIZE", "size_bytes", Shown::Bytes),
    ("REASON", "reason", Shown::Text),
    ("ATTEMPTS", "attempts", Shown::Number),
    ("SINCE", "moved_at", Shown::Text),
    ("LAST ERROR", "last_error", Shown::Text),
];

fn words(command: &Command, answer: &Value) -> String {
    let list = |field: &str| answer.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |field: &str, shown| show(answer.get(field).unwrap_or(&Value::Null), shown);
    match command {
        Command::Status => {
            let restored = if answer["restored"] == Value::Bool(true) {
                "\nrestored from a backup: nothing is deleted until `sync --restored` has run"
            } else {
                ""
            };
            let is_answering = answer["db_healthy"] == Value::Bool(true);
            let (database, columns) = match is_answering {
                true => ("healthy", &STATUS[..]),
                false => ("NOT ANSWERING (charges, limits and drains are the last that it told)", &LAST_KNOWN[..]),
            };
            format!(
                "version {}, database {database}, usage of {}{restored}\n\n{}",
                text("version", Shown::Text),
                text("usage_period", Shown::Text),
                table(columns, &list("backends"))
            )
        }
        Command::CleanupQueue(_) => counted(answer, "waiting for their deletion", &table(&CLEANUPS, &list("items"))),
        Command::CleanupDlq(DeadLetters { action: None | Some(DeadLetterAction::List), .. }) => {
            counted(answer, "whose deletion failed for good", &table(&DEAD_LETTERS, &list("items")))
        }
        Command::CleanupDlq(DeadLetters { action: Some(DeadLetterAction::Requeue(_)), .. }) => {
            format!("{} will be tried again at once", text("requeued", Shown::Number))
        }
        Command::CleanupDlq(_) => "written off".to_owned(),
        Command::Drain(one) => format!("draining {0}: see `admin drain-status {0}`", one.backend),
        Command::DrainCancel(one) => format!("{} is not drained any more and takes new objects", one.backend),
        Command::DrainStatus(one) => drain_words(&one.backend, answer),
        Command::RemoveBackend(one) => removal_words(one, answer),
    }
}

fn counted(answer: &Value, what: &str, table: &str) -> String {
    let depth = answer["depth"].as_u64().unwrap_or(0);
    if depth == 0 { format!("0 copies {what}") } else { format!("{depth} copies {what}\n\n{table}") }
}

fn drain_words(backend: &str, answer: &Value) -> String {
    let number = |field: &str| answer[field].as_u64().unwrap_or(0);
    let mut lines = vec![format!("{backend}: {}", answer["status"].as_str().unwrap_or("?"))];
    let (told_by, worked_by) = (answer["told_by"].as_i64(), answer["worked_by"].as_i64());
    let elsewhere = answer["active"] == Value::Bool(true) && told_by != worked_by;
    lines.push(format!(
        "to be moved: {} copies, {}; moved {}: {} copies, {}",
        number("objects_remaining"),
        tables::bytes(number("bytes_remaining")),
        if elsewhere { "by this instance" } else { "so far" },
        number("objects_moved"),
        tables::bytes(number("bytes_moved"))
    ));
    if elsewhere {
        let this = told_by.unwrap_or(0);
        lines.push(match worked_by {
            Some(other) => format!(
                "run {other} works on it, this is run {this} (each says its number, `incarnation`, in its log): it tells what \
                 it has moved, and what it cannot"
            ),
            None => "no instance works on it at the moment".to_owned(),
        });
    }
    for (field, what) in [
        ("objects_stuck", "copies could not be moved"),
        ("uploads_open", "multipart uploads must be completed or aborted by their clients"),
        ("cleanup_queue", "copies wait for their deletion"),
        ("cleanup_dlq", "dead letters must be tried again or written off (admin cleanup-dlq)"),
    ] {
        if number(field) > 0 {
            lines.push(format!("{} {what}", number(field)));
        }
    }
    if let Some(error) = answer["error"].as_str() {
        lines.push(format!("last trouble: {error}"));
    }
    lines.join("\n")
}

fn removal_words(one: &RemoveBackend, answer: &Value) -> String {
    let number = |field: &str| answer[field].as_u64().unwrap_or(0);
    match answer["confirm_token"].as_str() {
        Some(token) => format!(
            "removing {} would forget {} copies, {}; {} objects have no other copy and would be lost.\n{}\n\
             Nothing was changed. To do it, within {} seconds:\n\n  \
             s3-orchestrator admin remove-backend {}{} --confirm {token}",
            one.backend,
            number("object_count"),
            tables::bytes(number("total_bytes")),
            number("objects_lost"),
            if one.purge { "Their bytes would be deleted." } else { "Their bytes would stay where they are." },
            number("expires_in"),
            one.backend,
            if one.purge { " --purge" } else { "" },
        ),
        None => format!(
            "{}: {} copies forgotten, {} objects lost.\nNow take {} out of the configuration and restart.",
            answer["status"].as_str().unwrap_or("?"),
            number("copies"),
            number("objects_lost"),
            one.backend
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::words as super_words;
    use super::*;
    use clap::Parser;

    #[derive(Parser, Debug)]
    struct Line {
        #[command(flatten)]
        admin: Admin,
    }

    fn check(words: &str, method: &str, path: &str) {
        let line = Line::try_parse_from(words.split(' ')).unwrap_or_else(|error| panic!("{words}: {error}"));
        assert_eq!(request(&line.admin.command), (method, path.to_owned()), "{words}");
    }

    #[test]
    fn requests() {
        check("x status", "GET", "/admin/api/status");
        check("x cleanup-queue --backend a/b --limit 7", "GET", "/admin/api/cleanup-queue?limit=7&backend=a%2Fb");
        check("x cleanup-dlq", "GET", "/admin/api/cleanup-dlq?limit=50");
        check("x cleanup-dlq list", "GET", "/admin/api/cleanup-dlq?limit=50");
        check("x cleanup-dlq --backend b requeue", "POST", "/admin/api/cleanup-dlq/requeue?limit=50&backend=b");
        check("x cleanup-dlq requeue 17", "POST", "/admin/api/cleanup-dlq/requeue?limit=50&id=17");
        check("x cleanup-dlq write-off 17", "DELETE", "/admin/api/cleanup-dlq/17");
        check("x drain b --json", "POST", "/admin/api/backends/b/drain");
        check("x drain-status b", "GET", "/admin/api/backends/b/drain");
        check("x drain-cancel b", "DELETE", "/admin/api/backends/b/drain");
        check("x remove-backend b", "DELETE", "/admin/api/backends/b?purge=false");
        check("x remove-backend b --purge --confirm t", "DELETE", "/admin/api/backends/b?purge=true&confirm=t");
    }

    #[test]
    fn answers_in_words() {
        let line = Line::try_parse_from("x remove-backend b --purge".split(' ')).unwrap();
        let answer = serde_json::json!({"object_count": 3, "total_bytes": 2048, "objects_lost": 1,
            "confirm_token": "tok", "expires_in": 60});
        let text = super_words(&line.admin.command, &answer);
        for part in ["3 copies", "2.0 KiB", "1 objects have no other", "remove-backend b --purge --confirm tok"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        let line = Line::try_parse_from("x status".split(' ')).unwrap();
        let backend = serde_json::json!({"name": "near", "last_known": true, "healthy": true, "breaker": "half-open",
            "draining": false, "bytes_charged": 2048, "bytes_limit": 0, "bytes_used": null});
        let text = super_words(&line.admin.command, &serde_json::json!({"db_healthy": false, "backends": [backend]}));
        for part in ["NOT ANSWERING", "the last that it told", "near", "half-open", "2.0 KiB", "unlimited"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        let line = Line::try_parse_from("x drain-status b".split(' ')).unwrap();
        let answer =
            serde_json::json!({"status": "draining", "objects_remaining": 2, "objects_stuck": 2, "error": "full"});
        let text = super_words(&line.admin.command, &answer);
        assert!(!text.contains("works on it"), "{text}");
        let elsewhere = serde_json::json!({"status": "draining", "active": true, "objects_moved": 4, "objects_stuck": null,
            "told_by": 9, "worked_by": 12});
        let other = super_words(&line.admin.command, &elsewhere);
        assert!(other.contains("moved by this instance: 4") && other.contains("run 12 works on it"), "{other}");
        assert!(!other.contains("could not be moved"), "nothing is known of that here: {other}");
        assert!(text.contains("b: draining") && text.contains("2 copies could not be moved") && text.contains("full"));
    }
}
