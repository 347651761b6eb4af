//! What the kernel says about this process, from the text of its files under `/proc/self`, which the control core reads.

/// Ticks per second in `/proc/*/stat`; the same on every Linux that runs today.
const USER_HZ: f64 = 100.0;

#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Process {
    pub resident_bytes: u64,
    pub cpu_seconds: f64,
    pub open_fds: u64,
}

impl Process {
    /// From `/proc/self/stat`, `/proc/self/status` and the number of entries of `/proc/self/fd` (proc(5)). What cannot be
    /// understood is 0.
    pub fn from_texts(stat: &str, status: &str, open_fds: u64) -> Self {
        Self { resident_bytes: resident(status).unwrap_or(0), cpu_seconds: cpu(stat).unwrap_or(0.0), open_fds }
    }
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// utime and stime are fields 14 and 15; the name, field 2, may itself hold spaces and parentheses.
fn cpu(stat: &str) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / USER_HZ)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_kernel() {
        let stat =
            "42 (a) b) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 5 0 12345 1000000 2000 18446744073709551615";
        let status = "Name:\tx\nVmHWM:\t  9000 kB\nVmRSS:\t    2048 kB\nThreads:\t5\n";
        let want = Process { resident_bytes: 2 << 20, cpu_seconds: 3.0, open_fds: 7 };
        assert_eq!(Process::from_texts(stat, status, 7), want);
        assert_eq!(Process::from_texts("", "VmRSS: x kB", 0), Process::default());
    }
}
