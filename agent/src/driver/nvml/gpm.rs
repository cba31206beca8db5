//! GPM: how much of a GPU, or of a GPU instance, was in use between two readings. Hopper and later.
//!
//! Two samples per GPU instance take turns. They are freed with the session, before NVML is shut down, and dropped when
//! what has the GPU instance's number is another: the number alone does not say. NVML wants samples a tenth of a second
//! apart; what comes sooner waits for the next reading.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use nvml_wrapper::error::NvmlError;
use nvml_wrapper_sys::bindings::{
    NvmlLib, nvmlGpmMetricId_t_NVML_GPM_METRIC_DRAM_BW_UTIL as DRAM_BANDWIDTH,
    nvmlGpmMetricId_t_NVML_GPM_METRIC_GRAPHICS_UTIL as GRAPHICS,
    nvmlGpmMetricId_t_NVML_GPM_METRIC_SM_UTIL as SM,
};

use super::errors::{Missing, is_lasting};
use super::raw::{GpmSample, Handle, gpm_support};
use crate::model::{GpmUse, Instance};

const APART_NS: i64 = 100_000_000;
/// Most between two samples: two of the longest sample periods.
const GAP_NS_MAX: i64 = 10_000_000_000;

/// Of one device.
#[derive(Default)]
pub(super) struct Gpm {
    /// By GPU instance; `None` is the whole device.
    pairs: BTreeMap<Option<u32>, Pair>,
}

struct Pair {
    /// The one that was taken last, and the one that is next.
    samples: [GpmSample; 2],
    taken_ns: Option<i64>,
    /// What has the GPU instance's number.
    of: Vec<Arc<Instance>>,
}

impl Gpm {
    /// Takes a sample at monotonic time `now_ns`, and says what lies between it and the one before, if there is one.
    pub(super) fn read(
        &mut self,
        lib: &NvmlLib,
        handle: Handle,
        gpu_instance: Option<u32>,
        of: &[Arc<Instance>],
        now_ns: i64,
    ) -> Result<Option<GpmUse>, NvmlError> {
        if self.pairs.get(&gpu_instance).is_some_and(|pair| pair.of != of) {
            self.pairs.remove(&gpu_instance);
        }
        let pair = match self.pairs.entry(gpu_instance) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(room) => {
                let samples = [GpmSample::new(lib)?, GpmSample::new(lib)?];
                room.insert(Pair { samples, taken_ns: None, of: of.to_vec() })
            }
        };
        if pair.taken_ns.is_some_and(|taken_ns| now_ns - taken_ns < APART_NS) {
            return Ok(None);
        }
        let [last, next] = &mut pair.samples;
        if let Err(error) = next.take(lib, handle, gpu_instance) {
            pair.taken_ns = None;
            return Err(error);
        }
        // What was used over a long gap is not what was used in the interval behind this reading.
        let before_ns = pair.taken_ns.replace(now_ns).filter(|taken_ns| now_ns - taken_ns <= GAP_NS_MAX);
        let since = before_ns.map(|_| next.since(lib, last, [GRAPHICS, SM, DRAM_BANDWIDTH]));
        pair.samples.swap(0, 1);
        let Some([graphics, sm, memory]) = since.transpose()? else { return Ok(None) };
        Ok(Some(GpmUse {
            graphics_permille: graphics.and_then(permille),
            sm_permille: sm.and_then(permille),
            memory_bandwidth_permille: memory.and_then(permille),
        }))
    }

    /// Frees the samples of GPU instances that are not among these.
    pub(super) fn retain(&mut self, gpu_instances: impl Fn(Option<u32>) -> bool) {
        self.pairs.retain(|gpu_instance, _| gpu_instances(*gpu_instance));
    }
}

/// Asks whether a device has GPM, and notes if not. False: that could not be asked now.
pub(super) fn asked_for_gpm(
    lib: &NvmlLib,
    handle: Handle,
    what: &'static str,
    missing: &mut Missing,
) -> bool {
    match gpm_support(lib, handle) {
        Ok(true) => return true,
        Ok(false) => missing.insert(what, "the GPU has none; Hopper and later have".to_owned()),
        Err(error) if is_lasting(&error) => missing.insert(what, error.to_string()),
        Err(_) => return false,
    };
    true
}

/// Of percent; `None` of what cannot be.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1000, by the test before")]
fn permille(percent: f64) -> Option<u32> {
    // A little more than all is a rounding of the driver's.
    (0.0..101.0).contains(&percent).then(|| ((percent * 10.0).round() as u32).min(1_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_part_of_a_whole_is_not_known() {
        assert_eq!([0.0, 12.34, 100.0, 100.4].map(permille), [Some(0), Some(123), Some(1_000), Some(1_000)]);
        assert_eq!([f64::NAN, -0.1, 101.0, 2_147_483_632.0, f64::INFINITY].map(permille), [None; 5]);
    }
}
