//! What an explanation says in words: evidence, kinds of rows, arithmetic. Pure.

use tonnage_proto::limits::MEMORY_PARTS;
use tonnage_proto::method;

use crate::model::RowKind;
use crate::prices::Rate;
use crate::store::query::explain::RowRecord;

/// A sentence for each method bit, in the order of `tonnage_proto::method`.
const SENTENCES: [(u32, &str); 15] = [
    (method::HELD_CGROUP, "held: the cgroup of a live process named the owner"),
    (method::HELD_ALLOCATION, "held: an allocation (kubelet, or Slurm's hook) named the owner"),
    (
        method::HELD_SPLIT,
        "held: several owners shared the device, so its time was split among them, in equal parts or by the parts allocated",
    ),
    (method::HELD_INFERRED, "held: inferred, by weaker evidence than usual"),
    (method::BUSY_PROCESS, "busy: the driver's utilisation samples of processes"),
    (method::BUSY_SCALED, "busy: the samples said more than was held, and were scaled down to it"),
    (method::BUSY_INSTANCE, "busy: the driver's utilisation of the MIG instance, whose one holder had it"),
    (method::MEMORY_PROCESS, "memory: the driver's figure of processes"),
    (method::ENERGY_BY_BUSY, "energy: the device's counter, split by busy time"),
    (method::ENERGY_BY_HELD, "energy: the device's counter, split by held time, since nobody was busy"),
    (method::SHARED_MPS, "shared: by NVIDIA's Multi-Process Service (MPS)"),
    (method::SHARED_TIME_SLICING, "shared: in turns, by replicas or without any arrangement (time-slicing)"),
    (method::SHARED_SHARDS, "shared: by Slurm's shards"),
    (method::SHARED_VGPU, "shared: by virtual GPUs of guests"),
    (
        method::WEIGHED_BY_COMPUTE,
        "charge: weighed by compute slices, since nobody said how many memory slices the MIG instance has",
    ),
];

pub(super) fn methods(bits: u32) -> Vec<String> {
    SENTENCES.into_iter().filter(|(bit, _)| bits & bit != 0).map(|(_, text)| text.to_owned()).collect()
}

pub(super) fn kind(kind: RowKind) -> &'static str {
    match kind {
        RowKind::Held => "held",
        RowKind::Idle => "idle",
        RowKind::Unobserved => "unobserved",
        RowKind::Rounding => "rounding",
        RowKind::Intruder => "intruder",
        RowKind::Stranded => "stranded",
        RowKind::Cpu => "cpu",
        RowKind::Memory => "memory",
    }
}

/// How `nanos` come of `time_ns`.
pub(super) fn arithmetic(rate: Rate, time_ns: i64, nanos: i128) -> String {
    let (num, den) = rate.parts();
    format!("floor({num} * {time_ns} / {den}) = {nanos}")
}

/// The same of a row that has so many parts of the memory of a GPU of `slices`.
pub(super) fn by_memory(rate: Rate, record: &RowRecord, part: i128, slices: u32) -> String {
    let (num, den) = rate.parts();
    let (time_ns, nanos) = (record.row.time_ns, rate.charge_part(part, MEMORY_PARTS, slices));
    let Some(share) = record.instance.as_ref().and_then(|instance| instance.memory) else {
        // The rate is of slice-nanoseconds.
        let (times, of) = reduced(part * i128::from(slices), MEMORY_PARTS);
        let left = (part > 0 && record.instance.is_none() && record.owner.is_none())
            && record.key.2 != RowKind::Unobserved;
        let why = if left { ", what is left of the GPU's memory" } else { "" };
        return match of {
            1 => format!("floor({num} * {times} / {den}) = {nanos}{why}"),
            _ => format!("floor({num} * {times} / ({den} * {of})) = {nanos}{why}"),
        };
    };
    let of = i128::from(share.compute_slices) * i128::from(share.of);
    let (times, of) = reduced(i128::from(share.slices) * i128::from(slices), of);
    let own = record.instance.as_ref().map_or(0, |instance| instance.slices);
    let words = share.to_words(own);
    format!("floor({num} * {time_ns} * {times} / ({den} * {of})) = {nanos}, by {words} of the GPU's memory")
}

/// The same fraction in lowest terms.
fn reduced(num: i128, den: i128) -> (i128, i128) {
    let (mut gcd, mut rest) = (den, num);
    while rest != 0 {
        (gcd, rest) = (rest, gcd % rest);
    }
    (num / gcd, den / gcd)
}

/// `part / whole` with six places, rounded down; empty of nothing.
pub(super) fn share(part: i64, whole: i64) -> String {
    let Some(millionths) = (i128::from(part) * 1_000_000).checked_div(i128::from(whole)) else {
        return String::new();
    };
    format!("{}.{:06}", millionths / 1_000_000, millionths % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_bit_that_has_a_name_has_a_sentence() {
        assert_eq!(methods(u32::MAX).len(), method::names(u32::MAX).count());
        for bit in 0..32 {
            assert_eq!(methods(1 << bit).len(), method::names(1 << bit).count(), "bit {bit}");
        }
    }

    #[test]
    fn a_share_is_rounded_down_and_of_nothing_there_is_none() {
        assert_eq!(share(2, 3), "0.666666");
        assert_eq!(share(3, 3), "1.000000");
        assert_eq!(share(0, 0), "");
    }
}
