//! Single values from their text: durations, sizes, addresses, endpoints. Each error says what would have been right.

use super::checked::Endpoint;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

/// How long something may take.
pub(super) const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(24 * 3600);
/// How long something is waited for on purpose, if at all.
pub(super) const WAIT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(30 * 24 * 3600);

/// Go's form: `30s`, `1m30s`, `1.5h`, `250ms`, `0`. No sign.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration; write it like 500ms, 30s, 5m or 1h30m");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let (number, after) = split_number(rest);
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').map_or(after, |end| &after[..end]);
        rest = &after[unit.len()..];
        let nanos_per: u64 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60 * 1_000_000_000,
            "h" => 3_600 * 1_000_000_000,
            _ => return Err(wrong()),
        };
        let nanos = scaled(number, nanos_per).ok_or_else(wrong)?;
        total = total.checked_add(Duration::from_nanos(nanos)).ok_or_else(wrong)?;
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

/// Bytes as a plain number, or with KB/MB/GB/TB or KiB/MiB/GiB/TiB, all of them powers of 1024 as in the reference.
pub fn bytes(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("`{text}` is not a size; write bytes as a number, or like 512KiB, 10MB or 1.5GiB (powers of 1024)");
    let (number, unit) = split_number(text);
    let per: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return Err(wrong()),
    };
    if per == 1 && number.contains('.') {
        return Err(wrong());
    }
    scaled(number, per).ok_or_else(wrong)
}

/// A whole number; `_` may group its digits, as in YAML 1.1.
pub fn count(text: &str) -> Result<u64, String> {
    let digits: String = text.chars().filter(|&c| c != '_').collect();
    let number = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten();
    number.ok_or_else(|| format!("`{text}` is not a whole number"))
}

pub fn flag(text: &str) -> Result<bool, String> {
    match text {
        "true" | "True" | "TRUE" => Ok(true),
        "false" | "False" | "FALSE" => Ok(false),
        _ => Err(format!("`{text}` is neither true nor false")),
    }
}

/// A part of a whole, such as `0.8`, neither nothing nor all of it: in thousandths.
pub fn fraction(text: &str) -> Result<u32, String> {
    let parsed = text.strip_prefix("0.").and_then(|_| scaled(text, 1000)).filter(|part| (1..1000).contains(part));
    parsed.map(|part| part as u32).ok_or_else(|| format!("`{text}` is not a number between 0 and 1, like 0.8"))
}

/// `127.0.0.1:9000`, `[::1]:9000`, `localhost:9000`, or `:9000` for every IPv4 address.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let named = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    match named {
        Some(("", port)) => Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)),
        Some(("localhost", port)) => Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)),
        _ => Err(format!("`{text}` is not an address and port; write it like 0.0.0.0:9000 or [::1]:9000")),
    }
}

/// `redis.example.com:6379`, `10.0.0.5:6379`, `[::1]:6379`.
pub fn host_and_port(text: &str) -> Result<(String, u16), String> {
    let wrong = || format!("`{text}` is not a host and port; write it like redis.example.com:6379");
    let (host, port) = split_port(text).ok_or_else(wrong)?;
    let host = match host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?.to_string(),
        None if is_host_name(host) => host.to_owned(),
        None => return Err(wrong()),
    };
    Ok((host, port.ok_or_else(wrong)?))
}

/// `http://host[:port]` or `https://host[:port]`, nothing behind it but a slash.
pub fn endpoint(text: &str) -> Result<Endpoint, String> {
    let wrong = |why: &str| format!("`{text}` {why}; write it like https://s3.example.com or http://10.0.0.5:9000");
    let lower = text.to_ascii_lowercase();
    let (tls, rest) = if let Some(rest) = lower.strip_prefix("https://") {
        (true, rest)
    } else if let Some(rest) = lower.strip_prefix("http://") {
        (false, rest)
    } else {
        return Err(wrong("does not start with http:// or https://"));
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        return Err(wrong("has a path (the bucket goes into `bucket`)"));
    }
    if authority.contains('@') {
        return Err(wrong("holds a user name (keys go into `access_key_id` and `secret_access_key`)"));
    }
    let (host, port) = split_port(authority).ok_or_else(|| wrong("has no valid port"))?;
    let host = match host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().map_err(|_| wrong("has no valid address"))?.to_string(),
        None if is_host_name(host) => host.to_owned(),
        None => return Err(wrong("has no valid host")),
    };
    Ok(Endpoint { host, port: port.unwrap_or(if tls { 443 } else { 80 }), tls })
}

fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let colon = authority.rfind(':').filter(|&at| !authority[at..].contains(']'));
    match colon {
        None => Some((authority, None)),
        Some(at) => {
            authority[at + 1..].parse().ok().filter(|&port| port != 0).map(|port| (&authority[..at], Some(port)))
        }
    }
}

fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    text.len() <= 253 && text.strip_suffix('.').unwrap_or(text).split('.').all(label)
}

/// Digits (and one point) from what follows them.
fn split_number(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_')).unwrap_or(text.len());
    text.split_at(end)
}

/// A decimal number times `per`, exactly, rounded down; None if it is no number or does not fit.
fn scaled(number: &str, per: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { count(whole).ok()? };
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None; // a `_` would count as a place
    }
    let digits = &fraction[..fraction.len().min(9)];
    let fraction: u64 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    let part = u128::from(fraction) * u128::from(per) / 10u128.pow(digits.len() as u32);
    whole.checked_mul(per)?.checked_add(u64::try_from(part).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_and_fractions() {
        let host = |text: &str| host_and_port(text).ok();
        assert_eq!(host("redis.example.com:6379"), Some(("redis.example.com".into(), 6379)));
        assert_eq!(host("[::1]:1"), Some(("::1".into(), 1)));
        for wrong in ["", "redis", "redis:", "redis:0", ":6379", "redis://x:1", "a b:1"] {
            assert_eq!(host(wrong), None, "{wrong}");
        }
        assert_eq!((fraction("0.8"), fraction("0.125")), (Ok(800), Ok(125)));
        for wrong in ["0", "1", "1.5", "0.0", "80%", "-0.5", "0.0001", ""] {
            assert!(fraction(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations() {
        let nanos = |text: &str| duration(text).ok().map(|d| d.as_nanos());
        for (text, want) in [
            ("0", 0),
            ("0s", 0),
            ("30s", 30_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1m30.5s", 90_500_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("250ms", 250_000_000),
            ("7us", 7_000),
            ("7µs", 7_000),
            ("9ns", 9),
        ] {
            assert_eq!(nanos(text), Some(want), "{text}");
        }
        for bad in
            ["", "30", "s", "-1s", "1 s", "1d", "1s2", "1..5s", "1.s.", "99999999999999h", "1_s_", "1.5_0s", "1._5h"]
        {
            assert_eq!(nanos(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes() {
        for (text, want) in [
            ("0", 0),
            ("5368709120", 5_368_709_120),
            ("10_000", 10_000),
            ("1KB", 1024),
            ("1 kib", 1024),
            ("10MB", 10 << 20),
            ("10mib", 10 << 20),
            ("1.5GiB", 3 << 29),
            ("2g", 2 << 30),
            ("5TiB", 5 << 40),
            ("12B", 12),
        ] {
            assert_eq!(bytes(text), Ok(want), "{text}");
        }
        for bad in ["", "KB", "-1", "1.5", "1.5B", "1XB", "0x10", "1e6", "99999999999999999999", "20000000TiB", "1 2KB"]
            .into_iter()
            .chain(["1.2_5GiB", "1._5GiB"])
        {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses() {
        for (text, want) in [
            ("0.0.0.0:9000", "0.0.0.0:9000"),
            ("[::1]:9000", "[::1]:9000"),
            (":9000", "0.0.0.0:9000"),
            ("localhost:80", "127.0.0.1:80"),
        ] {
            assert_eq!(address(text).map(|a| a.to_string()).as_deref(), Ok(want), "{text}");
        }
        for bad in ["", "9000", "0.0.0.0", "example.com:80", "1.2.3.4:65536", "::1:9000:"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn endpoints() {
        for (text, host, port, tls, authority) in [
            ("https://S3.Example.com", "s3.example.com", 443, true, "s3.example.com"),
            ("https://s3.example.com:443/", "s3.example.com", 443, true, "s3.example.com"),
            ("http://10.0.0.5:9000", "10.0.0.5", 9000, false, "10.0.0.5:9000"),
            ("http://minio_1", "minio_1", 80, false, "minio_1"),
            ("http://[::1]:9000", "::1", 9000, false, "[::1]:9000"),
            ("https://[2001:DB8::1]", "2001:db8::1", 443, true, "[2001:db8::1]"),
            ("https://localhost:80", "localhost", 80, true, "localhost:80"),
        ] {
            let got = endpoint(text).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!((got.host.as_str(), got.port, got.tls), (host, port, tls), "{text}");
            assert_eq!(got.authority(), authority, "{text}");
        }
        for bad in [
            "",
            "s3.example.com",
            "ftp://x",
            "https://",
            "https:///",
            "https://x/bucket",
            "https://x?y",
            "https://a:b@x",
            "https://x:0",
            "https://x:99999",
            "https://x:",
            "https://a b",
            "https://-a",
            "https://[::zz]",
            "https://a..b",
            "https://[::1",
        ] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }
}
