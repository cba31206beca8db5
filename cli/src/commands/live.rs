//! `tonnage top` as one table: who is on the GPUs right now.

use tonnage_proto::decimal;
use tonnage_proto::rest::{LiveAnswer, LiveRow, OwnerName};

use crate::output::number::{gibibytes, money, permille};
use crate::output::{Grid, left, right};

pub(super) const PATH: &str = "/api/v1/live";

pub(super) fn grid(answer: &LiveAnswer) -> Grid {
    let columns = vec![
        left("cluster"),
        left("node"),
        left("device"),
        left("owner"),
        right("held %"),
        right("busy %"),
        right("mem gib"),
        right("per h"),
        right("age s"),
    ];
    let rows = answer.rows.iter().map(|row| {
        let gpu = gpu(&row.device, &row.instance, &row.profile);
        let mut cells = vec![row.cluster.clone(), row.node.clone(), gpu];
        cells.extend(describe(row));
        cells
    });
    Grid { columns, rows: rows.collect(), notes: vec![String::new(), summary(answer)] }
}

/// A GPU by its UUID, or an instance of one by its own and its profile.
pub(super) fn gpu(device: &str, instance: &str, profile: &str) -> String {
    match (instance, profile) {
        ("", _) => device.to_owned(),
        (instance, "") => instance.to_owned(),
        (instance, profile) => format!("{instance} ({profile})"),
    }
}

/// Owner, held, busy, memory, rate and age of a row, for people.
pub(crate) fn describe(row: &LiveRow) -> [String; 6] {
    [
        if row.intruder { format!("{} (intruder)", owner(&row.owner)) } else { owner(&row.owner) },
        permille(row.held_permille),
        permille(row.busy_permille),
        gibibytes(row.memory_bytes),
        row.hourly_rate.as_deref().map_or_else(|| "unpriced".to_owned(), |rate| money(rate, 4)),
        row.age_seconds.to_string(),
    ]
}

/// One line: what all of it costs per hour, and how much of that is idle.
pub(crate) fn summary(answer: &LiveAnswer) -> String {
    let sum = |idle_only: bool| {
        let rows = answer.rows.iter().filter(|row| !idle_only || row.owner.kind == "idle");
        let nanos = rows.filter_map(|row| decimal::to_nanos(row.hourly_rate.as_deref()?)).sum();
        money(&decimal::from_nanos(nanos), 2)
    };
    format!("{}  {} {} per hour, {} of it idle", answer.at, sum(false), answer.currency, sum(true))
}

/// The name that people know an owner by.
pub(super) fn owner(name: &OwnerName) -> String {
    let or = |first: &str, second: &str| if first.is_empty() { second.to_owned() } else { first.to_owned() };
    match name.kind.as_str() {
        "pod" => {
            let namespace = or(&name.namespace, "?");
            format!("{namespace}/{}", or(&name.pod, &name.pod_uid))
        }
        "slurm_job" => {
            let step = if name.step.is_empty() { String::new() } else { format!(".{}", name.step) };
            format!("job {}{step} {}", name.job, name.user).trim_end().to_owned()
        }
        "systemd_unit" => name.unit.clone(),
        "user" => format!("user {}", name.user),
        "container" => format!("container {}", or(&name.container, &name.container_id)),
        "virtual_machine" => format!("vm {}", name.unit),
        "idle" => "(idle)".to_owned(),
        other => format!("({other})"),
    }
}

pub(super) fn csv(answer: &LiveAnswer) -> Vec<Vec<String>> {
    let figures =
        ["intruder", "held_permille", "busy_permille", "memory_bytes", "hourly_rate", "age_seconds"];
    let header = PLACE.into_iter().chain(OWNER).chain(figures).map(str::to_owned).collect();
    let rows = answer.rows.iter().cloned().map(|row| {
        let mut cells = vec![row.cluster, row.node, row.device, row.model, row.instance, row.profile];
        cells.extend(owner_cells(row.owner));
        cells.extend([
            row.intruder.to_string(),
            row.held_permille.to_string(),
            row.busy_permille.to_string(),
            row.memory_bytes.to_string(),
            row.hourly_rate.unwrap_or_default(),
            row.age_seconds.to_string(),
        ]);
        cells
    });
    std::iter::once(header).chain(rows).collect()
}

/// Columns of CSV that say where, and the fields of an owner as [`owner_cells`] gives them.
pub(super) const PLACE: [&str; 6] = ["cluster", "node", "device", "model", "instance", "profile"];
pub(super) const OWNER: [&str; 12] = [
    "kind",
    "namespace",
    "pod",
    "pod_uid",
    "container",
    "container_id",
    "job",
    "step",
    "unit",
    "user",
    "account",
    "partition",
];

/// The fields of an owner, as CSV has them.
pub(super) fn owner_cells(name: OwnerName) -> [String; 12] {
    let OwnerName {
        kind,
        namespace,
        pod,
        pod_uid,
        container,
        container_id,
        job,
        step,
        unit,
        user,
        account,
        partition,
    } = name;
    [kind, namespace, pod, pod_uid, container, container_id, job, step, unit, user, account, partition]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kind: &str, rate: Option<&str>) -> LiveRow {
        LiveRow {
            cluster: "c".into(),
            node: "n1".into(),
            device: "GPU-1".into(),
            model: "H100".into(),
            instance: String::new(),
            profile: String::new(),
            owner: OwnerName {
                kind: kind.into(),
                namespace: "ml".into(),
                pod: "t".into(),
                ..OwnerName::default()
            },
            intruder: false,
            held_permille: 1000,
            busy_permille: 425,
            memory_bytes: 1 << 30,
            hourly_rate: rate.map(str::to_owned),
            age_seconds: 4,
        }
    }

    #[test]
    fn a_summary_says_what_is_spent_and_what_of_it_on_nothing() {
        let rows = vec![row("pod", Some("2.500000000")), row("idle", Some("1.000000000")), row("user", None)];
        let answer = LiveAnswer { at: "now".into(), currency: "USD".into(), rows };
        assert_eq!(summary(&answer), "now  3.50 USD per hour, 1.00 of it idle");
        let mut out = Vec::new();
        grid(&answer).write(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("ml/t     100.0    42.5      1.0    2.5000      4"), "{text}");
        assert_eq!(csv(&answer)[0].len(), csv(&answer)[1].len());
    }

    #[test]
    fn owners_have_the_names_that_people_know() {
        let name = |kind: &str| OwnerName {
            kind: kind.into(),
            pod_uid: "uid".into(),
            job: "12".into(),
            step: "0".into(),
            unit: "a.service".into(),
            user: "ada".into(),
            container_id: "cid".into(),
            ..OwnerName::default()
        };
        for (kind, shown) in [
            ("pod", "?/uid"),
            ("slurm_job", "job 12.0 ada"),
            ("systemd_unit", "a.service"),
            ("user", "user ada"),
            ("container", "container cid"),
            ("idle", "(idle)"),
            ("unowned", "(unowned)"),
        ] {
            assert_eq!(owner(&name(kind)), shown);
        }
    }
}
