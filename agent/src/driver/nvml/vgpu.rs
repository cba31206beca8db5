//! Virtual GPUs, where this node is a host of virtual machines (vGPU manager).
//!
//! The machines are known by the driver alone: it names each one's virtual GPUs, how many of a kind the GPU has room for, and
//! how busy each is. On the host there is no process of the guest's.

use std::collections::HashMap;
use std::sync::Arc;

use nvml_wrapper::enum_wrappers::device::GpuVirtualizationMode;
use nvml_wrapper::enum_wrappers::vgpu::VmId;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::vgpu::VgpuInstance;
use nvml_wrapper::{Device, Nvml};

use super::errors::{Missing, ask, lacking};
use super::raw::{self, Handle};
use crate::model::{UtilisationSample, Vgpu};

/// Letters of a name that the driver gives.
const TEXT_MAX: usize = 64;

/// What of a device's virtual GPUs does not change while they live.
#[derive(Default)]
pub(super) struct Host {
    is_host: bool,
    known: HashMap<u32, Known>,
}

#[derive(Clone)]
struct Known {
    uuid: Arc<str>,
    vm: Arc<str>,
    kind: Arc<str>,
    of: Option<u32>,
}

impl Host {
    /// Asks whether the device is given to virtual machines at all.
    pub(super) fn look(&mut self, device: &Device<'_>, missing: &mut Missing) {
        let mode = ask(missing, "virtualisation mode", || device.virtualization_mode());
        self.is_host = matches!(mode, Some(GpuVirtualizationMode::HostVgpu));
    }

    pub(super) fn is_host(&self) -> bool {
        self.is_host
    }

    /// The virtual GPUs that run now. `memory_bytes` is the device's.
    ///
    /// # Errors
    /// If the driver does not say: then nobody knows who has the device.
    pub(super) fn guests(
        &mut self,
        device: &Device<'_>,
        memory_bytes: u64,
        missing: &mut Missing,
    ) -> Result<Vec<Vgpu>, NvmlError> {
        const WHAT: &str = "virtual GPUs";
        if !self.is_host || missing.contains_key(WHAT) {
            return Ok(Vec::new());
        }
        let Some(numbers) = lacking(WHAT, raw::vgpus(device), missing)? else { return Ok(Vec::new()) };
        self.known.retain(|number, _| numbers.contains(number));
        let mut guests = Vec::with_capacity(numbers.len());
        for number in numbers {
            let vgpu = VgpuInstance::new(number, device);
            let Ok(uuid) = raw::vgpu_uuid(device.nvml().lib(), number) else {
                // It ended just now.
                self.known.remove(&number);
                continue;
            };
            let known = self.known.get(&number).filter(|known| *known.uuid == *uuid);
            let Some(known) = known.cloned().or_else(|| learn(&vgpu, &uuid)) else { continue };
            guests.push(Vgpu {
                number,
                uuid: Arc::clone(&known.uuid),
                vm: Arc::clone(&known.vm),
                kind: Arc::clone(&known.kind),
                of: known.of,
                memory_bytes: vgpu.fb_usage().ok().filter(|bytes| *bytes <= memory_bytes),
            });
            self.known.insert(number, known);
        }
        Ok(guests)
    }

    /// How busy they were, by their numbers.
    pub(super) fn samples(
        nvml: &Nvml,
        handle: Handle,
        since_us: u64,
    ) -> Result<Vec<UtilisationSample>, NvmlError> {
        raw::vgpu_samples(nvml.lib(), handle, since_us)
    }
}

fn learn(vgpu: &VgpuInstance<'_>, uuid: &str) -> Option<Known> {
    let vm = match vgpu.vm_id().ok()? {
        VmId::Domain(text) | VmId::Uuid(text) => text,
    };
    let kind = vgpu.instance_type().ok();
    Some(Known {
        uuid: uuid.into(),
        vm: cut(&vm),
        of: kind.as_ref().and_then(|kind| kind.max_instances().ok()).filter(|of| *of > 0),
        kind: cut(&kind.and_then(|kind| kind.name().ok()).unwrap_or_default()),
    })
}

fn cut(text: &str) -> Arc<str> {
    text.chars().take(TEXT_MAX).collect::<String>().into()
}
