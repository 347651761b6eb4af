//! How control tells every core of new buckets and users: one immutable `Registry`, which each core takes for itself and
//! acknowledges. A request keeps the one that it began with; nobody locks on the way.

use super::core::Core;
use super::handle::Bell;
use super::task;
use super::wake::{Wake, Woken, bell};
use crate::config::Registry;
use crate::config::registry::Published;
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What all threads share of it.
#[derive(Clone)]
pub struct Publication {
    shared: Arc<Shared>,
}

struct Shared {
    latest: Mutex<Latest>,
    /// The generation of the newest registry that every core has.
    settled: AtomicU64,
    /// Rung by a core that has taken a registry.
    taken: Wake,
    /// Rung by a core that has changed the stored buckets.
    changed: Wake,
}

struct Latest {
    /// Of this registry, from 0.
    number: u64,
    registry: Arc<Registry>,
    cores: Vec<Arc<Subscriber>>,
}

struct Subscriber {
    bell: Bell,
    /// The number of the registry that it has.
    has: AtomicU64,
}

/// What control listens to.
pub struct Heard {
    taken: Woken,
    pub changed: Woken,
}

impl Publication {
    pub fn new(first: Registry) -> (Self, Heard) {
        let (taken, taken_heard) = bell();
        let (changed, changed_heard) = bell();
        let settled = AtomicU64::new(first.generation);
        let latest = Mutex::new(Latest { number: 0, registry: Arc::new(first), cores: Vec::new() });
        let shared = Arc::new(Shared { latest, settled, taken, changed });
        (Self { shared }, Heard { taken: taken_heard, changed: changed_heard })
    }

    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.shared.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives every core this registry and waits until all have it. Cancel: safe, the cores take it all the same.
    pub async fn publish(&self, registry: Registry, heard: &Heard) {
        {
            let mut latest = self.latest();
            latest.number += 1;
            latest.registry = Arc::new(registry);
            latest.cores.iter().for_each(|core| core.bell.ring());
        }
        while !self.settle() {
            heard.taken.heard().await;
        }
    }

    /// Whether every core has the latest registry, and if so says so.
    pub fn settle(&self) -> bool {
        let latest = self.latest();
        let all = latest.cores.iter().all(|core| core.has.load(Ordering::Acquire) == latest.number);
        if all {
            self.shared.settled.store(latest.registry.generation, Ordering::Release);
        }
        all
    }

    /// The generation of stored buckets that every core knows of.
    pub fn settled(&self) -> u64 {
        self.shared.settled.load(Ordering::Acquire)
    }

    /// Tells control that stored buckets have changed.
    pub fn note_change(&self) {
        self.shared.changed.ring();
    }

    /// This core's own registry, which follows what is published. Only inside its runtime.
    pub fn join(&self, core: &Core) -> io::Result<Rc<CoreRegistry>> {
        let subscriber = Arc::new(Subscriber { bell: Bell::new()?, has: AtomicU64::new(0) });
        let waiting = subscriber.bell.listen()?;
        let current = {
            let mut latest = self.latest();
            subscriber.has.store(latest.number, Ordering::Release);
            latest.cores.push(Arc::clone(&subscriber));
            Published::new(Arc::clone(&latest.registry))
        };
        let own = Rc::new(CoreRegistry(RefCell::new(current)));
        let (publication, following) = (self.clone(), Rc::clone(&own));
        task::spawn(&core.cells, "registry", async move {
            while waiting.readable().await.is_ok() {
                subscriber.bell.quiet();
                publication.take(&subscriber, &following);
            }
        });
        Ok(own)
    }

    fn take(&self, subscriber: &Subscriber, own: &CoreRegistry) {
        let latest = self.latest();
        *own.0.borrow_mut() = Published::new(Arc::clone(&latest.registry));
        subscriber.has.store(latest.number, Ordering::Release);
        drop(latest);
        self.shared.taken.ring();
    }
}

/// One core's registry.
pub struct CoreRegistry(RefCell<Rc<Published>>);

impl CoreRegistry {
    /// As it is now.
    pub fn current(&self) -> Rc<Published> {
        Rc::clone(&self.0.borrow())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{on_both, sleep_ms};
    use super::*;

    fn generation(generation: u64) -> Registry {
        Registry::any(generation)
    }

    #[test]
    fn a_core_takes_what_is_published_and_says_so() {
        on_both(|core| async move {
            let (publication, heard) = Publication::new(generation(1));
            let own = publication.join(&core).expect("an eventfd");
            let before = own.current();
            let publishing = publication.clone();
            let control = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
                runtime.block_on(async {
                    publishing.publish(generation(2), &heard).await;
                    publishing.publish(generation(3), &heard).await;
                });
            });
            while publication.settled() < 3 {
                assert!(own.current().generation >= publication.settled(), "nobody says so before every core has it");
                sleep_ms(1).await;
            }
            assert_eq!((before.generation, own.current().generation), (1, 3));
            control.join().expect("it has published");
        });
    }

    #[test]
    fn nothing_settles_before_the_last_core_has_it() {
        on_both(|core| async move {
            let (publication, heard) = Publication::new(generation(1));
            let _own = publication.join(&core).expect("an eventfd");
            // A core that never takes anything.
            let dead = Arc::new(Subscriber { bell: Bell::new().expect("an eventfd"), has: AtomicU64::new(0) });
            publication.latest().cores.push(dead);
            let publishing = publication.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
                runtime.block_on(publishing.publish(generation(2), &heard));
            });
            sleep_ms(50).await;
            assert_eq!(publication.settled(), 1);
        });
    }
}
