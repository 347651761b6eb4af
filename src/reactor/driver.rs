//! Which driver a reactor runs on: io_uring with `single_issuer + defer_taskrun`, or epoll where a real ring cannot be had.
//!
//! Called once by each reactor's own thread, because the ring belongs to the thread that built it. Never asks monoio to
//! choose: its own probe passes where the real ring then fails.

use io_uring::{IoUring, Probe, opcode};
use monoio::time::TimeDriver;
use monoio::{FusionRuntime, IoUringDriver, LegacyDriver, RuntimeBuilder};
use std::io;

pub type Runtime = FusionRuntime<TimeDriver<IoUringDriver>, TimeDriver<LegacyDriver>>;

/// What the configuration asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DriverChoice {
    /// The ring, or epoll if no ring can be had.
    #[default]
    Auto,
    /// The ring, or an error.
    Ring,
    Epoll,
}

/// What a reactor runs on. Sockets are blocking descriptors on the ring and non-blocking ones on epoll.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DriverKind {
    Ring,
    Epoll,
}

impl DriverKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ring => "io_uring",
            Self::Epoll => "epoll",
        }
    }
}

/// Submission entries to try, largest first: without privileges the ring's memory counts against RLIMIT_MEMLOCK, summed
/// over all of the user's processes. monoio takes no fewer than 256.
const RING_ENTRIES: [u32; 3] = [1024, 512, 256];
const EPOLL_EVENTS: u32 = 1024;

/// Builds this thread's runtime with timers on, and says which driver it got. Logs it, and why the ring was not to be had.
pub fn build(choice: DriverChoice) -> io::Result<(Runtime, DriverKind)> {
    if choice != DriverChoice::Epoll {
        match ring() {
            Ok((runtime, entries)) => {
                tracing::info!(driver = "io_uring", entries, "reactor driver");
                return Ok((runtime, DriverKind::Ring));
            }
            Err(cause) if choice == DriverChoice::Ring => return Err(cause),
            Err(cause) => tracing::warn!(%cause, "io_uring is not available, using epoll"),
        }
    }
    let runtime = RuntimeBuilder::<LegacyDriver>::new().with_entries(EPOLL_EVENTS).enable_timer().build()?;
    tracing::info!(driver = "epoll", "reactor driver");
    Ok((runtime.into(), DriverKind::Epoll))
}

fn flags() -> io_uring::Builder {
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun();
    builder
}

fn ring() -> io::Result<(Runtime, u32)> {
    preflight()?;
    let mut last = io::Error::from(io::ErrorKind::Unsupported);
    for entries in RING_ENTRIES {
        let built = RuntimeBuilder::<IoUringDriver>::new().uring_builder(flags()).with_entries(entries).enable_timer();
        match built.build() {
            Ok(runtime) => return Ok((runtime.into(), entries)),
            Err(cause) => last = cause,
        }
    }
    Err(last)
}

/// Tries a small ring with the real flags, and one Nop through it: a filter that refuses only `io_uring_enter` lets the
/// build pass, and monoio ignores park errors, so the reactor would hang. Small, because releasing a full-sized one takes
/// 30 ms.
fn preflight() -> io::Result<()> {
    const NOP: u64 = 0x5e3;
    let mut ring: IoUring = flags().build(8)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let needed = [
        opcode::Accept::CODE,
        opcode::AsyncCancel::CODE,
        opcode::Close::CODE,
        opcode::Connect::CODE,
        opcode::PollAdd::CODE,
        opcode::Recv::CODE,
        opcode::Send::CODE,
        opcode::Read::CODE,
        opcode::Writev::CODE,
    ];
    if let Some(missing) = needed.iter().find(|&&code| !probe.is_supported(code)) {
        return Err(io::Error::new(io::ErrorKind::Unsupported, format!("io_uring lacks operation {missing}")));
    }
    // A Nop refers to no memory, so nothing can dangle.
    #[allow(unsafe_code)]
    unsafe { ring.submission().push(&opcode::Nop::new().build().user_data(NOP)) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    match ring.completion().next() {
        Some(entry) if entry.user_data() == NOP && entry.result() >= 0 => Ok(()),
        _ => Err(io::Error::other("io_uring did not complete a nop")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(choice: DriverChoice, want: &[DriverKind]) {
        std::thread::spawn(move || build(choice).map(|(_, kind)| kind))
            .join()
            .expect("building does not panic")
            .map(|kind| assert!(want.contains(&kind), "{choice:?} gave {kind:?}"))
            .expect("this machine has both drivers");
    }

    #[test]
    fn the_choice_decides() {
        check(DriverChoice::Epoll, &[DriverKind::Epoll]);
        check(DriverChoice::Ring, &[DriverKind::Ring]);
        check(DriverChoice::Auto, &[DriverKind::Ring]);
    }

    #[test]
    fn the_preflight_ring_completes_its_nop() {
        std::thread::spawn(preflight).join().expect("no panic").expect("a ring can be had here");
    }
}
