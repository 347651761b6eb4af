//! A contestant's process: started, watched through /proc, and killed when it is dropped.

use anyhow::{Context, Result, bail};
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// So long a process may take until it listens.
const START_MAX: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

pub struct Process {
    child: Child,
}

impl Process {
    /// Starts a command whose output goes to `log`.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let file = fs::File::create(log).with_context(|| format!("making {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("starting {}", command.get_program().display()))?;
        Ok(Self { child })
    }

    /// Takes over a child that was started in another way.
    pub fn adopt(child: Child) -> Self {
        Self { child }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until something accepts connections on `address`.
    #[allow(clippy::disallowed_methods)] // a bench's clock is the wall's
    pub fn wait_until_listening(&mut self, address: SocketAddr) -> Result<()> {
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended at once: {status}");
            }
            if start.elapsed() > START_MAX {
                bail!("it does not listen on {address}");
            }
            sleep(POLL);
        }
        Ok(())
    }

    /// CPU time of all threads of the process and of its children, ended ones included. Resolution: a clock tick.
    pub fn cpu(&self) -> Result<Duration> {
        cpu_of_family(self.id())
    }

    /// The largest resident set that the process has had, in bytes.
    pub fn resident_peak(&self) -> Result<u64> {
        status_kib(self.id(), "VmHWM:")
    }

    /// The resident set now, in bytes.
    pub fn resident(&self) -> Result<u64> {
        status_kib(self.id(), "VmRSS:")
    }

    /// Asks it to stop, as an operator would, and waits until it has.
    #[allow(clippy::disallowed_methods)]
    pub fn stop(mut self) -> Result<()> {
        // A wrapper (strace) ends with what it wraps, and ignores the signal itself.
        for id in family(self.id()) {
            let id = rustix::process::Pid::from_raw(i32::try_from(id)?).context("a process id is not 0")?;
            let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        }
        let start = Instant::now();
        while self.child.try_wait()?.is_none() {
            if start.elapsed() > START_MAX {
                bail!("it does not stop");
            }
            sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody listens on now.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0").context("a free port")?.local_addr()?)
}

/// CPU time of a process and its descendants, ended ones included. Resolution: a clock tick.
pub fn cpu_of_family(id: u32) -> Result<Duration> {
    // One that ends meanwhile is in its parent's sum a moment later.
    let (first, others) = (cpu_of(id)?, family(id).into_iter().skip(1));
    Ok(first + others.filter_map(|one| cpu_of(one).ok()).sum::<Duration>())
}

/// The process and its descendants.
fn family(id: u32) -> Vec<u32> {
    let mut all = vec![id];
    let mut at = 0;
    while let Some(&parent) = all.get(at) {
        let threads = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
        for thread in threads {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
        }
        at += 1;
    }
    all
}

fn cpu_of(id: u32) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).context("the process has ended")?;
    // The name in parentheses may hold anything; utime and stime are the 12th and 13th fields after it, then come those of
    // its ended children (proc(5)).
    let fields: Vec<&str> = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|digits| digits.parse::<u64>().ok()).context("/proc/…/stat");
    let ticks = ticks(11)? + ticks(12)? + ticks(13)? + ticks(14)?;
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

fn status_kib(id: u32, name: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{id}/status")).context("the process has ended")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name} in status"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().with_context(|| format!("{name} {line}"))?;
    Ok(kib * 1024)
}
