//! `tonnage report`: what is read from many answers, or of many months.

use std::io::Write;

use tonnage_proto::decimal;
use tonnage_proto::rest::{CostAnswer, IdlePolicy, MonthsAnswer};

use self::bill::Bill;
use super::{Show, cost};
use crate::args::{Chargeback, Output, Report};
use crate::client::Client;
use crate::error::Error;
use crate::output::number::{hour_places, hours, kilowatt_hours, money, percent, places};
use crate::output::{self, Grid, left, right};

mod bill;

/// The most that the server gives at once.
const ROWS_PER_PAGE: usize = 10_000;
/// So that a server that always knows a next page does not fill this process.
const PAGES_MAX: usize = 100;

pub(super) fn report(show: &Show<'_>, report: Report, out: &mut dyn Write) -> Result<(), Error> {
    match report {
        Report::Chargeback(wanted) => {
            let bill = chargeback(show.client, wanted)?;
            if show.output == Output::Json {
                return Ok(output::json(&bill.json(), out)?);
            }
            show.rows(&bill, Bill::grid, Bill::csv, out)
        }
        Report::Monthly { months, filter, cluster } => {
            let months = months.map(|months| months.to_string());
            let query = given([("months", months), ("filter", filter), ("cluster", cluster)]);
            show.write(&show.client.get("/api/v1/cost/monthly", &query)?, monthly, monthly_csv, out)
        }
    }
}

fn chargeback(client: &Client, wanted: Chargeback) -> Result<Bill, Error> {
    let Chargeback { month, by, filter, cluster, idle } = wanted;
    let is_filtered = filter.is_some();
    let mut query = given([
        ("window", Some(month.unwrap_or_else(|| "lastmonth".to_owned()))),
        ("filter", filter),
        ("cluster", cluster),
        ("limit", Some(ROWS_PER_PAGE.to_string())),
    ]);
    query.push(("aggregate", by.clone()));
    let mut answer = whole(|page| ask(client, &query, page))?;
    let policy = idle.map_or(answer.idle_policy, IdlePolicy::from);
    if policy != IdlePolicy::Report && is_filtered {
        let why = "idle cost cannot be laid on the rows that a filter lets through alone; leave the filter out, or use --idle report";
        return Err(Error::Refused(why.to_owned()));
    }
    if policy == IdlePolicy::Share && !answer.aggregate.iter().any(|name| name == "cluster") {
        query.pop();
        query.push(("aggregate", format!("cluster,{by}")));
        answer = whole(|page| ask(client, &query, page))?;
    }
    let unreadable =
        |_| Error::Refused("an amount in the server's answer is none, or beyond 128 bits".to_owned());
    Bill::of(answer, policy).map_err(unreadable)
}

fn given<const N: usize>(query: [(&'static str, Option<String>); N]) -> Vec<(&'static str, String)> {
    query.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn ask(client: &Client, query: &[(&'static str, String)], page: Option<String>) -> Result<CostAnswer, Error> {
    let page = page.map(|page| ("page", page));
    let query: Vec<_> = query.iter().cloned().chain(page).collect();
    client.parse(&client.get("/api/v1/cost/namespaces", &query)?)
}

/// All pages of an answer as one, whose rows sum to its total; else somebody would pay too much or too little.
fn whole(mut ask: impl FnMut(Option<String>) -> Result<CostAnswer, Error>) -> Result<CostAnswer, Error> {
    let changed =
        || Error::Refused("the ledger changed while the report was read; have it made again".to_owned());
    let mut answer = ask(None)?;
    for _ in 0..PAGES_MAX {
        let Some(page) = answer.next_page.take() else { break };
        // The sum of what is on the pages to come.
        answer.rows.pop();
        let next = ask(Some(page))?;
        if next.totals != answer.totals || next.window != answer.window {
            return Err(changed());
        }
        answer.rows.extend(next.rows);
        answer.next_page = next.next_page;
    }
    let costs: Option<Vec<i128>> =
        answer.rows.iter().map(|row| decimal::to_nanos(&row.figures.cost)).collect();
    let sum = costs.map(|costs| costs.iter().sum());
    if sum.is_none() || sum != decimal::to_nanos(&answer.totals.cost) {
        return Err(changed());
    }
    Ok(answer)
}

fn monthly(answer: &MonthsAnswer) -> Grid {
    let cost: i128 = answer.months.iter().filter_map(|month| decimal::to_nanos(&month.figures.cost)).sum();
    let seconds: i128 =
        answer.months.iter().filter_map(|month| decimal::to_nanos(&cost::gpu_seconds(&month.figures))).sum();
    let (cost, seconds) = (decimal::from_nanos(cost), decimal::from_nanos(seconds));
    let (places, hour_places) = (places(&cost), hour_places(&seconds));
    let count = |count: Option<u64>| count.map_or_else(|| "?".to_owned(), |count| count.to_string());
    let mut rows: Vec<Vec<String>> = answer
        .months
        .iter()
        .map(|month| {
            let figures = &month.figures;
            vec![
                month.month.clone(),
                count(month.namespaces),
                count(month.pods),
                hours(&cost::gpu_seconds(figures), hour_places),
                percent(&figures.busy_seconds, &figures.held_seconds),
                kilowatt_hours(&figures.energy_joules),
                money(&figures.idle_cost, places),
                money(&figures.cost, places),
            ]
        })
        .collect();
    let mut totals = vec![String::new(); 8];
    "TOTAL".clone_into(&mut totals[0]);
    totals[3] = hours(&seconds, hour_places);
    totals[7] = money(&cost, places);
    rows.push(totals);
    let mut columns = vec![left("month")];
    let names = ["namespaces", "pods", "gpu h", "busy %", "kWh", "of it idle"].map(str::to_owned);
    columns.extend(names.into_iter().chain([format!("cost {}", answer.currency)]).map(right));
    Grid { columns, rows, notes: Vec::new() }
}

fn monthly_csv(answer: &MonthsAnswer) -> Vec<Vec<String>> {
    let header = [
        "month",
        "window_start",
        "window_end",
        "namespaces",
        "pods",
        "held_seconds",
        "busy_seconds",
        "idle_seconds",
        "unobserved_seconds",
        "unpriced_seconds",
        "energy_joules",
        "held_cost",
        "idle_cost",
        "unobserved_cost",
        "rounding_cost",
        "cost",
        "currency",
    ];
    let count = |count: Option<u64>| count.map(|count| count.to_string()).unwrap_or_default();
    let rows = answer.months.iter().cloned().map(|month| {
        let figures = month.figures;
        vec![
            month.month,
            month.window.start,
            month.window.end,
            count(month.namespaces),
            count(month.pods),
            figures.held_seconds,
            figures.busy_seconds,
            figures.idle_seconds,
            figures.unobserved_seconds,
            figures.unpriced_seconds,
            figures.energy_joules,
            figures.held_cost,
            figures.idle_cost,
            figures.unobserved_cost,
            figures.rounding_cost,
            figures.cost,
            answer.currency.clone(),
        ]
    });
    std::iter::once(header.map(str::to_owned).to_vec()).chain(rows).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonnage_proto::rest::{CostRow, Figures, MonthRow, Window};

    fn row(name: &str, cost: &str) -> CostRow {
        let figures = Figures { cost: cost.into(), ..Figures::default() };
        CostRow { key: [("namespace".to_owned(), name.to_owned())].into(), figures, methods: Vec::new() }
    }

    fn answer(rows: Vec<CostRow>, next_page: Option<&str>) -> CostAnswer {
        CostAnswer {
            window: Window { start: "2026-02-01T00:00:00Z".into(), end: "2026-03-01T00:00:00Z".into() },
            currency: "USD".into(),
            idle_policy: IdlePolicy::Report,
            aggregate: vec!["namespace".into()],
            rows,
            series: Vec::new(),
            next_page: next_page.map(str::to_owned),
            totals: Figures { cost: "6.000000001".into(), ..Figures::default() },
            coverage: String::new(),
            data_age_seconds: None,
        }
    }

    #[test]
    fn a_chargeback_is_all_pages_and_sums_to_the_total_to_the_nano() {
        let pages = |last: &str| {
            let last = answer(vec![row("c", last)], None);
            let first = vec![
                row("a", "3.000000000"),
                row("__idle__", "2.000000000"),
                row("__other__", "1.000000001"),
            ];
            let first = answer(first, Some("next"));
            move |page: Option<String>| Ok(if page.is_none() { first.clone() } else { last.clone() })
        };
        let found = whole(pages("1.000000001")).unwrap();
        let names: Vec<&str> = found.rows.iter().map(|row| row.key["namespace"].as_str()).collect();
        assert_eq!(names, ["a", "__idle__", "c"]);
        let wrong = whole(pages("1.000000002")).unwrap_err();
        assert!(wrong.to_string().contains("changed while"), "{wrong}");
    }

    #[test]
    fn a_report_of_months_has_their_sum() {
        let month = |month: &str, cost: &str| MonthRow {
            month: month.into(),
            window: Window { start: String::new(), end: String::new() },
            figures: Figures {
                cost: cost.into(),
                held_seconds: "3600.000000000".into(),
                ..Figures::default()
            },
            coverage: String::new(),
            namespaces: Some(2),
            pods: None,
        };
        let months = vec![month("2026-01", "1.500000000"), month("2026-02", "2.500000001")];
        let answer = MonthsAnswer { currency: "EUR".into(), months, data_age_seconds: None };
        let lines = monthly(&answer).lines();
        assert!(lines[1].starts_with("2026-01           2     ?   1.00"), "{}", lines[1]);
        assert!(lines[3].starts_with("TOTAL") && lines[3].ends_with("4.0000"), "{}", lines[3]);
        let rows = monthly_csv(&answer);
        assert_eq!((rows[0].len(), rows[2][15].as_str()), (rows[1].len(), "2.500000001"));
    }
}
