//! Follows the log of answers that a node's driver served, reading only what is new.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::Context;
use nvidia_ml::served::{self, Record};

/// All records read so far. The log belongs to the node: it goes on through restarts of its agent.
#[derive(Debug)]
pub struct ServedLog {
    path: PathBuf,
    offset: u64,
    records: Vec<Record>,
}

impl ServedLog {
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), offset: 0, records: Vec::new() }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Everything served until now.
    ///
    /// # Errors
    /// If the file cannot be read, or has a line that is no record.
    pub fn records(&mut self) -> anyhow::Result<&[Record]> {
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(&self.records),
            opened => opened.with_context(|| format!("served log {}", self.path.display()))?,
        };
        file.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let new = served::parse(&bytes[..whole]);
        self.records.extend(new.with_context(|| format!("served log {}", self.path.display()))?);
        self.offset += u64::try_from(whole)?;
        Ok(&self.records)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tonnage_runtime::clock::Reading;

    use super::*;

    #[test]
    fn a_line_still_being_written_is_read_when_it_is_whole() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let line = serde_json::to_string(&Record::new(Reading::default(), "init", 0)).unwrap();
        let (first, second) = line.split_at(9);
        write!(file, "{line}\n{first}").unwrap();
        let mut log = ServedLog::new(file.path());
        assert_eq!(log.records().unwrap().len(), 1);
        writeln!(file, "{second}").unwrap();
        assert_eq!(log.records().unwrap().len(), 2);
    }

    #[test]
    fn a_log_that_is_not_there_yet_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        assert!(ServedLog::new(&dir.path().join("log")).records().unwrap().is_empty());
    }
}
