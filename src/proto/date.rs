//! Dates as HTTP, XML and signatures spell them, from and to `Timestamp`. Always UTC, proleptic Gregorian, no leap seconds.
//!
//! Writing fills a small array, so heads and bodies are written without allocating. It knows no clock.

use crate::base::Timestamp;
use std::fmt;

/// A date's text; `N` bytes of ASCII.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DateText<const N: usize>([u8; N]);

impl<const N: usize> DateText<N> {
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a date is ASCII")
    }
}

impl<const N: usize> AsRef<[u8]> for DateText<N> {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl<const N: usize> fmt::Display for DateText<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<const N: usize> fmt::Debug for DateText<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

const SECONDS_PER_DAY: i64 = 86_400;
/// 0000-01-01 and 9999-12-31 as days since 1970: four digits hold no other year.
const DAY_MIN: i64 = -719_528;
const DAY_MAX: i64 = 2_932_896;

/// A moment taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Civil {
    year: i64,
    /// 1 to 12.
    month: u32,
    /// 1 to 31.
    day: u32,
    hour: u32,
    minute: u32,
    second: u32,
    millis: u32,
    /// 0 = Sunday.
    weekday: usize,
}

impl Civil {
    fn of(at: Timestamp) -> Self {
        let day = at.seconds().div_euclid(SECONDS_PER_DAY).clamp(DAY_MIN, DAY_MAX);
        let second = at.seconds().rem_euclid(SECONDS_PER_DAY) as u32;
        let (year, month, day_of_month) = civil_of_day(day);
        Self {
            year,
            month,
            day: day_of_month,
            hour: second / 3600,
            minute: second / 60 % 60,
            second: second % 60,
            millis: at.millis.rem_euclid(1000) as u32,
            // 1970-01-01 was a Thursday.
            weekday: (day + 4).rem_euclid(7) as usize,
        }
    }

    /// None unless every field is in its range (a leap second counts as the second after it).
    fn to_timestamp(self) -> Option<Timestamp> {
        let in_range = (1..=12).contains(&self.month)
            && (1..=days_of_month(self.year, self.month)).contains(&self.day)
            && self.hour < 24
            && self.minute < 60
            && self.second <= 60;
        let seconds = day_of_civil(self.year, self.month, self.day) * SECONDS_PER_DAY
            + i64::from(self.hour * 3600 + self.minute * 60 + self.second);
        in_range.then_some(Timestamp { millis: seconds * 1000 + i64::from(self.millis) })
    }
}

/// Days since 1970-01-01. Counted in years that begin in March, so that the leap day is the last of its year.
fn day_of_civil(year: i64, month: u32, day: u32) -> i64 {
    let (march_year, march_month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let day_of_year = (153 * i64::from(march_month) + 2) / 5 + i64::from(day) - 1;
    let leap_days = march_year.div_euclid(4) - march_year.div_euclid(100) + march_year.div_euclid(400);
    march_year * 365 + leap_days + day_of_year + DAY_MIN + 60
}

/// Year, month, day of a day since 1970-01-01.
fn civil_of_day(day: i64) -> (i64, u32, u32) {
    const DAYS_PER_400_YEARS: i64 = 146_097;
    let since_march_0000 = day - DAY_MIN - 60;
    let era = since_march_0000.div_euclid(DAYS_PER_400_YEARS);
    let in_era = since_march_0000.rem_euclid(DAYS_PER_400_YEARS);
    let year_of_era = (in_era - in_era / 1460 + in_era / 36_524 - in_era / 146_096) / 365;
    let day_of_year = in_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day_of_month = (day_of_year - (153 * march_month + 2) / 5 + 1) as u32;
    let month = (if march_month < 10 { march_month + 3 } else { march_month - 9 }) as u32;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day_of_month)
}

fn days_of_month(year: i64, month: u32) -> u32 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Both digits of every number below 100.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[b'0'; 2]; 100];
    let mut number = 0;
    while number < 100 {
        pairs[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    pairs
};

fn two(number: u32) -> [u8; 2] {
    PAIRS[number as usize % 100]
}

fn three(number: u32) -> [u8; 3] {
    let [tens, ones] = two(number);
    [b'0' + (number / 100 % 10) as u8, tens, ones]
}

fn four(number: i64) -> [u8; 4] {
    let number = number as u32;
    let ([a, b], [c, d]) = (two(number / 100), two(number));
    [a, b, c, d]
}

/// `Sun, 22 Nov 2026 17:00:00 GMT` (IMF-fixdate, RFC 9110, 5.6.7), for header fields.
pub fn http(at: Timestamp) -> DateText<29> {
    let civil = Civil::of(at);
    let mut text = *b"Sun, 22 Nov 2026 17:00:00 GMT";
    text[..3].copy_from_slice(&WEEKDAYS[civil.weekday].as_bytes()[..3]);
    text[5..7].copy_from_slice(&two(civil.day));
    text[8..11].copy_from_slice(MONTHS[civil.month as usize - 1].as_bytes());
    text[12..16].copy_from_slice(&four(civil.year));
    text[17..19].copy_from_slice(&two(civil.hour));
    text[20..22].copy_from_slice(&two(civil.minute));
    text[23..25].copy_from_slice(&two(civil.second));
    DateText(text)
}

/// `2026-11`, UTC: the month that budgets and usage are counted in.
pub fn month(at: Timestamp) -> String {
    iso8601(at).as_str()[..7].to_owned()
}

/// When a month begins, as `month` writes it. None if that is no month.
pub fn month_begins(month: &str) -> Option<Timestamp> {
    parse_iso8601(format!("{month}-01T00:00:00Z").as_bytes())
}

/// The months before and after one, each as `month` writes it. None if that is no month.
pub fn months_around(month: &str) -> Option<(String, String)> {
    let (year, number) = month.split_once('-')?;
    let (year, number): (u32, u32) = (year.parse().ok()?, number.parse().ok()?);
    let text = |months: u32| format!("{:04}-{:02}", months / 12, months % 12 + 1);
    let months = year.checked_mul(12)?.checked_add(number)?.checked_sub(1)?;
    ((1..=12).contains(&number) && months > 0).then(|| (text(months - 1), text(months + 1)))
}

/// `2026-11-22T17:00:00.000Z` of the whole second, for XML: what a listing says of an object is what its Last-Modified says.
pub fn xml(at: Timestamp) -> DateText<24> {
    iso8601(Timestamp { millis: at.seconds().saturating_mul(1000) })
}

/// `2026-11-22T17:00:00.123Z`, for logs.
pub fn iso8601(at: Timestamp) -> DateText<24> {
    let civil = Civil::of(at);
    let mut text = *b"2026-11-22T17:00:00.123Z";
    text[..4].copy_from_slice(&four(civil.year));
    text[5..7].copy_from_slice(&two(civil.month));
    text[8..10].copy_from_slice(&two(civil.day));
    text[11..13].copy_from_slice(&two(civil.hour));
    text[14..16].copy_from_slice(&two(civil.minute));
    text[17..19].copy_from_slice(&two(civil.second));
    text[MILLIS].copy_from_slice(&three(civil.millis));
    DateText(text)
}

/// Where `iso8601` has them.
const MILLIS: std::ops::Range<usize> = 20..23;

/// `iso8601` for moments that follow each other: the second that the last one had is not worked out again.
#[derive(Clone, Copy, Debug)]
pub struct Iso8601 {
    second: i64,
    text: DateText<24>,
}

impl Iso8601 {
    pub fn of(&mut self, at: Timestamp) -> DateText<24> {
        if self.second == at.seconds() {
            self.text.0[MILLIS].copy_from_slice(&three(at.millis.rem_euclid(1000) as u32));
        } else {
            *self = Self { second: at.seconds(), text: iso8601(at) };
        }
        self.text
    }
}

impl Default for Iso8601 {
    fn default() -> Self {
        Self { second: 0, text: iso8601(Timestamp::default()) }
    }
}

/// `20261122T170000Z`, for signatures; its first 8 characters are the day of a credential's scope.
pub fn basic(at: Timestamp) -> DateText<16> {
    let civil = Civil::of(at);
    let mut text = *b"20261122T170000Z";
    text[..4].copy_from_slice(&four(civil.year));
    text[4..6].copy_from_slice(&two(civil.month));
    text[6..8].copy_from_slice(&two(civil.day));
    text[9..11].copy_from_slice(&two(civil.hour));
    text[11..13].copy_from_slice(&two(civil.minute));
    text[13..15].copy_from_slice(&two(civil.second));
    DateText(text)
}

/// Takes a date's text apart from left to right; each step is None when the text does not fit.
struct Cursor<'t> {
    rest: &'t [u8],
}

impl Cursor<'_> {
    fn literal(&mut self, text: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(text.as_bytes())?;
        Some(())
    }

    fn digits(&mut self, width: usize) -> Option<u32> {
        let (digits, rest) = self.rest.split_at_checked(width)?;
        self.rest = rest;
        digits.iter().all(u8::is_ascii_digit).then(|| digits.iter().fold(0, |n, d| n * 10 + u32::from(d - b'0')))
    }

    /// `8` with a blank before it, or two digits (asctime).
    fn padded_day(&mut self) -> Option<u32> {
        if self.literal(" ").is_some() { self.digits(1) } else { self.digits(2) }
    }

    /// Position in `names` of the one that comes next.
    fn one_of<'n>(&mut self, names: impl IntoIterator<Item = &'n str>) -> Option<usize> {
        names.into_iter().position(|name| self.literal(name).is_some())
    }

    fn month(&mut self) -> Option<u32> {
        self.one_of(MONTHS).map(|month| month as u32 + 1)
    }

    /// `17:00:00`
    fn time(&mut self) -> Option<(u32, u32, u32)> {
        let hour = self.digits(2)?;
        self.literal(":")?;
        let minute = self.digits(2)?;
        self.literal(":")?;
        Some((hour, minute, self.digits(2)?))
    }

    fn end(&self) -> Option<()> {
        self.rest.is_empty().then_some(())
    }
}

/// Any of HTTP's three forms (RFC 9110, 5.6.7). The day of the week is not compared with the date.
pub fn parse_http(text: &[u8]) -> Option<Timestamp> {
    parse_imf_fixdate(text).or_else(|| parse_rfc850(text)).or_else(|| parse_asctime(text))
}

fn parse_imf_fixdate(text: &[u8]) -> Option<Timestamp> {
    let mut cursor = Cursor { rest: text };
    cursor.one_of(WEEKDAYS.map(|day| &day[..3]))?;
    cursor.literal(", ")?;
    let day = cursor.digits(2)?;
    cursor.literal(" ")?;
    let month = cursor.month()?;
    cursor.literal(" ")?;
    let year = cursor.digits(4)?;
    cursor.literal(" ")?;
    let time = cursor.time()?;
    cursor.literal(" GMT")?;
    cursor.end()?;
    moment(year, month, day, time)
}

/// `Sunday, 06-Nov-94 08:49:37 GMT`; years from 70 on are of the last century.
fn parse_rfc850(text: &[u8]) -> Option<Timestamp> {
    let mut cursor = Cursor { rest: text };
    cursor.one_of(WEEKDAYS)?;
    cursor.literal(", ")?;
    let day = cursor.digits(2)?;
    cursor.literal("-")?;
    let month = cursor.month()?;
    cursor.literal("-")?;
    let short_year = cursor.digits(2)?;
    cursor.literal(" ")?;
    let time = cursor.time()?;
    cursor.literal(" GMT")?;
    cursor.end()?;
    moment(if short_year < 70 { 2000 + short_year } else { 1900 + short_year }, month, day, time)
}

/// `Sun Nov  6 08:49:37 1994`
fn parse_asctime(text: &[u8]) -> Option<Timestamp> {
    let mut cursor = Cursor { rest: text };
    cursor.one_of(WEEKDAYS.map(|day| &day[..3]))?;
    cursor.literal(" ")?;
    let month = cursor.month()?;
    cursor.literal(" ")?;
    let day = cursor.padded_day()?;
    cursor.literal(" ")?;
    let time = cursor.time()?;
    cursor.literal(" ")?;
    let year = cursor.digits(4)?;
    cursor.end()?;
    moment(year, month, day, time)
}

/// `20261122T170000Z`
pub fn parse_basic(text: &[u8]) -> Option<Timestamp> {
    let mut cursor = Cursor { rest: text };
    let (year, month, day) = (cursor.digits(4)?, cursor.digits(2)?, cursor.digits(2)?);
    cursor.literal("T")?;
    let time = (cursor.digits(2)?, cursor.digits(2)?, cursor.digits(2)?);
    cursor.literal("Z")?;
    cursor.end()?;
    moment(year, month, day, time)
}

/// In either form: S3 writes times in documents and in fields differently, and clients write both in both.
pub fn parse_any(text: &[u8]) -> Option<Timestamp> {
    parse_http(text).or_else(|| parse_iso8601(text))
}

/// `2026-11-22T17:00:00Z` with any number of decimals, as backends write it.
pub fn parse_iso8601(text: &[u8]) -> Option<Timestamp> {
    let mut cursor = Cursor { rest: text };
    let year = cursor.digits(4)?;
    cursor.literal("-")?;
    let month = cursor.digits(2)?;
    cursor.literal("-")?;
    let day = cursor.digits(2)?;
    cursor.literal("T")?;
    let time = cursor.time()?;
    let mut millis = 0;
    if cursor.literal(".").is_some() {
        let mut unit = 100;
        let decimals = cursor.rest.iter().take_while(|b| b.is_ascii_digit()).count();
        for _ in 0..decimals {
            millis += cursor.digits(1)? * unit;
            unit /= 10;
        }
        (decimals > 0).then_some(())?;
    }
    cursor.one_of(["Z", "+00:00"])?;
    cursor.end()?;
    let seconds = moment(year, month, day, time)?;
    Some(Timestamp { millis: seconds.millis + i64::from(millis) })
}

fn moment(year: u32, month: u32, day: u32, (hour, minute, second): (u32, u32, u32)) -> Option<Timestamp> {
    Civil { year: i64::from(year), month, day, hour, minute, second, millis: 0, weekday: 0 }.to_timestamp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp { millis }
    }

    #[test]
    fn well_known_moments() {
        let mut running = Iso8601::default();
        for (millis, http_text, iso, basic_text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT", "1970-01-01T00:00:00.000Z", "19700101T000000Z"),
            (784_111_777_000, "Sun, 06 Nov 1994 08:49:37 GMT", "1994-11-06T08:49:37.000Z", "19941106T084937Z"),
            (951_782_399_999, "Mon, 28 Feb 2000 23:59:59 GMT", "2000-02-28T23:59:59.999Z", "20000228T235959Z"),
            (951_782_400_000, "Tue, 29 Feb 2000 00:00:00 GMT", "2000-02-29T00:00:00.000Z", "20000229T000000Z"),
            (1_795_366_800_000, "Sun, 22 Nov 2026 17:00:00 GMT", "2026-11-22T17:00:00.000Z", "20261122T170000Z"),
            (4_107_542_400_000, "Mon, 01 Mar 2100 00:00:00 GMT", "2100-03-01T00:00:00.000Z", "21000301T000000Z"),
            (-1, "Wed, 31 Dec 1969 23:59:59 GMT", "1969-12-31T23:59:59.999Z", "19691231T235959Z"),
        ] {
            assert_eq!(http(at(millis)).as_str(), http_text);
            assert_eq!(iso8601(at(millis)).as_str(), iso);
            assert_eq!(running.of(at(millis)).as_str(), iso);
            assert_eq!(running.of(at(millis ^ 1)), iso8601(at(millis ^ 1)));
            assert_eq!(basic(at(millis)).as_str(), basic_text);
        }
        assert_eq!(&iso8601(at(i64::MAX)).as_str()[..10], "9999-12-31", "no fifth digit");
        assert_eq!(&iso8601(at(i64::MIN)).as_str()[..10], "0000-01-01");
    }

    #[test]
    fn the_three_http_forms_mean_the_same() {
        for text in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(parse_http(text.as_bytes()), Some(at(784_111_777_000)), "{text}");
        }
        assert_eq!(parse_http(b"Tue Nov 16 00:00:00 2027"), Some(at(1_826_323_200_000)));
        assert_eq!(parse_http(b"Friday, 01-Jan-99 00:00:00 GMT"), Some(at(915_148_800_000)));
        assert_eq!(parse_http(b"Friday, 01-Jan-27 00:00:00 GMT"), Some(at(1_798_761_600_000)));
    }

    #[test]
    fn what_is_no_date() {
        for text in [
            "",
            "yesterday",
            "1994-11-06T08:49:37Z",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 1994 08:49:37 GMT ",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 31 Nov 1994 08:49:37 GMT",
            "Sun, 29 Feb 2100 08:49:37 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Nov 1994 08:60:00 GMT",
            "Sun, 06 nov 1994 08:49:37 GMT",
            "Sun Nov 06 08:49:37 94",
        ] {
            assert_eq!(parse_http(text.as_bytes()), None, "{text:?}");
        }
        for text in ["", "20261122T170000", "20261322T170000Z", "20261122 170000Z", "2026-11-22T17:00:00Z"] {
            assert_eq!(parse_basic(text.as_bytes()), None, "{text:?}");
        }
        for text in ["2026-11-22T17:00:00", "2026-11-22T17:00:00.Z", "2026-11-22 17:00:00Z", "2026-02-30T00:00:00Z"] {
            assert_eq!(parse_iso8601(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(parse_iso8601(b"2026-11-22T17:00:00.123456789Z"), Some(at(1_795_366_800_123)));
        assert_eq!(parse_iso8601(b"2026-11-22T17:00:00+00:00"), Some(at(1_795_366_800_000)));
    }

    #[test]
    fn the_months_around_one() {
        let around = |month| months_around(month).map(|(before, after)| format!("{before} {after}"));
        assert_eq!(around("2026-11").as_deref(), Some("2026-10 2026-12"));
        assert_eq!(around("2026-12").as_deref(), Some("2026-11 2027-01"));
        assert_eq!(around("2027-01").as_deref(), Some("2026-12 2027-02"));
        for none in ["", "2026", "2026-13", "2026-00", "0000-01", "x-1", "2026-1x"] {
            assert_eq!(around(none), None, "{none}");
            assert!(none == "0000-01" || month_begins(none).is_none(), "{none}");
        }
        assert_eq!(month_begins("2026-12"), parse_iso8601(b"2026-12-01T00:00:00Z"));
    }

    proptest! {
        #[test]
        fn every_form_comes_back(millis in -62_135_596_800_000_i64..253_402_300_800_000) {
            let second = at(millis.div_euclid(1000) * 1000);
            prop_assert_eq!(parse_iso8601(iso8601(at(millis)).as_ref()), Some(at(millis)));
            prop_assert_eq!(parse_http(http(at(millis)).as_ref()), Some(second));
            prop_assert_eq!(parse_basic(basic(at(millis)).as_ref()), Some(second));
        }

        #[test]
        fn days_follow_each_other(day in DAY_MIN..DAY_MAX) {
            let (year, month, day_of_month) = civil_of_day(day);
            prop_assert_eq!(day_of_civil(year, month, day_of_month), day);
            let next = civil_of_day(day + 1);
            let same_month = (year, month, day_of_month + 1);
            let first = if month == 12 { (year + 1, 1, 1) } else { (year, month + 1, 1) };
            let want = if day_of_month < days_of_month(year, month) { same_month } else { first };
            prop_assert_eq!(next, want);
        }
    }
}
