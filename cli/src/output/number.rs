//! Exact decimals for people: rounded to the places that say something. Programs get them as they are.

use tonnage_proto::decimal;

/// Places of money in one table, by its total: cents for large sums, more where cents would all be zero.
pub(crate) fn places(total: &str) -> u32 {
    match decimal::to_nanos(total).map_or(0, i128::abs) {
        ..1_000_000_000 => 6,
        1_000_000_000..1_000_000_000_000 => 4,
        _ => 2,
    }
}

/// `text` with so many places, rounded half away from zero. What is no decimal is shown as it is.
pub(crate) fn money(text: &str, places: u32) -> String {
    decimal::to_nanos(text).map_or_else(|| text.to_owned(), |nanos| round(nanos, 1_000_000_000, places))
}

/// Places of hours in one table, by its total in seconds: minutes should not all read 0.00.
pub(crate) fn hour_places(total_seconds: &str) -> u32 {
    match decimal::to_nanos(total_seconds).map_or(0, i128::abs) {
        ..3_600_000_000_000 => 4,
        _ => 2,
    }
}

/// Seconds with three places.
pub(crate) fn seconds(text: &str) -> String {
    money(text, 3)
}

/// Seconds as hours with so many places.
pub(crate) fn hours(seconds: &str, places: u32) -> String {
    decimal::to_nanos(seconds)
        .map_or_else(|| seconds.to_owned(), |nanos| round(nanos, 3_600_000_000_000, places))
}

/// Joules as kilowatt-hours with three places.
pub(crate) fn kilowatt_hours(joules: &str) -> String {
    decimal::to_nanos(joules)
        .map_or_else(|| joules.to_owned(), |nanos| round(nanos, 3_600_000_000_000_000, 3))
}

/// `part` of `whole` in percent with one place; `-` of nothing.
pub(crate) fn percent(part: &str, whole: &str) -> String {
    match (decimal::to_nanos(part), decimal::to_nanos(whole)) {
        (Some(part), Some(whole)) if whole > 0 => round(part.saturating_mul(100), whole, 1),
        _ => "-".to_owned(),
    }
}

/// Thousandths as percent with one place.
pub(crate) fn permille(value: u32) -> String {
    round(i128::from(value), 10, 1)
}

/// Bytes in GiB with one place.
pub(crate) fn gibibytes(bytes: u64) -> String {
    round(i128::from(bytes), 1 << 30, 1)
}

/// `value / unit` as a decimal.
fn round(value: i128, unit: i128, places: u32) -> String {
    let scale = 10_i128.pow(places);
    let scaled = (value.abs().saturating_mul(scale) + unit / 2) / unit;
    let sign = if value < 0 && scaled > 0 { "-" } else { "" };
    if places == 0 {
        return format!("{sign}{scaled}");
    }
    let width = usize::try_from(places).unwrap_or(0);
    format!("{sign}{}.{:0width$}", scaled / scale, scaled % scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_rounded_for_people_only() {
        assert_eq!(money("2.345678901", 4), "2.3457");
        assert_eq!(money("-0.000000001", 6), "0.000000");
        assert_eq!(money("-1.5", 0), "-2");
        assert_eq!(money("what", 2), "what");
    }

    #[test]
    fn small_sums_show_more_places() {
        assert_eq!((places("0.5"), places("12"), places("1000.000000000")), (6, 4, 2));
    }

    #[test]
    fn units_are_those_that_people_use() {
        assert_eq!(hours("5400.000000000", hour_places("5400")), "1.50");
        assert_eq!(hours("9.000000000", hour_places("9.000000000")), "0.0025");
        assert_eq!(kilowatt_hours("3600000.000000000"), "1.000");
        assert_eq!(percent("1.000000000", "3.000000000"), "33.3");
        assert_eq!(percent("1", "0.000000000"), "-");
        assert_eq!((permille(142), gibibytes(85_899_345_920)), ("14.2".to_owned(), "80.0".to_owned()));
    }
}
