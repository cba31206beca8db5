//! A sealed batch, as the ledger decodes it. What it takes can be folded without a second look.

use std::collections::BTreeSet;

use prost::Message as _;
use rand::RngExt;
use rand::rngs::StdRng;
use tonnage_aggregator::model::{NodeName, UsageBatch};
use tonnage_aggregator::wire;
use tonnage_proto::limits::{
    BATCH_BYTES_MAX, BATCH_FORMAT, DEVICES_PER_BATCH_MAX, GAPS_PER_BATCH_MAX, LABELS_PER_NODE_MAX,
    NAME_BYTES_MAX, OWNERS_PER_BATCH_MAX, SLICES_MAX, SLOT_NS, USAGES_PER_WINDOW_MAX, WINDOWS_PER_BATCH_MAX,
    slot_start,
};
use tonnage_proto::metering as pb;

use crate::mutate::{number, number_32, text};
use crate::target::{Target, promise};

const EPOCH: [u8; 16] = [7; 16];
const SEQ: u64 = 3;

pub(crate) fn target() -> Target {
    Target { name: "batch", generate, warp: warp_or_swell, words: &[], bytes_max: BATCH_BYTES_MAX, check }
}

fn generate(rng: &mut StdRng) -> Vec<u8> {
    batch(rng).encode_to_vec()
}

/// A good batch under the cursor that [`check`] expects.
pub(super) fn batch(rng: &mut StdRng) -> pb::Batch {
    let devices: Vec<_> = (0..rng.random_range(1..9))
        .map(|at| pb::Device {
            uuid: format!("GPU-{at}"),
            model: "NVIDIA H100 80GB HBM3".to_owned(),
            memory_bytes: 80 << 30,
            slices: [1, 7, SLICES_MAX][rng.random_range(0..3)],
            minor: at,
            ..pb::Device::default()
        })
        .collect();
    let owners: Vec<_> = (0..rng.random_range(1..6))
        .map(|at| pb::Owner { kind: at % 6 + 1, user: format!("u{at}"), ..pb::Owner::default() })
        .collect();
    let mut windows = Vec::new();
    for _ in 0..rng.random_range(0..12) {
        windows.push(window(&devices, owners.len(), rng));
    }
    let gap = pb::Gap { device: u32::MAX, start_ns: 1, duration_ns: 5, reason: 1 };
    pb::Batch {
        format: BATCH_FORMAT,
        cluster: "c".to_owned(),
        node: "n".to_owned(),
        epoch: EPOCH.to_vec(),
        seq: SEQ,
        boot_id: "boot".to_owned(),
        facts: Some(pb::NodeFacts { region: "eu".to_owned(), ..pb::NodeFacts::default() }),
        devices,
        owners,
        windows,
        gaps: vec![gap; rng.random_range(0..3)],
        ..pb::Batch::default()
    }
}

fn window(devices: &[pb::Device], owners: usize, rng: &mut StdRng) -> pb::Window {
    let device = rng.random_range(0..devices.len());
    let duration_ns = rng.random_range(1..=10_000_000_000_u64);
    let start_ns = 1_800_000_000_000_000_000 + rng.random_range(0..90) * 10_000_000_000;
    let mut idle_ns = duration_ns * u64::from(devices[device].slices);
    let mut usages = Vec::new();
    for owner in 0..rng.random_range(0..=owners) {
        let held_ns = rng.random_range(0..=idle_ns);
        idle_ns -= held_ns;
        usages.push(pb::Usage {
            owner: u32::try_from(owner).unwrap_or(0),
            kind: pb::usage::Kind::Held.into(),
            held_ns,
            busy_ns: rng.random_range(0..=held_ns),
            ..pb::Usage::default()
        });
    }
    for owner in 0..rng.random_range(0..=owners) {
        usages.push(pb::Usage {
            owner: u32::try_from(owner).unwrap_or(0),
            kind: pb::usage::Kind::Intruder.into(),
            busy_ns: rng.random_range(0..=2 * duration_ns),
            ..pb::Usage::default()
        });
    }
    let device = u32::try_from(device).unwrap_or(0);
    pb::Window { device, start_ns, duration_ns, idle_ns, usages, samples: 10, ..pb::Window::default() }
}

/// As [`warp`], and now and then (it is slow) a list of entries that are two bytes on the wire and far more in memory.
fn warp_or_swell(bytes: Vec<u8>, rng: &mut StdRng) -> Vec<u8> {
    if rng.random_bool(0.997) {
        return warp(bytes, rng);
    }
    let Ok(mut batch) = pb::Batch::decode(bytes.as_slice()) else { return bytes };
    match rng.random_range(0..4) {
        0 => batch.devices = vec![pb::Device::default(); 1 << 17],
        1 => batch.owners = vec![pb::Owner::default(); 1 << 17],
        2 => batch.windows = vec![pb::Window::default(); 1 << 17],
        _ => batch.gaps = vec![pb::Gap::default(); 1 << 17],
    }
    batch.encode_to_vec()
}

/// Sets fields to what breaks arithmetic, and lists to what breaks indices.
pub(super) fn warp(bytes: Vec<u8>, rng: &mut StdRng) -> Vec<u8> {
    let Ok(mut batch) = pb::Batch::decode(bytes.as_slice()) else { return bytes };
    match rng.random_range(0..6) {
        0 => warp_window(&mut batch, rng),
        1 => warp_usage(&mut batch, rng),
        2 => {
            let at = rng.random_range(0..=batch.devices.len());
            let device = pb::Device { uuid: text(rng), slices: number_32(rng), ..pb::Device::default() };
            match batch.devices.get_mut(at) {
                Some(there) => *there = device,
                None => batch.devices.push(device),
            }
        }
        3 => {
            let owner =
                pb::Owner { kind: number_32(rng).cast_signed(), pod: text(rng), ..pb::Owner::default() };
            batch.owners.push(owner);
        }
        4 => {
            let gap = pb::Gap {
                device: number_32(rng),
                start_ns: number(rng).cast_signed(),
                duration_ns: number(rng),
                reason: number_32(rng).cast_signed(),
            };
            batch.gaps.push(gap);
        }
        _ => {
            batch.overlap_ns = number(rng);
            batch.sealed_at_ns = number(rng).cast_signed();
            batch.facts.get_or_insert_default().labels.insert(text(rng), text(rng));
        }
    }
    batch.encode_to_vec()
}

fn warp_window(batch: &mut pb::Batch, rng: &mut StdRng) {
    let many = batch.windows.len();
    if many == 0 {
        return;
    }
    let window = &mut batch.windows[rng.random_range(0..many)];
    match rng.random_range(0..7) {
        0 => window.device = number_32(rng),
        1 => window.start_ns = number(rng).cast_signed(),
        2 => window.duration_ns = number(rng),
        3 => window.idle_ns = number(rng),
        4 => window.energy_unobserved_uj = number(rng),
        5 => window.busy_unattributed_ns = number(rng),
        _ => {
            let copy = window.clone();
            batch.windows.push(copy);
        }
    }
}

fn warp_usage(batch: &mut pb::Batch, rng: &mut StdRng) {
    let Some(window) = batch.windows.iter_mut().find(|window| !window.usages.is_empty()) else { return };
    let usage = &mut window.usages[0];
    match rng.random_range(0..8) {
        0 => usage.owner = number_32(rng),
        1 => usage.held_ns = number(rng),
        2 => usage.busy_ns = number(rng),
        3 => usage.energy_uj = number(rng),
        4 => usage.memory_byte_seconds = number(rng),
        5 => {
            // The sum still holds, if only after it has wrapped.
            let part = number(rng);
            usage.held_ns = usage.held_ns.wrapping_add(part);
            window.idle_ns = window.idle_ns.wrapping_sub(part);
        }
        6 => usage.kind = rng.random_range(0..4),
        _ => {
            let copy = *usage;
            window.usages.push(copy);
        }
    }
}

fn check(bytes: &[u8]) -> Result<bool, String> {
    let node = NodeName { cluster: "c".to_owned(), node: "n".to_owned() };
    match wire::decode(bytes, &node, &EPOCH, SEQ) {
        Ok(batch) => holds(&batch).map(|()| true),
        Err(reason) => {
            promise(reason.starts_with("Batch"), || format!("a refusal that names no field: {reason}"))?;
            promise(reason.len() < 2_048, || format!("a refusal of {} bytes", reason.len()))?;
            Ok(false)
        }
    }
}

/// What the head of `ingest/wire.rs` promises.
fn holds(batch: &UsageBatch) -> Result<(), String> {
    let counts = [
        (batch.devices.len(), DEVICES_PER_BATCH_MAX),
        (batch.owners.len(), OWNERS_PER_BATCH_MAX),
        (batch.windows.len(), WINDOWS_PER_BATCH_MAX),
        (batch.gaps.len(), GAPS_PER_BATCH_MAX),
        (batch.facts.labels.len(), LABELS_PER_NODE_MAX),
    ];
    promise(counts.iter().all(|(count, most)| count <= most), || format!("too many: {counts:?}"))?;
    for window in &batch.windows {
        let device = batch.devices.get(window.device).ok_or("a window of no device")?;
        let (start_ns, end_ns) = (window.start_ns, window.end_ns);
        let within = start_ns >= 0 && start_ns < end_ns && end_ns - start_ns <= SLOT_NS;
        promise(within && slot_start(start_ns) == slot_start(end_ns - 1), || {
            format!("a window from {start_ns} to {end_ns} is not within one slot")
        })?;
        promise((1..=SLICES_MAX).contains(&device.slices), || format!("{} slices", device.slices))?;
        let held: i128 = window.usages.iter().map(|usage| i128::from(usage.held_ns)).sum();
        let whole = i128::from(end_ns - start_ns) * i128::from(device.slices);
        promise(held + i128::from(window.idle_ns) == whole, || {
            format!("{held} held + {} idle is not {whole}", window.idle_ns)
        })?;
        let owners: BTreeSet<_> = window.usages.iter().map(|usage| (usage.owner, usage.intruder)).collect();
        promise(owners.len() == window.usages.len(), || "an owner twice in a window".to_owned())?;
        promise(window.usages.len() <= USAGES_PER_WINDOW_MAX, || "too many usages".to_owned())?;
        for usage in &window.usages {
            promise(usage.owner < batch.owners.len(), || format!("owner {}", usage.owner))?;
            let most = if usage.intruder { 64 * whole } else { i128::from(usage.held_ns) };
            promise(i128::from(usage.busy_ns) <= most, || "busy for too long".to_owned())?;
            promise(!usage.intruder || usage.held_ns == 0, || "an intruder that holds".to_owned())?;
            promise(usage.energy_uj < 1 << 62 && usage.memory_byte_seconds < 1 << 62, || {
                "near 2^63".to_owned()
            })?;
        }
    }
    for gap in &batch.gaps {
        let known = gap.device.is_none_or(|device| device < batch.devices.len());
        promise(known && gap.start_ns >= 0 && gap.start_ns < gap.end_ns, || format!("a gap: {gap:?}"))?;
    }
    let texts = batch.devices.iter().flat_map(|device| [&device.uuid, &device.model]);
    for text in texts.chain(batch.owners.iter().flat_map(|owner| [&owner.pod, &owner.user, &owner.unit])) {
        let good = text.len() <= NAME_BYTES_MAX && !text.chars().any(char::is_control);
        promise(good, || format!("a text: {text:?}"))?;
    }
    Ok(())
}
