//! The worked examples of docs/sharing.md against the code that settles slots.

use tonnage_proto::limits::MEMORY_PARTS;

use super::*;
use crate::ledger::memory::ByMemory;
use crate::ledger::rows::{Key, NOBODY, Row, Rows, WHOLE};
use crate::ledger::settle::{Extent, Price, settle};
use crate::model::{MemoryShare, NodeFacts};
use crate::prices::PriceFacts;

const DOCUMENT: &str = include_str!("../../../../docs/sharing.md");

/// Seconds with up to nine places, in nanoseconds.
fn ns(text: &str) -> i64 {
    let (whole, part) =
        text.trim_end_matches(" s").split_once('.').unwrap_or((text.trim_end_matches(" s"), ""));
    let part = format!("{part:0<9}");
    whole.parse::<i64>().unwrap() * S + part.parse::<i64>().unwrap()
}

fn cells(line: &str) -> Vec<&str> {
    line.trim_matches('|').split('|').map(str::trim).collect()
}

/// The rows below the heads of a section's two tables.
fn tables(section: &str) -> (Vec<&str>, Vec<Vec<&str>>) {
    let rows: Vec<Vec<&str>> = section.lines().filter(|line| line.starts_with('|')).map(cells).collect();
    assert_eq!((rows[0][0], rows[3][0]), ("price per GPU-hour", "row"), "{section}");
    (rows[2].clone(), rows[5..].to_vec())
}

fn kind(name: &str) -> RowKind {
    match name {
        "held" => RowKind::Held,
        "idle" => RowKind::Idle,
        "stranded" => RowKind::Stranded,
        "intruder" => RowKind::Intruder,
        "unobserved" => RowKind::Unobserved,
        "rounding" => RowKind::Rounding,
        other => panic!("{other:?} is no kind of row"),
    }
}

/// The number of a name in the order in which names come; 0 of none.
fn number<'a>(names: &mut Vec<&'a str>, name: &'a str) -> i64 {
    if name == "-" {
        return 0;
    }
    let at = names.iter().position(|known| *known == name).unwrap_or_else(|| {
        names.push(name);
        names.len() - 1
    });
    i64::try_from(at + 1).unwrap()
}

fn check(title: &str, section: &str) {
    let (given, lines) = tables(section);
    let slices: u32 = given[1].parse().unwrap();
    let wide = i64::from(slices);
    let extent = Extent { existence_ns: ns(given[2]) * wide, covered_ns: ns(given[3]) * wide };
    let memory_slices: Option<u32> = given.get(4).map(|slices| slices.parse().unwrap());
    let weight = if memory_slices.is_some() { "memory" } else { "compute" };
    let price = format!("price = \"{}\"\nunit = \"gpu_hour\"\nweight = \"{weight}\"\n", given[0]);
    let book = format!("currency = \"USD\"\n[[price]]\n{price}");
    let facts = PriceFacts { cluster: "c", node: "n", gpu_model: "H100", facts: &NodeFacts::default() };
    let rate = Book::parse(&book).unwrap().rate(&facts, 0, slices).unwrap();
    let (mut owners, mut instances, mut shares) = (Vec::new(), Vec::new(), BTreeMap::new());
    let mut rows = Rows::new();
    let mut expected: BTreeMap<Key, (i64, i64)> = BTreeMap::new();
    for line in lines.iter().filter(|line| line[0] != "**slot**") {
        let kind = kind(line[0]);
        let key = (number(&mut instances, line[2]), number(&mut owners, line[1]), kind);
        let (time_ns, charge) = (ns(line[3]), line[4].parse().unwrap());
        assert_eq!(expected.insert(key, (time_ns, charge)), None, "{title}: {line:?}");
        if let Some((slices, compute_slices)) = line.get(6).and_then(|memory| memory.split_once(" of ")) {
            let [slices, compute_slices] = [slices, compute_slices].map(|text| text.parse().unwrap());
            shares.insert(key.0, MemoryShare { slices, compute_slices, of: memory_slices.unwrap() });
        }
        let rest = matches!(kind, RowKind::Idle | RowKind::Unobserved | RowKind::Rounding);
        if !(rest && (key.0, key.1) == (WHOLE, NOBODY)) {
            // An intruder's row is there for its use.
            let busy_ns = i64::from(kind == RowKind::Intruder);
            *rows.row(key) = Row { time_ns, busy_ns, ..Row::default() };
        }
    }
    let charge = |ns: i64| i64::try_from(rate.charge(i128::from(ns))).unwrap();
    let part = |part: i128| i64::try_from(rate.charge_part(part, MEMORY_PARTS, slices)).unwrap();
    let share = |instance: i64| shares.get(&instance).copied();
    let by_memory = rate.is_by_memory().then_some(ByMemory { slices, share: &share, charge: &part });
    let price = settle(&mut rows, extent, Some(Price { charge: &charge, memory: by_memory })).unwrap();
    assert!(rows.values().all(|row| row.method == 0), "{title}: every instance says what it has");
    let found: BTreeMap<Key, (i64, i64)> =
        rows.iter().map(|(key, row)| (*key, (row.time_ns, row.cost_nanos))).collect();
    assert_eq!(found, expected, "{title}");
    let slot = lines.iter().find(|line| line[0] == "**slot**").unwrap();
    assert_eq!((ns(slot[3]), Some(slot[4].parse().unwrap())), (extent.existence_ns, price), "{title}");
    for line in lines.iter().filter(|line| line[5].starts_with("floor(")) {
        worked_out(title, line);
    }
}

/// `floor(nanos * seconds / seconds)`, with further factors on either side, is the charge.
fn worked_out(title: &str, line: &[&str]) {
    let inner = line[5].strip_prefix("floor(").and_then(|text| text.strip_suffix(')')).unwrap();
    let (product, den) = inner.split_once(" / ").unwrap();
    // Seconds may be broken: a time stands first below, and second above.
    let product: Vec<&str> = product.split(" * ").collect();
    let den: Vec<&str> = den.trim_matches(['(', ')']).split(" * ").collect();
    let factors = |of: &[&str]| of.iter().map(|text| text.parse::<i128>().unwrap()).product::<i128>();
    let above = factors(&product[..1]) * i128::from(ns(product[1])) * factors(&product[2..]);
    let below = i128::from(ns(den[0])) * factors(&den[1..]);
    assert_eq!(above / below, line[4].parse::<i128>().unwrap(), "{title}: {line:?}");
}

#[test]
fn the_examples_of_the_documentation_are_what_the_ledger_does() {
    let sections: Vec<(&str, &str)> =
        DOCUMENT.split("\n## ").skip(1).filter_map(|section| section.split_once('\n')).collect();
    assert_eq!(sections.len(), 10);
    for (title, section) in sections {
        check(title, section);
    }
}
