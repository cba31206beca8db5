//! Exact numbers as text. Money is whole nano-dollars and time whole nanoseconds; a JSON number would pass
//! through a double in most readers, so both are written as decimal strings with nine places.

/// `value` billionths as a decimal with nine places: `-1` is `"-0.000000001"`.
#[must_use]
pub fn from_nanos(value: i128) -> String {
    let sign = if value < 0 { "-" } else { "" };
    let magnitude = value.unsigned_abs();
    format!("{sign}{}.{:09}", magnitude / 1_000_000_000, magnitude % 1_000_000_000)
}

/// Reads a decimal with at most nine places into billionths. `None` if it is not one, or out of range.
///
/// Accepts `12`, `12.5`, `-0.000000001`; not `.5`, `1e3`, `+1`, blanks or a tenth place.
#[must_use]
pub fn to_nanos(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').map_or((digits, None), |(w, f)| (w, Some(f)));
    let all_digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !all_digits(whole) || whole.len() > 28 {
        return None;
    }
    let mut value = whole.parse::<i128>().ok()?.checked_mul(1_000_000_000)?;
    if let Some(fraction) = fraction {
        if !all_digits(fraction) || fraction.len() > 9 {
            return None;
        }
        let scale = 10_i128.pow(9 - u32::try_from(fraction.len()).ok()?);
        value = value.checked_add(fraction.parse::<i128>().ok()?.checked_mul(scale)?)?;
    }
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        for value in [0, 1, -1, 999_999_999, 1_000_000_000, -1_500_000_000, i128::from(i64::MAX)] {
            assert_eq!(to_nanos(&from_nanos(value)), Some(value));
        }
        assert_eq!(from_nanos(-1), "-0.000000001");
        assert_eq!(to_nanos("2.5"), Some(2_500_000_000));
    }

    #[test]
    fn what_is_not_an_exact_decimal_is_not_read() {
        for text in ["", "-", ".5", "1.", "1e3", "+1", " 1", "0.0000000001", "NaN", "1,5", "--1"] {
            assert_eq!(to_nanos(text), None, "{text:?}");
        }
        assert_eq!(to_nanos(&"9".repeat(40)), None);
    }
}
