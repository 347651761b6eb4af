//! Whole numbers as decimal digits, appended to a buffer. Heads and log lines hold several each, and formatting them
//! through `fmt` costs more than all else that they consist of.

/// Appends `number`. As many digits as it has are put together in place and copied at once.
pub fn write_decimal(out: &mut Vec<u8>, number: u64) {
    match number {
        0..10 => write_digits::<1>(out, number),
        10..100 => write_digits::<2>(out, number),
        100..1000 => write_digits::<3>(out, number),
        1000..10_000 => write_digits::<4>(out, number),
        _ => {
            write_decimal(out, number / 10_000);
            write_digits::<4>(out, number % 10_000);
        }
    }
}

/// Appends the last `N` digits of `number`, zeros in front.
pub fn write_digits<const N: usize>(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        *digit += (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(&digits);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_those_of_fmt() {
        let around = (0..20).flat_map(|exponent| [10_u64.pow(exponent) - 1, 10_u64.pow(exponent), 4096]);
        for number in around.chain([u64::from(u32::MAX), u64::MAX - 1, u64::MAX]) {
            let mut out = b"n=".to_vec();
            write_decimal(&mut out, number);
            out.push(b' ');
            write_digits::<6>(&mut out, number);
            assert_eq!(String::from_utf8(out), Ok(format!("n={number} {:06}", number % 1_000_000)));
        }
    }
}
