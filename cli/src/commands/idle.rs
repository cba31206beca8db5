//! `tonnage idle`: who holds GPUs without using them, who uses what others hold, and what nobody is known for.

use tonnage_proto::decimal;
use tonnage_proto::rest::{HeldIdleRow, IdleAnswer, IntruderRow, OwnerName, UnattributedRow};

use super::live::{OWNER, PLACE, gpu, owner, owner_cells};
use crate::args::Idle;
use crate::output::number::{hour_places, hours, kilowatt_hours, money, percent, places};
use crate::output::{Grid, left, right};

pub(super) const PATH: &str = "/api/v1/idle";

/// The request's parameters; what is not given is left to the server.
pub(super) fn query(idle: Idle) -> Vec<(&'static str, String)> {
    super::audit::query([
        ("window", idle.last.or(idle.window)),
        ("namespace", idle.namespace),
        ("owner", idle.owner),
        ("account", idle.account),
        ("partition", idle.partition),
        ("node", idle.node),
        ("cluster", idle.cluster),
        ("device", idle.device),
        ("profile", idle.profile),
        ("limit", idle.limit.map(|limit| limit.to_string())),
    ])
}

pub(super) fn grid(answer: &IdleAnswer) -> Grid {
    let totals = &answer.totals;
    let (places, hour_places) = (places(&totals.idle_cost), hour_places(&totals.held_seconds));
    let idle = |row: &HeldIdleRow| {
        let Some(idle_seconds) = &row.idle_seconds else { return ["?", "-", "?"].map(str::to_owned) };
        let cost = match row.idle_cost.as_deref() {
            Some(_) if positive(&row.unpriced_seconds) && !row.idle_cost.as_deref().is_some_and(positive) => {
                "unpriced".to_owned()
            }
            cost => money(cost.unwrap_or_default(), places),
        };
        [hours(idle_seconds, hour_places), percent(idle_seconds, &row.held_seconds), cost]
    };
    let mut rows: Vec<Vec<String>> = answer
        .held_idle
        .iter()
        .map(|row| {
            let gpu = gpu(&row.device, &row.instance, &row.profile);
            let mut cells = vec![owner(&row.owner), row.node.clone(), gpu];
            cells.push(hours(&row.held_seconds, hour_places));
            cells.extend(idle(row));
            cells.push(match (&row.idle_since, row.holding_now) {
                (Some(since), _) => since.clone(),
                (None, true) => "-".to_owned(),
                (None, false) => "(gone)".to_owned(),
            });
            cells
        })
        .collect();
    rows.push(vec![
        "TOTAL".to_owned(),
        String::new(),
        String::new(),
        hours(&totals.held_seconds, hour_places),
        hours(&totals.idle_seconds, hour_places),
        percent(&totals.idle_seconds, &totals.held_seconds),
        money(&totals.idle_cost, places),
        String::new(),
    ]);
    let cost = format!("idle cost {}", answer.currency);
    let columns = ["held by", "node", "gpu"].map(left).into_iter();
    let figures = ["held h", "idle h", "idle %", &cost].map(right).into_iter();
    let columns = columns.chain(figures).chain([left("idle since")]).collect();
    Grid { columns, rows, notes: notes(answer) }
}

fn notes(answer: &IdleAnswer) -> Vec<String> {
    let totals = &answer.totals;
    let mut about = format!("{} to {}", answer.window.start, answer.window.end);
    match answer.data_age_seconds {
        Some(age) => about += &format!(", newest data {age} s old"),
        None => about += ", no data yet",
    }
    let mut notes = vec![String::new(), about];
    notes.push("Held-idle are holders by allocation alone; TOTAL is of all of them.".to_owned());
    if positive(&totals.busy_unknown_held_seconds) {
        let unknown = hours(&totals.busy_unknown_held_seconds, 2);
        notes.push(format!(
            "{unknown} GPU-hours were held where the driver does not say who was busy: in no total."
        ));
    }
    for (title, shown, all, grid) in [
        ("Intruders", answer.intruders.len(), totals.intruder_rows, intruders(&answer.intruders)),
        ("Unattributed", answer.unattributed.len(), totals.unattributed_rows, unattributed(answer)),
    ] {
        if shown > 0 {
            notes.extend([String::new(), format!("{title} ({shown} of {all})")]);
            notes.extend(grid.lines());
        }
    }
    notes
}

fn intruders(rows: &[IntruderRow]) -> Grid {
    let cells = |row: &IntruderRow| {
        vec![
            owner(&row.owner),
            row.node.clone(),
            gpu(&row.device, &row.instance, &row.profile),
            row.holder.as_ref().map_or_else(|| "?".to_owned(), owner),
            if row.busy_known { hours(&row.busy_seconds, 4) } else { "?".to_owned() },
            kilowatt_hours(&row.energy_joules),
            row.first.clone(),
            row.last.clone(),
        ]
    };
    let mut columns: Vec<_> = ["used by", "node", "gpu", "held by"].map(left).into();
    columns.extend(["busy h", "kWh"].map(right));
    columns.extend(["first slot", "last slot"].map(left));
    Grid { columns, rows: rows.iter().map(cells).collect(), notes: Vec::new() }
}

fn unattributed(answer: &IdleAnswer) -> Grid {
    let cost = format!("cost {}", answer.currency);
    let places = places(&answer.totals.unowned_cost);
    let cells = |row: &UnattributedRow| {
        vec![
            row.node.clone(),
            row.device.clone(),
            hours(&row.busy_unattributed_seconds, 4),
            hours(&row.unowned_held_seconds, 4),
            money(&row.unowned_cost, places),
        ]
    };
    let mut columns: Vec<_> = ["node", "gpu"].map(left).into();
    columns.extend(["busy h of nobody", "held h of nobody", &cost].map(right));
    Grid { columns, rows: answer.unattributed.iter().map(cells).collect(), notes: Vec::new() }
}

fn positive(decimal: &str) -> bool {
    decimal::to_nanos(decimal).is_some_and(|nanos| nanos > 0)
}

/// Columns of the CSV behind which list, where and whose.
const FIGURES: [&str; 13] = [
    "holder",
    "busy_known",
    "held_seconds",
    "busy_seconds",
    "idle_seconds",
    "unpriced_seconds",
    "cost",
    "energy_joules",
    "holding_now",
    "idle_since",
    "first",
    "last",
    "currency",
];

/// One table of all three lists; what a list does not have is empty.
pub(super) fn csv(answer: &IdleAnswer) -> Vec<Vec<String>> {
    let line = |list: &str, place: [&String; 6], name: OwnerName, rest: [String; 12]| {
        let mut cells = vec![list.to_owned()];
        cells.extend(place.map(Clone::clone));
        cells.extend(owner_cells(name));
        cells.extend(rest);
        cells.push(answer.currency.clone());
        cells
    };
    let none = String::new;
    let header = ["list"].into_iter().chain(PLACE).chain(OWNER).chain(FIGURES);
    let mut rows = vec![header.map(str::to_owned).collect()];
    rows.extend(answer.held_idle.iter().cloned().map(|row| {
        let rest = [
            none(),
            row.busy_known.to_string(),
            row.held_seconds,
            row.busy_seconds,
            row.idle_seconds.unwrap_or_default(),
            row.unpriced_seconds,
            row.idle_cost.unwrap_or_default(),
            none(),
            row.holding_now.to_string(),
            row.idle_since.unwrap_or_default(),
            none(),
            none(),
        ];
        let place = [&row.cluster, &row.node, &row.device, &row.model, &row.instance, &row.profile];
        line("held_idle", place, row.owner, rest)
    }));
    rows.extend(answer.intruders.iter().cloned().map(|row| {
        let rest = [
            row.holder.as_ref().map(owner).unwrap_or_default(),
            row.busy_known.to_string(),
            none(),
            row.busy_seconds,
            none(),
            none(),
            none(),
            row.energy_joules,
            none(),
            none(),
            row.first,
            row.last,
        ];
        let place = [&row.cluster, &row.node, &row.device, &row.model, &row.instance, &row.profile];
        line("intruder", place, row.owner, rest)
    }));
    rows.extend(answer.unattributed.iter().cloned().map(|row| {
        let mut rest: [String; 12] = Default::default();
        rest[2] = row.unowned_held_seconds;
        rest[3] = row.busy_unattributed_seconds;
        rest[6] = row.unowned_cost;
        let place = [&row.cluster, &row.node, &row.device, &row.model, &none(), &none()];
        line("unattributed", place, OwnerName::default(), rest)
    }));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonnage_proto::rest::{IdleTotals, Window};

    fn held(pod: &str, idle: Option<&str>, since: Option<&str>) -> HeldIdleRow {
        HeldIdleRow {
            cluster: "c".into(),
            node: "n1".into(),
            device: "GPU-1".into(),
            model: "H100".into(),
            instance: String::new(),
            profile: String::new(),
            owner: OwnerName {
                kind: "pod".into(),
                namespace: "ml".into(),
                pod: pod.into(),
                ..OwnerName::default()
            },
            busy_known: idle.is_some(),
            held_seconds: "7200.000000000".into(),
            busy_seconds: "1800.000000000".into(),
            idle_seconds: idle.map(str::to_owned),
            idle_cost: idle.map(|_| "3.750000000".into()),
            unpriced_seconds: "0.000000000".into(),
            holding_now: since.is_some(),
            idle_since: since.map(str::to_owned),
        }
    }

    fn answer() -> IdleAnswer {
        let intruder = IntruderRow {
            cluster: "c".into(),
            node: "n1".into(),
            device: "GPU-1".into(),
            model: "H100".into(),
            instance: String::new(),
            profile: String::new(),
            owner: OwnerName { kind: "user".into(), user: "eve".into(), ..OwnerName::default() },
            holder: None,
            busy_known: true,
            busy_seconds: "360.000000000".into(),
            energy_joules: "3600000.000000000".into(),
            first: "f".into(),
            last: "l".into(),
        };
        IdleAnswer {
            window: Window { start: "a".into(), end: "b".into() },
            currency: "USD".into(),
            held_idle: vec![
                held("train-0", Some("5400.000000000"), Some("2026-01-01T00:00:00Z")),
                held("web-0", None, None),
            ],
            intruders: vec![intruder],
            unattributed: Vec::new(),
            totals: IdleTotals {
                held_seconds: "7200.000000000".into(),
                idle_seconds: "5400.000000000".into(),
                idle_cost: "3.750000000".into(),
                busy_unknown_held_seconds: "7200.000000000".into(),
                intruder_rows: 1,
                ..IdleTotals::default()
            },
            data_age_seconds: Some(7),
        }
    }

    #[test]
    fn a_table_shows_what_idles_and_what_is_not_known() {
        let mut out = Vec::new();
        grid(&answer()).write(&mut out).unwrap();
        let expected = "\
HELD BY     NODE  GPU    HELD H  IDLE H  IDLE %  IDLE COST USD  IDLE SINCE
ml/train-0  n1    GPU-1    2.00    1.50    75.0         3.7500  2026-01-01T00:00:00Z
ml/web-0    n1    GPU-1    2.00       ?       -              ?  (gone)
TOTAL                      2.00    1.50    75.0         3.7500

a to b, newest data 7 s old
Held-idle are holders by allocation alone; TOTAL is of all of them.
2.00 GPU-hours were held where the driver does not say who was busy: in no total.

Intruders (1 of 1)
USED BY   NODE  GPU    HELD BY  BUSY H    KWH  FIRST SLOT  LAST SLOT
user eve  n1    GPU-1  ?        0.1000  1.000  f           l
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn csv_has_every_list_under_one_header() {
        let rows = csv(&answer());
        assert!(rows.iter().all(|row| row.len() == rows[0].len()));
        let lists: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
        assert_eq!(lists, ["list", "held_idle", "held_idle", "intruder"]);
        assert_eq!((rows[1][23].as_str(), rows[2][23].as_str()), ("5400.000000000", ""));
    }
}
