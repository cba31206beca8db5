//! Numbers of JSON that never pass through a double: billionths in, billionths out.

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use tonnage_proto::decimal;

/// Digits before the point that are read; the sum of as many such numbers as an answer can have stays in 128 bits.
const WHOLE_DIGITS_MAX: i32 = 20;

/// Billionths of one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Number(pub(super) i128);

impl Number {
    /// Reads a number of JSON, with or without an exponent, rounded to nine places (halves away from zero). `None` if
    /// it is none, or has more than 20 digits before the point.
    #[must_use]
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (negative, rest) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (digits, exponent) = rest.split_once(['e', 'E']).map_or((rest, Some(0)), |(digits, exponent)| {
            (digits, exponent.strip_prefix('+').unwrap_or(exponent).parse::<i16>().ok())
        });
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !all(whole) || !all(fraction) {
            return None;
        }
        let digits: Vec<u8> = whole
            .bytes()
            .chain(fraction.bytes())
            .map(|digit| digit - b'0')
            .skip_while(|digit| *digit == 0)
            .collect();
        let point =
            i32::try_from(digits.len()).ok()? - i32::try_from(fraction.len()).ok()? + i32::from(exponent?);
        if digits.is_empty() {
            return Some(Self(0));
        }
        if point > WHOLE_DIGITS_MAX {
            return None;
        }
        let kept = point + 9;
        let mut value = 0_i128;
        for at in 0..kept {
            let digit = usize::try_from(at).ok().and_then(|at| digits.get(at));
            value = value * 10 + i128::from(digit.copied().unwrap_or(0));
        }
        let next = usize::try_from(kept).ok().and_then(|at| digits.get(at));
        if next.is_some_and(|digit| *digit >= 5) {
            value += 1;
        }
        Some(Self(if negative { -value } else { value }))
    }

    /// `self / whole`, rounded down; `None` of nothing, or where it is beyond what is counted with.
    #[must_use]
    pub(super) fn over(self, whole: Self) -> Option<Self> {
        Some(Self(self.0.checked_mul(1_000_000_000)?.checked_div_euclid(whole.0)?))
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&decimal::from_nanos(self.0))
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw = RawValue::from_string(decimal::from_nanos(self.0)).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_json_are_read_to_the_billionth() {
        for (text, nanos) in [
            ("0", 0),
            ("-0.0", 0),
            ("12", 12_000_000_000),
            ("0.5", 500_000_000),
            ("1e-5", 10_000),
            ("1.5E+3", 1_500_000_000_000),
            ("0.00000000049", 0),
            ("0.0000000005", 1),
            ("-0.0000000015", -2),
            ("0.000000000000000001e9", 1),
            ("5e-10", 1),
            ("5e-11", 0),
            ("0e400", 0),
            ("99999999999999999999", 99_999_999_999_999_999_999_000_000_000),
        ] {
            assert_eq!(Number::parse(text), Some(Number(nanos)), "{text}");
        }
        for text in
            ["", "-", ".5", "NaN", "null", "1e", "1e99999", "1e21", "100000000000000000000", "0x1", "\"1\""]
        {
            assert_eq!(Number::parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_a_number_with_nine_places() {
        let written = serde_json::to_string(&[Number(1), Number(-1_500_000_000)]).unwrap();
        assert_eq!(written, "[0.000000001,-1.500000000]");
    }

    #[test]
    fn a_quotient_of_nothing_is_none() {
        assert_eq!(Number(1).over(Number(0)), None);
        assert_eq!(Number(1).over(Number(3)), Some(Number(333_333_333)));
    }
}
