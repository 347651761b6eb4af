//! Is what the clients saw explained by one order of the operations on each key (I1, I2 across reads, I3)? A linearizability
//! check in the manner of Wing and Gong with Lowe's just-in-time order: all explanations that are still possible are kept,
//! equal ones once, and each answer throws out those that contradict it. An operation enters the check when its answer is
//! known, so that an explanation holds no more than the value, and which operations under way have happened in it.
//!
//! A write without an answer may have happened at any time or never, with one restriction that is stricter than
//! linearizability (TRAPS L22): it does not replace what was begun (had its version minted) after it. An acknowledged one
//! may, in an explanation, if something else replaced it at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
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
    Put {
        value: u64,
        condition: Condition,
    },
    Delete,
    Read,
    /// No client's call: the operator has taken the last copy out of the database.
    Removed,
    /// Nor this: `sync` has found this write's bytes and made them the object.
    Adopted {
        value: u64,
    },
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

#[derive(Clone, Copy)]
enum Event {
    Called(Call),
    /// The version of a put was minted.
    Begun,
    Answered,
    /// Whatever was over by now without an answer has happened by now, or never will.
    Decided,
}

/// An operation in the check: its answer is known, and its call has been looked at.
#[derive(Clone, Copy, Debug)]
struct Pending {
    operation: u64,
    call: Call,
    answer: Answer,
    invoked: u64,
    answered: u64,
    /// When its version was minted. A put that was not begun has not happened; a delete is begun and done in one.
    begun: Option<u64>,
}

impl Pending {
    /// What a write makes of this value: None if it cannot happen now. The second is the earliest time of its start.
    fn after(&self, config: &Config) -> Option<(Value, u64)> {
        let known = match self.answer {
            Answer::Done => true,
            Answer::Unknown => false,
            _ => return None,
        };
        match self.call {
            Call::Put { value, condition } => {
                let start = self.begun?;
                (condition.holds(config.value) && (known || start >= config.horizon)).then_some((Some(value), start))
            }
            Call::Delete => (known || self.answered >= config.horizon).then_some((None, self.invoked)),
            Call::Read => None,
            // What was begun before and has no answer may still replace it.
            Call::Removed => Some((None, 0)),
            Call::Adopted { value } => Some((Some(value), 0)),
        }
    }

    fn is_unanswered_delete(&self) -> bool {
        self.call == Call::Delete && self.answer == Answer::Unknown
    }

    /// Whether it changes nothing and its answer is right at this value.
    fn is_told_by(&self, value: Value) -> bool {
        match (self.answer, self.call) {
            (Answer::Found(seen), _) => seen == value,
            (Answer::Precondition, Call::Put { condition, .. }) => value.is_some() && !condition.holds(value),
            (Answer::NoSuchKey, _) => value.is_none(),
            _ => false,
        }
    }
}

/// Operations under way, by their places in the table.
type Places = u128;
const PLACES: usize = Places::BITS as usize;

/// One explanation of everything looked at so far.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Config {
    value: Value,
    /// The latest start of a write that has happened: no unanswered one that was begun before it can follow.
    horizon: u64,
    /// Pending operations that have happened in it.
    happened: Places,
}

impl Config {
    fn has(&self, place: usize) -> bool {
        self.happened & (1 << place) != 0
    }
}

/// More explanations than this mean that the run is too wide to be checked, not that it is wrong.
const CONFIGS_MAX: usize = 200_000;
const STORY_LINES: usize = 120;

/// The history of one key.
pub struct KeyHistory {
    name: String,
    /// What happened, from the first call on whose answer is not known yet.
    events: VecDeque<(u64, u64, Event)>,
    /// Known answers of operations that stand in `events`, with their times.
    answers: BTreeMap<u64, (u64, Answer)>,
    configs: BTreeSet<Config>,
    pending: Vec<Option<Pending>>,
    story: VecDeque<String>,
    widest: usize,
    /// Called before the database was put back, and not answered then.
    spanning: BTreeSet<u64>,
}

impl KeyHistory {
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            events: VecDeque::new(),
            answers: BTreeMap::new(),
            configs: [Config { value: None, horizon: 0, happened: 0 }].into(),
            pending: Vec::new(),
            story: VecDeque::new(),
            widest: 0,
            spanning: BTreeSet::new(),
        }
    }

    pub fn called(&mut self, at: u64, operation: u64, call: Call) {
        self.events.push_back((at, operation, Event::Called(call)));
    }

    /// The version of a put was minted at this time; a put that is begun anew keeps its last.
    pub fn begun(&mut self, operation: u64, at: u64) {
        self.events.push_back((at, operation, Event::Begun));
    }

    /// Err tells the key's story when no explanation is left of what is known completely.
    pub fn answered(&mut self, at: u64, operation: u64, answer: Answer) -> Result<(), String> {
        // Nobody can say whether it was done, and told, by the database that was lost or by this one.
        let answer = if self.spanning.remove(&operation) { Answer::Unknown } else { answer };
        self.answers.insert(operation, (at, answer));
        self.events.push_back((at, operation, Event::Answered));
        self.look()
    }

    /// The database was put back to what it says of the key now, whatever was known. Calls under way may still be carried out.
    pub fn restart(&mut self, at: u64, value: Value) {
        let is_open =
            |event: &(u64, u64, Event)| matches!(event.2, Event::Called(_)) && !self.answers.contains_key(&event.1);
        self.events.retain(is_open);
        self.spanning = self.events.iter().map(|(_, operation, _)| *operation).collect();
        self.answers.clear();
        self.pending.clear();
        self.configs = [Config { value, horizon: 0, happened: 0 }].into();
        self.tell(at, 0, format_args!("restored: {value:?}"));
    }

    /// What an operator did, at once.
    pub fn done(&mut self, at: u64, operation: u64, call: Call) -> Result<(), String> {
        self.called(at, operation, call);
        self.answered(at, operation, Answer::Done)
    }

    /// Every write without an answer is decided by now: the instance that ran it is gone and recovered.
    pub fn close_unknown(&mut self, at: u64) {
        self.events.push_back((at, 0, Event::Decided));
    }

    /// Nobody calls any more. What has no answer yet never gets one.
    pub fn end(&mut self, at: u64) -> Result<(), String> {
        let called = self.events.iter().filter(|(_, _, event)| matches!(event, Event::Called(_)));
        let open: Vec<u64> = called.map(|one| one.1).filter(|id| !self.answers.contains_key(id)).collect();
        open.into_iter().try_for_each(|operation| self.answered(at, operation, Answer::Unknown))?;
        self.look()
    }

    /// The most explanations that ever stood beside each other.
    pub fn widest(&self) -> usize {
        self.widest
    }

    /// Looks at what happened, up to the first call whose answer is not known yet.
    fn look(&mut self) -> Result<(), String> {
        while let Some(&(at, operation, event)) = self.events.front() {
            match event {
                Event::Called(call) => {
                    let Some(&(answered, answer)) = self.answers.get(&operation) else { return Ok(()) };
                    self.tell(at, operation, format_args!("{call:?}"));
                    let unheard = matches!((call, answer), (_, Answer::Nothing) | (Call::Read, Answer::Unknown));
                    if !unheard {
                        self.enter(Pending { operation, call, answer, invoked: at, answered, begun: None });
                    }
                }
                Event::Begun => {
                    if let Some(one) = self.pending.iter_mut().flatten().find(|one| one.operation == operation) {
                        one.begun = Some(at);
                    }
                }
                Event::Answered => {
                    let (_, answer) = self.answers.remove(&operation).expect("an answer is kept until it is looked at");
                    self.tell(at, operation, format_args!("-> {answer:?}"));
                    let place = self.pending.iter().position(|one| one.is_some_and(|one| one.operation == operation));
                    if let Some(place) = place.filter(|_| answer != Answer::Unknown) {
                        self.must_have_happened(place)?;
                    }
                    self.drop_impossible(at);
                }
                Event::Decided => self.decide(at),
            }
            self.events.pop_front();
            self.widest = self.widest.max(self.configs.len());
        }
        Ok(())
    }

    fn enter(&mut self, one: Pending) {
        let place = self.pending.iter().position(Option::is_none).unwrap_or_else(|| {
            self.pending.push(None);
            self.pending.len() - 1
        });
        assert!(place < PLACES, "key {}: too many operations at once\n{}", self.name, self.story());
        self.pending[place] = Some(one);
        let told = |mut config: Config| {
            config.happened |= Places::from(one.is_told_by(config.value)) << place;
            config
        };
        self.configs = self.configs.iter().copied().map(told).collect();
    }

    /// Keeps the explanations in which it has happened, and extends the others by pending writes until it has.
    fn must_have_happened(&mut self, place: usize) -> Result<(), String> {
        let (kept, _) = self.extend(|config| config.has(place));
        if kept.is_empty() {
            return Err(format!("key {}: no order explains this\n{}", self.name, self.story()));
        }
        self.configs = kept;
        self.forget(1 << place);
        Ok(())
    }

    /// Extends every explanation by pending writes in every order until it is `enough`. Returns those, and all others.
    fn extend(&self, enough: impl Fn(&Config) -> bool) -> (BTreeSet<Config>, BTreeSet<Config>) {
        let mut kept = BTreeSet::new();
        let mut others = self.configs.clone();
        let mut todo: Vec<Config> = self.configs.iter().copied().collect();
        while let Some(config) = todo.pop() {
            if enough(&config) {
                others.remove(&config);
                kept.insert(config);
                continue;
            }
            for place in 0..self.pending.len() {
                if let Some(next) = self.place(&config, place)
                    && others.insert(next)
                {
                    todo.push(next);
                }
            }
            assert!(others.len() < CONFIGS_MAX, "key {}: too many explanations\n{}", self.name, self.story());
        }
        (kept, others)
    }

    /// `config` after this pending write; None if it is no write, has happened, or cannot.
    fn place(&self, config: &Config, place: usize) -> Option<Config> {
        let one = self.pending[place].filter(|_| !config.has(place))?;
        let (value, start) = one.after(config)?;
        if self.is_needless(config, place, &one) {
            return None;
        }
        let mut happened = config.happened | 1 << place;
        for (other, one) in self.pending.iter().enumerate() {
            happened |= Places::from(one.is_some_and(|one| one.is_told_by(value))) << other;
        }
        Some(Config { value, horizon: config.horizon.max(start), happened })
    }

    /// During an outage dozens of deletes end without an answer. One of a key that is not there explains nothing, and where
    /// two would do, the one that began and ended first does.
    fn is_needless(&self, config: &Config, place: usize, one: &Pending) -> bool {
        if !one.is_unanswered_delete() {
            return false;
        }
        let does_as_well = |(other, rival): (usize, &Option<Pending>)| {
            rival.is_some_and(|rival| {
                let order = |one: &Pending, place: usize| (one.invoked, one.answered, place);
                rival.is_unanswered_delete()
                    && !config.has(other)
                    && rival.after(config).is_some()
                    && rival.answered <= one.answered
                    && order(&rival, other) < order(one, place)
            })
        };
        config.value.is_none() || self.pending.iter().enumerate().any(does_as_well)
    }

    /// Unanswered writes that are over by now stop being possible: each has happened in an explanation, or never does.
    fn decide(&mut self, now: u64) {
        let over = self.over(now);
        if over != 0 {
            let (_, all) = self.extend(|_| false);
            self.configs = all;
            self.forget(over);
        }
    }

    /// Unanswered writes that can happen in no explanation any more need no more thought. One whose condition fails now may
    /// hold later, so it stays.
    fn drop_impossible(&mut self, now: u64) {
        let lowest = self.configs.iter().map(|config| config.horizon).min().unwrap_or(0);
        let mut impossible = 0;
        for (place, one) in self.pending.iter().enumerate() {
            let Some(one) = one.filter(|one| one.answer == Answer::Unknown && one.answered <= now) else { continue };
            let too_late = match one.call {
                Call::Delete => one.answered < lowest,
                _ => one.begun.is_none_or(|begun| begun < lowest),
            };
            let is_past = too_late || self.configs.iter().all(|config| config.has(place));
            impossible |= Places::from(is_past) << place;
        }
        self.forget(impossible);
    }

    fn over(&self, now: u64) -> Places {
        let is_over = |one: &Pending| one.answer == Answer::Unknown && one.answered <= now;
        let places = self.pending.iter().enumerate();
        places.fold(0, |all, (place, one)| all | Places::from(one.as_ref().is_some_and(is_over)) << place)
    }

    fn forget(&mut self, gone: Places) {
        if gone == 0 {
            return;
        }
        for (place, one) in self.pending.iter_mut().enumerate() {
            if gone & (1 << place) != 0 {
                *one = None;
            }
        }
        let without = |mut config: Config| {
            config.happened &= !gone;
            config
        };
        self.configs = self.configs.iter().copied().map(without).collect();
    }

    fn tell(&mut self, at: u64, operation: u64, what: std::fmt::Arguments<'_>) {
        if self.story.len() == STORY_LINES {
            self.story.pop_front();
        }
        self.story.push_back(format!("{:>12.6} s  op {operation} {what}", at as f64 / 1e9));
    }

    fn story(&self) -> String {
        let mut text = String::new();
        for line in &self.story {
            writeln!(text, "{line}").expect("writing to a string");
        }
        let values: BTreeSet<Value> = self.configs.iter().map(|config| config.value).collect();
        write!(text, "possible: {values:?}").expect("writing to a string");
        text
    }
}

#[cfg(test)]
mod tests;
