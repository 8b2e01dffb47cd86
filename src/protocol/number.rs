//! Integers as memcached reads and writes them.
//!
//! memcached 1.6.18 reads with `strtol`/`strtoul` and checks only what follows the digits
//! (`util.c`). The proxy reads the same way, so that a client sees the same refusals, and then
//! forwards the plain decimal form, so that no node of another version can disagree about a line.

/// Reads a signed integer like `safe_strtoll`: leading white space and a sign are allowed, the
/// digits end at the end of the token or at white space. `None` when memcached refuses it.
#[must_use]
pub fn signed(token: &[u8]) -> Option<i64> {
    if let Some(value) = digits(token) {
        return i64::try_from(value).ok();
    }
    let (negative, digits) = sign(token);
    let magnitude = magnitude(digits)?;
    if negative { 0_i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() }
}

/// Reads an unsigned integer like `safe_strtoull`: a minus sign is refused unless the wrapped
/// value is small (memcached checks for `-` only when the highest bit is set).
#[must_use]
pub fn unsigned(token: &[u8]) -> Option<u64> {
    if let Some(value) = digits(token) {
        return Some(value);
    }
    let (negative, digits) = sign(token);
    let magnitude = magnitude(digits)?;
    let value = if negative { magnitude.wrapping_neg() } else { magnitude };
    (value >> 63 == 0 || !token.contains(&b'-')).then_some(value)
}

/// Reads the digits of a reply: nothing but decimal digits, at least one.
#[must_use]
pub fn digits(token: &[u8]) -> Option<u64> {
    if token.is_empty() || token.len() > 20 {
        return None;
    }
    // 19 digits always fit.
    let (first, last) = token.split_at(token.len().min(19));
    let mut value = 0_u64;
    for byte in first {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + u64::from(digit);
    }
    match last {
        [] => Some(value),
        [digit @ b'0'..=b'9'] => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    }
}

/// Appends `value` in decimal.
pub fn append(out: &mut Vec<u8>, value: u64) {
    let mut text = [0_u8; 20];
    let mut left = value;
    let mut start = text.len();
    for (i, place) in text.iter_mut().enumerate().rev() {
        *place = b'0' + u8::try_from(left % 10).unwrap_or_default();
        left /= 10;
        start = i;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(text.get(start..).unwrap_or_default());
}

/// Appends `value` in decimal, with a sign when negative.
pub fn append_signed(out: &mut Vec<u8>, value: i64) {
    if value < 0 {
        out.push(b'-');
    }
    append(out, value.unsigned_abs());
}

/// C's `isspace` in the "C" locale.
const fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

fn sign(token: &[u8]) -> (bool, &[u8]) {
    let start = token.iter().position(|&b| !is_space(b)).unwrap_or(token.len());
    match token.get(start..) {
        Some([b'-', rest @ ..]) => (true, rest),
        Some([b'+', rest @ ..]) => (false, rest),
        Some(rest) => (false, rest),
        None => (false, &[]),
    }
}

fn magnitude(text: &[u8]) -> Option<u64> {
    let end = text.iter().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    if number.is_empty() || rest.first().is_some_and(|&b| !is_space(b)) {
        return None;
    }
    number.iter().try_fold(0_u64, |value, &b| value.checked_mul(10)?.checked_add(u64::from(b - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_read_as_strtol_reads_them() {
        for (text, signed_value, unsigned_value) in [
            ("0", Some(0), Some(0)),
            ("42", Some(42), Some(42)),
            ("+7", Some(7), Some(7)),
            ("-1", Some(-1), None),
            ("-0", Some(0), Some(0)),
            ("\t5", Some(5), Some(5)),
            ("5\tx", Some(5), Some(5)),
            ("5x", None, None),
            ("", None, None),
            ("-", None, None),
            ("x", None, None),
            ("9223372036854775807", Some(i64::MAX), Some(i64::MAX as u64)),
            ("9223372036854775808", None, Some(1 << 63)),
            ("-9223372036854775808", Some(i64::MIN), None),
            ("18446744073709551615", None, Some(u64::MAX)),
            ("18446744073709551616", None, None),
            ("-18446744073709551615", None, Some(1)),
        ] {
            assert_eq!(signed(text.as_bytes()), signed_value, "{text:?} signed");
            assert_eq!(unsigned(text.as_bytes()), unsigned_value, "{text:?} unsigned");
        }
    }

    #[test]
    fn replies_hold_plain_digits_only() {
        assert_eq!(digits(b"18446744073709551615"), Some(u64::MAX));
        for text in [
            "",
            "+1",
            "-1",
            " 1",
            "1 ",
            "1:",
            "1/",
            "18446744073709551616",
            "1844674407370955161x",
            "000000000000000000001",
        ] {
            assert_eq!(digits(text.as_bytes()), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(value: u64, other: i64) {
            let mut text = Vec::new();
            append(&mut text, value);
            prop_assert_eq!(String::from_utf8_lossy(&text), value.to_string());
            prop_assert_eq!(digits(&text), Some(value));
            prop_assert_eq!(unsigned(&text), Some(value));
            text.clear();
            append_signed(&mut text, other);
            prop_assert_eq!(signed(&text), Some(other));
        }
    }
}
