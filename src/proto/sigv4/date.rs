//! The time of a request: `YYYYMMDDThhmmssZ`, UTC. Formats and parses; never asks a clock.

use crate::base::Timestamp;

/// A second of UTC as its text, which is signed, and as a number, which is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AmzDate {
    text: [u8; 16],
    seconds: i64,
}

impl AmzDate {
    /// Years from 1970 to 9999 have a text; other times are moved to the nearest that has.
    pub fn at(time: Timestamp) -> Self {
        const LAST_SECOND: i64 = 253_402_300_799;
        let seconds = time.seconds().clamp(0, LAST_SECOND);
        let (year, month, day) = civil_from_days(seconds / 86_400);
        let of_day = seconds % 86_400;
        let mut text = *b"00000000T000000Z";
        for (at, digits, value) in [
            (0, 4, year),
            (4, 2, month),
            (6, 2, day),
            (9, 2, of_day / 3600),
            (11, 2, of_day / 60 % 60),
            (13, 2, of_day % 60),
        ] {
            write_digits(&mut text[at..at + digits], value);
        }
        Self { text, seconds }
    }

    /// Exactly the 16 characters; None for anything else and for dates that do not exist.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text: [u8; 16] = text.try_into().ok()?;
        if text[8] != b'T' || text[15] != b'Z' {
            return None;
        }
        let year = digits(&text[..4])?;
        let (month, day) = (digits(&text[4..6])?, digits(&text[6..8])?);
        let (hour, minute, second) = (digits(&text[9..11])?, digits(&text[11..13])?, digits(&text[13..15])?);
        let days = days_from_civil(year, month, day);
        if year < 1970 || hour > 23 || minute > 59 || second > 59 || civil_from_days(days) != (year, month, day) {
            return None;
        }
        Some(Self { text, seconds: days * 86_400 + hour * 3600 + minute * 60 + second })
    }

    /// Seconds since 1970.
    pub fn seconds(&self) -> i64 {
        self.seconds
    }

    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.text
    }

    /// `YYYYMMDD`, the date of a credential scope.
    pub fn day(&self) -> [u8; 8] {
        let mut day = [0; 8];
        day.copy_from_slice(&self.text[..8]);
        day
    }
}

fn digits(text: &[u8]) -> Option<i64> {
    text.iter().try_fold(0, |number, byte| byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0')))
}

fn write_digits(out: &mut [u8], mut value: i64) {
    for slot in out.iter_mut().rev() {
        *slot = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Days since 1970-01-01 of a date of the Gregorian calendar, years counted from March so that the leap day comes last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, want: Option<i64>) {
        let parsed = AmzDate::parse(text.as_bytes());
        assert_eq!(parsed.map(|date| date.seconds()), want, "{text}");
        if let Some(seconds) = want {
            let date = AmzDate::at(Timestamp { millis: seconds * 1000 + 999 });
            assert_eq!(std::str::from_utf8(date.as_bytes()), Ok(text), "{seconds}");
            assert_eq!(&date.day()[..], &text.as_bytes()[..8]);
        }
    }

    #[test]
    fn dates() {
        check("19700101T000000Z", Some(0));
        check("20130524T000000Z", Some(1_369_353_600));
        check("20240229T235959Z", Some(1_709_251_199));
        check("20000229T000000Z", Some(951_782_400));
        check("99991231T235959Z", Some(253_402_300_799));
        check("20230229T000000Z", None);
        check("21000229T000000Z", None);
        check("20130524T240000Z", None);
        check("20130524T006000Z", None);
        check("20130524T000060Z", None);
        check("20130024T000000Z", None);
        check("20131301T000000Z", None);
        check("20130500T000000Z", None);
        check("19691231T235959Z", None);
        check("2013-05-24T00:00Z", None);
        check("20130524T000000", None);
        check("20130524 000000Z", None);
        check("+0130524T000000Z", None);
        check("", None);
    }
}
