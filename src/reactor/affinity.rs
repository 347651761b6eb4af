//! Pins a thread to a core. Called last in a thread's start: threads that a pinned thread spawns inherit its core.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::io;

/// The cores that this process may use, ascending: a container's CPU set counts, not the machine's.
pub fn allowed_cores() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect())
}

/// Pins the calling thread to `core`.
pub fn pin(core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_stays_on_its_core() {
        let allowed = allowed_cores().expect("the kernel tells");
        let core = *allowed.last().expect("at least one core");
        let seen = std::thread::spawn(move || pin(core).map(|()| rustix::thread::sched_getcpu())).join();
        assert_eq!(seen.expect("no panic").expect("an allowed core"), core);
        assert_eq!(allowed_cores().expect("the kernel tells"), allowed, "other threads keep theirs");
    }
}
