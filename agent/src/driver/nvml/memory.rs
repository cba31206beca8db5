//! What the driver says of memory slices: how many a GPU has, and which part of them is whose. For money by memory alone: where it is
//! not told, all else goes on.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use nvml_wrapper::Device;
use nvml_wrapper::error::NvmlError;

use super::errors::{Missing, is_gone, is_lasting};
use super::raw;
use crate::driver::partition::memory_shares;
use crate::model::{Instance, MemoryShare};

const WHAT: &str = "memory slices of MIG devices";

/// Of one GPU.
#[derive(Debug, Default)]
pub(super) struct MemorySlices {
    /// Of the whole GPU, once it was told: what its largest profile takes.
    of: Option<u32>,
    /// The driver does not let it be asked.
    refused: bool,
}

impl MemorySlices {
    /// After an enumeration: what was refused is asked again.
    pub(super) fn ask_again(&mut self) {
        self.refused = false;
    }

    /// Tells each instance of a whole listing its part, or none of them: what all have together is then never more than there is.
    /// `profiles`: NVML's id and the compute slices of each; with the instances, compute slices of their GPU instances. True where it
    /// failed for this once.
    pub(super) fn tell(
        &mut self,
        device: &Device<'_>,
        profiles: &[(u32, u32)],
        found: &mut [(Instance, Option<u32>)],
        missing: &mut Missing,
    ) -> bool {
        if self.refused || found.is_empty() {
            return false;
        }
        match self.shares(device, profiles, found) {
            Ok(Some(shares)) => {
                for ((instance, _), share) in found.iter_mut().zip(shares) {
                    instance.memory = Some(share);
                }
                missing.remove(WHAT);
                false
            }
            // It may have been cut anew meanwhile.
            Ok(None) => {
                missing.insert(WHAT, "what the driver says of them does not fit together".into());
                false
            }
            Err(error) => {
                self.refused = is_lasting(&error);
                missing.insert(WHAT, error.to_string());
                !self.refused
            }
        }
    }

    fn shares(
        &mut self,
        device: &Device<'_>,
        profiles: &[(u32, u32)],
        found: &[(Instance, Option<u32>)],
    ) -> Result<Option<Vec<MemoryShare>>, NvmlError> {
        let of = match self.of {
            Some(of) => of,
            None => {
                let Some(of) = of_gpu(device, profiles)? else { return Ok(None) };
                *self.of.insert(of)
            }
        };
        let mut sizes = BTreeMap::new();
        for id in found.iter().filter_map(|(instance, _)| instance.gpu_instance) {
            if let Entry::Vacant(free) = sizes.entry(id) {
                free.insert(raw::memory_slices(device, id)?);
            }
        }
        Ok(memory_shares(found, &sizes, of))
    }
}

/// Memory slices of the GPU's largest profile: all that there are.
fn of_gpu(device: &Device<'_>, profiles: &[(u32, u32)]) -> Result<Option<u32>, NvmlError> {
    let mut most = None;
    for &(id, _) in profiles {
        match raw::profile_memory_slices(device, id) {
            Ok(slices) => most = most.max(slices),
            // One that this GPU does not have.
            Err(NvmlError::NotSupported) => {}
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(most)
}
