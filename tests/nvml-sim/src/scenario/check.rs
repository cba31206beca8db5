//! What a scenario must obey beyond its shape. One function per rule; each error names field and value.

use std::collections::BTreeSet;

use super::{Device, MigDevice, Process, Scenario, ScenarioError};

/// Further than any story goes (some 300 years), and safe to count in nanoseconds.
const FAR_S: f64 = 9.0e9;
/// Of the largest GPU.
const MIG_SLICES_MAX: u32 = 7;

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
            if let Some(other) = self.process[..at].iter().find(|other| overlap(other, process)) {
                let both = format!("{} from {} s and from {} s", process.pid, other.start_s, process.start_s);
                return Err(invalid(format!("{name}.pid"), both, "is two processes at one time"));
            }
        }
        Ok(())
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
    let mig = device.mig.as_deref().unwrap_or_default();
    mig.iter()
        .enumerate()
        .try_for_each(|(at, part)| check_mig(part, &mig[..at], &format!("{name}.mig[{at}]")))
}

fn check_mig(part: &MigDevice, before: &[MigDevice], name: &str) -> Result<(), ScenarioError> {
    if !part.uuid.starts_with("MIG-") || part.uuid.len() > 79 {
        return Err(invalid(
            format!("{name}.uuid"),
            &part.uuid,
            "must begin with MIG- and have at most 79 bytes",
        ));
    }
    if !(1..=MIG_SLICES_MAX).contains(&part.profile_slices) {
        return Err(invalid(format!("{name}.profile_slices"), part.profile_slices, "must be 1 to 7"));
    }
    let from_s = |part: &MigDevice| part.from_s.unwrap_or(0.0);
    let to_s = |part: &MigDevice| part.to_s.unwrap_or(FAR_S);
    check_time(from_s(part), &format!("{name}.from_s"))?;
    if let Some(to_s) = part.to_s {
        check_time(to_s, &format!("{name}.to_s"))?;
        if to_s <= from_s(part) {
            return Err(invalid(format!("{name}.to_s"), to_s, "is not after from_s"));
        }
    }
    let meets = |other: &&MigDevice| from_s(other) < to_s(part) && from_s(part) < to_s(other);
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

pub(super) fn check_span(from_s: f64, to_s: Option<f64>, name: &str) -> Result<(), ScenarioError> {
    check_time(from_s, &format!("{name}.from_s"))?;
    let Some(to_s) = to_s else { return Ok(()) };
    check_time(to_s, &format!("{name}.to_s"))?;
    if to_s > from_s { Ok(()) } else { Err(invalid(format!("{name}.to_s"), to_s, "is not after from_s")) }
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
