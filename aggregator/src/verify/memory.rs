//! What each row of a slot has of its GPU where instances are weighed by memory, as fractions of nanoseconds of the GPU: docs/ledger.md,
//! "Price", by plain arithmetic over one denominator.

use std::collections::BTreeMap;

use tonnage_proto::limits::MEMORY_PARTS;

use super::measured::Key;
use crate::model::RowKind;
use crate::store::audit::Bucket;

/// `num / den` nanoseconds of the GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) num: i128,
    pub(super) den: i128,
}

/// `None` where no instance says what it has: then all goes by time.
pub(super) fn shares(
    rows: &BTreeMap<Key, Bucket>,
    covered_ns: i128,
    slices: u32,
) -> Option<BTreeMap<Key, Part>> {
    let memory = |(instance, ..): &Key| instance.as_ref().and_then(|instance| instance.memory);
    // Of a row's time: numerator and denominator.
    let weight = |key: &Key| match memory(key) {
        Some(of) => (i128::from(of.slices), i128::from(of.compute_slices) * i128::from(of.of)),
        None => (1, i128::from(slices)),
    };
    if !rows.keys().any(|key| memory(key).is_some()) {
        return None;
    }
    let den = rows.keys().map(|key| weight(key).1).fold(i128::from(slices), lcm);
    let part = |key: &Key, row: &Bucket| {
        let (num, of) = weight(key);
        row.time_ns * num * (den / of)
    };
    // What nobody had, idle or stranded, of no instance.
    let is_left = |(instance, owner, kind): &Key| {
        (instance.is_none() && owner.is_none()) && matches!(kind, RowKind::Idle | RowKind::Stranded)
    };
    let is_had = |key: &Key| !is_left(key) && key.2 != RowKind::Unobserved;
    let had: i128 = rows.iter().filter(|(key, _)| is_had(key)).map(|(key, row)| part(key, row)).sum();
    let left = covered_ns * (den / i128::from(slices)) - had;
    let left_ns: i128 = rows.iter().filter(|(key, _)| is_left(key)).map(|(_, row)| row.time_ns).sum();
    // In whole parts of the memory, rounded down; idle has the rest.
    let whole_parts = left * (MEMORY_PARTS / den);
    let stranded = |row: &Bucket| if left_ns > 0 { whole_parts * row.time_ns / left_ns } else { 0 };
    let all_stranded: i128 =
        rows.iter().filter(|(key, _)| key.2 == RowKind::Stranded).map(|(_, row)| stranded(row)).sum();
    let shares = rows.iter().map(|(key, row)| {
        let of_parts = |num| Part { num, den: MEMORY_PARTS };
        let share = match key.2 {
            RowKind::Stranded => of_parts(stranded(row)),
            _ if is_left(key) => of_parts(whole_parts - all_stranded),
            _ => Part { num: part(key, row), den },
        };
        (key.clone(), share)
    });
    Some(shares.collect())
}

fn lcm(a: i128, b: i128) -> i128 {
    let (mut gcd, mut rest) = (a, b);
    while rest != 0 {
        (gcd, rest) = (rest, gcd % rest);
    }
    a / gcd * b
}
