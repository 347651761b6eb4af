//! How the server goes about the statements that every write and every lookup runs: by keys, from the first row on.

use super::super::conformance::{Bench, TestClock};
use super::super::port::Rules;
use super::cluster::{OnPostgres, execute, options};
use super::sessions::Sql;
use super::{load, locks, read, write};
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::types::Type;

/// The kept plan of a statement, made on tables that are nearly empty.
fn plan_of(settings: &str, sql: &Sql) -> String {
    let types: Vec<&str> = sql.types.iter().map(Type::name).collect();
    let nulls = vec!["NULL"; types.len()].join(", ");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let options = options();
    let told = runtime.block_on(execute(
        &options,
        &format!(
            "{settings} PREPARE asked ({}) AS {}; EXPLAIN (COSTS OFF) EXECUTE asked ({nulls})",
            types.join(", "),
            sql.text
        ),
    ));
    let line = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    };
    told.iter().filter_map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn plans_that_are_kept_go_by_the_indexes() {
    let (options, clock) = (options(), TestClock::new());
    let bench = Bench::new(OnPostgres::on(options.clone(), clock.clone(), Rules::default()), clock);
    bench.put("k", 10);
    for sql in [
        &load::BLOBS,
        &load::KEYS,
        &load::UPLOADS,
        &locks::LOCK,
        &locks::VERIFY_KEYS,
        &locks::VERIFY_BLOBS,
        &locks::VERIFY_VERSIONS,
        &locks::VERIFY_UPLOADS,
        &write::PUT_ROWS,
        &write::CHANGE_VERSIONS,
        &read::LOOKUP,
        &read::COPIES,
    ] {
        let plan = plan_of(&options.session_settings(), sql);
        let is_by_index = !["Seq Scan on", "Hash Join", "Merge Join"].iter().any(|word| plan.contains(word));
        assert!(plan.contains("Index") && is_by_index, "{}\n{plan}", sql.text);
    }
    let plan = plan_of(&options.session_settings(), &locks::LOCK);
    assert!(plan.contains("id = ANY ($7)"), "planned once, whatever is asked for\n{plan}");
}
