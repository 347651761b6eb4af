//! Names to addresses, off the reactor: the system's resolver blocks, so plain threads ask it, and each core remembers the
//! answers. A name that is past its time is still used while a new answer is fetched behind the scenes.

use super::core::Core;
use super::mailbox::{Mailbox, Postbox, channel};
use super::signal::Signal;
use super::task;
use crate::base::{Clock, Tick};
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Past its time, an answer is used for so long when no new one can be had.
const STALE_MAX: Duration = Duration::from_secs(300);
/// A failure is remembered so long, so that a missing name is not asked for by every request.
const FAILED_FOR: Duration = Duration::from_secs(1);
/// Lookups of one core under way at once.
const LOOKUPS_MAX: usize = 64;

/// Asks for the addresses of a host; blocks.
pub type Lookup = fn(&str) -> io::Result<Vec<IpAddr>>;

/// What the system's resolver says.
pub fn system_lookup(host: &str) -> io::Result<Vec<IpAddr>> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for found in (host, 0).to_socket_addrs()? {
        if !addresses.contains(&found.ip()) {
            addresses.push(found.ip());
        }
    }
    Ok(addresses)
}

type Reply = io::Result<Vec<IpAddr>>;

/// Where lookups are sent.
#[derive(Clone)]
pub struct DnsPostbox(Postbox<Box<str>, Reply>);

/// Starts the resolver's threads, at least one: a name that takes long holds up one of them. Started before the reactors
/// pin themselves.
pub fn start(threads: usize, lookup: Lookup) -> io::Result<DnsPostbox> {
    let (postbox, desk) = channel::<Box<str>, Reply>();
    for number in 0..threads.max(1) {
        let desk = desk.clone();
        std::thread::Builder::new().name(format!("dns-{number}")).spawn(move || {
            while let Some(letter) = desk.wait() {
                letter.replier.reply(lookup(&letter.request));
            }
        })?;
    }
    Ok(DnsPostbox(postbox))
}

/// One core's memory of names.
pub struct Resolver {
    core: Rc<Core>,
    mailbox: Mailbox<Box<str>, Reply>,
    names: RefCell<HashMap<Box<str>, Name>>,
}

#[derive(Default)]
struct Name {
    known: Option<(Rc<[IpAddr]>, Tick)>,
    failed: Option<(Rc<io::Error>, Tick)>,
    /// Set when the lookup that is under way has ended.
    pending: Option<Rc<Signal>>,
}

enum Step {
    Known(Rc<[IpAddr]>),
    Failed(io::Error),
    Wait(Rc<Signal>),
}

impl Resolver {
    /// Only inside the core's runtime.
    pub fn open(core: &Rc<Core>, postbox: DnsPostbox) -> io::Result<Rc<Self>> {
        let mailbox = Mailbox::open(postbox.0, LOOKUPS_MAX, Rc::clone(&core.fair), Arc::clone(&core.cells))?;
        Ok(Rc::new(Self { core: Rc::clone(core), mailbox, names: RefCell::default() }))
    }

    /// The addresses of a host, at least one; a literal address is its own. Answers are believed for `ttl`.
    /// Cancel: safe; a lookup goes on for the others.
    pub async fn resolve(self: &Rc<Self>, host: &str, ttl: Duration) -> io::Result<Rc<[IpAddr]>> {
        let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = literal.parse::<IpAddr>() {
            return Ok([address].into());
        }
        loop {
            match self.look(host, ttl) {
                Step::Known(addresses) => return Ok(addresses),
                Step::Failed(cause) => return Err(cause),
                Step::Wait(ended) => ended.wait().await,
            }
        }
    }

    fn look(self: &Rc<Self>, host: &str, ttl: Duration) -> Step {
        let now = self.core.clock.tick();
        let mut names = self.names.borrow_mut();
        if !names.contains_key(host) {
            names.insert(host.into(), Name::default());
        }
        let name = names.get_mut(host).expect("just put there");
        let age = name.known.as_ref().map(|(_, at)| now.since(*at));
        let failed_lately = name.failed.as_ref().filter(|(_, at)| now.since(*at) < FAILED_FOR).map(|(cause, _)| cause);
        match (age, failed_lately) {
            (Some(age), _) if age < ttl => {}
            (Some(age), Some(_)) if age < ttl + STALE_MAX => {}
            (Some(age), None) if age < ttl + STALE_MAX => drop(self.ask(host, name)),
            (_, Some(cause)) => return Step::Failed(io::Error::new(cause.kind(), cause.to_string())),
            (_, None) => return Step::Wait(self.ask(host, name)),
        }
        Step::Known(Rc::clone(&name.known.as_ref().expect("it has an age").0))
    }

    /// Starts a lookup unless one is under way; what is set at its end.
    fn ask(self: &Rc<Self>, host: &str, name: &mut Name) -> Rc<Signal> {
        if let Some(pending) = &name.pending {
            return Rc::clone(pending);
        }
        let ended = Rc::new(Signal::default());
        name.pending = Some(Rc::clone(&ended));
        let (this, host, told) = (Rc::clone(self), Box::<str>::from(host), Rc::clone(&ended));
        task::spawn(&self.core.cells, "resolve", async move {
            let answer = this.mailbox.call(host.clone()).await.map_err(io::Error::other).flatten();
            this.remember(&host, answer);
            told.set();
        });
        ended
    }

    fn remember(&self, host: &str, answer: Reply) {
        let now = self.core.clock.tick();
        let mut names = self.names.borrow_mut();
        let name = names.get_mut(host).expect("names are not forgotten");
        name.pending = None;
        match answer {
            Ok(addresses) if !addresses.is_empty() => {
                name.known = Some((addresses.into(), now));
                name.failed = None;
            }
            Ok(_) => {
                let cause = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
                name.failed = Some((Rc::new(cause), now));
            }
            Err(cause) => {
                tracing::warn!(host, %cause, "name lookup failed");
                name.failed = Some((Rc::new(cause), now));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::testing::{Stopwatch, on_both, pause_ms, sleep_ms, until};
    use std::cell::Cell;
    use std::sync::atomic::{AtomicU32, Ordering};

    const LONG: Duration = Duration::from_secs(600);

    /// Answers with the number of the question, so that tests see which answer they got.
    fn counting(host: &str) -> Reply {
        static ASKED: AtomicU32 = AtomicU32::new(0);
        let number = ASKED.fetch_add(1, Ordering::Relaxed);
        match host {
            "slow" => pause_ms(1_500),
            "missing" => return Err(io::Error::new(io::ErrorKind::NotFound, "no such name")),
            "empty" => return Ok(Vec::new()),
            _ => {}
        }
        Ok(vec![std::net::Ipv4Addr::from(number).into()])
    }

    fn open(core: &Rc<Core>) -> Rc<Resolver> {
        Resolver::open(core, start(2, counting).expect("threads start")).expect("a mailbox opens")
    }

    #[test]
    fn literal_addresses_are_their_own() {
        on_both(|core| async move {
            for (literal, want) in [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("[2001:db8::1]", "2001:db8::1")] {
                let got = open(&core).resolve(literal, LONG).await.expect("no lookup");
                assert_eq!(*got, [want.parse::<IpAddr>().expect("an address")]);
            }
        });
    }

    #[test]
    fn an_answer_is_believed_for_its_time_and_renewed_behind_the_scenes() {
        on_both(|core| async move {
            let resolver = open(&core);
            let first = resolver.resolve("host", LONG).await.expect("found");
            assert_eq!(resolver.resolve("host", LONG).await.expect("remembered"), first);
            sleep_ms(5).await;
            let short = Duration::from_millis(1);
            assert_eq!(resolver.resolve("host", short).await.expect("still used"), first, "nobody waits for a renewal");
            until("the new answer is there", || resolver.names.borrow()["host"].pending.is_none()).await;
            assert_ne!(resolver.resolve("host", LONG).await.expect("renewed"), first);
        });
    }

    #[test]
    fn many_ask_once_and_a_slow_name_holds_up_nobody_else() {
        on_both(|core| async move {
            let resolver = open(&core);
            let answers = Rc::new(RefCell::new(Vec::new()));
            for _ in 0..20 {
                let (resolver, answers) = (Rc::clone(&resolver), Rc::clone(&answers));
                monoio::spawn(async move {
                    let answer = resolver.resolve("slow", LONG).await.expect("found");
                    answers.borrow_mut().push(answer);
                });
            }
            let watch = Stopwatch::start();
            resolver.resolve("quick", LONG).await.expect("found");
            assert!(watch.elapsed_ms() < 1_000, "{} ms", watch.elapsed_ms());
            until("all were answered", || answers.borrow().len() == 20).await;
            assert!(answers.borrow().iter().all(|one| *one == answers.borrow()[0]), "one lookup for all");
        });
    }

    #[test]
    fn a_failure_is_told_and_remembered_for_a_moment() {
        on_both(|core| async move {
            let resolver = open(&core);
            for host in ["missing", "empty"] {
                let cause = resolver.resolve(host, LONG).await.expect_err("no address");
                assert_eq!(cause.kind(), io::ErrorKind::NotFound);
                let asked = Cell::new(0);
                let watch = Stopwatch::start();
                while watch.elapsed_ms() < 20 {
                    resolver.resolve(host, LONG).await.expect_err("remembered");
                    asked.set(asked.get() + 1);
                }
                assert!(asked.get() > 1 && resolver.names.borrow()[host].pending.is_none());
            }
        });
    }

    #[test]
    fn the_system_knows_localhost() {
        let addresses = system_lookup("localhost").expect("every system does");
        assert!(addresses.iter().all(IpAddr::is_loopback) && !addresses.is_empty(), "{addresses:?}");
    }
}
