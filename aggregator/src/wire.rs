//! Sealed bytes to a valid batch, or the reason why not. Pure; the only place where usage messages are taken apart.
//!
//! What passes here can be folded without a second look: indices are in range, sums hold, every figure is far
//! below 2^63, every text is short and printable.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use sha2::{Digest, Sha256};
use tonnage_proto::limits::{
    BATCH_FORMAT, DEVICES_PER_BATCH_MAX, GAPS_PER_BATCH_MAX, INSTANCE_IDLES_PER_WINDOW_MAX,
    INSTANCES_PER_BATCH_MAX, LABELS_PER_NODE_MAX, NAME_BYTES_MAX, OWNER_BYTES_MAX, OWNERS_PER_BATCH_MAX,
    SLICES_MAX, SLOT_NS, UNATTRIBUTED_FACTOR_MAX, USAGES_PER_WINDOW_MAX, WINDOWS_PER_BATCH_MAX, slot_start,
};
use tonnage_proto::metering as pb;

use crate::model::{
    Device, Gap, Id, Instance, NodeFacts, NodeName, Owner, OwnerKind, Usage, UsageBatch, Window,
};

mod bounds;
mod memory;

/// Most joules in one window, in microjoules: 100 kW for a slot.
const ENERGY_UJ_MAX: u64 = 90_000_000_000_000;
/// Most memory of one owner on one device, summed over its processes: tens of TB for a slot.
const MEMORY_BYTE_SECONDS_MAX: u64 = 1 << 54;

/// SHA-256 of a payload.
#[must_use]
pub fn sha256(payload: &[u8]) -> [u8; 32] {
    Sha256::digest(payload).into()
}

/// Decodes and validates a sealed payload that came under this cursor.
///
/// # Errors
/// What is wrong, by field and value: the batch is journalled as refused with this text.
pub fn decode(payload: &[u8], node: &NodeName, epoch: &Id, seq: u64) -> Result<UsageBatch, String> {
    bounds::check(payload)?;
    let batch = pb::Batch::decode(payload).map_err(|e| format!("Batch: not protobuf: {e}"))?;
    let is = |field: &str, good: bool, value: &dyn std::fmt::Debug| {
        if good { Ok(()) } else { Err(format!("Batch.{field}: {value:?} is not what it was sent as")) }
    };
    if batch.format != BATCH_FORMAT {
        return Err(format!("Batch.format: {} is not known here, {BATCH_FORMAT} is", batch.format));
    }
    is("cluster", batch.cluster == node.cluster, &batch.cluster)?;
    is("node", batch.node == node.node, &batch.node)?;
    is("epoch", batch.epoch == epoch, &batch.epoch)?;
    is("seq", batch.seq == seq, &batch.seq)?;
    at_most("Batch.devices", batch.devices.len(), DEVICES_PER_BATCH_MAX)?;
    at_most("Batch.owners", batch.owners.len(), OWNERS_PER_BATCH_MAX)?;
    at_most("Batch.windows", batch.windows.len(), WINDOWS_PER_BATCH_MAX)?;
    let devices = indexed("devices", &batch.devices, device)?;
    let owners = indexed("owners", &batch.owners, owner)?;
    at_most("Batch.instances", batch.instances.len(), INSTANCES_PER_BATCH_MAX)?;
    let instances = indexed("instances", &batch.instances, |i| instance(i, &devices))?;
    let mut different = BTreeSet::new();
    if let Some(at) = instances.iter().position(|instance| !different.insert(instance)) {
        return Err(format!(
            "Batch.instances[{at}].uuid: {:?} stands twice in one batch",
            instances[at].uuid
        ));
    }
    let known = Known { devices: &devices, owners: owners.len(), instances: &instances };
    let windows = indexed("windows", &batch.windows, |w| window(w, known))?;
    at_most("Batch.gaps", batch.gaps.len(), GAPS_PER_BATCH_MAX)?;
    let gaps = indexed("gaps", &batch.gaps, |g| gap(g, devices.len()))?;
    Ok(UsageBatch {
        epoch: *epoch,
        seq,
        sealed_at_ns: batch.sealed_at_ns,
        boot_id: name("Batch.boot_id", &batch.boot_id)?,
        instance_id: name("Batch.instance_id", &batch.instance_id)?,
        facts: facts(batch.facts.unwrap_or_default())?,
        devices,
        owners,
        instances,
        windows,
        overlap_ns: batch.overlap_ns,
        gaps,
    })
}

fn indexed<T, U>(
    field: &str,
    items: &[T],
    convert: impl Fn(&T) -> Result<U, String>,
) -> Result<Vec<U>, String> {
    items
        .iter()
        .enumerate()
        .map(|(at, item)| convert(item).map_err(|e| format!("Batch.{field}[{at}].{e}")))
        .collect()
}

fn device(device: &pb::Device) -> Result<Device, String> {
    if !(1..=SLICES_MAX).contains(&device.slices) {
        return Err(format!("slices: {} is not between 1 and {SLICES_MAX}", device.slices));
    }
    Ok(Device {
        uuid: required_name("uuid", &device.uuid)?,
        model: name("model", &device.model)?,
        memory_bytes: bounded("memory_bytes", device.memory_bytes, 1 << 50)?,
        slices: device.slices,
        minor: device.minor,
        pci_bus_id: name("pci_bus_id", &device.pci_bus_id)?,
        driver_version: name("driver_version", &device.driver_version)?,
    })
}

fn instance(instance: &pb::Instance, devices: &[Device]) -> Result<Instance, String> {
    let at = instance.device as usize;
    let device =
        devices.get(at).ok_or_else(|| format!("device: {at} is not one of {} devices", devices.len()))?;
    if !(1..=device.slices).contains(&instance.slices) {
        let (slices, most) = (instance.slices, device.slices);
        return Err(format!("slices: {slices} is not between 1 and the {most} of its device"));
    }
    Ok(Instance {
        device: device.uuid.clone(),
        generation: instance.generation,
        gpu_instance: instance.gpu_instance,
        compute_instance: instance.compute_instance,
        slices: instance.slices,
        uuid: required_name("uuid", &instance.uuid)?,
        profile: name("profile", &instance.profile)?,
        memory_bytes: bounded("memory_bytes", instance.memory_bytes, 1 << 50)?,
        memory: memory::share(instance, device.slices)?,
    })
}

fn owner(owner: &pb::Owner) -> Result<Owner, String> {
    let kind = OwnerKind::from_number(i64::from(owner.kind))
        .ok_or_else(|| format!("kind: {} is not known here", owner.kind))?;
    let owner = Owner {
        kind,
        namespace: name("namespace", &owner.namespace)?,
        pod: name("pod", &owner.pod)?,
        pod_uid: name("pod_uid", &owner.pod_uid)?,
        container: name("container", &owner.container)?,
        container_id: name("container_id", &owner.container_id)?,
        job_id: name("job_id", &owner.job_id)?,
        step: name("step", &owner.step)?,
        unit: name("unit", &owner.unit)?,
        user: name("user", &owner.user)?,
        account: name("account", &owner.account)?,
        partition: name("partition", &owner.partition)?,
    };
    let texts =
        [&owner.namespace, &owner.pod, &owner.pod_uid, &owner.container, &owner.container_id, &owner.job_id];
    let more = [&owner.step, &owner.unit, &owner.user, &owner.account, &owner.partition];
    let bytes: usize = texts.into_iter().chain(more).map(String::len).sum();
    if bytes > OWNER_BYTES_MAX {
        return Err(format!("its names: {bytes} bytes together are over the limit of {OWNER_BYTES_MAX}"));
    }
    Ok(owner)
}

fn facts(facts: pb::NodeFacts) -> Result<NodeFacts, String> {
    at_most("Batch.facts.labels", facts.labels.len(), LABELS_PER_NODE_MAX)?;
    for (key, value) in &facts.labels {
        required_name("Batch.facts.labels (key)", key)?;
        name("Batch.facts.labels", value)?;
    }
    Ok(NodeFacts {
        instance_type: name("Batch.facts.instance_type", &facts.instance_type)?,
        region: name("Batch.facts.region", &facts.region)?,
        zone: name("Batch.facts.zone", &facts.zone)?,
        capacity_type: name("Batch.facts.capacity_type", &facts.capacity_type)?,
        labels: facts.labels.into_iter().collect(),
    })
}

/// What a window may refer to.
#[derive(Clone, Copy)]
struct Known<'a> {
    devices: &'a [Device],
    owners: usize,
    instances: &'a [Instance],
}

impl Known<'_> {
    /// The position of an instance of this device by `1 +` its position; `None` = 0.
    fn instance(self, number: u32, device: &Device) -> Result<Option<usize>, String> {
        let Some(at) = (number as usize).checked_sub(1) else { return Ok(None) };
        match self.instances.get(at) {
            Some(instance) if instance.device == device.uuid => Ok(Some(at)),
            Some(_) => Err(format!("instance: {number} is of another device")),
            None => Err(format!("instance: {number} is not one of {} instances", self.instances.len())),
        }
    }
}

fn window(window: &pb::Window, known: Known<'_>) -> Result<Window, String> {
    let devices = known.devices;
    let at = window.device as usize;
    let device =
        devices.get(at).ok_or_else(|| format!("device: {at} is not one of {} devices", devices.len()))?;
    let start_ns = window.start_ns;
    let room_ns = SLOT_NS.unsigned_abs();
    let end_ns = i64::try_from(window.duration_ns)
        .ok()
        .filter(|duration_ns| *duration_ns > 0 && duration_ns.unsigned_abs() <= room_ns)
        .and_then(|duration_ns| start_ns.checked_add(duration_ns))
        .filter(|end_ns| start_ns >= 0 && slot_start(start_ns) == slot_start(end_ns - 1))
        .ok_or_else(|| format!("duration_ns: {start_ns} + {} is not within one slot", window.duration_ns))?;
    at_most("usages", window.usages.len(), USAGES_PER_WINDOW_MAX)?;
    let capacity_ns = window.duration_ns * u64::from(device.slices);
    let usages: Vec<Usage> = window
        .usages
        .iter()
        .enumerate()
        .map(|(i, u)| {
            let at = known.instance(u.instance, device);
            at.and_then(|at| usage(u, at, known.owners, capacity_ns)).map_err(|e| format!("usages[{i}].{e}"))
        })
        .collect::<Result<_, _>>()?;
    let key = |usage: &Usage| (usage.owner, usage.intruder, usage.instance);
    for (i, one) in usages.iter().enumerate() {
        if usages[..i].iter().any(|other| key(other) == key(one)) {
            return Err(format!("usages[{i}].owner: {} stands twice in one window", one.owner));
        }
    }
    let idle_ns = bounded("idle_ns", window.idle_ns, capacity_ns)?;
    let held_ns: u64 = usages.iter().map(|usage| usage.held_ns).sum();
    if held_ns + idle_ns != capacity_ns {
        return Err(format!("idle_ns: {held_ns} held + {idle_ns} idle is not the window's {capacity_ns} ns"));
    }
    let instance_idles = instance_idles(window, known, device)?;
    within_instances(window.duration_ns, &usages, &instance_idles, known)?;
    memory::within_gpu(window.duration_ns, device.slices, &usages, &instance_idles, known.instances)?;
    let of_instances: u64 = instance_idles.iter().map(|(_, idle_ns)| idle_ns).sum();
    let stranded_ns = bounded("stranded_ns", window.stranded_ns, idle_ns)?;
    if of_instances + stranded_ns > idle_ns {
        return Err(format!(
            "stranded_ns: {stranded_ns} and the instances' {of_instances} are over the {idle_ns} ns that are idle"
        ));
    }
    Ok(Window {
        device: at,
        start_ns,
        end_ns,
        idle_ns,
        instance_idles,
        stranded_ns,
        usages,
        busy_unattributed_ns: bounded(
            "busy_unattributed_ns",
            window.busy_unattributed_ns,
            unheld_busy_max(capacity_ns),
        )?,
        energy_idle_uj: bounded("energy_idle_uj", window.energy_idle_uj, ENERGY_UJ_MAX)?,
        // Drawn over a gap of any length.
        energy_unobserved_uj: bounded("energy_unobserved_uj", window.energy_unobserved_uj, 1 << 57)?,
        samples: window.samples,
    })
}

fn instance_idles(
    window: &pb::Window,
    known: Known<'_>,
    device: &Device,
) -> Result<Vec<(usize, u64)>, String> {
    at_most("instance_idles", window.instance_idles.len(), INSTANCE_IDLES_PER_WINDOW_MAX)?;
    let mut idles: Vec<(usize, u64)> = Vec::with_capacity(window.instance_idles.len());
    for (i, idle) in window.instance_idles.iter().enumerate() {
        let said = |e| format!("instance_idles[{i}].{e}");
        let at = known.instance(idle.instance, device).map_err(said)?;
        let at = at.ok_or_else(|| said("instance: 0 is no instance".to_owned()))?;
        if idles.iter().any(|(other, _)| *other == at) {
            return Err(said(format!("instance: {} stands twice in one window", idle.instance)));
        }
        idles.push((at, bounded("idle_ns", idle.idle_ns, window.idle_ns).map_err(said)?));
    }
    Ok(idles)
}

/// No instance has more time than its slices in the window's.
fn within_instances(
    duration_ns: u64,
    usages: &[Usage],
    idles: &[(usize, u64)],
    known: Known<'_>,
) -> Result<(), String> {
    let mut sums: BTreeMap<usize, u64> = idles.iter().copied().collect();
    for usage in usages {
        if let Some(at) = usage.instance {
            *sums.entry(at).or_default() += usage.held_ns;
        }
    }
    for (at, sum_ns) in sums {
        let most_ns = duration_ns * u64::from(known.instances[at].slices);
        if sum_ns > most_ns {
            return Err(format!("instance_idles: {sum_ns} ns of instance {} are over its {most_ns}", at + 1));
        }
    }
    Ok(())
}

/// Use by those who hold nothing is no part of the window's time: many processes may each say all of it.
fn unheld_busy_max(capacity_ns: u64) -> u64 {
    capacity_ns.saturating_mul(UNATTRIBUTED_FACTOR_MAX)
}

fn usage(
    usage: &pb::Usage,
    instance: Option<usize>,
    owners: usize,
    capacity_ns: u64,
) -> Result<Usage, String> {
    let owner = usage.owner as usize;
    if owner >= owners {
        return Err(format!("owner: {owner} is not one of {owners} owners"));
    }
    let intruder = match usage.kind() {
        pb::usage::Kind::Held => false,
        pb::usage::Kind::Intruder => true,
        pb::usage::Kind::Unspecified => {
            return Err(format!("kind: {} is not taken by this version, HELD and INTRUDER are", usage.kind));
        }
    };
    if intruder && usage.held_ns != 0 {
        return Err(format!("held_ns: {} is not 0, and an INTRUDER holds nothing", usage.held_ns));
    }
    let held_ns = bounded("held_ns", usage.held_ns, capacity_ns)?;
    let busy_max_ns = if intruder { unheld_busy_max(capacity_ns) } else { held_ns };
    Ok(Usage {
        owner,
        instance,
        intruder,
        held_ns,
        busy_ns: bounded("busy_ns", usage.busy_ns, busy_max_ns)?,
        memory_byte_seconds: bounded(
            "memory_byte_seconds",
            usage.memory_byte_seconds,
            MEMORY_BYTE_SECONDS_MAX,
        )?,
        energy_uj: bounded("energy_uj", usage.energy_uj, ENERGY_UJ_MAX)?,
        method: usage.method,
    })
}

fn gap(gap: &pb::Gap, devices: usize) -> Result<Gap, String> {
    let device = match gap.device {
        u32::MAX => None,
        at if (at as usize) < devices => Some(at as usize),
        at => return Err(format!("device: {at} is not one of {devices} devices")),
    };
    let end_ns = i64::try_from(gap.duration_ns)
        .ok()
        .filter(|duration_ns| gap.start_ns >= 0 && *duration_ns > 0)
        .and_then(|duration_ns| gap.start_ns.checked_add(duration_ns))
        .ok_or_else(|| format!("duration_ns: {} + {} is no time", gap.start_ns, gap.duration_ns))?;
    let reason = u8::try_from(gap.reason).map_err(|_| format!("reason: {} is not known here", gap.reason))?;
    Ok(Gap { device, start_ns: gap.start_ns, end_ns, reason })
}

fn bounded(field: &str, value: u64, max: u64) -> Result<u64, String> {
    if value <= max { Ok(value) } else { Err(format!("{field}: {value} is over {max}")) }
}

fn at_most(field: &str, count: usize, max: usize) -> Result<(), String> {
    if count <= max { Ok(()) } else { Err(format!("{field}: {count} entries are over the limit of {max}")) }
}

/// A text that may be empty: short, without control characters.
///
/// # Errors
/// The field and what is wrong with it.
pub fn name(field: &str, text: &str) -> Result<String, String> {
    if text.len() > NAME_BYTES_MAX {
        return Err(format!("{field}: {} bytes are over the limit of {NAME_BYTES_MAX}", text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{field}: {text:?} has control characters"));
    }
    Ok(text.to_owned())
}

/// A text that must not be empty.
///
/// # Errors
/// The field and what is wrong with it.
pub fn required_name(field: &str, text: &str) -> Result<String, String> {
    if text.is_empty() { Err(format!("{field}: is empty")) } else { name(field, text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_text_of_the_batch_itself_is_named_as_such() {
        let node = NodeName { cluster: "c".into(), node: "n".into() };
        let good = pb::Batch {
            format: BATCH_FORMAT,
            cluster: "c".into(),
            node: "n".into(),
            epoch: vec![7; 16],
            seq: 1,
            ..pb::Batch::default()
        };
        let decode = |batch: &pb::Batch| decode(&batch.encode_to_vec(), &node, &[7; 16], 1);
        assert!(decode(&good).is_ok());
        let [boot, instance] = ["\n".to_owned(), "\u{12}\u{2}eu".to_owned()];
        let error = decode(&pb::Batch { boot_id: boot, ..good.clone() }).unwrap_err();
        assert!(error.starts_with("Batch.boot_id: "), "{error}");
        let error = decode(&pb::Batch { instance_id: instance, ..good }).unwrap_err();
        assert!(error.starts_with("Batch.instance_id: "), "{error}");
    }

    #[test]
    fn an_owner_of_more_names_than_an_index_takes_is_refused() {
        let mut long = pb::Owner { kind: pb::owner::Kind::Pod.into(), ..pb::Owner::default() };
        let of = |byte: u8| char::from(byte).to_string().repeat(NAME_BYTES_MAX);
        [long.namespace, long.pod, long.pod_uid, long.container] = [b'a', b'b', b'c', b'd'].map(of);
        [long.container_id, long.step, long.user, long.partition] = [b'e', b'f', b'g', b'h'].map(of);
        assert!(owner(&long).is_ok(), "as much as it may be");
        long.account = "x".to_owned();
        let error = owner(&long).unwrap_err();
        assert_eq!(error, "its names: 2049 bytes together are over the limit of 2048");
    }
}
