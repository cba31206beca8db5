//! How all limits stand, however many: each is what the sum of its own period is.

use super::*;
use crate::api;
use crate::budgets::account::LIMITS_MAX;
use crate::budgets::period::Unit;

const DAY_S: i64 = 86_400;

/// Limits of every kind, with many different beginnings.
fn limits() -> Vec<Limit> {
    let calendar = |unit, zone: &str| Period::Calendar { unit, zone: zone.into(), month_start_day: 1 };
    let mut periods = vec![
        Period::Lifetime,
        calendar(Unit::Day, "UTC"),
        calendar(Unit::Day, "Asia/Kathmandu"),
        calendar(Unit::Week, "UTC"),
        calendar(Unit::Month, "UTC"),
        calendar(Unit::Month, "Pacific/Auckland"),
    ];
    periods.extend((1..).map(|days| Period::Rolling { days }).take(LIMITS_MAX - periods.len() - 1));
    let limit = |period| Limit { amount_nanos: SECOND, period, partition: None, model: None };
    let mut limits: Vec<Limit> = periods.into_iter().map(limit).collect();
    limits.push(Limit { partition: Some("gpu".into()), ..limit(Period::Rolling { days: 2 }) });
    limits
}

#[test]
fn no_limit_is_left_out_and_each_has_the_charges_of_its_own_period() {
    let mut ledger = Ledger::new(BOOK, -3 * DAY_S);
    ledger.create(Spec { limits: limits(), ..spec("org", 1) }).unwrap();
    for at in 0..39_i64 {
        let starts_ns = BEGIN - (at - 20) * 5_000 * S;
        let (bindings, parent) = (Vec::new(), (at % 2 == 0).then(|| "org".to_owned()));
        ledger
            .create(Spec { limits: limits(), starts_ns, bindings, parent, ..spec(&format!("a{at}"), 1) })
            .unwrap();
    }
    let physics = Spec { parent: Some("a0".into()), ..spec("physics", 1) };
    ledger.create(physics).unwrap();
    let mut agent = Agent::new("n", "b", 1);
    // The last slot of a day is not over, and the one before it neither.
    for (at, partition) in [
        (-2 * DAY_S, "gpu"),
        (-DAY_S - 50, "gpu"),
        (-50, "cpu"),
        (0, "gpu"),
        (DAY_S - 950, "cpu"),
        (DAY_S - 800, "gpu"),
    ] {
        let batch = agent.job(("physics", partition, "7"), &[(at, 10)]);
        ledger.at(at + 10).take(batch);
        let batch = agent.job(("org", partition, "8"), &[(at + 10, 20)]);
        ledger.at(at + 30).take(batch);
    }
    let (db, now_ns) = (ledger.db(), BEGIN + (DAY_S - 700) * S);
    let tree = stored::tree(&db).unwrap();
    let balances = api::balances(&db, now_ns).unwrap();
    assert_eq!(balances.rows.len(), 40 * LIMITS_MAX + 1, "none is left out");
    let mut usages = stored::Usages::default();
    let mut charged = 0;
    for row in &balances.rows {
        let account = tree.by_id(row.of.0).unwrap();
        let limit = &account.spec.limits[row.of.1];
        let span_ns = limit.period.span(now_ns, account.spec.starts_ns);
        let sums = stored::spent(&db, &tree, &mut usages, span_ns, now_ns).unwrap();
        let expected = sums.of(account.id, |partition, model| limit.counts(partition, model));
        assert_eq!(row.charged_nanos, expected, "{row:?}");
        charged += usize::from(expected != 0);
    }
    assert!(charged > LIMITS_MAX, "{charged}");
    assert!(balances.rows.iter().any(|row| row.charged_nanos == 180 * i128::from(SECOND)), "org's life");
}
