//! What a scenario must obey beyond its shape. One function per rule; each error names field and value.

use std::collections::BTreeSet;

use super::cut::{self, from_s, meet, to_s};
use super::{Device, MigDevice, Process, Scenario, ScenarioError, Vgpu};

/// Further than any story goes (some 300 years), and safe to count in nanoseconds.
pub(crate) const FAR_S: f64 = 9.0e9;
/// Of the largest GPU.
const MIG_SLICES_MAX: u32 = 7;
const NVLINKS_MAX: u32 = 18;

impl Scenario {
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self) -> Result<(), ScenarioError> {
        if !(self.speed > 0.0 && self.speed <= 1.0e6) {
            return Err(invalid("speed", self.speed, "must be above 0 and at most 1e6"));
        }
        if self.sample_period_ms == 0 {
            return Err(invalid("sample_period_ms", 0, "must not be 0"));
        }
        let mut uuids = BTreeSet::new();
        for (at, device) in self.device.iter().enumerate() {
            check_device(device, &format!("device[{at}]"))?;
            if !uuids.insert(device.uuid.as_str()) {
                return Err(invalid(format!("device[{at}].uuid"), &device.uuid, "is there twice"));
            }
        }
        self.faults.check(|uuid| uuids.contains(uuid))?;
        for (at, process) in self.process.iter().enumerate() {
            let name = format!("process[{at}]");
            check_process(process, &name)?;
            for uuid in &process.devices {
                if !uuids.contains(uuid.as_str()) {
                    return Err(invalid(format!("{name}.devices"), uuid, "is no device of this scenario"));
                }
            }
            self.check_instance(process, &name)?;
            if let Some(other) = self.process[..at].iter().find(|other| overlap(other, process)) {
                let both = format!("{} from {} s and from {} s", process.pid, other.start_s, process.start_s);
                return Err(invalid(format!("{name}.pid"), both, "is two processes at one time"));
            }
        }
        Ok(())
    }

    /// A process lives on one MIG device, and no longer than that is there.
    fn check_instance(&self, process: &Process, name: &str) -> Result<(), ScenarioError> {
        let Some(uuid) = &process.instance else { return Ok(()) };
        let refuse = |reason| Err(invalid(format!("{name}.instance"), uuid, reason));
        let [device] = process.devices.as_slice() else { return refuse("is on no one device") };
        let device = self.device.iter().find(|other| other.uuid == *device);
        let parts = device.and_then(|device| device.mig.as_deref()).unwrap_or_default();
        if !parts.iter().any(|part| part.uuid == *uuid) {
            return refuse("is no MIG device of its device");
        }
        let end_s = if process.repeat_s.is_some() { FAR_S } else { process.end_s.unwrap_or(FAR_S) };
        let holds =
            |part: &MigDevice| part.uuid == *uuid && from_s(part) <= process.start_s && end_s <= to_s(part);
        if parts.iter().any(holds) { Ok(()) } else { refuse("is not there for all of its process's life") }
    }
}

fn check_device(device: &Device, name: &str) -> Result<(), ScenarioError> {
    if device.uuid.is_empty() || device.uuid.len() > 79 {
        return Err(invalid(format!("{name}.uuid"), &device.uuid, "must have 1 to 79 bytes"));
    }
    if device.busy_mw < device.idle_mw {
        return Err(invalid(format!("{name}.busy_mw"), device.busy_mw, "is less than idle_mw"));
    }
    if parse_pci(&device.pci_bus_id).is_none() {
        let reason = "is not of the form 00000000:3B:00.0";
        return Err(invalid(format!("{name}.pci_bus_id"), &device.pci_bus_id, reason));
    }
    for (field, time) in [("missing_from_s", device.missing_from_s), ("missing_to_s", device.missing_to_s)] {
        check_time(time.unwrap_or(0.0), &format!("{name}.{field}"))?;
    }
    let mode = [("mig_from_s", device.mig_from_s), ("mig_to_s", device.mig_to_s)];
    check_span(mode[0].1, mode[1].1, name, "mig_")?;
    if let Some((field, Some(time))) = mode.iter().find(|(_, time)| time.is_some() && device.mig.is_none()) {
        return Err(invalid(format!("{name}.{field}"), time, "is of a device without mig"));
    }
    let mig = device.mig.as_deref().unwrap_or_default();
    mig.iter()
        .enumerate()
        .try_for_each(|(at, part)| check_mig(part, &mig[..at], &format!("{name}.mig[{at}]")))?;
    cut::cut(device)
        .map_err(|(at, field, value, reason)| invalid(format!("{name}.mig[{at}].{field}"), value, reason))?;
    check_signals(device, name)
}

fn check_signals(device: &Device, name: &str) -> Result<(), ScenarioError> {
    let signals = &device.signals;
    for (field, steps, grows) in [
        ("clocks_event_reasons", &signals.clocks_event_reasons, false),
        ("ecc_corrected", &signals.ecc_corrected, true),
        ("ecc_uncorrected", &signals.ecc_uncorrected, true),
    ] {
        let field = format!("{name}.signals.{field}");
        steps.iter().try_for_each(|(from_s, _)| check_time(*from_s, &field))?;
        if let Some(pair) = steps.windows(2).find(|pair| pair[1].0 < pair[0].0) {
            return Err(invalid(field, pair[1].0, "comes after a later step"));
        }
        if let Some(pair) = steps.windows(2).find(|pair| grows && pair[1].1 < pair[0].1) {
            return Err(invalid(field, pair[1].1, "is less than before"));
        }
    }
    if signals.nvlinks > NVLINKS_MAX {
        return Err(invalid(format!("{name}.signals.nvlinks"), signals.nvlinks, "must be at most 18"));
    }
    for (at, xid) in device.xid.iter().enumerate() {
        check_time(xid.at_s, &format!("{name}.xid[{at}].at_s"))?;
        let is_there = |uuid: &String| {
            let parts = device.mig.iter().flatten().filter(|part| part.uuid == *uuid);
            parts.into_iter().any(|part| (from_s(part)..to_s(part)).contains(&xid.at_s))
        };
        if let Some(uuid) = xid.instance.as_ref().filter(|uuid| !is_there(uuid)) {
            return Err(invalid(format!("{name}.xid[{at}].instance"), uuid, "is not there at that time"));
        }
    }
    let vgpus = device.vgpu.iter().flatten().enumerate();
    vgpus.into_iter().try_for_each(|(at, vgpu)| check_vgpu(vgpu, &format!("{name}.vgpu[{at}]")))
}

fn check_vgpu(vgpu: &Vgpu, name: &str) -> Result<(), ScenarioError> {
    for (field, text) in [("uuid", &vgpu.uuid), ("vm", &vgpu.vm), ("kind", &vgpu.kind)] {
        if text.is_empty() || text.len() > 63 {
            return Err(invalid(format!("{name}.{field}"), text, "must have 1 to 63 bytes"));
        }
    }
    for &(from_s, percent) in &vgpu.utilisation {
        check_time(from_s, &format!("{name}.utilisation"))?;
        if percent > 100 {
            return Err(invalid(format!("{name}.utilisation"), percent, "must be at most 100"));
        }
    }
    check_span(vgpu.from_s, vgpu.to_s, name, "")
}

/// `to` after `from`, where both are there.
pub(super) fn check_span(
    from: Option<f64>,
    to: Option<f64>,
    name: &str,
    prefix: &str,
) -> Result<(), ScenarioError> {
    check_time(from.unwrap_or(0.0), &format!("{name}.{prefix}from_s"))?;
    let Some(to_s) = to else { return Ok(()) };
    check_time(to_s, &format!("{name}.{prefix}to_s"))?;
    if to_s <= from.unwrap_or(0.0) {
        return Err(invalid(format!("{name}.{prefix}to_s"), to_s, "is not after from_s"));
    }
    Ok(())
}

fn check_mig(part: &MigDevice, before: &[MigDevice], name: &str) -> Result<(), ScenarioError> {
    if !part.uuid.starts_with("MIG-") || part.uuid.len() > 79 {
        return Err(invalid(
            format!("{name}.uuid"),
            &part.uuid,
            "must begin with MIG- and have at most 79 bytes",
        ));
    }
    let range = if part.profile.is_some() { 0..=MIG_SLICES_MAX } else { 1..=MIG_SLICES_MAX };
    if !range.contains(&part.profile_slices) {
        return Err(invalid(format!("{name}.profile_slices"), part.profile_slices, "must be 1 to 7"));
    }
    check_span(part.from_s, part.to_s, name, "")?;
    let meets = |other: &&MigDevice| meet(other, part);
    if before.iter().filter(meets).any(|other| other.uuid == part.uuid) {
        return Err(invalid(format!("{name}.uuid"), &part.uuid, "is there twice at one time"));
    }
    let slices =
        part.profile_slices + before.iter().filter(meets).map(|other| other.profile_slices).sum::<u32>();
    if slices > MIG_SLICES_MAX {
        return Err(invalid(
            format!("{name}.profile_slices"),
            slices,
            "of all there at one time are more than 7",
        ));
    }
    Ok(())
}

fn check_process(process: &Process, name: &str) -> Result<(), ScenarioError> {
    if process.pid == 0 {
        return Err(invalid(format!("{name}.pid"), 0, "is no process"));
    }
    check_time(process.start_s, &format!("{name}.start_s"))?;
    if let Some(end_s) = process.end_s {
        check_time(end_s, &format!("{name}.end_s"))?;
        if end_s <= process.start_s {
            return Err(invalid(format!("{name}.end_s"), end_s, "is not after start_s"));
        }
    }
    if let Some(repeat_s) = process.repeat_s {
        let field = format!("{name}.repeat_s");
        check_time(repeat_s, &field)?;
        match process.end_s {
            None => return Err(invalid(field, repeat_s, "needs end_s")),
            Some(end_s) if repeat_s < end_s - process.start_s => {
                return Err(invalid(field, repeat_s, "is shorter than the process lives"));
            }
            Some(_) => {}
        }
    }
    let mut last_s = 0.0;
    for &(from_s, percent) in &process.utilisation {
        let field = format!("{name}.utilisation");
        check_time(from_s, &field)?;
        if from_s < last_s {
            return Err(invalid(field, from_s, "comes after a later step"));
        }
        if percent > 100 {
            return Err(invalid(field, percent, "is over 100 percent"));
        }
        last_s = from_s;
    }
    Ok(())
}

pub(super) fn check_time(seconds: f64, field: &str) -> Result<(), ScenarioError> {
    if (0.0..FAR_S).contains(&seconds) {
        Ok(())
    } else {
        Err(invalid(field, seconds, "must be 0 to 9e9 seconds"))
    }
}

/// Both alive at some time. Of processes that repeat only the first round is looked at.
fn overlap(a: &Process, b: &Process) -> bool {
    let end_s = |process: &Process| process.end_s.unwrap_or(FAR_S);
    a.pid == b.pid && a.start_s < end_s(b) && b.start_s < end_s(a)
}

/// Domain, bus and device of `00000000:3B:00.0`.
pub(crate) fn parse_pci(text: &str) -> Option<(u32, u32, u32)> {
    let (domain, rest) = text.split_once(':')?;
    let (bus, rest) = rest.split_once(':')?;
    let (device, _function) = rest.split_once('.')?;
    let hex = |part: &str| u32::from_str_radix(part, 16).ok();
    Some((hex(domain)?, hex(bus)?, hex(device)?))
}

pub(super) fn invalid(field: impl Into<String>, value: impl ToString, reason: &'static str) -> ScenarioError {
    ScenarioError::Invalid { field: field.into(), value: value.to_string(), reason }
}
