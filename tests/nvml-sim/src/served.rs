//! The log of answers really served: what a judge may hold against the agent, and no more.
//!
//! One JSON object per line, each one write to a file opened for appending, so that `kill -9` loses nothing that
//! was served before it. Logged are the driver's start and stop, every answer that billing rests on (processes,
//! utilisation, energy) and every refusal. Not logged: names, sizes and gauges, and the probes that ask how long
//! a list is.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use tonnage_runtime::clock::Reading;

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub wall_ns: i64,
    pub monotonic_ns: i64,
    /// The function as it is called in C, or [`INIT`].
    pub call: String,
    /// NVML's return code.
    pub ret: u32,
    /// UUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// UUID of the MIG device, of a call about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mig: Option<String>,
    /// Pid and bytes of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<Vec<(u32, u64)>>,
    /// Pid, timestamp in microseconds, percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<Vec<(u32, u64, u32)>>,
    /// With processes, where MIG is on: GPU instance and compute instance of each, all ones where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<Vec<(u32, u32)>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_mj: Option<u64>,
    /// A GPU instance, and its mean use by GPM in thousandths of a percent; all ones for a whole device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpm: Option<(u32, u64)>,
    /// With [`SHUTDOWN`] only: GPM samples and event sets that nobody freed,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfreed: Option<(usize, usize)>,
    /// and how often each function was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls: Option<BTreeMap<String, u64>>,
    /// With [`INIT`] only: who loaded the driver,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// and the boot clock then, which ties start times in the fake `/proc` to the wall clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_ns: Option<i64>,
}

/// The driver was loaded. A run of the agent begins, if the process is a new one.
pub const INIT: &str = "init";
/// The driver was let go of.
pub const SHUTDOWN: &str = "shutdown";

impl Record {
    #[must_use]
    pub fn new(now: Reading, call: &str, ret: u32) -> Self {
        Self {
            wall_ns: now.wall_ns,
            monotonic_ns: now.monotonic_ns,
            call: call.to_owned(),
            ret,
            device: None,
            mig: None,
            processes: None,
            samples: None,
            instances: None,
            energy_mj: None,
            gpm: None,
            unfreed: None,
            calls: None,
            pid: None,
            boot_ns: None,
        }
    }
}

/// Where records go; nowhere if nobody asked for them.
#[derive(Debug)]
pub struct Log(Option<File>);

impl Log {
    /// Takes away a last line that is not whole: its process was killed before it served that answer.
    ///
    /// # Errors
    /// If the file cannot be opened for appending.
    pub fn open(path: Option<&Path>) -> std::io::Result<Self> {
        let open = |path| {
            let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
            let mut bytes = Vec::new();
            // A line is far shorter than this.
            let tail = file.metadata()?.len().saturating_sub(1 << 20);
            file.seek(SeekFrom::Start(tail))?;
            file.read_to_end(&mut bytes)?;
            let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            if whole < bytes.len() {
                file.set_len(tail + whole as u64)?;
            }
            Ok::<_, std::io::Error>(file)
        };
        Ok(Self(path.map(open).transpose()?))
    }

    /// # Errors
    /// If the line cannot be written: then the answer must not be served either.
    pub fn append(&mut self, record: &Record) -> std::io::Result<()> {
        let Some(file) = &mut self.0 else { return Ok(()) };
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        file.write_all(&line)
    }
}

/// The records in a log's bytes. A last line that is still being written is left for later.
///
/// # Errors
/// If a whole line is no record.
pub fn parse(bytes: &[u8]) -> Result<Vec<Record>, serde_json::Error> {
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    bytes[..whole]
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(serde_json::from_slice)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_a_kill_cut_off_is_no_answer_and_spoils_none() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let record = Record::new(Reading::default(), INIT, 0);
        Log::open(Some(file.path())).unwrap().append(&record).unwrap();
        let line = std::fs::read(file.path()).unwrap();
        std::fs::write(file.path(), [&line[..], &line[..17]].concat()).unwrap();
        Log::open(Some(file.path())).unwrap().append(&record).unwrap();
        assert_eq!(parse(&std::fs::read(file.path()).unwrap()).unwrap(), [record.clone(), record]);
    }
}
