//! `tonnage explain`: one slot of a GPU, a MIG instance, a pod or a job, line by line. Numbers are the ledger's own, whole
//! nanoseconds and nano-dollars, so that each line can be worked out again.

use tonnage_proto::rest::explain::{
    ExplainAnswer, ExplainedDevice, ExplainedEntry, ExplainedPrice, ExplainedRow, ExplainedWindow,
};

use super::live::{OWNER, owner, owner_cells};
use crate::args::Explain;
use crate::output::Grid;

pub(super) const PATH: &str = "/api/v1/explain";

pub(super) fn query(explain: Explain) -> Vec<(&'static str, String)> {
    let Explain { subject, at, cluster } = explain;
    let named = (kind(&subject), subject);
    let given = [("at", at), ("cluster", cluster)];
    std::iter::once(named).chain(given.into_iter().filter_map(|(name, value)| Some((name, value?)))).collect()
}

/// What a name is of, by its form.
fn kind(subject: &str) -> &'static str {
    match subject {
        _ if subject.starts_with("GPU-") => "device",
        _ if subject.starts_with("MIG-") => "instance",
        _ if subject.starts_with(|c: char| c.is_ascii_digit())
            && subject.bytes().all(|b| b.is_ascii_digit() || b == b'_') =>
        {
            "job"
        }
        _ => "pod",
    }
}

pub(super) fn grid(answer: &ExplainAnswer) -> Grid {
    let state = if answer.closed { "closed" } else { "open: all of it is provisional" };
    let mut notes =
        vec![format!("{}, slot {} to {}, {state}", answer.subject, answer.slot.start, answer.slot.end)];
    for device in &answer.devices {
        notes.push(String::new());
        lines(device, &answer.currency, &mut notes);
    }
    notes.push(String::new());
    notes.push(format!(
        "{}: {} GPU-seconds, {} nano-{}",
        answer.subject, answer.asked_gpu_seconds, answer.asked_cost_nanos, answer.currency
    ));
    notes.extend(answer.notes.iter().map(|note| format!("note: {note}")));
    Grid { notes, ..Grid::default() }
}

fn lines(device: &ExplainedDevice, currency: &str, notes: &mut Vec<String>) {
    let slices = if device.slices == 1 { "1 slice".to_owned() } else { format!("{} slices", device.slices) };
    notes.push(format!(
        "{} {}, node {}/{}, life {}, {slices}",
        device.device, device.model, device.cluster, device.node, device.life
    ));
    notes.push(format!(
        "  existence {} ns = covered {} + unobserved {}",
        device.existence_ns, device.covered_ns, device.unobserved_ns
    ));
    for (reason, ns) in &device.unobserved_reasons {
        notes.push(format!("    unobserved, {reason}: {ns} ns of the clock"));
    }
    match &device.price {
        Some(price) => price_lines(price, currency, notes),
        None => notes.push("  unpriced: no row of the price book matches".to_owned()),
    }
    for row in &device.rows {
        row_lines(row, notes);
    }
    let price = device.price.as_ref().map_or(0, |price| price.price_nanos);
    notes.push(format!(
        "  sum of all rows: {} ns of {} in existence, {} nanos of {price}, the price",
        device.rows_ns, device.existence_ns, device.rows_cost_nanos
    ));
    notes.extend(device.entries.iter().map(entry_line));
    for window in &device.evidence {
        window_lines(window, notes);
    }
}

fn price_lines(price: &ExplainedPrice, currency: &str, notes: &mut Vec<String>) {
    let from =
        if price.valid_from.is_empty() { String::new() } else { format!(" from {}", price.valid_from) };
    notes.push(format!(
        "  price book line {}: {} {currency} per {}{from}",
        price.line, price.price, price.unit
    ));
    for (fact, matched) in &price.matched {
        notes.push(format!("    {fact} is {:?}, the row asks for {:?}", matched.value, matched.pattern));
    }
    notes.push(format!(
        "    rate {} / {} nanos per ns; {} per GPU-hour",
        price.num, price.den, price.per_gpu_hour
    ));
    notes.push(format!("    price of the slot: {}", price.arithmetic));
}

fn row_lines(row: &ExplainedRow, notes: &mut Vec<String>) {
    let mark = if row.asked && row.owner.is_some() { "*" } else { " " };
    let whose = row.owner.as_ref().map_or_else(String::new, |name| format!(" {}", owner(name)));
    let place = match (row.instance.as_str(), row.profile.as_str()) {
        ("", _) => String::new(),
        (instance, "") => format!(" on {instance}"),
        (instance, profile) => format!(" on {instance} ({profile})"),
    };
    notes.push(format!(
        "{mark} {}{whose}{place}: {} ns (share {}), {} nanos",
        row.kind, row.time_ns, row.share, row.cost_nanos
    ));
    notes.push(format!("    {}", row.arithmetic));
    if (row.busy_ns, row.memory_byte_seconds, row.energy_uj) != (0, 0, 0) {
        notes.push(format!(
            "    busy {} ns, memory {} byte-seconds, energy {} microjoules",
            row.busy_ns, row.memory_byte_seconds, row.energy_uj
        ));
    }
    notes.extend(row.methods.iter().map(|method| format!("    {method}")));
}

fn entry_line(entry: &ExplainedEntry) -> String {
    let whose = entry.owner.as_ref().map_or_else(String::new, |name| format!(" {}", owner(name)));
    let corrects = if entry.corrects == 0 { String::new() } else { format!(", corrects {}", entry.corrects) };
    format!(
        "  posted: entry {} under checkpoint {}{corrects}: {}{whose} {} ns, {} nanos",
        entry.id, entry.checkpoint, entry.kind, entry.time_ns, entry.cost_nanos
    )
}

fn window_lines(window: &ExplainedWindow, notes: &mut Vec<String>) {
    notes.push(format!(
        "  window {} to {}, {} samples: journal {}, node {}, batch {}, sha256 {}",
        window.start, window.end, window.samples, window.journal, window.node, window.seq, window.sha256
    ));
    for usage in &window.usages {
        let intruder = if usage.intruder { ", intruder" } else { "" };
        let name = owner(&usage.owner);
        notes.push(format!("    {name}: held {} ns, busy {} ns{intruder}", usage.held_ns, usage.busy_ns));
    }
}

pub(super) fn csv(answer: &ExplainAnswer) -> Vec<Vec<String>> {
    let place = ["slot", "cluster", "node", "device", "slices", "row", "instance", "profile", "asked"];
    let figures = [
        "time_ns",
        "share",
        "busy_ns",
        "memory_byte_seconds",
        "energy_uj",
        "methods",
        "arithmetic",
        "cost_nanos",
    ];
    let header = place.into_iter().chain(OWNER).chain(figures).map(str::to_owned).collect();
    let rows = answer.devices.iter().flat_map(|device| {
        device.rows.iter().map(move |row| {
            let slot = answer.slot.start.clone();
            let place = [&device.cluster, &device.node, &device.device].map(Clone::clone);
            let what = [row.kind.clone(), row.instance.clone(), row.profile.clone(), row.asked.to_string()];
            let figures = [row.time_ns.to_string(), row.share.clone(), row.busy_ns.to_string()];
            let more = [row.memory_byte_seconds.to_string(), row.energy_uj.to_string()];
            let words = [row.methods.join("; "), row.arithmetic.clone(), row.cost_nanos.to_string()];
            std::iter::once(slot)
                .chain(place)
                .chain([device.slices.to_string()])
                .chain(what)
                .chain(owner_cells(row.owner.clone().unwrap_or_default()))
                .chain(figures)
                .chain(more)
                .chain(words)
                .collect()
        })
    });
    std::iter::once(header).chain(rows).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = r#"{"subject":"pod ml/a","slot":{"start":"S","end":"E"},"currency":"USD","closed":true,
        "devices":[{"device":"GPU-1","model":"H100","cluster":"c","node":"n","life":"b","slices":7,
            "existence_ns":70,"covered_ns":63,"unobserved_ns":7,"unobserved_reasons":{"silent":1},
            "price":{"line":2,"valid_from":"","price":"7.00","unit":"gpu_hour",
                "matched":{"gpu_model":{"pattern":"H*","value":"H100"}},"num":"7","den":"10","per_gpu_hour":"7.00",
                "arithmetic":"floor(7 * 70 / 10) = 49","price_nanos":49},
            "rows":[{"kind":"held","owner":{"kind":"pod","namespace":"ml","pod":"a"},"instance":"MIG-1",
                "profile":"3g.40gb","asked":true,"time_ns":30,"share":"0.428571","busy_ns":9,"memory_byte_seconds":0,
                "energy_uj":0,"methods":["held: an allocation"],"arithmetic":"floor(7 * 30 / 10) = 21","cost_nanos":21},
              {"kind":"idle","owner":null,"instance":"","profile":"","asked":false,"time_ns":33,"share":"0.471428",
                "busy_ns":0,"memory_byte_seconds":0,"energy_uj":0,"methods":[],
                "arithmetic":"floor(7 * 33 / 10) = 23","cost_nanos":23}],
            "rows_ns":70,"rows_cost_nanos":49,
            "entries":[{"id":5,"checkpoint":2,"corrects":3,"kind":"held","owner":null,"instance":"","time_ns":-1,
                "cost_nanos":-2}],
            "evidence":[{"journal":9,"node":"n","epoch":"00","seq":4,"sha256":"ab","start":"s","end":"e","samples":10,
                "usages":[{"owner":{"kind":"pod","namespace":"ml","pod":"a"},"instance":"MIG-1","intruder":false,
                    "held_ns":30,"busy_ns":9}],"idle_ns":33,"stranded_ns":0}]}],
        "asked_gpu_seconds":"0.000000004","asked_cost_nanos":21,"notes":["a note"]}"#;

    #[test]
    fn an_explanation_reads_line_by_line() {
        let shown = grid(&serde_json::from_str(ANSWER).unwrap()).notes.join("\n");
        let expected = "\
pod ml/a, slot S to E, closed

GPU-1 H100, node c/n, life b, 7 slices
  existence 70 ns = covered 63 + unobserved 7
    unobserved, silent: 1 ns of the clock
  price book line 2: 7.00 USD per gpu_hour
    gpu_model is \"H100\", the row asks for \"H*\"
    rate 7 / 10 nanos per ns; 7.00 per GPU-hour
    price of the slot: floor(7 * 70 / 10) = 49
* held ml/a on MIG-1 (3g.40gb): 30 ns (share 0.428571), 21 nanos
    floor(7 * 30 / 10) = 21
    busy 9 ns, memory 0 byte-seconds, energy 0 microjoules
    held: an allocation
  idle: 33 ns (share 0.471428), 23 nanos
    floor(7 * 33 / 10) = 23
  sum of all rows: 70 ns of 70 in existence, 49 nanos of 49, the price
  posted: entry 5 under checkpoint 2, corrects 3: held -1 ns, -2 nanos
  window s to e, 10 samples: journal 9, node n, batch 4, sha256 ab
    ml/a: held 30 ns, busy 9 ns

pod ml/a: 0.000000004 GPU-seconds, 21 nano-USD
note: a note";
        assert_eq!(shown, expected);
    }

    #[test]
    fn every_line_of_csv_has_a_value_for_each_name() {
        let lines = csv(&serde_json::from_str(ANSWER).unwrap());
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.len() == lines[0].len()), "{lines:?}");
        let value = |name: &str| &lines[1][lines[0].iter().position(|known| known == name).unwrap()];
        assert_eq!(
            (value("pod").as_str(), value("kind").as_str(), value("row").as_str()),
            ("a", "pod", "held")
        );
        assert_eq!((value("profile").as_str(), value("cost_nanos").as_str()), ("3g.40gb", "21"));
    }

    #[test]
    fn what_is_asked_about_is_told_by_its_form() {
        for (subject, known) in [
            ("GPU-1", "device"),
            ("MIG-1", "instance"),
            ("4711", "job"),
            ("4711_3", "job"),
            ("ml/train-0", "pod"),
            ("train-0", "pod"),
            ("2f1c7a52-0000-4000-8000-000000000000", "pod"),
        ] {
            assert_eq!(kind(subject), known, "{subject}");
        }
    }
}
