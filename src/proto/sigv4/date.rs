//! The time of a request: `YYYYMMDDThhmmssZ`, UTC, as it is signed.

use crate::base::Timestamp;
use crate::proto::date;

/// A second of UTC as its text, which is signed, and as a number, which is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AmzDate {
    text: [u8; 16],
    seconds: i64,
}

impl AmzDate {
    pub fn at(time: Timestamp) -> Self {
        let mut text = [0; 16];
        text.copy_from_slice(date::basic(time).as_ref());
        Self { text, seconds: time.seconds() }
    }

    /// The value of `x-amz-date`: exactly the 16 characters. None for anything else and for dates that do not exist.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let at = date::parse_basic(value)?;
        match <[u8; 16]>::try_from(value) {
            // A leap second is the second after it, which is written otherwise.
            Ok(text) if !text.ends_with(b"60Z") => Some(Self { text, seconds: at.seconds() }),
            _ => Some(Self::at(at)),
        }
    }

    /// The value of `Date`, which may be in HTTP's form too; what was signed is the 16 characters.
    pub fn parse_date_header(value: &[u8]) -> Option<Self> {
        Self::parse(value).or_else(|| date::parse_http(value).map(Self::at))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, amz: Option<i64>, header: Option<i64>) {
        let seconds = |date: Option<AmzDate>| date.map(|date| date.seconds());
        assert_eq!(seconds(AmzDate::parse(text.as_bytes())), amz, "{text}");
        let parsed = AmzDate::parse_date_header(text.as_bytes());
        assert_eq!(seconds(parsed), header, "{text}");
        if let Some(date) = parsed {
            assert_eq!(date, AmzDate::at(Timestamp { millis: date.seconds() * 1000 + 999 }), "{text}");
            assert_eq!((date.day().as_slice(), date.as_bytes()[8]), (&date.as_bytes()[..8], b'T'));
            assert!(amz.is_none() || date.as_bytes() == text.as_bytes());
        }
    }

    #[test]
    fn dates() {
        check("20130524T000000Z", Some(1_369_353_600), Some(1_369_353_600));
        check("20240229T235959Z", Some(1_709_251_199), Some(1_709_251_199));
        check("Fri, 24 May 2013 00:00:00 GMT", None, Some(1_369_353_600));
        for bad in
            ["", "20230229T000000Z", "20130524T240000Z", "2013-05-24T00:00Z", "20130524T000000", "20130524 000000Z"]
        {
            check(bad, None, None);
        }
    }
}
