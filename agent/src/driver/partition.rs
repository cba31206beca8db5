//! What to make of the numbers that NVML has of a partition: names, memory slices, and what is left over. Pure.

use std::collections::BTreeMap;

use tonnage_proto::limits::WEIGHED_SLICES_MAX;

use crate::model::{Instance, MemoryShare};

/// The profile of a MIG device from the name that NVML gives it ("NVIDIA H100 80GB HBM3 MIG 3g.40gb"), else made from
/// its slices and memory; empty if neither says.
pub(super) fn profile(name: &str, compute_slices: u32, gpu_slices: u32, memory_mib: u64) -> String {
    if let Some((_, profile)) = name.rsplit_once("MIG ") {
        return profile.trim().to_owned();
    }
    if gpu_slices == 0 || memory_mib == 0 {
        return String::new();
    }
    let gib = memory_mib.div_ceil(1024);
    if compute_slices == 0 || compute_slices == gpu_slices {
        format!("{gpu_slices}g.{gib}gb")
    } else {
        format!("{compute_slices}c.{gpu_slices}g.{gib}gb")
    }
}

/// Compute slices of a whole GPU, if the driver says nothing of them.
pub(super) fn slices_of_model(model: &str) -> u32 {
    if model.contains("A30") { 4 } else { 7 }
}

/// What each instance of a whole listing has of the GPU's `of` memory slices, by those of its GPU instance; with the instances,
/// compute slices of their GPU instances. `None` unless it is known of all, and all have no more than there is.
pub(super) fn memory_shares(
    found: &[(Instance, Option<u32>)],
    sizes: &BTreeMap<u32, u32>,
    of: u32,
) -> Option<Vec<MemoryShare>> {
    let few = 1..=WEIGHED_SLICES_MAX;
    let mut taken: BTreeMap<u32, u32> = BTreeMap::new();
    let shares = found.iter().map(|(instance, compute_slices)| {
        let (id, compute_slices) = (instance.gpu_instance?, (*compute_slices)?);
        let slices = *sizes.get(&id)?;
        let sum = taken.entry(id).or_default();
        *sum += instance.slices;
        let fits = !instance.slices_guessed && *sum <= compute_slices;
        (fits && few.contains(&slices) && few.contains(&compute_slices)).then_some(MemoryShare {
            slices,
            compute_slices,
            of,
        })
    });
    let shares: Vec<MemoryShare> = shares.collect::<Option<_>>()?;
    let sum: u32 = sizes.iter().filter(|(id, _)| taken.contains_key(id)).map(|(_, slices)| slices).sum();
    (few.contains(&of) && sum <= of).then_some(shares)
}

/// Slices that are in no GPU instance, and that none can be made of as the others lie. `room`: per profile its slices,
/// and how many more of it fit.
pub(super) fn stranded(slices: u32, sliced: u32, room: impl IntoIterator<Item = (u32, u32)>) -> u32 {
    let left = slices.saturating_sub(sliced);
    let usable = room.into_iter().map(|(slices, count)| left.min(slices.saturating_mul(count))).max();
    left - usable.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_what_the_driver_calls_it_or_what_its_slices_make_of_it() {
        assert_eq!(profile("NVIDIA A100-SXM4-40GB MIG 1c.3g.20gb", 1, 3, 19_968), "1c.3g.20gb");
        assert_eq!(profile("NVIDIA A100-SXM4-40GB", 3, 3, 19_968), "3g.20gb");
        assert_eq!(profile("NVIDIA A100-SXM4-40GB", 2, 3, 19_968), "2c.3g.20gb");
        assert_eq!(profile("NVIDIA A100-SXM4-40GB", 0, 0, 0), "");
    }

    #[test]
    fn memory_is_told_of_all_instances_or_of_none_and_never_more_than_there_is() {
        let part = |gpu_instance, slices, compute_slices| {
            let instance = Instance {
                gpu_instance: Some(gpu_instance),
                compute_instance: Some(0),
                generation: 0,
                uuid: "MIG-a".into(),
                slices,
                slices_guessed: false,
                profile: String::new(),
                memory_bytes: 0,
                memory: None,
            };
            (instance, compute_slices)
        };
        let sizes = BTreeMap::from([(1, 4), (2, 4), (3, 2)]);
        let share = |slices, compute_slices| MemoryShare { slices, compute_slices, of: 8 };
        let cut = [part(1, 1, Some(3)), part(1, 2, Some(3)), part(3, 1, Some(1))];
        assert_eq!(memory_shares(&cut, &sizes, 8), Some(vec![share(4, 3), share(4, 3), share(2, 1)]));
        let (unknown, unlisted, guessed) = (part(2, 1, None), part(9, 1, Some(1)), {
            let (instance, slices) = part(2, 1, Some(3));
            (Instance { slices_guessed: true, ..instance }, slices)
        });
        for wrong in [unknown, unlisted, guessed, part(1, 3, Some(3))] {
            assert_eq!(memory_shares(&[cut[0].clone(), wrong.clone()], &sizes, 8), None, "{wrong:?}");
        }
        let all = [part(1, 3, Some(3)), part(2, 3, Some(3)), part(3, 1, Some(1))];
        assert_eq!(memory_shares(&all, &sizes, 8), None, "10 of 8");
        assert_eq!(memory_shares(&all[..2], &sizes, 32), None, "more than can be weighed");
    }

    #[test]
    fn stranded_is_what_no_profile_can_take() {
        assert_eq!(stranded(7, 0, [(1, 7), (7, 1)]), 0);
        // 3g + 3g: no memory is left for the seventh slice.
        assert_eq!(stranded(7, 6, [(1, 0), (2, 0)]), 1);
        // A 3g in the first half: three 1g more, or one 3g.
        assert_eq!(stranded(7, 3, [(1, 3), (2, 1), (3, 1), (4, 0)]), 1);
        assert_eq!(stranded(7, 9, [(1, 3)]), 0, "more than there is");
    }
}
