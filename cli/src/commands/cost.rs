//! `tonnage cost`.

use tonnage_proto::decimal;
use tonnage_proto::rest::{CostAnswer, CostRow, Figures, Window};

use crate::args::Cost;
use crate::output::number::{hour_places, hours, kilowatt_hours, money, percent, places};
use crate::output::{Grid, left, right};

/// Groupings that the device or its node has, whoever holds it: then each row has idle time of its own.
const OF_DEVICES: [&str; 11] = [
    "cluster",
    "node",
    "device",
    "model",
    "instance",
    "profile",
    "capacity_type",
    "instance_type",
    "region",
    "zone",
    "pool",
];

/// The request's parameters; what is not given is left to the server.
pub(super) fn query(cost: &Cost) -> Vec<(&'static str, String)> {
    let window = cost.last.clone().or_else(|| cost.window.clone());
    let given = [
        ("window", window),
        ("offset", cost.offset.clone()),
        ("step", cost.step.clone()),
        ("aggregate", cost.by.clone()),
        ("filter", cost.filter.clone()),
        ("namespace", cost.namespace.clone()),
        ("owner", cost.owner.clone()),
        ("account", cost.account.clone()),
        ("partition", cost.partition.clone()),
        ("node", cost.node.clone()),
        ("cluster", cost.cluster.clone()),
        ("device", cost.device.clone()),
        ("profile", cost.profile.clone()),
        ("idle", cost.no_idle.then(|| "false".to_owned())),
        ("order", cost.order.clone()),
        ("limit", cost.limit.map(|limit| limit.to_string())),
        ("page", cost.page.clone()),
    ];
    given.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// The rows, or those of each step with its window.
fn rows(answer: &CostAnswer) -> Vec<(Option<&Window>, &CostRow)> {
    if answer.series.is_empty() {
        return answer.rows.iter().map(|row| (None, row)).collect();
    }
    let steps = answer.series.iter();
    steps.flat_map(|step| step.rows.iter().map(|row| (Some(&step.window), row))).collect()
}

fn key(answer: &CostAnswer, row: &CostRow) -> Vec<String> {
    answer.aggregate.iter().map(|name| row.key.get(name).cloned().unwrap_or_default()).collect()
}

fn of_device(name: &str) -> bool {
    OF_DEVICES.contains(&name) || name.starts_with("node_label:")
}

pub(super) fn grid(answer: &CostAnswer) -> Grid {
    let by_device = answer.aggregate.iter().all(|name| of_device(name));
    let in_steps = !answer.series.is_empty();
    let places = places(&answer.totals.cost);
    let hour_places = hour_places(&gpu_seconds(&answer.totals));
    let figures = |figures: &Figures| {
        let mut cells = vec![hours(&gpu_seconds(figures), hour_places)];
        if by_device {
            cells.extend(
                [&figures.held_seconds, &figures.idle_seconds, &figures.unobserved_seconds]
                    .map(|seconds| hours(seconds, hour_places)),
            );
        }
        cells.push(percent(&figures.busy_seconds, &figures.held_seconds));
        cells.push(kilowatt_hours(&figures.energy_joules));
        cells.push(money(&figures.cost, places));
        cells.push(money(&figures.hourly_rate, places));
        cells
    };
    let mut columns: Vec<_> = in_steps.then(|| left("from")).into_iter().collect();
    columns.extend(answer.aggregate.iter().map(left));
    let names = columns.len();
    columns.push(right("gpu h"));
    if by_device {
        columns.extend(["held h", "idle h", "unobs h"].map(right));
    }
    columns.extend(
        ["busy %".to_owned(), "kWh".to_owned(), format!("cost {}", answer.currency), "per h".to_owned()]
            .map(right),
    );
    let mut rows: Vec<Vec<String>> = rows(answer)
        .into_iter()
        .map(|(window, row)| {
            let mut cells: Vec<String> = window.map(|window| window.start.clone()).into_iter().collect();
            cells.extend(key(answer, row));
            cells.extend(figures(&row.figures));
            cells
        })
        .collect();
    let mut totals = vec![String::new(); names];
    if let Some(first) = totals.first_mut() {
        "TOTAL".clone_into(first);
    }
    totals.extend(figures(&answer.totals));
    rows.push(totals);
    Grid { columns, rows, notes: notes(answer) }
}

fn notes(answer: &CostAnswer) -> Vec<String> {
    let mut about = format!("{} to {}", answer.window.start, answer.window.end);
    if let Some(observed) = percent_of(&answer.coverage) {
        about += &format!(", {observed} % observed");
    }
    match answer.data_age_seconds {
        Some(age) => about += &format!(", newest data {age} s old"),
        None => about += ", no data yet",
    }
    let mut notes = vec![String::new(), about];
    let totals = &answer.totals;
    if decimal::to_nanos(&totals.unpriced_seconds).is_some_and(|nanos| nanos > 0) {
        notes.push(format!(
            "{} GPU-hours have no price and are in no cost.",
            hours(&totals.unpriced_seconds, 2)
        ));
    }
    if let Some(page) = &answer.next_page {
        notes.push(format!("The rows behind these: the same with --page {page}"));
    }
    notes
}

/// `"0.998"` is 99.8.
fn percent_of(coverage: &str) -> Option<String> {
    (!coverage.is_empty()).then(|| percent(coverage, "1"))
}

/// All the time that a row is about.
pub(super) fn gpu_seconds(figures: &Figures) -> String {
    let parts = [&figures.held_seconds, &figures.idle_seconds, &figures.unobserved_seconds];
    decimal::from_nanos(parts.into_iter().filter_map(|text| decimal::to_nanos(text)).sum())
}

pub(super) fn csv(answer: &CostAnswer) -> Vec<Vec<String>> {
    let in_steps = !answer.series.is_empty();
    let mut header: Vec<String> =
        ["window_start", "window_end"].iter().filter(|_| in_steps).map(|&name| name.to_owned()).collect();
    header.extend(answer.aggregate.clone());
    header.extend(
        [
            "held_seconds",
            "busy_seconds",
            "idle_seconds",
            "unobserved_seconds",
            "unpriced_seconds",
            "memory_byte_seconds",
            "energy_joules",
            "held_cost",
            "idle_cost",
            "unobserved_cost",
            "rounding_cost",
            "cost",
            "hourly_rate",
            "intruder_busy_seconds",
            "currency",
            "methods",
            "cpu_seconds",
            "ram_byte_seconds",
            "job_cpu_cost",
            "job_ram_cost",
        ]
        .map(str::to_owned),
    );
    let rows = rows(answer).into_iter().map(|(window, row)| {
        let mut cells: Vec<String> =
            window.map(|window| [window.start.clone(), window.end.clone()]).into_iter().flatten().collect();
        cells.extend(key(answer, row));
        let figures = row.figures.clone();
        cells.extend([
            figures.held_seconds,
            figures.busy_seconds,
            figures.idle_seconds,
            figures.unobserved_seconds,
            figures.unpriced_seconds,
            figures.memory_byte_seconds,
            figures.energy_joules,
            figures.held_cost,
            figures.idle_cost,
            figures.unobserved_cost,
            figures.rounding_cost,
            figures.cost,
            figures.hourly_rate,
            figures.intruder_busy_seconds,
            answer.currency.clone(),
            row.methods.join(" "),
            figures.cpu_seconds,
            figures.ram_byte_seconds,
            figures.job_cpu_cost,
            figures.job_ram_cost,
        ]);
        cells
    });
    std::iter::once(header).chain(rows).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonnage_proto::rest::{CostStep, IdlePolicy};

    fn figures(held: &str, idle: &str, cost: &str) -> Figures {
        Figures {
            held_seconds: held.into(),
            busy_seconds: "1800.000000000".into(),
            idle_seconds: idle.into(),
            unobserved_seconds: "0.000000000".into(),
            unpriced_seconds: "0.000000000".into(),
            memory_byte_seconds: "5".into(),
            energy_joules: "3600000.000000000".into(),
            cost: cost.into(),
            hourly_rate: cost.into(),
            ..Figures::default()
        }
    }

    fn answer(aggregate: &str) -> CostAnswer {
        let row = |key: &str, figures| CostRow {
            key: [(aggregate.to_owned(), key.to_owned())].into(),
            figures,
            methods: vec!["held_cgroup".into(), "held_split".into()],
        };
        CostAnswer {
            window: Window { start: "2026-01-01T00:00:00Z".into(), end: "2026-01-02T00:00:00Z".into() },
            currency: "USD".into(),
            idle_policy: IdlePolicy::Report,
            aggregate: vec![aggregate.to_owned()],
            rows: vec![
                row("ml", figures("3600.000000000", "0.000000000", "2.345678901")),
                row("__idle__", figures("0.000000000", "7200.000000000", "10.000000000")),
            ],
            totals: Figures {
                unpriced_seconds: "3600.000000000".into(),
                ..figures("3600.000000000", "7200.000000000", "12.345678901")
            },
            series: Vec::new(),
            next_page: None,
            coverage: "0.998".into(),
            data_age_seconds: Some(12),
        }
    }

    fn shown(answer: &CostAnswer) -> String {
        let mut out = Vec::new();
        grid(answer).write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_table_has_totals_and_says_what_it_is_about() {
        let expected = "\
NAMESPACE  GPU H  BUSY %    KWH  COST USD    PER H
ml          1.00    50.0  1.000    2.3457   2.3457
__idle__    2.00       -  1.000   10.0000  10.0000
TOTAL       3.00    50.0  1.000   12.3457  12.3457

2026-01-01T00:00:00Z to 2026-01-02T00:00:00Z, 99.8 % observed, newest data 12 s old
1.00 GPU-hours have no price and are in no cost.
";
        assert_eq!(shown(&answer("namespace")), expected);
    }

    #[test]
    fn a_table_of_devices_shows_their_idle_time() {
        let text = shown(&answer("device"));
        assert!(text.starts_with("DEVICE    GPU H  HELD H  IDLE H  UNOBS H  BUSY %"), "{text}");
    }

    #[test]
    fn a_series_has_a_row_for_each_step_and_key() {
        let mut stepped = answer("namespace");
        let window = |day: u32| Window {
            start: format!("2026-01-0{day}T00:00:00Z"),
            end: format!("2026-01-0{}T00:00:00Z", day + 1),
        };
        let step = |day| CostStep {
            window: window(day),
            rows: stepped.rows.clone(),
            totals: stepped.totals.clone(),
            coverage: String::new(),
        };
        stepped.series = vec![step(1), step(2)];
        let text = shown(&stepped);
        assert!(text.starts_with("FROM                  NAMESPACE  GPU H"), "{text}");
        assert!(text.contains("2026-01-02T00:00:00Z  ml          1.00"), "{text}");
        let rows = csv(&stepped);
        assert_eq!((rows.len(), rows[0].len()), (5, rows[1].len()));
        assert_eq!(rows[4][..3], ["2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z", "__idle__"]);
    }

    #[test]
    fn what_lies_behind_a_page_can_be_asked_for() {
        let mut first = answer("namespace");
        first.next_page = Some("1-2-3-4".to_owned());
        assert!(shown(&first).ends_with("The rows behind these: the same with --page 1-2-3-4\n"));
    }

    #[test]
    fn csv_is_exact() {
        let rows = csv(&answer("namespace"));
        assert_eq!(rows[0].len(), rows[1].len());
        assert_eq!(rows[1][0], "ml");
        assert_eq!(rows[1][12], "2.345678901");
        assert_eq!(rows[1][16], "held_cgroup held_split");
    }

    #[test]
    fn a_query_says_only_what_was_given() {
        use clap::Parser as _;
        let parse = |args: &[&str]| match crate::args::Args::parse_from(args).command {
            crate::args::Command::Cost(cost) => query(&cost),
            _ => panic!("not cost"),
        };
        assert!(parse(&["tonnage", "cost"]).is_empty());
        assert_eq!(
            parse(&["tonnage", "cost", "pods", "--last", "7d", "--no-idle", "--by", "pod,user"]),
            [("window", "7d".to_owned()), ("aggregate", "pod,user".to_owned()), ("idle", "false".to_owned())]
        );
        let parsed = parse(&[
            "tonnage",
            "cost",
            "--filter",
            "pod:\"a\"",
            "--step",
            "1d",
            "--top",
            "5",
            "--order",
            "name",
        ]);
        let names: Vec<&str> = parsed.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["step", "filter", "order", "limit"]);
    }
}
