//! How schedulers name GPUs: ids of device plugins and names of DRA devices, taken apart. Pure.
//!
//! | id | what |
//! |---|---|
//! | `GPU-<uuid>` | a GPU (NVIDIA's device plugin) |
//! | `GPU-<uuid>::<n>` | a replica of it: time-slicing and MPS look the same |
//! | `<index>` | a GPU by NVML's index (`deviceIDStrategy=index`) |
//! | `MIG-<uuid>`, `MIG-<uuid>::<n>` | a MIG device, a replica of one |
//! | `MIG-GPU-<uuid>/<gi>/<ci>` | a MIG device before driver 470 |
//! | `nvidia<minor>`, `.../vgpu<n>`, `.../gi<n>`, `.../gi<n>/vgpu<n>` | GKE's plugin: GPU, replica, MIG device, its replica |
//! | `gpu-<minor>`, `gpu-<minor>-mig-<profile>-<id>-<start>` | DRA, driver `gpu.nvidia.com` |
//!
//! `HAMi`'s plugin gives `GPU-<uuid>-<n>`, of which its scheduler need not have used the GPU that is named: such an id
//! is not evidence of any GPU. Not for: which of the node's GPUs is meant (`devices`).

/// What an id names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DeviceId {
    pub(super) at: At,
    /// One of several replicas.
    pub(super) replica: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum At {
    Uuid(String),
    Index(u32),
    Minor(u32),
    /// A MIG device by its own UUID; its compute slices, if the resource's name says.
    Mig {
        uuid: String,
        slices: Option<u32>,
    },
    /// A MIG device within a GPU: by the number of its GPU instance, or by profile and place as DRA names it.
    Instance {
        parent: Parent,
        instance: String,
        slices: Option<u32>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Parent {
    Uuid(String),
    Minor(u32),
    Index(u32),
}

/// Why an id names no GPU of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum NoGpu {
    /// Another kind of device, or another vendor's.
    Other,
    /// `HAMi`: the id does not say which GPU is used.
    Hami,
    /// Looks like a GPU and is in no form that is known here.
    Malformed,
}

/// An id as a device plugin gives it under a resource's name.
///
/// # Errors
/// If it names no GPU.
pub(super) fn plugin(resource: &str, id: &str) -> Result<DeviceId, NoGpu> {
    let (base, replica) = match id.split_once("::") {
        Some((base, replica)) if is_number(replica) => (base, Some(replica.to_owned())),
        Some(_) => return Err(NoGpu::Malformed),
        None => (id, None),
    };
    if let Some(rest) = base.strip_prefix("MIG-GPU-") {
        return Ok(DeviceId { at: legacy_mig(rest, resource)?, replica });
    }
    if base.starts_with("MIG-") {
        let at = At::Mig { uuid: base.to_owned(), slices: profile_of_resource(resource) };
        return Ok(DeviceId { at, replica });
    }
    if base.starts_with("GPU-") {
        return if is_hami(base) {
            Err(NoGpu::Hami)
        } else {
            Ok(DeviceId { at: At::Uuid(base.to_owned()), replica })
        };
    }
    if let Some(rest) = base.strip_prefix("nvidia") {
        return gke(rest, resource);
    }
    // Any plugin may number its devices: only NVIDIA's numbers are GPUs.
    if resource.starts_with("nvidia.com/") && is_number(base) {
        let index = base.parse().map_err(|_| NoGpu::Malformed)?;
        return Ok(DeviceId { at: At::Index(index), replica });
    }
    Err(NoGpu::Other)
}

/// The name of a device in a `ResourceClaim`.
///
/// # Errors
/// If it names no GPU that the driver can see.
pub(super) fn claimed(driver: &str, device: &str) -> Result<DeviceId, NoGpu> {
    if driver != "gpu.nvidia.com" {
        return Err(NoGpu::Other);
    }
    let rest = device.strip_prefix("gpu-").ok_or(NoGpu::Malformed)?;
    // Handed to a virtual machine: the node's driver has no part in it.
    if rest.starts_with("vfio-") {
        return Err(NoGpu::Other);
    }
    let Some((minor, mig)) = rest.split_once("-mig-") else {
        return Ok(DeviceId { at: At::Minor(number(rest)?), replica: None });
    };
    let parent = Parent::Minor(number(minor)?);
    let profile = mig.split('-').next().unwrap_or_default();
    let at = At::Instance { parent, instance: mig.to_owned(), slices: profile_slices(profile) };
    Ok(DeviceId { at, replica: None })
}

fn legacy_mig(rest: &str, resource: &str) -> Result<At, NoGpu> {
    let mut parts = rest.split('/');
    let (uuid, gi, ci) = (parts.next(), parts.next(), parts.next());
    let (Some(uuid), Some(gi), Some(ci), None) = (uuid, gi, ci, parts.next()) else {
        return Err(NoGpu::Malformed);
    };
    number(gi).and(number(ci))?;
    Ok(At::Instance {
        parent: Parent::Uuid(format!("GPU-{uuid}")),
        instance: format!("{gi}/{ci}"),
        slices: profile_of_resource(resource),
    })
}

/// What follows `nvidia` in an id of GKE's plugin.
fn gke(rest: &str, resource: &str) -> Result<DeviceId, NoGpu> {
    let mut parts = rest.split('/');
    let minor = number(parts.next().unwrap_or_default())?;
    let mut at = At::Minor(minor);
    let mut replica = None;
    for part in parts {
        if let (Some(gi), At::Minor(_), None) = (part.strip_prefix("gi"), &at, &replica) {
            let (parent, slices) = (Parent::Minor(minor), profile_of_resource(resource));
            number(gi)?;
            at = At::Instance { parent, instance: gi.to_owned(), slices };
        } else if let (Some(n), None) = (part.strip_prefix("vgpu"), &replica) {
            number(n)?;
            replica = Some(n.to_owned());
        } else {
            return Err(NoGpu::Malformed);
        }
    }
    Ok(DeviceId { at, replica })
}

/// `GPU-` and a UUID of 36 characters, then one more number.
fn is_hami(base: &str) -> bool {
    let after = base.get("GPU-".len() + 36..).and_then(|rest| rest.strip_prefix('-'));
    after.is_some_and(is_number)
}

/// Compute slices of the profile in a resource's name, such as `nvidia.com/mig-1g.5gb`.
fn profile_of_resource(resource: &str) -> Option<u32> {
    let (_, name) = resource.split_once('/')?;
    profile_slices(name.strip_prefix("mig-")?)
}

/// `1g.5gb` has one, `1c.2g.10gb` one of the two of its GPU instance; DRA writes them without dots.
fn profile_slices(profile: &str) -> Option<u32> {
    let end = profile.find(['c', 'g'])?;
    let slices = profile.get(..end)?.parse().ok()?;
    (1..=tonnage_proto::limits::SLICES_MAX).contains(&slices).then_some(slices)
}

fn number(digits: &str) -> Result<u32, NoGpu> {
    if is_number(digits) { digits.parse().map_err(|_| NoGpu::Malformed) } else { Err(NoGpu::Malformed) }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.len() <= 9 && text.bytes().all(|c| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPU: &str = "GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f";

    fn id(at: At) -> Result<DeviceId, NoGpu> {
        Ok(DeviceId { at, replica: None })
    }

    fn replica(at: At, n: &str) -> Result<DeviceId, NoGpu> {
        Ok(DeviceId { at, replica: Some(n.into()) })
    }

    #[test]
    fn every_form_of_a_whole_gpu_is_known_under_any_name_of_the_resource() {
        let uuid = || At::Uuid(GPU.into());
        for resource in ["nvidia.com/gpu", "nvidia.com/gpu.shared", "example.org/a100"] {
            assert_eq!(plugin(resource, GPU), id(uuid()));
            assert_eq!(plugin(resource, &format!("{GPU}::11")), replica(uuid(), "11"));
            assert_eq!(plugin(resource, "nvidia3"), id(At::Minor(3)));
            assert_eq!(plugin(resource, "nvidia3/vgpu1"), replica(At::Minor(3), "1"));
        }
        assert_eq!(plugin("nvidia.com/gpu", "2"), id(At::Index(2)));
        assert_eq!(plugin("nvidia.com/gpu", "2::0"), replica(At::Index(2), "0"));
        assert_eq!(plugin("rdma/hca", "2"), Err(NoGpu::Other));
    }

    #[test]
    fn every_form_of_a_mig_device_is_known_with_the_slices_of_its_resource() {
        let mig = |slices| At::Mig { uuid: "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f".into(), slices };
        let text = "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f";
        assert_eq!(plugin("nvidia.com/mig-3g.20gb", text), id(mig(Some(3))));
        assert_eq!(plugin("nvidia.com/mig-1c.2g.10gb", text), id(mig(Some(1))));
        assert_eq!(plugin("nvidia.com/mig-1g.10gb.me", text), id(mig(Some(1))));
        assert_eq!(plugin("nvidia.com/gpu", &format!("{text}::4")), replica(mig(None), "4"));
        let legacy =
            At::Instance { parent: Parent::Uuid(GPU.into()), instance: "7/0".into(), slices: Some(2) };
        assert_eq!(plugin("nvidia.com/mig-2g.10gb", &format!("MIG-{GPU}/7/0")), id(legacy));
        let gke = |minor| At::Instance { parent: Parent::Minor(minor), instance: "9".into(), slices: None };
        assert_eq!(plugin("nvidia.com/gpu", "nvidia0/gi9"), id(gke(0)));
        assert_eq!(plugin("nvidia.com/gpu", "nvidia12/gi9/vgpu3"), replica(gke(12), "3"));
    }

    #[test]
    fn names_of_claims_say_the_minor_and_the_profile() {
        let driver = "gpu.nvidia.com";
        assert_eq!(claimed(driver, "gpu-2"), id(At::Minor(2)));
        let parent = Parent::Minor(2);
        let mig = At::Instance { parent, instance: "1g24gb-19-0".into(), slices: Some(1) };
        assert_eq!(claimed(driver, "gpu-2-mig-1g24gb-19-0"), id(mig));
        assert_eq!(claimed(driver, "gpu-vfio-2"), Err(NoGpu::Other));
        assert_eq!(claimed("compute-domain.nvidia.com", "channel-0"), Err(NoGpu::Other));
        for wrong in ["", "gpu-", "gpu-x", "gpu-1-mig", "gpu--1", "2"] {
            assert_eq!(claimed(driver, wrong), Err(NoGpu::Malformed), "{wrong}");
        }
    }

    #[test]
    fn what_is_no_gpu_is_told_apart_from_what_is_wrong() {
        assert_eq!(plugin("nvidia.com/gpu", &format!("{GPU}-4")), Err(NoGpu::Hami));
        for wrong in ["nvidiax", "nvidia0/vgpu", "nvidia0/gi1/gi2", "nvidia0/vgpu1/gi2", "nvidia1/x1"] {
            assert_eq!(plugin("nvidia.com/gpu", wrong), Err(NoGpu::Malformed), "{wrong}");
        }
        for wrong in [&format!("{GPU}::"), &format!("{GPU}::x"), "MIG-GPU-a/1", "MIG-GPU-a/1/2/3"] {
            assert_eq!(plugin("nvidia.com/gpu", wrong), Err(NoGpu::Malformed), "{wrong}");
        }
        assert_eq!(plugin("amd.com/gpu", "0000:03:00.0"), Err(NoGpu::Other));
        assert_eq!(plugin("nvidia.com/gpu", "99999999999999999999"), Err(NoGpu::Other));
    }
}
