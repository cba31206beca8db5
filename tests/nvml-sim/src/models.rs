//! What each GPU model can be cut into, as NVIDIA's MIG user guide lists it: profiles, where they may lie, how large
//! they are. Pure tables, and nothing else.
//!
//! A GPU has compute slices and memory slices. A profile takes some of each, and only at some places: so what is left
//! over may fit into no instance.

/// A GPU model, in what MIG makes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    pub slices: u32,
    pub memory_slices: u32,
    /// Hopper and later: utilisation by GPM.
    pub gpm: bool,
    pub profiles: Vec<Profile>,
}

/// A size of GPU instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// `NVML_GPU_INSTANCE_PROFILE_*`.
    pub number: u32,
    /// By which the driver's other calls, and `nvidia-smi mig -lgip`, name it.
    pub id: u32,
    /// E.g. "3g.40gb".
    pub name: String,
    pub slices: u32,
    pub memory_slices: u32,
    pub memory_bytes: u64,
    /// Memory slices at which one may begin, in the order in which the driver tries them.
    pub starts: &'static [u32],
    /// So many fit on an empty GPU.
    pub instances: u32,
}

/// Number, id, compute slices, memory slices, where they begin, media extensions.
type Row = (u32, u32, u32, u32, &'static [u32], bool);

const OF_7: [Row; 7] = [
    (0, 19, 1, 1, &[0, 1, 2, 3, 4, 5, 6], false),
    (1, 14, 2, 2, &[0, 2, 4], false),
    (2, 9, 3, 4, &[4, 0], false),
    (3, 5, 4, 4, &[0], false),
    (4, 0, 7, 8, &[0], false),
    (7, 20, 1, 1, &[0, 1, 2, 3, 4, 5, 6], true),
    (9, 15, 1, 2, &[0, 2, 4, 6], false),
];
const OF_4: [Row; 5] = [
    (0, 14, 1, 1, &[0, 1, 2, 3], false),
    (1, 5, 2, 2, &[0, 2], false),
    (3, 0, 4, 4, &[0], false),
    (7, 21, 1, 1, &[0, 1, 2, 3], true),
    (8, 6, 2, 2, &[0, 2], true),
];
/// A word of the name, and the gigabytes that profiles of 1, 2, 4 and 8 memory slices are named after.
const NAMED: [(&str, [u64; 4]); 6] = [
    ("A30", [6, 12, 24, 24]),
    ("A100", [5, 10, 20, 40]),
    ("A100 80", [10, 20, 40, 80]),
    ("H100", [10, 20, 40, 80]),
    ("H200", [18, 35, 71, 141]),
    ("B200", [23, 45, 90, 180]),
];
const GB: u64 = 1 << 30;

impl Model {
    /// By the name that NVML gives. Of a model that is not known: seven slices, named after its memory.
    #[must_use]
    pub fn of(name: &str, memory_bytes: u64) -> Self {
        let is_a30 = name.contains("A30");
        let key = if name.contains("A100") && memory_bytes > 60 * GB { "A100 80" } else { name };
        let known = NAMED.iter().rev().find(|(word, _)| key.contains(word));
        let eighth = (memory_bytes / 8).div_ceil(GB);
        let gb = known.map_or([eighth, 2 * eighth, 4 * eighth, 8 * eighth], |(_, gb)| *gb);
        let (rows, slices, memory_slices): (&[Row], _, _) =
            if is_a30 { (&OF_4, 4, 4) } else { (&OF_7, 7, 8) };
        let profile = |&(number, id, slices, memory, starts, media): &Row| Profile {
            number,
            id,
            name: format!("{slices}g.{}gb{}", gb[memory.ilog2() as usize], if media { "+me" } else { "" }),
            slices,
            memory_slices: memory,
            memory_bytes: memory_bytes / u64::from(memory_slices) * u64::from(memory),
            starts,
            instances: if media { 1 } else { u32::try_from(starts.len()).unwrap_or(0) },
        };
        Self {
            slices,
            memory_slices,
            gpm: ["H100", "H200", "B200", "H800", "GH200"].iter().any(|word| name.contains(word)),
            profiles: rows.iter().map(profile).collect(),
        }
    }

    /// The plain profile of so many compute slices.
    #[must_use]
    pub fn of_slices(&self, slices: u32) -> Option<&Profile> {
        self.profiles.iter().find(|profile| profile.slices == slices)
    }

    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Profile> {
        self.profiles.iter().find(|profile| profile.name == name)
    }
}

impl Profile {
    /// The first place that is free; `taken` holds memory slices.
    #[must_use]
    pub fn place(&self, taken: &[std::ops::Range<u32>]) -> Option<u32> {
        self.starts.iter().copied().find(|&start| self.fits(start, taken))
    }

    #[must_use]
    pub fn fits(&self, start: u32, taken: &[std::ops::Range<u32>]) -> bool {
        let end = start + self.memory_slices;
        taken.iter().all(|range| range.end <= start || end <= range.start)
    }

    /// How many more there is room for.
    #[must_use]
    pub fn remaining(&self, taken: &[std::ops::Range<u32>]) -> u32 {
        let mut taken = taken.to_vec();
        let mut starts = self.starts.to_vec();
        starts.sort_unstable();
        let mut count = 0;
        for start in starts {
            if count < self.instances && self.fits(start, &taken) {
                taken.push(start..start + self.memory_slices);
                count += 1;
            }
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_named_as_the_guide_names_them() {
        for (name, gb, slices, names) in [
            ("NVIDIA A30", 24, 4, ["1g.6gb", "2g.12gb", "4g.24gb"].as_slice()),
            (
                "NVIDIA A100-SXM4-40GB",
                40,
                7,
                &["1g.5gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb", "1g.10gb"],
            ),
            ("NVIDIA A100-SXM4-80GB", 80, 7, &["1g.10gb", "3g.40gb", "7g.80gb", "1g.20gb", "1g.10gb+me"]),
            ("NVIDIA H100 80GB HBM3", 80, 7, &["1g.10gb", "2g.20gb", "4g.40gb", "7g.80gb"]),
            ("NVIDIA H200", 141, 7, &["1g.18gb", "1g.35gb", "2g.35gb", "3g.71gb", "7g.141gb"]),
            ("NVIDIA B200", 180, 7, &["1g.23gb", "2g.45gb", "3g.90gb", "7g.180gb"]),
        ] {
            let model = Model::of(name, gb * GB);
            assert_eq!(model.slices, slices, "{name}");
            for profile in names {
                assert!(model.named(profile).is_some(), "{name} has no {profile}");
            }
        }
    }

    #[test]
    fn what_fits_follows_from_the_places_that_are_left() {
        let model = Model::of("NVIDIA A100-SXM4-40GB", 40 * GB);
        let remaining =
            |name: &str, taken: &[std::ops::Range<u32>]| model.named(name).map(|p| p.remaining(taken));
        assert_eq!(remaining("1g.5gb", &[]), Some(7));
        assert_eq!(remaining("1g.10gb", &[]), Some(4));
        assert_eq!(remaining("2g.10gb", &[]), Some(3));
        // Two 3g leave one compute slice, and no memory for it.
        let two = [0..4, 4..8];
        assert!(model.profiles.iter().all(|profile| profile.remaining(&two) == 0));
        // A 3g in the first half leaves four slices of compute of which one has no place.
        let [first, second] = two.each_ref().map(std::slice::from_ref);
        assert_eq!(remaining("1g.5gb", first), Some(3));
        assert_eq!(remaining("4g.20gb", first), Some(0));
        assert_eq!(remaining("4g.20gb", second), Some(1));
    }
}
