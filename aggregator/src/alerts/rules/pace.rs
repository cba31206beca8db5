//! What the alerts file says of burn rates. Pure.

use super::{Rule, RuleTable, RulesError, When, between, wrong};
use crate::alerts::judge::pace::Wanted;

/// A window ends with the longest month.
const HOURS_MAX: i64 = 31 * 24;
const TIMES_MAX: f64 = 1_000.0;
/// Three times as fast: what was to last for a month is gone in ten days.
const TIMES: f64 = 3.0;
const LONG_HOURS: i64 = 24;
const SHORT_HOURS: i64 = 1;
/// Different windows of all rules: each is a sum over the ledger at each look.
const WINDOWS_MAX: usize = 8;

pub(super) fn burn_rate(name: &str, table: &RuleTable, accounts: String) -> Result<When, RulesError> {
    let times = table.times.unwrap_or(TIMES);
    if !(0.1..=TIMES_MAX).contains(&times) {
        let right = format!("is not between 0.1 and {TIMES_MAX}");
        return Err(wrong("rule.times", name, times, &right));
    }
    let long = (table.long_hours, LONG_HOURS);
    let long_hours = between(name, "rule.long_hours", long, (2, HOURS_MAX))?;
    let short = (table.short_hours, SHORT_HOURS);
    let short_hours = between(name, "rule.short_hours", short, (1, long_hours - 1))?;
    #[expect(clippy::cast_possible_truncation, reason = "it is at most a thousand")]
    let times_permille = (times * 1_000.0).round() as i64;
    Ok(When::BurnRate { times_permille, accounts, long_hours, short_hours })
}

/// # Errors
/// If there are too many windows.
pub(super) fn check(rules: &[Rule]) -> Result<(), RulesError> {
    let count = Wanted::by(rules).windows_hours.len();
    if count <= WINDOWS_MAX {
        return Ok(());
    }
    let text = format!("rule.long_hours, rule.short_hours: there are {count} different ones");
    Err(RulesError(format!("{text}; at most {WINDOWS_MAX} are taken")))
}

#[cfg(test)]
mod tests {
    use super::super::Rules;
    use super::*;

    fn parse(lines: &str) -> Result<When, String> {
        let text = format!("[[rule]]\nname = \"r\"\nchannels = []\n{lines}\n");
        let parsed = Rules::parse(&text).map_err(|error| error.to_string())?;
        Ok(parsed.rules[0].when.clone())
    }

    #[test]
    fn a_burn_rate_is_three_times_over_a_day_and_an_hour_unless_told() {
        let of = |times_permille, accounts: &str, long_hours, short_hours| {
            Ok(When::BurnRate { times_permille, accounts: accounts.into(), long_hours, short_hours })
        };
        assert_eq!(parse("kind = \"burn_rate\""), of(3_000, "*", 24, 1));
        let lines = "kind = \"burn_rate\"\ntimes = 14.4\naccounts = \"a*\"\nlong_hours = 72\nshort_hours = 6";
        assert_eq!(parse(lines), of(14_400, "a*", 72, 6));
        assert_eq!(parse("kind = \"burn_rate\"\ntimes = 2"), of(2_000, "*", 24, 1));
        let depletion = |within_days| Ok(When::Depletion { accounts: "*".into(), within_days });
        assert_eq!(parse("kind = \"depletion\""), depletion(None));
        assert_eq!(parse("kind = \"depletion\"\nwithin_days = 14"), depletion(Some(14)));
    }

    #[test]
    fn wrong_windows_and_rates_are_refused_with_what_would_be_right() {
        for (lines, said) in [
            ("kind = \"burn_rate\"\ntimes = 0", "rule.times of \"r\": 0 is not between 0.1 and 1000"),
            ("kind = \"burn_rate\"\ntimes = nan", "rule.times of \"r\": NaN is not between"),
            (
                "kind = \"burn_rate\"\nlong_hours = 745",
                "rule.long_hours of \"r\": 745 is not between 2 and 744",
            ),
            (
                "kind = \"burn_rate\"\nlong_hours = 6\nshort_hours = 6",
                "rule.short_hours of \"r\": 6 is not between 1 and 5",
            ),
            (
                "kind = \"depletion\"\nwithin_days = 0",
                "rule.within_days of \"r\": 0 is not between 1 and 3660",
            ),
            ("kind = \"depletion\"\ntimes = 3", "rule.times of \"r\": it is of another kind"),
            ("kind = \"unpriced\"\naccounts = \"*\"", "rule.accounts of \"r\": it is of another kind"),
        ] {
            let error = parse(lines).unwrap_err();
            assert!(error.contains(said), "{lines}: {error}");
        }
    }

    #[test]
    fn windows_are_bounded_over_all_rules() {
        let rule = |hours: i64| {
            format!(
                "[[rule]]\nname = \"{hours}\"\nkind = \"burn_rate\"\nchannels = []\nlong_hours = {hours}\n"
            )
        };
        let file = |hours: std::ops::RangeInclusive<i64>| hours.map(rule).collect::<String>();
        assert!(Rules::parse(&file(2..=8)).is_ok());
        let error = Rules::parse(&file(2..=9)).unwrap_err().to_string();
        assert!(error.contains("9 different ones; at most 8"), "{error}");
    }
}
