//! Several drafts into one that says the same in fewer windows: less resolution, the same sums.
//!
//! Two windows become one where they are of one device, touch, and lie in one slot; so the sums per (device, owner,
//! slot) stay what they were, and what is merged is as valid as what was not. Gaps are joined where they touch.
//! Pure. Not for: sealed batches, whose bytes never change.

use std::collections::HashMap;

use prost::Message;
use tonnage_proto::limits::{BATCH_FORMAT, INSTANCE_IDLES_PER_WINDOW_MAX, USAGES_PER_WINDOW_MAX, slot_start};
use tonnage_proto::metering as pb;

use super::{Names, join, same_node};

/// Energy across gaps is drawn over any time, so it alone could outgrow what the ledger takes for one window.
const ENERGY_UNOBSERVED_UJ_MAX: u64 = 1 << 56;

/// Merges as many leading drafts as belong together and begin in one slot. Gives the draft that says the same, and
/// how many it stands for: at least one of a list that is not empty. A draft that cannot be read is left out.
#[must_use]
pub fn merge(drafts: &[Vec<u8>]) -> (Vec<u8>, usize) {
    let mut merged: Option<pb::Batch> = None;
    let mut names = Names::default();
    let mut slot = None;
    let mut taken = 0;
    for encoded in drafts {
        let Ok(draft) = pb::Batch::decode(encoded.as_slice()) else {
            tracing::error!("A draft in the spool cannot be read; its time is unobserved.");
            taken += 1;
            continue;
        };
        let begins = draft.windows.first().map(|window| slot_start(window.start_ns));
        if let Some(merged) = &merged {
            let same_slot = slot.is_none() || begins.is_none() || slot == begins;
            if !same_node(merged, &draft) || !same_slot || !names.fit(merged, &draft) {
                break;
            }
        }
        slot = slot.or(begins);
        taken += 1;
        join(&mut merged, draft, &mut names);
        if let Some(merged) = &mut merged {
            merged.windows = fewer(std::mem::take(&mut merged.windows));
        }
    }
    let batch = pb::Batch { format: BATCH_FORMAT, ..names.name(merged.unwrap_or_default()) };
    (batch.encode_to_vec(), taken)
}

/// Joins windows that follow each other, in the order in which they stand.
fn fewer(windows: Vec<pb::Window>) -> Vec<pb::Window> {
    let mut joined: Vec<pb::Window> = Vec::with_capacity(windows.len());
    let mut last_of: HashMap<u32, usize> = HashMap::new();
    for window in windows {
        let last = last_of.get(&window.device).and_then(|at| joined.get_mut(*at));
        match last {
            Some(last) if belong_together(last, &window) => add(last, window),
            _ => {
                last_of.insert(window.device, joined.len());
                joined.push(window);
            }
        }
    }
    joined
}

fn end_ns(window: &pb::Window) -> i64 {
    window.start_ns.saturating_add_unsigned(window.duration_ns)
}

fn belong_together(one: &pb::Window, next: &pb::Window) -> bool {
    let new_usages =
        next.usages.iter().filter(|usage| !one.usages.iter().any(|known| key(known) == key(usage)));
    let new_idles = next
        .instance_idles
        .iter()
        .filter(|idle| !one.instance_idles.iter().any(|known| known.instance == idle.instance));
    end_ns(one) == next.start_ns
        && one.instance_idles.len() + new_idles.count() <= INSTANCE_IDLES_PER_WINDOW_MAX
        && slot_start(one.start_ns) == slot_start(end_ns(next).saturating_sub(1))
        && one.usages.len() + new_usages.count() <= USAGES_PER_WINDOW_MAX
        && one.energy_unobserved_uj.saturating_add(next.energy_unobserved_uj) <= ENERGY_UNOBSERVED_UJ_MAX
}

fn add(sum: &mut pb::Window, window: pb::Window) {
    sum.duration_ns += window.duration_ns;
    sum.idle_ns += window.idle_ns;
    sum.stranded_ns += window.stranded_ns;
    for idle in window.instance_idles {
        match sum.instance_idles.iter_mut().find(|known| known.instance == idle.instance) {
            Some(known) => known.idle_ns += idle.idle_ns,
            None => sum.instance_idles.push(idle),
        }
    }
    sum.busy_unattributed_ns = sum.busy_unattributed_ns.saturating_add(window.busy_unattributed_ns);
    sum.energy_idle_uj = sum.energy_idle_uj.saturating_add(window.energy_idle_uj);
    sum.energy_unobserved_uj = sum.energy_unobserved_uj.saturating_add(window.energy_unobserved_uj);
    sum.samples = sum.samples.saturating_add(window.samples);
    for usage in window.usages {
        match sum.usages.iter_mut().find(|known| key(known) == key(&usage)) {
            Some(known) => {
                known.held_ns += usage.held_ns;
                known.busy_ns += usage.busy_ns;
                known.memory_byte_seconds =
                    known.memory_byte_seconds.saturating_add(usage.memory_byte_seconds);
                known.energy_uj = known.energy_uj.saturating_add(usage.energy_uj);
                known.method |= usage.method;
            }
            None => sum.usages.push(usage),
        }
    }
}

/// What makes two usages parts of one.
fn key(usage: &pb::Usage) -> impl PartialEq {
    (usage.owner, usage.kind, usage.instance)
}

#[cfg(test)]
mod tests;
