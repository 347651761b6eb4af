//! A bell from any core to the schedule: a commit has made work for a background job. Any number of rings is one pass.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The cores' end.
#[derive(Clone, Debug)]
pub struct Wake {
    rung: Arc<AtomicBool>,
    bell: flume::Sender<()>,
}

/// The schedule's end.
#[derive(Debug)]
pub struct Woken {
    rung: Arc<AtomicBool>,
    bell: flume::Receiver<()>,
}

pub fn bell() -> (Wake, Woken) {
    let (send, receive) = flume::bounded(1);
    let rung = Arc::new(AtomicBool::new(false));
    (Wake { rung: Arc::clone(&rung), bell: send }, Woken { rung, bell: receive })
}

impl Wake {
    /// One atomic exchange when it is ringing already.
    pub fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            // A full channel means that the schedule has not looked yet: it will.
            let _ = self.bell.try_send(());
        }
    }
}

impl Woken {
    /// Waits for a ring; for ever once every core is gone. Cancel: safe.
    pub async fn heard(&self) {
        if self.bell.recv_async().await.is_err() {
            std::future::pending::<()>().await;
        }
        // From here on a ring is a new one, also if its work is seen by the pass that this one starts.
        self.rung.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn heard(woken: &Woken) -> bool {
        pin!(woken.heard()).poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
    }

    #[test]
    fn many_rings_are_one_and_none_is_lost() {
        let (wake, woken) = bell();
        assert!(!heard(&woken));
        wake.ring();
        wake.ring();
        assert!(heard(&woken));
        assert!(!heard(&woken));
        wake.ring();
        assert!(heard(&woken));
    }
}
