//! The `window` parameter: from words to slots. Pure.
//!
//! `30m`, `12h`, `7d` and `2w` end now; `today`, `yesterday`, `week`, `month`, `lastweek` and `lastmonth` are of UTC,
//! weeks begin on Monday, and so is `2026-03`; `a,b` is a pair of RFC 3339 times or of Unix seconds. Edges are moved out to slots'.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tonnage_proto::limits::{DAY_NS, HOUR_NS, SLOT_NS, slot_start};

/// Longest window in nanoseconds: 400 days, a year and what belongs to its edges.
const LONGEST_NS: i64 = 400 * DAY_NS;
/// 2200-01-01: far from where nanoseconds leave 64 bits.
const LATEST_NS: i64 = 7_258_118_400_000_000_000;
const FORMS: &str = "use a length (30m, 12h, 7d, 2w), today, yesterday, week, month, lastweek, lastmonth, \
    a month (2026-03), or start,end as RFC 3339 times or Unix seconds";

/// `[start_ns, end_ns)`, both on slots' edges.
pub type Window = (i64, i64);

/// The window that `text` means at `now_ns`.
///
/// # Errors
/// What is wrong with `text` and what would be right.
pub fn parse(text: &str, now_ns: i64) -> Result<Window, String> {
    let shown: String = text.chars().take(80).collect();
    let wrong = |reason: &str| format!("window {shown:?} {reason}");
    let today = now_ns - now_ns.rem_euclid(DAY_NS);
    let (start_ns, end_ns) = match text {
        "today" => (today, now_ns),
        "yesterday" => (today - DAY_NS, today),
        "week" => (monday(today), now_ns),
        "lastweek" => (monday(today) - 7 * DAY_NS, monday(today)),
        "month" => (first_of_month(today), now_ns),
        "lastmonth" => (first_of_month(first_of_month(today) - DAY_NS), first_of_month(today)),
        _ => match text.split_once(',') {
            Some((start, end)) => (
                time(start).ok_or_else(|| wrong(&format!("has no start that is a time; {FORMS}")))?,
                time(end).ok_or_else(|| wrong(&format!("has no end that is a time; {FORMS}")))?,
            ),
            None => match month(text) {
                Some(month) => month,
                None => {
                    let length = length(text).ok_or_else(|| wrong(&format!("is not a window; {FORMS}")))?;
                    if length > LONGEST_NS {
                        return Err(wrong("is longer than 400 days; ask for less at a time"));
                    }
                    (now_ns - length, now_ns)
                }
            },
        },
    };
    // The first moment of a day or a month has had no slot yet: show the one that has begun.
    let named_now = end_ns == now_ns;
    if start_ns >= end_ns && !named_now {
        return Err(wrong("ends before it starts, or when it starts; put the earlier time first"));
    }
    let start_ns = slot_start(start_ns);
    let end_ns = (slot_start(end_ns - 1) + SLOT_NS).max(start_ns + SLOT_NS);
    if end_ns - start_ns > LONGEST_NS + 2 * SLOT_NS {
        return Err(wrong("is longer than 400 days; ask for less at a time"));
    }
    Ok((start_ns, end_ns))
}

/// `2026-03`.
fn month(text: &str) -> Option<Window> {
    let (year, month) = text.split_once('-').filter(|(year, month)| (year.len(), month.len()) == (4, 2))?;
    digits(year).and(digits(month))?;
    let start_ns = time(&format!("{text}-01T00:00:00Z"))?;
    Some((start_ns, first_of_month(start_ns + 31 * DAY_NS)))
}

/// `30m`, `12h`, `7d` or `2w` in nanoseconds; `None` if it is no such length, or none at all.
#[must_use]
pub fn length(text: &str) -> Option<i64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit_ns = match unit {
        "m" => 60_000_000_000,
        "h" => HOUR_NS,
        "d" => DAY_NS,
        "w" => 7 * DAY_NS,
        _ => return None,
    };
    digits(number)?.checked_mul(unit_ns).filter(|length| *length > 0)
}

/// RFC 3339 or Unix seconds, in nanoseconds; `None` if it is neither, or out of range.
pub(super) fn time(text: &str) -> Option<i64> {
    let at_ns = match digits(text) {
        Some(seconds) => seconds.checked_mul(1_000_000_000)?,
        None => i64::try_from(text.parse::<Timestamp>().ok()?.as_nanosecond()).ok()?,
    };
    (0..=LATEST_NS).contains(&at_ns).then_some(at_ns)
}

fn digits(text: &str) -> Option<i64> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

/// The Monday on or before the day that starts at `day_ns`; day 0 was a Thursday.
#[must_use]
pub fn monday(day_ns: i64) -> i64 {
    day_ns - (day_ns / DAY_NS + 3).rem_euclid(7) * DAY_NS
}

/// The first day of the month of the day that starts at `day_ns`.
#[must_use]
pub fn first_of_month(day_ns: i64) -> i64 {
    let at = Timestamp::from_nanosecond(i128::from(day_ns)).unwrap_or(Timestamp::UNIX_EPOCH);
    day_ns - i64::from(at.to_zoned(TimeZone::UTC).day() - 1) * DAY_NS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ns(text: &str) -> i64 {
        i64::try_from(text.parse::<Timestamp>().unwrap().as_nanosecond()).unwrap()
    }

    fn shown(text: &str, now: &str) -> (String, String) {
        let (start, end) = parse(text, ns(now)).unwrap();
        let show = |at: i64| Timestamp::from_nanosecond(i128::from(at)).unwrap().to_string();
        (show(start), show(end))
    }

    #[test]
    fn words_are_windows_of_utc() {
        // A Sunday.
        let now = "2026-03-01T10:07:30Z";
        for (text, start, end) in [
            ("30m", "2026-03-01T09:30:00Z", "2026-03-01T10:15:00Z"),
            ("24h", "2026-02-28T10:00:00Z", "2026-03-01T10:15:00Z"),
            ("2w", "2026-02-15T10:00:00Z", "2026-03-01T10:15:00Z"),
            ("today", "2026-03-01T00:00:00Z", "2026-03-01T10:15:00Z"),
            ("yesterday", "2026-02-28T00:00:00Z", "2026-03-01T00:00:00Z"),
            ("week", "2026-02-23T00:00:00Z", "2026-03-01T10:15:00Z"),
            ("lastweek", "2026-02-16T00:00:00Z", "2026-02-23T00:00:00Z"),
            ("month", "2026-03-01T00:00:00Z", "2026-03-01T10:15:00Z"),
            ("lastmonth", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"),
            ("2025-12", "2025-12-01T00:00:00Z", "2026-01-01T00:00:00Z"),
            ("2026-03", "2026-03-01T00:00:00Z", "2026-04-01T00:00:00Z"),
            (
                "2026-01-01T00:00:00Z,2026-01-02T01:00:00+01:00",
                "2026-01-01T00:00:00Z",
                "2026-01-02T00:00:00Z",
            ),
            ("60,900", "1970-01-01T00:00:00Z", "1970-01-01T00:15:00Z"),
        ] {
            assert_eq!(shown(text, now), (start.to_owned(), end.to_owned()), "{text}");
        }
    }

    #[test]
    fn midnight_shows_the_slot_that_begins() {
        let midnight = "2026-03-01T00:00:00Z";
        assert_eq!(shown("today", midnight), (midnight.to_owned(), "2026-03-01T00:15:00Z".to_owned()));
    }

    #[test]
    fn what_is_no_window_is_refused_with_advice() {
        for (text, said) in [
            ("", "is not a window"),
            ("7", "is not a window"),
            ("2026-13", "is not a window"),
            ("2026-1", "is not a window"),
            ("+026-01", "is not a window"),
            ("1969-12", "is not a window"),
            ("0d", "is not a window"),
            ("-7d", "is not a window"),
            ("7y", "is not a window"),
            ("99999999999999999999d", "is not a window"),
            ("9é", "is not a window"),
            ("401d", "longer than 400 days"),
            ("2020-01-01T00:00:00Z,2026-01-01T00:00:00Z", "longer than 400 days"),
            ("100,100", "put the earlier time first"),
            ("200,100", "put the earlier time first"),
            ("100,", "no end"),
            ("2026-01-01,2026-01-02T00:00:00Z", "no start"),
            ("0,99999999999", "no end"),
        ] {
            let error = parse(text, ns("2026-03-01T10:00:00Z")).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
        assert!(parse("400d", ns("2026-03-01T10:07:00Z")).is_ok());
    }
}
