//! INCRBYFLOAT's arithmetic: x87 80-bit extended precision, as Redis computes on x86, in software, so that
//! every replica on every machine gets the same digits.

use rustc_apfloat::ieee::X87DoubleExtended;
use rustc_apfloat::{Float, Round, Status};

use crate::mutation::Refusal;

/// Longest text taken as a float, in bytes.
const TEXT_BYTES_MAX: usize = 512;
/// Digits behind the point that Redis prints at most.
const FRACTION_DIGITS: u32 = 17;

/// Adds two numbers given as text; the sum as Redis prints it: 17 digits behind the point, trailing
/// zeros trimmed.
pub(super) fn add_decimal(a: &[u8], b: &[u8]) -> Result<String, Refusal> {
    let (a, b) = (parse(a).ok_or(Refusal::NotAFloat)?, parse(b).ok_or(Refusal::NotAFloat)?);
    let sum = a.add_r(b, Round::NearestTiesToEven).value;
    if sum.is_nan() || sum.is_infinite() {
        return Err(Refusal::NotFinite);
    }
    Ok(print(sum))
}

fn parse(text: &[u8]) -> Option<X87DoubleExtended> {
    if text.len() > TEXT_BYTES_MAX {
        return None;
    }
    let text = std::str::from_utf8(text).ok()?;
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let value = if digits.eq_ignore_ascii_case("inf") || digits.eq_ignore_ascii_case("infinity") {
        X87DoubleExtended::INFINITY
    } else {
        let digits = match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
            Some(hex) => hexadecimal(hex)?,
            None if is_decimal(digits.as_bytes()) => digits.to_owned(),
            None => return None,
        };
        let parsed = X87DoubleExtended::from_str_r(&digits, Round::NearestTiesToEven).ok()?;
        let out_of_range = parsed.status.intersects(Status::OVERFLOW)
            || (parsed.status.intersects(Status::UNDERFLOW) && parsed.value.is_zero());
        if out_of_range {
            return None;
        }
        parsed.value
    };
    Some(if negative { -value } else { value })
}

/// C's hexadecimal form behind its `0x`, with the binary exponent that the library wants.
fn hexadecimal(text: &str) -> Option<String> {
    let (mantissa, exponent) = match text.split_once(['p', 'P']) {
        Some((mantissa, exponent)) => (mantissa, exponent),
        None => (text, "0"),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let hex = |digits: &str| digits.bytes().all(|c| c.is_ascii_hexdigit());
    let number = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    let digits = !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit());
    let any = !whole.is_empty() || !fraction.is_empty();
    (any && hex(whole) && hex(fraction) && digits).then(|| format!("0x{whole}.{fraction}p{exponent}"))
}

/// `digits[.digits][e[sign]digits]` with a digit before or behind the point.
fn is_decimal(text: &[u8]) -> bool {
    let digits = |text: &[u8]| text.iter().take_while(|c| c.is_ascii_digit()).count();
    let whole = digits(text);
    let mut rest = &text[whole..];
    let mut any = whole > 0;
    if let Some(fraction) = rest.strip_prefix(b".") {
        let len = digits(fraction);
        any |= len > 0;
        rest = &fraction[len..];
    }
    if any && let [b'e' | b'E', exponent @ ..] = rest {
        let exponent = exponent.strip_prefix(b"-").or(exponent.strip_prefix(b"+")).unwrap_or(exponent);
        return !exponent.is_empty() && digits(exponent) == exponent.len();
    }
    any && rest.is_empty()
}

fn print(value: X87DoubleExtended) -> String {
    let bits = value.to_bits();
    let mantissa = bits & u128::from(u64::MAX);
    let exponent = ((bits >> 64) & 0x7fff) as i32 - 16383 - 63;
    let text = if exponent >= 0 {
        shifted_decimal(mantissa as u64, exponent as u32)
    } else {
        let scaled = mantissa * 10u128.pow(FRACTION_DIGITS);
        let rounded = shift_right_to_even(scaled, exponent.unsigned_abs());
        let unit = 10u128.pow(FRACTION_DIGITS);
        let text = format!("{}.{:017}", rounded / unit, rounded % unit);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    if value.is_negative() && text != "0" { format!("-{text}") } else { text }
}

fn shift_right_to_even(value: u128, by: u32) -> u128 {
    if by >= 128 {
        return 0;
    }
    let (whole, rest) = (value >> by, value & ((1 << by) - 1));
    let half = 1u128 << (by - 1);
    if rest > half || (rest == half && whole & 1 == 1) { whole + 1 } else { whole }
}

/// Decimal digits of `mantissa << shift`.
fn shifted_decimal(mantissa: u64, shift: u32) -> String {
    const BASE: u64 = 1_000_000_000;
    let mut limbs = vec![mantissa % BASE, mantissa / BASE % BASE, mantissa / BASE / BASE];
    for _ in 0..shift {
        let mut carry = 0;
        for limb in &mut limbs {
            let doubled = *limb * 2 + carry;
            *limb = doubled % BASE;
            carry = doubled / BASE;
        }
        if carry > 0 {
            limbs.push(carry);
        }
    }
    while limbs.len() > 1 && limbs.last() == Some(&0) {
        limbs.pop();
    }
    let mut text = limbs.last().map_or(String::new(), u64::to_string);
    for limb in limbs.iter().rev().skip(1) {
        text.push_str(&format!("{limb:09}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_print_as_redis_prints_them() {
        let cases = [
            ("10.50", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("3.0", "1", "4"),
            ("0", "-0", "0"),
            ("1", "-1.5", "-0.5"),
            ("17179869184", "17179869184", "34359738368"),
            ("1e20", "1", "100000000000000000000"),
            ("1e18", "1", "1000000000000000001"),
            ("0.1", "0.2", "0.3"),
            ("0x10", "1", "17"),
            ("5", "0x1p3", "13"),
            ("0x.8", "0", "0.5"),
            ("0", "3.0000000000000001", "3.0000000000000001"),
        ];
        for (a, b, sum) in cases {
            assert_eq!(add_decimal(a.as_bytes(), b.as_bytes()).as_deref(), Ok(sum), "{a} + {b}");
        }
    }

    #[test]
    fn junk_and_infinity_are_refused() {
        for text in ["", " 1", "1 ", "abc", "1e", "1..2", ".", "0x", "0xg", "0x1p", "1e99999", "nan"] {
            assert_eq!(add_decimal(text.as_bytes(), b"1"), Err(Refusal::NotAFloat), "{text:?}");
        }
        assert_eq!(add_decimal(b"inf", b"1"), Err(Refusal::NotFinite));
    }
}
