//! How many entries a payload's lists have, counted before they are decoded. Pure.
//!
//! An empty entry is two bytes on the wire and some hundred in memory, so without this a megabyte of them would be a
//! hundred and thirty in memory, for each stream that sends it, before the first limit were looked at.

use tonnage_proto::limits::{
    DEVICES_PER_BATCH_MAX, GAPS_PER_BATCH_MAX, INSTANCE_IDLES_PER_WINDOW_MAX, INSTANCES_PER_BATCH_MAX,
    LABELS_PER_NODE_MAX, OWNERS_PER_BATCH_MAX, USAGES_PER_WINDOW_MAX, WINDOWS_PER_BATCH_MAX,
};

/// Numbers of fields in `metering.proto`.
const FACTS: u64 = 9;
const DEVICES: u64 = 10;
const OWNERS: u64 = 11;
const WINDOWS: u64 = 12;
const GAPS: u64 = 14;
const INSTANCES: u64 = 15;
const FACTS_LABELS: u64 = 5;
const WINDOW_USAGES: u64 = 5;
const WINDOW_INSTANCE_IDLES: u64 = 10;

/// # Errors
/// The list that is too long, or that these bytes are no message.
pub(super) fn check(payload: &[u8]) -> Result<(), String> {
    let mut lists = [
        (DEVICES, "devices", DEVICES_PER_BATCH_MAX),
        (OWNERS, "owners", OWNERS_PER_BATCH_MAX),
        (WINDOWS, "windows", WINDOWS_PER_BATCH_MAX),
        (GAPS, "gaps", GAPS_PER_BATCH_MAX),
        (INSTANCES, "instances", INSTANCES_PER_BATCH_MAX),
    ]
    .map(|(field, name, most)| (field, List { name, count: 0, most }));
    // A message that comes twice is merged: its labels add up.
    let mut labels = List { name: "facts.labels", count: 0, most: LABELS_PER_NODE_MAX };
    for entry in entries(payload) {
        let (field, bytes) = entry?;
        if let Some((_, list)) = lists.iter_mut().find(|(number, _)| *number == field) {
            list.add()?;
        }
        let mut usages = List { name: "windows[..].usages", count: 0, most: USAGES_PER_WINDOW_MAX };
        let mut idles =
            List { name: "windows[..].instance_idles", count: 0, most: INSTANCE_IDLES_PER_WINDOW_MAX };
        for entry in entries(bytes).take_while(|_| matches!(field, FACTS | WINDOWS)) {
            match (field, entry?.0) {
                (FACTS, FACTS_LABELS) => labels.add()?,
                (WINDOWS, WINDOW_USAGES) => usages.add()?,
                (WINDOWS, WINDOW_INSTANCE_IDLES) => idles.add()?,
                _ => {}
            }
        }
    }
    Ok(())
}

struct List {
    name: &'static str,
    count: usize,
    most: usize,
}

impl List {
    fn add(&mut self) -> Result<(), String> {
        self.count += 1;
        if self.count <= self.most {
            return Ok(());
        }
        Err(format!("Batch.{}: over {} entries, the limit", self.name, self.most))
    }
}

/// A message's fields: their numbers, and the bytes of those that have a length.
fn entries(mut bytes: &[u8]) -> impl Iterator<Item = Result<(u64, &[u8]), String>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let entry = entry(&mut bytes).ok_or_else(|| "Batch: not protobuf: a field that is none".to_owned());
        if entry.is_err() {
            bytes = &[];
        }
        Some(entry)
    })
}

fn entry<'a>(bytes: &mut &'a [u8]) -> Option<(u64, &'a [u8])> {
    let key = varint(bytes)?;
    let length = match key & 7 {
        0 => {
            varint(bytes)?;
            0
        }
        1 => 8,
        2 => usize::try_from(varint(bytes)?).ok()?,
        5 => 4,
        // Groups: this contract has none, and what they hold could not be counted.
        _ => return None,
    };
    let (value, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some((key >> 3, value))
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..70).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        if shift < 64 {
            value |= u64::from(first & 0x7f) << shift;
        }
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use tonnage_proto::metering as pb;

    use super::*;

    #[test]
    fn a_megabyte_of_empty_entries_is_refused_by_its_list_before_it_is_decoded() {
        for (field, name) in
            [(10, "devices"), (11, "owners"), (12, "windows"), (14, "gaps"), (15, "instances")]
        {
            let bomb = [field << 3 | 2, 0].repeat(1 << 19);
            let error = check(&bomb).unwrap_err();
            assert!(error.starts_with(&format!("Batch.{name}: over")), "{error}");
        }
        let window = pb::Window { usages: vec![pb::Usage::default(); 513], ..pb::Window::default() };
        let batch = pb::Batch { windows: vec![window], ..pb::Batch::default() };
        assert!(check(&batch.encode_to_vec()).unwrap_err().contains("usages"));
        let instance_idles = vec![pb::InstanceIdle::default(); 65];
        let window = pb::Window { instance_idles, ..pb::Window::default() };
        let batch = pb::Batch { windows: vec![window], ..pb::Batch::default() };
        assert!(check(&batch.encode_to_vec()).unwrap_err().contains("instance_idles"));
        // Thirteen facts of five labels each become one of 65.
        let mut bytes = Vec::new();
        for facts in 0..13 {
            let labels = (0..5).map(|at| (format!("{facts}.{at}"), String::new())).collect();
            let facts = pb::NodeFacts { labels, ..pb::NodeFacts::default() };
            bytes.extend(pb::Batch { facts: Some(facts), ..pb::Batch::default() }.encode_to_vec());
        }
        assert!(check(&bytes).unwrap_err().contains("labels"));
    }

    #[test]
    fn what_cannot_be_counted_is_refused_and_a_full_batch_is_not() {
        // A group, a length beyond the end, a number without an end.
        for bytes in [&[0x5b, 0x5c][..], &[0x5a, 0xff, 0xff, 0x03], &[0xff; 11]] {
            assert!(check(bytes).unwrap_err().contains("not protobuf"), "{bytes:?}");
        }
        let batch = pb::Batch {
            sealed_at_ns: -1,
            devices: vec![pb::Device::default(); DEVICES_PER_BATCH_MAX],
            owners: vec![pb::Owner::default(); OWNERS_PER_BATCH_MAX],
            windows: vec![pb::Window::default(); WINDOWS_PER_BATCH_MAX],
            ..pb::Batch::default()
        };
        assert_eq!(check(&batch.encode_to_vec()), Ok(()));
    }
}
