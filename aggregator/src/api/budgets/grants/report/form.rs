//! A report as it is sent. Amounts and times are exact decimal texts, as in cost tables.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use tonnage_proto::decimal::from_nanos;
use tonnage_proto::method;

use super::collect::{Found, Spent};
use super::measured::Measured;
use super::{Kind, Wanted};
use crate::api::budgets::grants::GrantAnswer;
use crate::api::inventory::time;
use crate::budgets::Award;

/// Lines of one list; what is beyond is one line.
const LINES_MAX: usize = 1_000;
/// The name of that one.
const OTHERS: &str = "__others__";

#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::api) struct Report {
    pub(super) report_type: Kind,
    pub(super) generated_at: String,
    pub(super) currency: String,
    pub(super) grant: GrantAnswer,
    pub(super) start_date: String,
    /// The first moment that is not in it.
    pub(super) end_date: String,
    pub(super) totals: ReportFigures,
    /// Lists, each of which sums to the totals; those that the report's type does not have are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) periods: Option<Vec<ReportLine>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) months: Option<Vec<ReportLine>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) accounts: Option<Vec<ReportLine>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) users: Option<Vec<ReportLine>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) resources: Option<Vec<ReportLine>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) evidence: Option<Vec<ReportLine>>,
    pub(super) measurement: Measured,
}

/// What was used and charged.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(super) struct ReportFigures {
    /// posted and provisional together
    pub(super) charged: String,
    /// Of slots that are closed.
    pub(super) posted: String,
    pub(super) provisional: String,
    pub(super) held_seconds: String,
    pub(super) busy_seconds: String,
    /// Held, without a price: in no amount.
    pub(super) unpriced_seconds: String,
    pub(super) energy_joules: String,
    /// Of jobs without GPUs: what they were allocated, and the part of it without a price.
    pub(super) cpu_seconds: String,
    pub(super) unpriced_cpu_seconds: String,
    pub(super) ram_byte_seconds: String,
    /// How it was measured (docs/queries.md).
    pub(super) methods: Vec<String>,
}

/// A group, by what it is called.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(super) struct ReportLine {
    pub(super) key: BTreeMap<String, String>,
    /// Of a period: its part of direct costs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) direct_costs: Option<String>,
    #[serde(flatten)]
    pub(super) figures: ReportFigures,
}

impl ReportFigures {
    fn of(spent: &Spent) -> Self {
        let Spent { sums, open_nanos } = spent;
        let charged = sums.charged_nanos();
        Self {
            charged: from_nanos(charged),
            posted: from_nanos(charged - open_nanos),
            provisional: from_nanos(*open_nanos),
            held_seconds: from_nanos(sums.held.ns()),
            busy_seconds: from_nanos(sums.busy.ns()),
            unpriced_seconds: from_nanos(sums.unpriced.ns()),
            energy_joules: from_nanos(sums.energy_uj * 1000),
            cpu_seconds: from_nanos(sums.cpu_ns),
            unpriced_cpu_seconds: from_nanos(sums.unpriced_cpu_ns),
            ram_byte_seconds: sums.ram_byte_seconds.to_string(),
            methods: method::names(sums.method).map(str::to_owned).collect(),
        }
    }
}

pub(super) fn report(
    grant: GrantAnswer,
    award: &Award,
    wanted: &Wanted,
    found: Found,
    measurement: Measured,
    currency: &str,
) -> Report {
    let Wanted { kind, details, window_ns, now_ns } = *wanted;
    let has = |kinds: &[Kind]| details && (kind == Kind::Annual || kinds.contains(&kind));
    let named = |name: &'static str, groups: BTreeMap<String, Spent>| {
        let groups = groups.into_iter().map(|(value, spent)| (vec![(name, value)], spent));
        largest(groups.collect())
    };
    let months = || {
        let month = |((year, month), spent): ((i16, i8), Spent)| {
            line(&[("month", format!("{year:04}-{month:02}"))], &spent)
        };
        found.months.into_iter().map(month).collect()
    };
    let resources = found
        .resources
        .into_iter()
        .map(|((partition, model), spent)| (vec![("partition", partition), ("model", model)], spent));
    Report {
        report_type: kind,
        generated_at: time(now_ns),
        currency: currency.to_owned(),
        grant,
        start_date: time(window_ns.0),
        end_date: time(window_ns.1),
        totals: ReportFigures::of(&found.totals),
        periods: (kind != Kind::Technical).then(|| periods(award, wanted, &found.periods)),
        months: has(&[Kind::Financial, Kind::Technical]).then(months),
        accounts: has(&[Kind::Financial]).then(|| named("account", found.accounts)),
        users: has(&[Kind::Technical]).then(|| named("user", found.users)),
        resources: has(&[Kind::Technical]).then(|| largest(resources.collect())),
        evidence: has(&[Kind::Compliance]).then(|| named("owner_kind", found.evidence)),
        measurement,
    }
}

/// Every period that has a day in the window, also those of which nothing was spent.
fn periods(award: &Award, wanted: &Wanted, found: &BTreeMap<i64, Spent>) -> Vec<ReportLine> {
    let (from_ns, to_ns) = wanted.window_ns;
    let all = award.grant.periods();
    let within = all.iter().filter(|period| period.start_ns < to_ns && from_ns < period.end_ns);
    let of = |period: &crate::budgets::grant::Period| {
        let key = [
            ("period", period.number.to_string()),
            ("start", time(period.start_ns)),
            ("end", time(period.end_ns)),
        ];
        let spent = found.get(&period.number).copied().unwrap_or_default();
        let direct_costs = Some(from_nanos(period.direct_nanos.into()));
        ReportLine { direct_costs, ..line(&key, &spent) }
    };
    within.map(of).collect()
}

fn line(key: &[(&str, String)], spent: &Spent) -> ReportLine {
    let key = key.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    ReportLine { key, direct_costs: None, figures: ReportFigures::of(spent) }
}

/// The largest first; of too many the smallest together.
fn largest(mut groups: Vec<(Vec<(&'static str, String)>, Spent)>) -> Vec<ReportLine> {
    groups.sort_by(|(key, spent), (other, than)| {
        than.sums.charged_nanos().cmp(&spent.sums.charged_nanos()).then_with(|| key.cmp(other))
    });
    let rest = groups.split_off(groups.len().min(LINES_MAX));
    let mut lines: Vec<ReportLine> = groups.iter().map(|(key, spent)| line(key, spent)).collect();
    if let Some((key, _)) = rest.first() {
        let mut sum = Spent::default();
        for (_, spent) in &rest {
            sum.sums.add(&spent.sums);
            sum.open_nanos += spent.open_nanos;
        }
        let key: Vec<_> = key.iter().map(|(name, _)| (*name, OTHERS.to_owned())).collect();
        lines.push(line(&key, &sum));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::query::Sums;

    #[test]
    fn lists_that_are_too_long_still_sum_to_the_whole() {
        let groups: Vec<_> = (1..=1_500_i128)
            .map(|cost| {
                let sums = Sums { held_cost_nanos: cost, ..Sums::default() };
                (vec![("user", format!("u{cost}"))], Spent { sums, open_nanos: 1 })
            })
            .collect();
        let lines = largest(groups);
        assert_eq!((lines.len(), lines[0].key["user"].as_str()), (1_001, "u1500"));
        assert_eq!(
            (lines[1_000].key["user"].as_str(), lines[1_000].figures.provisional.as_str()),
            (OTHERS, "0.000000500")
        );
        let nanos = |text: &str| tonnage_proto::decimal::to_nanos(text).unwrap();
        assert_eq!(lines.iter().map(|line| nanos(&line.figures.charged)).sum::<i128>(), 1_500 * 1_501 / 2);
    }
}
