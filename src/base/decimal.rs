//! Whole numbers as decimal digits, appended to a buffer. Heads and log lines hold several each, and formatting them
//! through `fmt` costs more than all else that they consist of.

/// Digits of `u64::MAX`.
const DIGITS_MAX: usize = 20;

/// Appends `number`.
pub fn write_decimal(out: &mut Vec<u8>, number: u64) {
    if number < 10 {
        return out.push(b'0' + number as u8);
    }
    write_padded(out, number, 1);
}

/// Appends `number` with zeros in front up to `width` digits.
pub fn write_padded(out: &mut Vec<u8>, mut number: u64, width: usize) {
    let mut digits = [b'0'; DIGITS_MAX];
    let mut first = DIGITS_MAX;
    while number > 0 {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    let first = first.min(DIGITS_MAX - width.min(DIGITS_MAX));
    out.extend_from_slice(&digits[first..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_those_of_fmt() {
        for number in [0, 1, 9, 10, 99, 100, 4096, 1_000_000, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut out = b"n=".to_vec();
            write_decimal(&mut out, number);
            out.push(b' ');
            write_padded(&mut out, number, 6);
            assert_eq!(String::from_utf8(out), Ok(format!("n={number} {number:06}")));
        }
    }
}
