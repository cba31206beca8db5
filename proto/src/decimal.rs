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

/// A JSON number with an exponent of two figures at most as one without, digit by digit: money is never a float. `None` if it has
/// no exponent, or is no number.
#[must_use]
pub fn without_exponent(text: &str) -> Option<String> {
    let (mantissa, exponent) = text.split_once(['e', 'E'])?;
    let exponent = exponent.parse::<i8>().ok()?;
    let (sign, digits) = mantissa.strip_prefix('-').map_or(("", mantissa), |digits| ("-", digits));
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let point = i64::try_from(whole.len()).ok()? + i64::from(exponent);
    let all: String = [whole, part].concat();
    let before = usize::try_from(point.max(0)).ok()?;
    let leading = usize::try_from((-point).max(0)).ok()?;
    let all = format!("{}{all}", "0".repeat(leading));
    let all = format!("{all}{}", "0".repeat(before.saturating_sub(all.len())));
    let (whole, part) = all.split_at_checked(before)?;
    let part = part.trim_end_matches('0');
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    Some(if part.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{part}") })
}

/// Reads a JSON number of a program that keeps money in doubles, which has more than nine places where it is not exact: those are rounded,
/// halves away from 0.
#[must_use]
pub fn nearest_nanos(text: &str) -> Option<i128> {
    let plain = without_exponent(text);
    let text = plain.as_deref().unwrap_or(text);
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let (kept, rest) = part.split_at_checked(part.len().min(9))?;
    if !rest.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let cut = if kept.is_empty() { to_nanos(whole)? } else { to_nanos(&format!("{whole}.{kept}"))? };
    let up = i128::from(rest.bytes().next().is_some_and(|byte| byte >= b'5'));
    Some(if text.starts_with('-') { cut - up } else { cut + up })
}

/// Reads an amount as JSON has it: a number, which most programs keep as a double, to the nearest billionth; or a text, which says what it
/// means, with at most nine places.
#[must_use]
pub fn json_nanos(raw: &str) -> Option<i128> {
    match raw.strip_prefix('"') {
        Some(text) => to_nanos(text.strip_suffix('"')?),
        None => nearest_nanos(raw),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_double_made_of_an_amount_is_the_nearest_nano_dollar() {
        for (text, expected) in [
            ("123.45", Some(123_450_000_000)),
            ("123.45000000000002", Some(123_450_000_000)),
            ("0.30000000049999", Some(300_000_000)),
            ("-0.0000000015", Some(-2)),
            ("1e-7", Some(100)),
            ("2.5E3", Some(2_500_000_000_000)),
            ("7", Some(7_000_000_000)),
            ("7.", Some(7_000_000_000)),
            ("x", None),
            ("1.0000000000x", None),
            ("", None),
        ] {
            assert_eq!(nearest_nanos(text), expected, "{text}");
        }
    }

    #[test]
    fn a_json_number_is_the_nearest_amount_and_a_text_the_very_one_or_none() {
        for (raw, expected) in [
            ("31.849999999999998", Some(31_850_000_000)),
            ("1e-07", Some(100)),
            ("1e-10", Some(0)),
            ("\"12.5\"", Some(12_500_000_000)),
            ("\"31.849999999999998\"", None),
            ("\"1e3\"", None),
            ("\"1", None),
            ("null", None),
            ("[1]", None),
        ] {
            assert_eq!(json_nanos(raw), expected, "{raw}");
        }
    }

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
