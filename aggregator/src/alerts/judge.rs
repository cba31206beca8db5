//! What the rules find in the ledger as it is now. Pure.

use tonnage_proto::decimal;
use tonnage_proto::limits::DAY_NS;

use super::rules::{Rule, When};
use crate::budgets::selector::is_match;
use crate::model::{Finding, GpuTime};

pub mod pace;

use pace::Pace;

/// The ledger as the rules see it.
#[derive(Debug, Clone, Default)]
pub struct View {
    pub now_ns: i64,
    pub limits: Vec<LimitView>,
    /// Of the last 24 hours.
    pub unassigned_nanos: i128,
    pub unpriced: GpuTime,
    pub quarantined_windows: i64,
    /// Those that are active or suspended.
    pub grants: Vec<GrantView>,
    pub currency: String,
}

/// A grant, and how long it still pays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantView {
    pub number: String,
    pub account: String,
    pub end_ns: i64,
    pub left_ns: i64,
}

/// One limit of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitView {
    pub account: String,
    /// `month`, `rolling_30d`, ...
    pub period: String,
    pub partition: String,
    pub model: String,
    /// When its period began; 0 of one that moves on, or has no end.
    pub start_ns: i64,
    pub limit_nanos: i64,
    pub charged_nanos: i128,
    pub held_nanos: i128,
    /// `None` if no rule asks.
    pub pace: Option<Pace>,
}

/// All that the rules find; each once for each limit.
#[must_use]
pub fn judge(rules: &[Rule], view: &View) -> Vec<Finding> {
    rules.iter().flat_map(|rule| found(rule, view)).collect()
}

fn found(rule: &Rule, view: &View) -> Vec<Finding> {
    let currency = &view.currency;
    let money = |nanos: i128| format!("{} {currency}", decimal::from_nanos(nanos));
    let of_all = |value: String, threshold: String, message: String| Finding {
        key: rule.name.clone(),
        rule: rule.name.clone(),
        kind: rule.when.name().to_owned(),
        severity: rule.severity,
        account: String::new(),
        grant: String::new(),
        message,
        value,
        threshold,
        channels: rule.channels.clone(),
    };
    let of = |accounts: &str, one: &dyn Fn(&LimitView) -> Option<Finding>| -> Vec<Finding> {
        view.limits.iter().filter(|limit| is_match(accounts, &limit.account)).filter_map(one).collect()
    };
    match &rule.when {
        When::Spent { percent, accounts, held } => {
            of(accounts, &|limit| spent(rule, limit, (*percent, *held), currency))
        }
        When::BurnRate { times_permille, accounts, long_hours, short_hours } => of(accounts, &|limit| {
            pace::burning(rule, limit, (*times_permille, *long_hours, *short_hours), currency)
        }),
        When::Depletion { accounts, within_days } => {
            of(accounts, &|limit| pace::depleted(rule, limit, *within_days, (view.now_ns, currency)))
        }
        When::GrantExpiring { within_days, accounts } => {
            let grants = view.grants.iter().filter(|grant| is_match(accounts, &grant.account));
            grants.filter_map(|grant| expiring(rule, grant, *within_days)).collect()
        }
        When::Unassigned { nanos } if view.unassigned_nanos > *nanos => {
            let value = money(view.unassigned_nanos);
            let message = format!("{value} of the last 24 hours are of nobody's budget");
            vec![of_all(value, money(*nanos), message)]
        }
        When::Unpriced { seconds } if view.unpriced.ns() > i128::from(*seconds) * 1_000_000_000 => {
            let hours = |ns: i128| format!("{} GPU hours", decimal::from_nanos(ns / 3_600));
            let value = hours(view.unpriced.ns());
            let message = format!("{value} of the last 24 hours have no price and cost nothing");
            vec![of_all(value, hours(i128::from(*seconds) * 1_000_000_000), message)]
        }
        When::Quarantine { windows } if view.quarantined_windows > *windows => {
            let value = format!("{} windows", view.quarantined_windows);
            let message = format!("{value} wait in quarantine and are counted nowhere");
            vec![of_all(value, format!("{windows} windows"), message)]
        }
        When::Unassigned { .. } | When::Unpriced { .. } | When::Quarantine { .. } => Vec::new(),
    }
}

/// A grant whose end moves is another finding.
fn expiring(rule: &Rule, grant: &GrantView, within_days: i64) -> Option<Finding> {
    let GrantView { number, account, end_ns, left_ns } = grant;
    if *left_ns > within_days * DAY_NS {
        return None;
    }
    let (days, within) = (left_ns / DAY_NS, (left_ns + DAY_NS - 1) / DAY_NS);
    Some(Finding {
        key: [&rule.name, number, &end_ns.to_string()].map(String::as_str).join("\n"),
        rule: rule.name.clone(),
        kind: rule.when.name().to_owned(),
        severity: rule.severity,
        account: account.clone(),
        grant: number.clone(),
        message: format!("grant {number}, which pays for {account}, ends within {within} days"),
        value: format!("{days} days"),
        threshold: format!("{within_days} days"),
        channels: rule.channels.clone(),
    })
}

fn spent(rule: &Rule, limit: &LimitView, (percent, held): (i64, bool), currency: &str) -> Option<Finding> {
    let held_nanos = if held { limit.held_nanos } else { 0 };
    let used = limit.charged_nanos + held_nanos;
    let whole = i128::from(limit.limit_nanos);
    // A limit of nothing is spent with the first charge.
    let reached = used.checked_mul(100).is_some_and(|used| used >= whole * i128::from(percent))
        && (whole > 0 || used > 0);
    if !reached {
        return None;
    }
    let share = used.checked_mul(1_000).and_then(|used| used.checked_div(whole));
    let value = share.map_or_else(
        || format!("{} {currency}", decimal::from_nanos(used)),
        |permille| format!("{}.{} %", permille / 10, permille % 10),
    );
    let held_text = if held_nanos == 0 {
        String::new()
    } else {
        format!(", {} of it held", decimal::from_nanos(held_nanos))
    };
    let message = format!(
        "{}: {value} of its limit ({}) is spent: {} of {} {currency}{held_text}",
        limit.account,
        period(limit),
        decimal::from_nanos(used),
        decimal::from_nanos(whole),
    );
    Some(of_limit(rule, limit, message, (value, format!("{percent} %"))))
}

/// Whose limit it is, and which.
fn said(limit: &LimitView) -> String {
    format!("{}: its limit ({})", limit.account, period(limit))
}

fn period(limit: &LimitView) -> String {
    let of = [("partition", &limit.partition), ("model", &limit.model)];
    let of = of.into_iter().filter(|(_, name)| !name.is_empty());
    limit.period.clone() + &of.map(|(what, name)| format!(" for {what} {name}")).collect::<String>()
}

/// Another one in each period.
fn of_limit(
    rule: &Rule,
    limit: &LimitView,
    message: String,
    (value, threshold): (String, String),
) -> Finding {
    let LimitView { account, period, partition, model, start_ns, .. } = limit;
    Finding {
        key: [&rule.name, account, period, partition, model, &start_ns.to_string()]
            .map(String::as_str)
            .join("\n"),
        rule: rule.name.clone(),
        kind: rule.when.name().to_owned(),
        severity: rule.severity,
        account: account.clone(),
        grant: String::new(),
        message,
        value,
        threshold,
        channels: rule.channels.clone(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::Severity;

    pub(super) fn rule(when: When) -> Rule {
        Rule { name: "r".into(), when, severity: Severity::Warning, channels: vec!["ops".into()] }
    }

    pub(super) fn limit(account: &str, start_ns: i64, limit: i64, charged: i128, held: i128) -> LimitView {
        LimitView {
            account: account.into(),
            period: "month".into(),
            partition: String::new(),
            model: String::new(),
            start_ns,
            limit_nanos: limit,
            charged_nanos: charged,
            held_nanos: held,
            pace: None,
        }
    }

    pub(super) fn view(limits: Vec<LimitView>) -> View {
        View { limits, currency: "USD".into(), ..View::default() }
    }

    #[test]
    fn a_threshold_is_reached_to_the_nano_and_holds_count_unless_told() {
        let spent = |held| rule(When::Spent { percent: 80, accounts: "phys*".into(), held });
        let limits = vec![
            limit("physics", 5, 10, 7, 1),
            limit("physics-b", 5, 1_000_000_000, 799_999_999, 0),
            limit("biology", 5, 10, 10, 0),
        ];
        let found = judge(&[spent(true)], &view(limits.clone()));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].account.as_str(), found[0].value.as_str()), ("physics", "80.0 %"));
        assert!(
            found[0].message.contains("0.000000008 of 0.000000010 USD, 0.000000001 of it held"),
            "{found:?}"
        );
        assert!(judge(&[spent(false)], &view(limits)).is_empty());
    }

    #[test]
    fn a_new_period_is_another_finding_and_a_limit_of_nothing_is_spent_with_the_first_charge() {
        let rule = rule(When::Spent { percent: 100, accounts: "*".into(), held: true });
        let key = |start_ns| {
            judge(std::slice::from_ref(&rule), &view(vec![limit("a", start_ns, 1, 1, 0)]))[0].key.clone()
        };
        assert_eq!(key(1), key(1));
        assert_ne!(key(1), key(2));
        assert!(judge(std::slice::from_ref(&rule), &view(vec![limit("a", 1, 0, 0, 0)])).is_empty());
        assert_eq!(judge(&[rule], &view(vec![limit("a", 1, 0, 1, 0)])).len(), 1);
    }

    #[test]
    fn what_is_nobodys_what_has_no_price_and_what_is_in_quarantine_is_found_once_it_is_more() {
        let rules = [
            rule(When::Unassigned { nanos: 5 }),
            rule(When::Unpriced { seconds: 1 }),
            rule(When::Quarantine { windows: 0 }),
        ];
        let at = |nanos, ns, windows| {
            let view = View {
                unassigned_nanos: nanos,
                unpriced: GpuTime::of_slices(ns, 1),
                quarantined_windows: windows,
                ..view(Vec::new())
            };
            judge(&rules, &view).into_iter().map(|found| found.kind).collect::<Vec<_>>()
        };
        assert!(at(5, 1_000_000_000, 0).is_empty());
        assert_eq!(at(6, 1_000_000_001, 1), ["unassigned", "unpriced", "quarantine"]);
    }

    #[test]
    fn a_grant_is_told_of_from_so_many_days_before_its_end_and_anew_when_its_end_moves() {
        let rule = rule(When::GrantExpiring { within_days: 30, accounts: "phys*".into() });
        let found = |account: &str, end_ns: i64, left_ns: i64| {
            let grant = GrantView { number: "NSF-1".into(), account: account.into(), end_ns, left_ns };
            judge(std::slice::from_ref(&rule), &View { grants: vec![grant], ..view(Vec::new()) })
        };
        assert!(found("physics", 5, 30 * DAY_NS + 1).is_empty() && found("biology", 5, DAY_NS).is_empty());
        let first = found("physics", 5, 30 * DAY_NS);
        assert_eq!((first[0].kind.as_str(), first[0].value.as_str()), ("grant_expiring", "30 days"));
        assert!(first[0].message.ends_with(" ends within 30 days"), "{first:?}");
        assert_eq!((first[0].account.as_str(), first[0].grant.as_str()), ("physics", "NSF-1"));
        assert_eq!(first[0].key, found("physics", 5, DAY_NS)[0].key);
        assert_ne!(first[0].key, found("physics", 6, DAY_NS)[0].key);
    }
}
