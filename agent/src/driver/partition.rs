//! What to make of the numbers that NVML has of a partition: names, and what is left over. Pure.

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
    fn stranded_is_what_no_profile_can_take() {
        assert_eq!(stranded(7, 0, [(1, 7), (7, 1)]), 0);
        // 3g + 3g: no memory is left for the seventh slice.
        assert_eq!(stranded(7, 6, [(1, 0), (2, 0)]), 1);
        // A 3g in the first half: three 1g more, or one 3g.
        assert_eq!(stranded(7, 3, [(1, 3), (2, 1), (3, 1), (4, 0)]), 1);
        assert_eq!(stranded(7, 9, [(1, 3)]), 0, "more than there is");
    }
}
