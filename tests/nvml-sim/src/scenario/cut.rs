//! How a device is cut at each time: which profile each MIG device has, where it lies, which index it is listed
//! under. The driver puts a new instance into the first free place of its profile, and lists it under the first free
//! index.

use std::ops::Range;

use super::{Device, MigDevice};
use crate::models::{Model, Profile};

/// A MIG device of a scenario, with what its model makes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// Of its GPU instance.
    pub profile: Profile,
    /// Of its compute instance.
    pub compute_slices: u32,
    /// As NVML names it, after "MIG ".
    pub name: String,
    /// Memory slices.
    pub place: Range<u32>,
    /// By which `nvmlDeviceGetMigDeviceHandleByIndex` has it.
    pub index: usize,
}

/// Why a MIG device of a device cannot be: which, the field, its value, the reason.
pub type Refused = (usize, &'static str, String, &'static str);

/// One per MIG device of the scenario, in its order.
pub fn cut(device: &Device) -> Result<Vec<Cut>, Refused> {
    let model = Model::of(&device.model, device.memory_bytes);
    let parts = device.mig.as_deref().unwrap_or_default();
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by(|&a, &b| from_s(&parts[a]).total_cmp(&from_s(&parts[b])));
    let mut cuts: Vec<Option<Cut>> = vec![None; parts.len()];
    for at in order {
        let part = &parts[at];
        let there: Vec<(&MigDevice, &Cut)> = parts
            .iter()
            .zip(&cuts)
            .filter(|(other, _)| meet(other, part))
            .filter_map(|(other, cut)| Some((other, cut.as_ref()?)))
            .collect();
        cuts[at] = Some(one(&model, part, &there).map_err(|(field, value, why)| (at, field, value, why))?);
    }
    Ok(cuts.into_iter().flatten().collect())
}

fn one(
    model: &Model,
    part: &MigDevice,
    there: &[(&MigDevice, &Cut)],
) -> Result<Cut, (&'static str, String, &'static str)> {
    let (profile, compute_slices, name) = named(model, part)?;
    let same = there.iter().filter(|(other, _)| other.gpu_instance == part.gpu_instance);
    let mut inside = compute_slices;
    let mut place = None;
    for (other, cut) in same {
        if other.compute_instance == part.compute_instance {
            let value = part.compute_instance.to_string();
            return Err(("compute_instance", value, "is there twice at one time"));
        }
        if cut.profile != profile {
            return Err(("profile", name, "is not that of its GPU instance's others"));
        }
        inside += cut.compute_slices;
        place = Some(cut.place.clone());
    }
    if inside > profile.slices {
        return Err(("profile", name, "is more than its GPU instance has left"));
    }
    let place = match place {
        Some(place) => place,
        None => placed(part, &profile, there)?,
    };
    let index = (0..).find(|index| there.iter().all(|(_, cut)| cut.index != *index)).unwrap_or(0);
    Ok(Cut { profile, compute_slices, name, place, index })
}

fn placed(
    part: &MigDevice,
    profile: &Profile,
    there: &[(&MigDevice, &Cut)],
) -> Result<Range<u32>, (&'static str, String, &'static str)> {
    let taken: Vec<Range<u32>> = there.iter().map(|(_, cut)| cut.place.clone()).collect();
    let start = match part.placement {
        Some(start) if profile.starts.contains(&start) && profile.fits(start, &taken) => start,
        Some(start) => {
            return Err(("placement", start.to_string(), "is no free place for this profile"));
        }
        None => profile
            .place(&taken)
            .ok_or_else(|| ("profile", profile.name.clone(), "finds no free place beside what is there"))?,
    };
    Ok(start..start + profile.memory_slices)
}

/// Profile of the GPU instance, slices of the compute instance, and the name of both.
fn named(
    model: &Model,
    part: &MigDevice,
) -> Result<(Profile, u32, String), (&'static str, String, &'static str)> {
    let Some(name) = &part.profile else {
        let slices = part.profile_slices;
        let of_slices = model.of_slices(slices);
        let profile =
            of_slices.ok_or(("profile_slices", slices.to_string(), "is no profile of this model"))?;
        return Ok((profile.clone(), slices, profile.name.clone()));
    };
    let unknown = || ("profile", name.clone(), "is no profile of this model");
    let (compute, rest) = match name.split_once("c.") {
        Some((compute, rest)) => (Some(compute.parse::<u32>().map_err(|_| unknown())?), rest),
        None => (None, name.as_str()),
    };
    let profile = model.named(rest).ok_or_else(unknown)?;
    let slices = compute.unwrap_or(profile.slices);
    if slices == 0 || slices > profile.slices || (part.profile_slices != 0 && part.profile_slices != slices) {
        return Err(("profile", name.clone(), "does not go with its slices"));
    }
    Ok((profile.clone(), slices, name.clone()))
}

pub(super) fn from_s(part: &MigDevice) -> f64 {
    part.from_s.unwrap_or(0.0)
}

pub(super) fn to_s(part: &MigDevice) -> f64 {
    part.to_s.unwrap_or(super::check::FAR_S)
}

/// Both there at some time.
pub(super) fn meet(a: &MigDevice, b: &MigDevice) -> bool {
    from_s(a) < to_s(b) && from_s(b) < to_s(a)
}
