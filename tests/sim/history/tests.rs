//! The linearizability check against histories of which it is known whether they are right.

use super::*;
use Answer::{Done, Found, NoSuchKey, Precondition, Unknown};
use Condition::{Absent, Is, None as Always};

#[derive(Clone, Copy)]
enum Seen {
    /// It is called, and begun at once.
    Calls(u64, Call),
    /// The same of a put that is not begun yet.
    Waits(u64, Call),
    Begins(u64),
    Gets(u64, Answer),
    Restart,
}
use Seen::{Begins, Calls, Gets, Restart, Waits};

fn put(value: u64) -> Call {
    Call::Put { value, condition: Always }
}

fn put_if(value: u64, condition: Condition) -> Call {
    Call::Put { value, condition }
}

fn check(name: &str, explained: bool, events: &[Seen]) {
    let mut history = KeyHistory::new(name);
    let mut result = Ok(());
    for (at, event) in events.iter().enumerate() {
        match *event {
            Calls(id, call) => {
                history.called(at as u64, id, call);
                history.begun(id, at as u64);
            }
            Waits(id, call) => history.called(at as u64, id, call),
            Begins(id) => history.begun(id, at as u64),
            Gets(id, answer) => result = result.and_then(|()| history.answered(at as u64, id, answer)),
            Restart => history.close_unknown(at as u64),
        }
    }
    let result = result.and_then(|()| history.end(events.len() as u64));
    assert_eq!(result.is_ok(), explained, "{name}: {result:?}");
}

#[test]
fn what_is_explained_and_what_is_not() {
    let read = Call::Read;
    check("own write", true, &[Calls(1, put(1)), Gets(1, Done), Calls(2, read), Gets(2, Found(Some(1)))]);
    check("lost write", false, &[Calls(1, put(1)), Gets(1, Done), Calls(2, read), Gets(2, Found(None))]);
    check(
        "stale read",
        false,
        &[Calls(1, put(1)), Gets(1, Done), Calls(2, put(2)), Gets(2, Done), Calls(3, read), Gets(3, Found(Some(1)))],
    );
    check(
        "a read beside a write may see either",
        true,
        &[Calls(1, put(1)), Gets(1, Done), Calls(3, read), Calls(2, put(2)), Gets(2, Done), Gets(3, Found(Some(1)))],
    );
    check(
        "two reads in order do not go back",
        false,
        &[
            Calls(1, put(1)),
            Gets(1, Done),
            Calls(2, put(2)),
            Calls(3, read),
            Gets(3, Found(Some(2))),
            Calls(4, read),
            Gets(4, Found(Some(1))),
            Gets(2, Done),
        ],
    );
    check(
        "overwritten at once",
        true,
        &[Calls(1, put(1)), Calls(2, put(2)), Gets(2, Done), Gets(1, Done), Calls(3, read), Gets(3, Found(Some(2)))],
    );
    check(
        "a deleted key stays deleted",
        false,
        &[
            Calls(1, put(1)),
            Gets(1, Done),
            Calls(2, Call::Delete),
            Gets(2, Done),
            Calls(3, read),
            Gets(3, Found(Some(1))),
        ],
    );
}

#[test]
fn writes_without_an_answer() {
    let read = Call::Read;
    check("it may have happened", true, &[Calls(1, put(1)), Gets(1, Unknown), Calls(2, read), Gets(2, Found(Some(1)))]);
    check(
        "or happen late",
        true,
        &[
            Calls(1, put(1)),
            Gets(1, Unknown),
            Calls(2, read),
            Gets(2, Found(None)),
            Calls(3, read),
            Gets(3, Found(Some(1))),
        ],
    );
    check(
        "but not after a later acknowledged write (L22)",
        false,
        &[Calls(1, put(1)), Gets(1, Unknown), Calls(2, put(2)), Gets(2, Done), Calls(3, read), Gets(3, Found(Some(1)))],
    );
    check(
        "a concurrent one may",
        true,
        &[Calls(2, put(2)), Calls(1, put(1)), Gets(1, Unknown), Gets(2, Done), Calls(3, read), Gets(3, Found(Some(1)))],
    );
    check(
        "an acknowledged one may, if it is replaced at once",
        true,
        &[
            Calls(1, put(1)),
            Calls(2, put_if(2, Absent)),
            Gets(2, Done),
            Calls(3, Call::Delete),
            Gets(3, Done),
            Gets(1, Done),
            Calls(4, read),
            Gets(4, Found(None)),
        ],
    );
    check(
        "but not before a condition that did not see it",
        false,
        &[
            Calls(1, put(1)),
            Calls(2, put_if(2, Absent)),
            Gets(2, Done),
            Gets(1, Done),
            Calls(4, read),
            Gets(4, Found(Some(2))),
        ],
    );
    check(
        "a concurrent one that was begun before it may not (L22)",
        false,
        &[Calls(1, put(1)), Calls(2, put(2)), Gets(1, Unknown), Gets(2, Done), Calls(3, read), Gets(3, Found(Some(1)))],
    );
    check(
        "one that waited and was begun after it may",
        true,
        &[
            Waits(1, put(1)),
            Calls(2, put(2)),
            Gets(2, Done),
            Begins(1),
            Gets(1, Unknown),
            Calls(3, read),
            Gets(3, Found(Some(1))),
        ],
    );
    check(
        "one that was never begun has not happened",
        false,
        &[Waits(1, put(1)), Gets(1, Unknown), Calls(2, read), Gets(2, Found(Some(1)))],
    );
    check(
        "nor after the restart",
        false,
        &[
            Calls(1, put(1)),
            Gets(1, Unknown),
            Restart,
            Calls(2, read),
            Gets(2, Found(None)),
            Calls(3, read),
            Gets(3, Found(Some(1))),
        ],
    );
    check(
        "a delete without an answer does not hit a later write",
        false,
        &[
            Calls(1, Call::Delete),
            Gets(1, Unknown),
            Calls(2, put(2)),
            Gets(2, Done),
            Calls(3, read),
            Gets(3, Found(None)),
        ],
    );
}

#[test]
fn conditions() {
    check(
        "only one of two creators wins",
        false,
        &[Calls(1, put_if(1, Absent)), Calls(2, put_if(2, Absent)), Gets(1, Done), Gets(2, Done)],
    );
    check(
        "the loser is told",
        true,
        &[Calls(1, put_if(1, Absent)), Calls(2, put_if(2, Absent)), Gets(1, Done), Gets(2, Precondition)],
    );
    check("a refusal needs a reason", false, &[Calls(1, put_if(1, Absent)), Gets(1, Precondition)]);
    check(
        "compare and swap",
        true,
        &[
            Calls(1, put(1)),
            Gets(1, Done),
            Calls(2, put_if(2, Is(1))),
            Gets(2, Done),
            Calls(3, put_if(3, Is(1))),
            Gets(3, Precondition),
        ],
    );
    check(
        "swapped under it",
        false,
        &[Calls(1, put(1)), Gets(1, Done), Calls(2, put(2)), Gets(2, Done), Calls(3, put_if(3, Is(1))), Gets(3, Done)],
    );
    check("nothing to match", true, &[Calls(1, put_if(1, Is(9))), Gets(1, NoSuchKey)]);
}
