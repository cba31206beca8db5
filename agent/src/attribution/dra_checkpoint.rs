//! MIG devices that NVIDIA's DRA driver made, from the checkpoint that it keeps as root on the node
//! (`/var/lib/kubelet/plugins/gpu.nvidia.com/checkpoint.json`): which GPU a device of a claim really is on, and which
//! MIG device there it is.
//!
//! The file holds, somewhere under its version and the claims, objects with a `device` (its `deviceName`) beside a
//! `concrete` (`parentUUID`, `migUUID`, `giId`, `ciId`); versions of the driver differ in what is around them and in how
//! they spell `deviceName`. So such pairs are looked for wherever they stand. Read again when it has changed.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::time::SystemTime;

use serde_json::Value;

/// Bytes of the file that are read; a claim takes about one KiB.
const BYTES_MAX: u64 = 8 << 20;
const DEVICES_MAX: usize = 4_096;

#[derive(Debug)]
pub(super) struct Checkpoint {
    path: PathBuf,
    read_at: Option<SystemTime>,
    /// By the device's name.
    prepared: HashMap<String, Prepared>,
}

/// What the driver made of a claim's device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Prepared {
    /// UUID of the GPU.
    pub(super) parent: String,
    /// UUID of the MIG device.
    pub(super) mig: Option<String>,
    pub(super) gpu_instance: Option<u32>,
    pub(super) compute_instance: Option<u32>,
}

impl Checkpoint {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, read_at: None, prepared: HashMap::new() }
    }

    /// Reads the file again if it has changed. What cannot be read or understood says nothing.
    pub(super) fn refresh(&mut self) {
        let modified = fs::metadata(&self.path).and_then(|metadata| metadata.modified()).ok();
        if modified == self.read_at {
            return;
        }
        self.read_at = modified;
        self.prepared = self.read().map(|root| prepared(&root)).unwrap_or_default();
    }

    /// What the MIG device of this name is.
    pub(super) fn device(&self, name: &str) -> Option<&Prepared> {
        self.prepared.get(name)
    }

    fn read(&self) -> Option<Value> {
        let mut text = Vec::new();
        fs::File::open(&self.path).ok()?.take(BYTES_MAX).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }
}

/// Every device name with what it is. `serde_json` bounds how deep a document may go.
fn prepared(root: &Value) -> HashMap<String, Prepared> {
    let mut found = HashMap::new();
    let mut left = vec![root];
    while let Some(value) = left.pop() {
        match value {
            Value::Array(items) => left.extend(items),
            Value::Object(fields) => {
                let concrete = fields.get("concrete");
                let parent = text(concrete, "parentuuid");
                if let (Some(name), Some(parent)) = (text(fields.get("device"), "devicename"), parent)
                    && found.len() < DEVICES_MAX
                {
                    let number = |key| u32::try_from(field(concrete, key)?.as_u64()?).ok();
                    let (gpu_instance, compute_instance) = (number("giid"), number("ciid"));
                    let mig = text(concrete, "miguuid");
                    found.insert(name, Prepared { parent, mig, gpu_instance, compute_instance });
                }
                left.extend(fields.values());
            }
            _ => {}
        }
    }
    found
}

/// A field of an object by its key, whose case differs between versions.
fn field<'a>(object: Option<&'a Value>, key: &str) -> Option<&'a Value> {
    let fields = object?.as_object()?;
    fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value)
}

fn text(object: Option<&Value>, key: &str) -> Option<String> {
    field(object, key)?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{"checksum":1,"v2":{"preparedClaims":{"5f0c":{"checkpointState":"PrepareCompleted",
        "preparedDevices":[{"devices":[
            {"gpu":null,"mig":{"concrete":{"parentMinor":2,"giId":9,"ciId":0,"migUUID":"MIG-1","parentUUID":"GPU-a"},
             "device":{"Requests":["r"],"PoolName":"node","DeviceName":"gpu-2-mig-1g24gb-19-0"}}},
            {"gpu":{"info":{"uuid":"GPU-b"},"device":{"DeviceName":"gpu-0"}},"mig":null}]}]}}}}"#;

    #[test]
    fn a_dynamic_mig_device_has_its_gpu_and_its_numbers_by_name_in_any_spelling() {
        let found = prepared(&serde_json::from_str(TEXT).unwrap());
        let expected = Prepared {
            parent: "GPU-a".into(),
            mig: Some("MIG-1".into()),
            gpu_instance: Some(9),
            compute_instance: Some(0),
        };
        assert_eq!(found, HashMap::from([("gpu-2-mig-1g24gb-19-0".to_owned(), expected)]));
        let newer = TEXT.replace("DeviceName", "deviceName").replace("\"v2\"", "\"v3\"");
        assert_eq!(prepared(&serde_json::from_str(&newer).unwrap()), found);
    }

    #[test]
    fn the_file_is_read_again_when_it_has_changed_and_what_is_wrong_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.json");
        let mut checkpoint = Checkpoint::new(path.clone());
        checkpoint.refresh();
        assert_eq!(checkpoint.device("gpu-2-mig-1g24gb-19-0"), None);
        fs::write(&path, TEXT).unwrap();
        checkpoint.refresh();
        assert_eq!(checkpoint.device("gpu-2-mig-1g24gb-19-0").unwrap().parent, "GPU-a");
        for wrong in ["", "[", "[1, {\"device\": 1, \"concrete\": []}]"] {
            assert!(
                serde_json::from_str::<Value>(wrong)
                    .map(|root| prepared(&root))
                    .unwrap_or_default()
                    .is_empty()
            );
        }
    }
}
