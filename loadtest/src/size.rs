//! Sizes as people write them: `4KiB`, `1MiB`, `10`. Powers of 1024 under any spelling.

/// The bytes that `text` says, or what is wrong with it.
pub fn parse(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        other => return Err(format!("unknown unit {other:?}: use KiB, MiB or GiB")),
    };
    let count: u64 = digits.parse().map_err(|_| format!("{text:?} is not a size such as 4KiB"))?;
    count.checked_mul(unit).ok_or_else(|| format!("{text:?} is too large"))
}

/// The shortest exact spelling: `4 KiB`, `1000 B`.
pub fn show(bytes: u64) -> String {
    let units = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let fits = units.into_iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit));
    fits.map_or_else(|| format!("{bytes} B"), |(unit, name)| format!("{} {name}", bytes / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes, shown) in [
            ("4KiB", 4096, "4 KiB"),
            ("10", 10, "10 B"),
            ("2g", 2 << 30, "2 GiB"),
            ("1536k", 1536 << 10, "1536 KiB"),
            ("0", 0, "0 B"),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
            assert_eq!(show(bytes), shown, "{text}");
        }
        for text in ["4XB", "", "KiB", "-1", "99999999999GiB"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
