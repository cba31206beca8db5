//! Who owes what: costs of rows, and what becomes of what nobody held. Pure, and exact: charges sum to the total.

use std::collections::BTreeMap;

use serde_json::Value;
use tonnage_proto::decimal;
use tonnage_proto::rest::{CostAnswer, CostRow, Figures, IdlePolicy};

use crate::commands::cost;
use crate::output::number::{money, places};
use crate::output::{Grid, right};

/// The row of what whoever runs the GPUs bears.
const PLATFORM: &str = "__platform__";

/// A month's bill.
#[derive(Debug)]
pub(super) struct Bill {
    answer: CostAnswer,
    /// What each of the answer's rows owes, in their order.
    charges: Vec<Charge>,
}

/// What a row owes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Charge {
    charge: String,
    /// The part of it that is of what nobody held.
    idle_share: String,
}

/// An amount is no number, or too much.
#[derive(Debug)]
pub(super) struct Unreadable;

impl Bill {
    /// Of all rows of an answer. To share, each row must be of one cluster, for idle cost is shared within each.
    pub(super) fn of(mut answer: CostAnswer, policy: IdlePolicy) -> Result<Self, Unreadable> {
        answer.idle_policy = policy;
        let read = |text: &str| decimal::to_nanos(text).ok_or(Unreadable);
        // What jobs without GPUs cost is of whom they are, and no share of idle GPUs goes by it. Older servers do not tell of it.
        let of_jobs = |text: &str| if text.is_empty() { Ok(0) } else { read(text) };
        let (mut owed, mut jobs) = (Vec::new(), Vec::new());
        for row in &answer.rows {
            let cost_nanos = read(&row.figures.cost)?;
            let held_nanos = read(&row.figures.held_cost)?;
            let jobs_nanos = of_jobs(&row.figures.job_cpu_cost)? + of_jobs(&row.figures.job_ram_cost)?;
            owed.push((held_nanos, cost_nanos - held_nanos - jobs_nanos));
            jobs.push(jobs_nanos);
        }
        match policy {
            IdlePolicy::Report => {}
            IdlePolicy::Share => share(&answer.rows, &mut owed)?,
            IdlePolicy::Platform => bear(&mut answer, &mut owed),
        }
        jobs.resize(owed.len(), 0);
        let mut owed: Vec<(i128, i128)> =
            owed.into_iter().zip(jobs).map(|((held, idle), jobs)| (held + jobs, idle)).collect();
        // Who held nothing and bears nothing owes nothing.
        let keep: Vec<bool> = owed.iter().map(|owed| *owed != (0, 0)).collect();
        let mut kept = keep.iter();
        if policy != IdlePolicy::Report {
            answer.rows.retain(|_| kept.next().is_none_or(|kept| *kept));
            owed.retain(|owed| *owed != (0, 0));
        }
        let charge = |(own_nanos, idle_nanos): (i128, i128)| Charge {
            charge: decimal::from_nanos(own_nanos + idle_nanos),
            idle_share: decimal::from_nanos(idle_nanos),
        };
        Ok(Self { charges: owed.into_iter().map(charge).collect(), answer })
    }

    pub(super) fn grid(&self) -> Grid {
        let mut grid = cost::grid(&self.answer);
        let places = places(&self.answer.totals.cost);
        let shown = |charge: &Charge| [&charge.idle_share, &charge.charge].map(|nanos| money(nanos, places));
        let rest = self.charges.iter().filter_map(|charge| decimal::to_nanos(&charge.idle_share)).sum();
        let total = Charge { charge: self.answer.totals.cost.clone(), idle_share: decimal::from_nanos(rest) };
        for (cells, charge) in grid.rows.iter_mut().zip(self.charges.iter().chain([&total])) {
            cells.extend(shown(charge));
        }
        grid.columns.extend(["of it idle".to_owned(), format!("charge {}", self.answer.currency)].map(right));
        let idle = match self.answer.idle_policy {
            IdlePolicy::Report => "what nobody held is in rows of its own",
            IdlePolicy::Share => "what nobody held is shared within each cluster, by what was held",
            IdlePolicy::Platform => "what nobody held is the platform's",
        };
        grid.notes.push(format!("The charges sum to the total, to the nano; {idle}."));
        grid
    }

    /// The answer, each of its rows with what it owes.
    pub(super) fn json(&self) -> Value {
        let mut json = serde_json::json!(self.answer);
        let rows = json.get_mut("rows").and_then(Value::as_array_mut).into_iter().flatten();
        for (row, Charge { charge, idle_share }) in rows.zip(&self.charges) {
            row["charge"] = charge.as_str().into();
            row["idle_share"] = idle_share.as_str().into();
        }
        json
    }

    pub(super) fn csv(&self) -> Vec<Vec<String>> {
        let mut rows = cost::csv(&self.answer);
        let mut rest = rows.iter_mut();
        if let Some(header) = rest.next() {
            header.extend(["idle_share", "charge"].map(str::to_owned));
        }
        for (cells, Charge { charge, idle_share }) in rest.zip(&self.charges) {
            cells.extend([idle_share.clone(), charge.clone()]);
        }
        rows
    }
}

/// In each cluster, by largest remainder; who is first among equals has the odd nano. Where nobody held anything that costs
/// something it stays.
fn share(rows: &[CostRow], owed: &mut [(i128, i128)]) -> Result<(), Unreadable> {
    let mut clusters: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, row) in rows.iter().enumerate() {
        clusters.entry(row.key.get("cluster").map_or("", String::as_str)).or_default().push(at);
    }
    for of_cluster in clusters.into_values() {
        let total: i128 = of_cluster.iter().map(|at| owed[*at].0).sum();
        if total <= 0 {
            continue;
        }
        let pool: i128 = of_cluster.iter().map(|at| owed[*at].1).sum();
        let mut left = pool;
        let mut remainders = Vec::new();
        for at in of_cluster {
            let product = pool.checked_mul(owed[at].0).ok_or(Unreadable)?;
            owed[at].1 = product.div_euclid(total);
            left -= owed[at].1;
            remainders.push((std::cmp::Reverse(product.rem_euclid(total)), at));
        }
        remainders.sort_unstable();
        for (_, at) in remainders.into_iter().take(usize::try_from(left).map_err(|_| Unreadable)?) {
            owed[at].1 += 1;
        }
    }
    Ok(())
}

/// All of it in one row.
fn bear(answer: &mut CostAnswer, owed: &mut Vec<(i128, i128)>) {
    let rest = owed.iter_mut().map(|owed| std::mem::take(&mut owed.1)).sum();
    let key = answer.aggregate.iter().map(|name| (name.clone(), PLATFORM.to_owned())).collect();
    let nothing = || decimal::from_nanos(0);
    let figures = Figures {
        held_seconds: nothing(),
        busy_seconds: nothing(),
        idle_seconds: nothing(),
        unobserved_seconds: nothing(),
        energy_joules: nothing(),
        cost: decimal::from_nanos(rest),
        hourly_rate: nothing(),
        ..Figures::default()
    };
    answer.rows.push(CostRow { key, figures, methods: Vec::new() });
    owed.push((0, rest));
}

#[cfg(test)]
mod tests {
    use tonnage_proto::rest::Window;

    use super::*;

    fn answer(rows: &[(&str, &str, i128, i128)]) -> CostAnswer {
        let row = |(cluster, team, held, rest): &(&str, &str, i128, i128)| CostRow {
            key: [("cluster", *cluster), ("team", *team)].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            figures: Figures {
                held_cost: decimal::from_nanos(*held),
                cost: decimal::from_nanos(held + rest),
                ..Figures::default()
            },
            methods: Vec::new(),
        };
        let total = rows.iter().map(|(_, _, held, rest)| held + rest).sum();
        CostAnswer {
            window: Window { start: "2026-02-01T00:00:00Z".into(), end: "2026-03-01T00:00:00Z".into() },
            currency: "USD".into(),
            idle_policy: IdlePolicy::Report,
            aggregate: vec!["cluster".into(), "team".into()],
            rows: rows.iter().map(row).collect(),
            series: Vec::new(),
            next_page: None,
            totals: Figures { cost: decimal::from_nanos(total), ..Figures::default() },
            coverage: String::new(),
            data_age_seconds: None,
        }
    }

    fn charges(bill: &Bill) -> Vec<(&str, i128)> {
        let team = |row: &'_ CostRow| row.key["team"].clone();
        let nanos = |charge: &Charge| decimal::to_nanos(&charge.charge).unwrap();
        let teams: Vec<&str> = bill.answer.rows.iter().map(|row| row.key["team"].as_str()).collect();
        assert_eq!(teams.len(), bill.charges.len(), "{:?}", bill.answer.rows.iter().map(team));
        teams.into_iter().zip(bill.charges.iter().map(nanos)).collect()
    }

    const ROWS: [(&str, &str, i128, i128); 6] = [
        ("a", "x", 60, 0),
        ("a", "y", 30, 0),
        ("a", "__idle__", 0, 7),
        ("b", "x", 5, 0),
        ("b", "__unobserved__", 0, 4),
        ("c", "__idle__", 0, 20),
    ];

    #[test]
    fn idle_cost_is_shared_within_its_cluster_and_what_nobody_can_bear_stays() {
        let bill = Bill::of(answer(&ROWS), IdlePolicy::Share).unwrap();
        assert_eq!(charges(&bill), [("x", 65), ("y", 32), ("x", 9), ("__idle__", 20)]);
        let table = bill.grid().lines().join("\n");
        assert!(table.lines().next().unwrap().ends_with("OF IT IDLE  CHARGE USD"), "{table}");
        let csv = bill.csv();
        assert_eq!((csv.len(), csv[1].last().unwrap().as_str()), (5, "0.000000065"));
        assert!(csv.iter().all(|row| row.len() == csv[0].len()));
    }

    #[test]
    fn idle_cost_is_reported_or_the_platforms_where_the_book_says_so() {
        let bill = Bill::of(answer(&ROWS), IdlePolicy::Report).unwrap();
        let costs = ROWS.map(|(_, team, held, rest)| (team, held + rest));
        assert_eq!(charges(&bill), costs);
        let bill = Bill::of(answer(&ROWS), IdlePolicy::Platform).unwrap();
        assert_eq!(charges(&bill), [("x", 60), ("y", 30), ("x", 5), ("__platform__", 31)]);
        assert_eq!(bill.json()["rows"][3]["charge"], "0.000000031");
        assert!(bill.grid().lines()[4].starts_with("__platform__  __platform__"), "{:?}", bill.grid());
    }

    #[test]
    fn idle_time_within_a_row_is_told_from_what_was_held() {
        let rows = [("a", "x", 60, 40), ("b", "y", 10, 5)];
        let bill = Bill::of(answer(&rows), IdlePolicy::Share).unwrap();
        assert_eq!(charges(&bill), [("x", 100), ("y", 15)]);
        assert_eq!(bill.charges[0].idle_share, "0.000000040");
        let bill = Bill::of(answer(&rows), IdlePolicy::Platform).unwrap();
        assert_eq!(charges(&bill), [("x", 60), ("y", 10), ("__platform__", 45)]);
    }

    #[test]
    fn whatever_is_owed_the_charges_sum_to_the_total() {
        use rand::{RngExt as _, SeedableRng as _};
        let seed = rand::random();
        println!("seed {seed}");
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        for _ in 0..500 {
            let rows: Vec<_> = (0..rng.random_range(0..20))
                .map(|_| {
                    let cluster = ["a", "b", "c"][rng.random_range(0..3)];
                    let held = i128::from(rng.random_range(0..3_u8) * 77) * 1_000_000_007;
                    (cluster, "t", held, i128::from(rng.random_range(0..1_000_000_000_u64)))
                })
                .collect();
            let total: i128 = rows.iter().map(|(_, _, held, rest)| held + rest).sum();
            for policy in [IdlePolicy::Report, IdlePolicy::Share, IdlePolicy::Platform] {
                let bill = Bill::of(answer(&rows), policy).unwrap();
                let sum: i128 = charges(&bill).into_iter().map(|(_, nanos)| nanos).sum();
                assert_eq!(sum, total, "{policy:?} {rows:?}");
            }
        }
    }
}
