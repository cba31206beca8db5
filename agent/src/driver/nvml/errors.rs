//! What NVML's errors mean here, and the words for people.

use std::collections::BTreeMap;

use nvml_wrapper::error::NvmlError;

use super::raw::ENTRIES;
use crate::driver::DriverError;

/// What a device cannot tell, and why.
pub(super) type Missing = BTreeMap<&'static str, String>;

/// What a driver may lack for good is then not known.
pub(super) fn lacking<T>(
    what: &'static str,
    answer: Result<T, NvmlError>,
    missing: &mut Missing,
) -> Result<Option<T>, NvmlError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_lasting(&error) => {
            missing.insert(what, error.to_string());
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Asks unless the device has answered before that it cannot.
pub(super) fn ask<T>(
    missing: &mut Missing,
    what: &'static str,
    answer: impl FnOnce() -> Result<T, NvmlError>,
) -> Option<T> {
    if missing.contains_key(what) {
        return None;
    }
    match answer() {
        Ok(value) => Some(value),
        Err(error) => {
            if is_lasting(&error) {
                missing.insert(what, error.to_string());
            }
            None
        }
    }
}

pub(super) fn is_lasting(error: &NvmlError) -> bool {
    matches!(
        error,
        NvmlError::NotSupported
            | NvmlError::NoPermission
            | NvmlError::FunctionNotFound
            | NvmlError::FailedToLoadSymbol(_)
    )
}

pub(super) fn missing_symbol(error: &impl std::fmt::Display) -> NvmlError {
    NvmlError::FailedToLoadSymbol(error.to_string())
}

/// What the handle or the numbers were of is not there any more.
pub(super) fn is_gone(error: &NvmlError) -> bool {
    matches!(error, NvmlError::NotFound | NvmlError::InvalidArg)
}

pub(super) fn list_error(error: &NvmlError) -> String {
    match error {
        NvmlError::InsufficientSize(_) => format!("more than {ENTRIES} processes on the device"),
        NvmlError::FailedToLoadSymbol(_) => format!("the driver is too old to list processes: {error}"),
        other => other.to_string(),
    }
}

pub(super) fn init_error(error: &NvmlError) -> DriverError {
    DriverError::Init { text: error.to_string(), advice: advice(error) }
}

pub(super) fn advice(error: &NvmlError) -> &'static str {
    match error {
        NvmlError::LibRmVersionMismatch => {
            "The driver was upgraded while it was loaded: reload its kernel modules or reboot; a container that \
             mounts the old libraries must be restarted"
        }
        NvmlError::Unknown => {
            "A container that lost its access to the GPUs shows it so (`systemctl daemon-reload` on the node does \
             that): restart the container"
        }
        NvmlError::DriverNotLoaded => {
            "Load the kernel module (`modprobe nvidia`) and look into the kernel's log"
        }
        NvmlError::NoPermission => "The agent needs to open /dev/nvidiactl and /dev/nvidia<n>",
        NvmlError::GpuLost | NvmlError::ResetRequired => {
            "Look for Xid errors in the kernel's log; reset the GPU or reboot"
        }
        _ => "Look into the kernel's log for lines of NVRM",
    }
}
