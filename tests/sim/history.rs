//! Is what the clients saw explained by one order of the operations on each key (I1, I2 across reads, I3)? An online
//! linearizability check in the manner of Wing and Gong: all explanations that are still possible are kept, and each
//! answer throws out those that contradict it.
//!
//! A write without an answer may have happened at any time or never, with one restriction that is stricter than
//! linearizability (TRAPS L22): it does not replace what was begun (had its version minted) after it. An acknowledged one
//! may, in an explanation, if something else replaced it at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// What was written, by the number that the client gave it. None: the key does not exist.
pub type Value = Option<u64>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition {
    None,
    /// `If-None-Match: *`.
    Absent,
    /// `If-Match` with the ETag of this write.
    Is(u64),
}

impl Condition {
    fn holds(self, value: Value) -> bool {
        match self {
            Self::None => true,
            Self::Absent => value.is_none(),
            Self::Is(wanted) => value == Some(wanted),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    Put { value: u64, condition: Condition },
    Delete,
    Read,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The write was acknowledged.
    Done,
    /// 412: the condition did not hold on an existing key.
    Precondition,
    /// 404 to a conditional write: there was no key to match.
    NoSuchKey,
    /// A read's answer.
    Found(Value),
    /// Refused before anything happened, or a read that failed: says nothing.
    Nothing,
    /// A write that failed: it may have happened, or happen yet.
    Unknown,
}

#[derive(Clone, Debug)]
struct Pending {
    call: Call,
    invoked: u64,
    /// When its version was minted. A put that was not begun has not happened; a delete is begun and done in one.
    begun: Option<u64>,
    /// When it was over without an answer.
    over: Option<u64>,
}

impl Pending {
    /// The earliest time at which it can have happened.
    fn start(&self) -> Option<u64> {
        match self.call {
            Call::Delete => Some(self.invoked),
            Call::Put { .. } => self.begun,
            Call::Read => None,
        }
    }
}

/// One explanation of everything answered so far.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Config {
    value: Value,
    /// The latest start of a write that has happened: no unanswered one that was begun before it can follow.
    horizon: u64,
    /// Pending puts that have followed a later one all the same: they must be acknowledged.
    late: BTreeSet<u64>,
    /// Pending writes that have already happened in it (or, for those without an answer, never will).
    placed: BTreeSet<u64>,
    /// What each other pending operation may have seen since it was called.
    seen: BTreeMap<u64, BTreeSet<Value>>,
}

/// More explanations than this mean that the run is too wide to be checked, not that it is wrong.
const CONFIGS_MAX: usize = 20_000;
const STORY_LINES: usize = 120;

/// The history of one key.
pub struct KeyHistory {
    name: String,
    configs: BTreeSet<Config>,
    pending: BTreeMap<u64, Pending>,
    story: Vec<String>,
}

impl KeyHistory {
    pub fn new(name: impl Into<String>) -> Self {
        let nothing =
            Config { value: None, horizon: 0, late: BTreeSet::new(), placed: BTreeSet::new(), seen: BTreeMap::new() };
        Self { name: name.into(), configs: [nothing].into(), pending: BTreeMap::new(), story: Vec::new() }
    }

    pub fn called(&mut self, at: u64, operation: u64, call: Call) {
        self.tell(at, operation, format_args!("{call:?}"));
        self.pending.insert(operation, Pending { call, invoked: at, begun: None, over: None });
        self.configs = std::mem::take(&mut self.configs)
            .into_iter()
            .map(|mut config| {
                config.seen.insert(operation, [config.value].into());
                config
            })
            .collect();
    }

    /// The version of a put was minted at this time; a put that is begun anew keeps its last.
    pub fn begun(&mut self, operation: u64, at: u64) {
        if let Some(pending) = self.pending.get_mut(&operation) {
            pending.begun = Some(at);
        }
    }

    /// Err tells the key's story when no explanation is left.
    pub fn answered(&mut self, at: u64, operation: u64, answer: Answer) -> Result<(), String> {
        self.tell(at, operation, format_args!("-> {answer:?}"));
        let call = self.pending[&operation].call;
        match answer {
            Answer::Nothing => self.forget(operation),
            Answer::Unknown if matches!(call, Call::Read) => self.forget(operation),
            Answer::Unknown => {
                self.pending.get_mut(&operation).expect("called before").over = Some(at);
                self.configs.retain(|config| !config.late.contains(&operation));
            }
            Answer::Done => self.keep(|config| config.placed.contains(&operation), Some(operation), operation),
            Answer::Found(value) => {
                self.keep(|config| config.has_seen(operation, |seen| seen == value), None, operation)
            }
            Answer::Precondition => self.keep(|config| config.has_seen(operation, refuses(call)), None, operation),
            Answer::NoSuchKey => self.keep(|config| config.has_seen(operation, |seen| seen.is_none()), None, operation),
        }
        self.settle();
        if self.configs.is_empty() {
            Err(format!("key {}: no order explains this\n{}", self.name, self.story()))
        } else {
            Ok(())
        }
    }

    /// Every write without an answer is decided by now: the instance that ran it is gone and recovered.
    pub fn close_unknown(&mut self) {
        let over: Vec<u64> = self.pending.iter().filter(|(_, one)| one.over.is_some()).map(|(&id, _)| id).collect();
        if over.is_empty() {
            return;
        }
        let mut all = BTreeSet::new();
        let mut todo: Vec<Config> = std::mem::take(&mut self.configs).into_iter().collect();
        while let Some(config) = todo.pop() {
            for &id in over.iter().filter(|&&id| !config.placed.contains(&id)) {
                todo.extend(self.place(&config, id));
            }
            all.insert(config);
        }
        self.configs = all;
        over.into_iter().for_each(|id| self.forget(id));
        self.settle();
    }

    /// Values that the key may have now.
    pub fn possible_values(&self) -> BTreeSet<Value> {
        let mut values = BTreeSet::new();
        let mut todo: Vec<Config> = self.configs.iter().cloned().collect();
        let mut known: BTreeSet<Config> = self.configs.clone();
        while let Some(config) = todo.pop() {
            values.insert(config.value);
            for &id in self.pending.keys() {
                if let Some(next) = self.place(&config, id)
                    && known.insert(next.clone())
                {
                    todo.push(next);
                }
            }
        }
        values
    }

    /// Keeps the explanations in which `fits`, and extends the others by pending writes until they fit. With `must_end_in`,
    /// an extension ends with that write.
    fn keep(&mut self, fits: impl Fn(&Config) -> bool, must_end_in: Option<u64>, operation: u64) {
        let mut kept = BTreeSet::new();
        let mut known = BTreeSet::new();
        let mut todo: Vec<Config> = std::mem::take(&mut self.configs).into_iter().collect();
        while let Some(config) = todo.pop() {
            if fits(&config) {
                kept.insert(config);
                continue;
            }
            for &id in self.pending.keys().filter(|&&id| must_end_in.is_some() || id != operation) {
                if let Some(next) = self.place(&config, id)
                    && known.insert(next.clone())
                {
                    todo.push(next);
                }
            }
            assert!(known.len() < CONFIGS_MAX, "key {}: too many explanations\n{}", self.name, self.story());
        }
        self.configs = kept;
        self.forget(operation);
    }

    /// `config` after the pending write `id`; None if it is no write, is placed already, or its condition fails.
    fn place(&self, config: &Config, id: u64) -> Option<Config> {
        let (start, late) = self.open_start(config, id)?;
        let value = match self.pending[&id].call {
            Call::Put { value, condition } if condition.holds(config.value) => Some(value),
            Call::Delete => None,
            _ => return None,
        };
        let mut next = config.clone();
        next.value = value;
        next.placed.insert(id);
        next.seen.remove(&id);
        next.seen.values_mut().for_each(|seen| {
            seen.insert(value);
        });
        next.horizon = next.horizon.max(start);
        if late {
            next.late.insert(id);
        }
        Some(next)
    }

    /// When the write `id` was begun, if it may still happen in this explanation, and whether that is late.
    fn open_start(&self, config: &Config, id: u64) -> Option<(u64, bool)> {
        let pending = &self.pending[&id];
        let start = pending.start()?;
        let late = match pending.call {
            Call::Delete => pending.over.is_some_and(|over| over < config.horizon),
            _ => start < config.horizon,
        };
        let possible = !late || pending.over.is_none();
        (possible && !config.placed.contains(&id)).then_some((start, late))
    }

    fn forget(&mut self, operation: u64) {
        self.pending.remove(&operation);
        self.configs = std::mem::take(&mut self.configs)
            .into_iter()
            .map(|mut config| {
                config.placed.remove(&operation);
                config.seen.remove(&operation);
                config.late.remove(&operation);
                config
            })
            .collect();
    }

    /// Unanswered writes that can happen in no explanation any more need no more thought. One whose condition fails now may
    /// hold later, so it stays.
    fn settle(&mut self) {
        let done: Vec<u64> = self
            .pending
            .iter()
            .filter(|(id, one)| {
                one.over.is_some() && self.configs.iter().all(|config| self.open_start(config, **id).is_none())
            })
            .map(|(&id, _)| id)
            .collect();
        done.into_iter().for_each(|id| self.forget(id));
    }

    fn tell(&mut self, at: u64, operation: u64, what: std::fmt::Arguments<'_>) {
        if self.story.len() == STORY_LINES {
            self.story.remove(0);
        }
        self.story.push(format!("{:>12.6} s  op {operation} {what}", at as f64 / 1e9));
    }

    pub fn story(&self) -> String {
        let mut text = self.story.join("\n");
        let values: Vec<_> = self.configs.iter().map(|config| config.value).collect();
        write!(text, "\npossible: {values:?}").expect("writing to a string");
        text
    }
}

impl Config {
    fn has_seen(&self, operation: u64, wanted: impl Fn(Value) -> bool) -> bool {
        self.seen.get(&operation).is_some_and(|seen| seen.iter().any(|&value| wanted(value)))
    }
}

/// What a 412 says of the key at some time of the call.
fn refuses(call: Call) -> impl Fn(Value) -> bool {
    move |value| match call {
        Call::Put { condition, .. } => !condition.holds(value) && value.is_some(),
        Call::Delete | Call::Read => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Answer::{Done, Found, NoSuchKey, Precondition, Unknown};
    use Condition::{Absent, Is, None as Always};

    #[derive(Clone, Copy)]
    enum Event {
        /// It is called, and begun at once.
        Calls(u64, Call),
        /// The same of a put that is not begun yet.
        Waits(u64, Call),
        Begins(u64),
        Gets(u64, Answer),
        Restart,
    }
    use Event::{Begins, Calls, Gets, Restart, Waits};

    fn put(value: u64) -> Call {
        Call::Put { value, condition: Always }
    }

    fn put_if(value: u64, condition: Condition) -> Call {
        Call::Put { value, condition }
    }

    fn check(name: &str, explained: bool, events: &[Event]) {
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
                Restart => history.close_unknown(),
            }
        }
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
            &[
                Calls(1, put(1)),
                Gets(1, Done),
                Calls(2, put(2)),
                Gets(2, Done),
                Calls(3, read),
                Gets(3, Found(Some(1))),
            ],
        );
        check(
            "a read beside a write may see either",
            true,
            &[
                Calls(1, put(1)),
                Gets(1, Done),
                Calls(3, read),
                Calls(2, put(2)),
                Gets(2, Done),
                Gets(3, Found(Some(1))),
            ],
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
            &[
                Calls(1, put(1)),
                Calls(2, put(2)),
                Gets(2, Done),
                Gets(1, Done),
                Calls(3, read),
                Gets(3, Found(Some(2))),
            ],
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
        check(
            "it may have happened",
            true,
            &[Calls(1, put(1)), Gets(1, Unknown), Calls(2, read), Gets(2, Found(Some(1)))],
        );
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
            &[
                Calls(1, put(1)),
                Gets(1, Unknown),
                Calls(2, put(2)),
                Gets(2, Done),
                Calls(3, read),
                Gets(3, Found(Some(1))),
            ],
        );
        check(
            "a concurrent one may",
            true,
            &[
                Calls(2, put(2)),
                Calls(1, put(1)),
                Gets(1, Unknown),
                Gets(2, Done),
                Calls(3, read),
                Gets(3, Found(Some(1))),
            ],
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
            &[
                Calls(1, put(1)),
                Gets(1, Done),
                Calls(2, put(2)),
                Gets(2, Done),
                Calls(3, put_if(3, Is(1))),
                Gets(3, Done),
            ],
        );
        check("nothing to match", true, &[Calls(1, put_if(1, Is(9))), Gets(1, NoSuchKey)]);
    }
}
