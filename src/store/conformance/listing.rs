//! Pages against a model that knows nothing of stores (I8).

use super::*;
use crate::base::UploadId;
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeSet;

/// Entries of a listing, by the definition: every key or its common prefix, once, in byte order, beyond `after`.
fn model(keys: &BTreeSet<String>, list: &ListQuery) -> (Vec<(String, bool)>, bool) {
    let mut entries: Vec<(String, bool)> = Vec::new();
    for key in keys.iter().filter(|key| key.starts_with(&list.prefix)) {
        let rest = &key[list.prefix.len()..];
        let cut = rest.find(&list.delimiter).filter(|_| !list.delimiter.is_empty());
        let entry = match cut {
            Some(at) => (key[..list.prefix.len() + at + list.delimiter.len()].to_owned(), true),
            None => (key.clone(), false),
        };
        if entry.0 > list.after && entries.last() != Some(&entry) {
            entries.push(entry);
        }
    }
    let truncated = list.max > 0 && entries.len() > list.max as usize;
    entries.truncate(list.max as usize);
    (entries, truncated)
}

fn shown(page: &ListPage) -> Vec<(String, bool)> {
    let keys = page.keys.iter().map(|one| (one.key.clone(), false));
    let mut all: Vec<_> = keys.chain(page.common_prefixes.iter().map(|one| (one.clone(), true))).collect();
    all.sort();
    all
}

fn list<S: MetadataStore>(bench: &Bench<S>, query: ListQuery) -> ListPage {
    match bench.query(Query::List(query)) {
        Answer::List(page) => page,
        other => panic!("{other:?}"),
    }
}

/// Few letters, so that prefixes, delimiters and keys meet often; one is longer than a byte, one sorts below `/`.
fn text(length: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    vec(prop::sample::select(vec!["a", "b", "/", "//", "!", "é", "\0", "~"]), length).prop_map(|parts| parts.concat())
}

pub(super) fn pages_follow_the_model<S: MetadataStore>(bench: &Bench<S>) {
    let delimiters = prop::sample::select(vec!["", "/", "/", "//", "a", "é", "ab", "!"]);
    let queries = vec((text(0..3), delimiters, text(0..4), 0_u32..7), 20);
    let strategy = (btree_set(text(1..6), 0..40), queries);
    let config = Config { cases: 40, failure_persistence: None, ..Config::default() };
    let checked = TestRunner::new(config).run(&strategy, |(keys, queries)| {
        clear(bench);
        for key in &keys {
            bench.put_anywhere(key);
        }
        for (prefix, delimiter, after, max) in queries {
            let mut query = ListQuery { bucket: BUCKET.into(), prefix, delimiter: delimiter.into(), after, max };
            let mut pages = 0;
            loop {
                let page = list(bench, query.clone());
                let (want, truncated) = model(&keys, &query);
                prop_assert_eq!((shown(&page), page.truncated), (want.clone(), truncated), "{:?}", query);
                prop_assert_eq!(&page.last, &want.last().map_or(String::new(), |one| one.0.clone()));
                if !truncated {
                    break;
                }
                query.after = page.last;
                pages += 1;
                prop_assert!(pages <= keys.len(), "paging comes to an end");
            }
        }
        Ok(())
    });
    checked.unwrap_or_else(|error| panic!("{error}"));
}

fn clear<S: MetadataStore>(bench: &Bench<S>) {
    for one in list(bench, ListQuery { bucket: BUCKET.into(), max: 1000, ..ListQuery::default() }).keys {
        bench.delete(&one.key);
    }
}

impl<S: MetadataStore> Bench<S> {
    fn put_anywhere(&self, text: &str) {
        let begin = BeginWrite { candidates: on(&["c"]), ..self.begin_write(text, 1) };
        let begun = self.step(begin).expect("c is unlimited");
        self.commit(text, &begun).expect("nothing is in the way");
    }
}

pub(super) fn the_edges_of_a_page<S: MetadataStore>(bench: &Bench<S>) {
    let changes = (0..1001).map(|i| {
        let begin = BeginWrite { candidates: on(&["c"]), ..bench.begin_write(&format!("d{}/k{i:04}", i % 3), i) };
        Change::from(begin)
    });
    let begun = bench.batch(changes.collect()).outcomes;
    let mut commits = Vec::new();
    for (i, outcome) in begun.into_iter().enumerate() {
        let begun = BeginWrite::outcome(outcome).expect("c is unlimited");
        let record = ObjectRecord { user_metadata: vec![("n".into(), "x".repeat(i))], ..ObjectRecord::default() };
        let key = format!("d{}/k{i:04}", i % 3);
        commits.push(CommitWrite { record, ..bench.commit_write(&key, &begun) }.into());
    }
    bench.batch(commits);
    let page = |max, after: &str, delimiter: &str| {
        let after = after.to_owned();
        let delimiter = delimiter.to_owned();
        list(bench, ListQuery { bucket: BUCKET.into(), max, after, delimiter, ..ListQuery::default() })
    };
    // (max, entries, truncated): TRAPS, "truncated flag missing at exactly max-keys".
    for (max, entries, truncated) in
        [(0, 0, false), (1, 1, true), (999, 999, true), (1000, 1000, true), (1001, 1001, false)]
    {
        let page = page(max, "", "");
        assert_eq!((page.keys.len(), page.truncated), (entries, truncated), "max {max}");
    }
    let first = page(1000, "", "");
    let rest = page(1000, &first.last, "");
    assert_eq!((rest.keys.len(), rest.truncated, rest.last.as_str()), (1, false, "d2/k0998"));
    assert_eq!((rest.keys[0].size, rest.keys[0].etag.is_empty(), rest.keys[0].modified), (998, false, bench.now()));
    let grouped = page(3, "", "/");
    assert_eq!((grouped.common_prefixes.len(), grouped.keys.len(), grouped.truncated), (3, 0, false));
    let grouped = page(2, "", "/");
    assert_eq!(
        (grouped.common_prefixes.as_slice(), grouped.truncated),
        (&["d0/".to_owned(), "d1/".to_owned()][..], true)
    );
    assert_eq!(page(2, &grouped.last, "/").common_prefixes, ["d2/"]);
    assert_eq!(page(2, "d1/k0500", "/").common_prefixes, ["d2/"], "a common prefix stands where its name does");
    let elsewhere = ListQuery { bucket: "bkt2".into(), max: 10, ..ListQuery::default() };
    assert_eq!(list(bench, elsewhere), ListPage::default());
}

/// Entries of a listing of uploads: keys with their ids, or common prefixes without.
fn model_of_uploads(open: &[(String, UploadId)], list: &ListUploadsQuery) -> (Vec<(String, String)>, bool) {
    let mut entries: Vec<(String, String)> = Vec::new();
    for (key, upload) in open.iter().filter(|(key, _)| key.starts_with(&list.prefix)) {
        let rest = &key[list.prefix.len()..];
        let cut = rest.find(&list.delimiter).filter(|_| !list.delimiter.is_empty());
        let entry = match cut {
            Some(at) => (key[..list.prefix.len() + at + list.delimiter.len()].to_owned(), String::new()),
            None => (key.clone(), upload.as_str().to_owned()),
        };
        let follows = entry.0 > list.after
            || entry.0 == list.after && !list.after_upload.is_empty() && entry.1 > list.after_upload;
        if follows && entries.last() != Some(&entry) {
            entries.push(entry);
        }
    }
    let truncated = list.max > 0 && entries.len() > list.max as usize;
    entries.truncate(list.max as usize);
    (entries, truncated)
}

pub(super) fn pages_of_uploads_follow_the_model<S: MetadataStore>(bench: &Bench<S>) {
    let delimiters = prop::sample::select(vec!["", "/", "//", "é", "ab"]);
    let queries = vec((text(0..3), delimiters, text(0..4), 0_u32..5), 20);
    let strategy = (vec(text(1..5), 0..25), queries);
    let config = Config { cases: 30, failure_persistence: None, ..Config::default() };
    let checked = TestRunner::new(config).run(&strategy, |(keys, queries)| {
        let mut open: Vec<(String, UploadId)> = Vec::new();
        for (place, key) in keys.iter().enumerate() {
            let create = CreateUpload { candidates: on(&["c"]), ..bench.create_upload(key) };
            let upload = bench.step(create).expect("there is room");
            if place % 4 == 3 {
                abort(bench, key, &upload.upload);
            } else {
                open.push((key.clone(), upload.upload));
            }
        }
        open.sort();
        for (prefix, delimiter, after, max) in queries {
            let mut query = ListUploadsQuery {
                bucket: BUCKET.into(),
                prefix,
                delimiter: delimiter.into(),
                after,
                after_upload: String::new(),
                max,
            };
            loop {
                let page = match bench.query(Query::ListUploads(query.clone())) {
                    Answer::ListUploads(page) => page,
                    other => panic!("{other:?}"),
                };
                let mut shown: Vec<_> =
                    page.uploads.iter().map(|one| (one.key.clone(), one.upload.as_str().to_owned())).collect();
                shown.extend(page.common_prefixes.iter().map(|one| (one.clone(), String::new())));
                shown.sort();
                let (want, truncated) = model_of_uploads(&open, &query);
                prop_assert_eq!((&shown, page.truncated), (&want, truncated), "{:?}", query);
                let last = want.last().cloned().unwrap_or_default();
                prop_assert_eq!((&page.last, &page.last_upload), (&last.0, &last.1), "{:?}", query);
                if !truncated {
                    break;
                }
                (query.after, query.after_upload) = (page.last, page.last_upload);
            }
        }
        for (key, upload) in &open {
            abort(bench, key, upload);
        }
        Ok(())
    });
    checked.unwrap_or_else(|error| panic!("{error}"));
}

fn abort<S: MetadataStore>(bench: &Bench<S>, text: &str, upload: &UploadId) {
    bench.step(AbortUpload { bucket: bucket(), key: key(text), upload: upload.clone() }).expect("it is open");
}
