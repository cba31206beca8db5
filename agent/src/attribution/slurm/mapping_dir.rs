//! The folder that sites write for dcgm-exporter (`DCGM_HPC_JOB_MAPPING_DIR`): a file per GPU, named by NVML's index,
//! or by index and GPU instance (`2`, `2.0`); its lines are the jobs that hold it. Pure.
//!
//! Not for: times and users, of which such a folder says nothing.

use tonnage_proto::limits::NAME_BYTES_MAX;

use crate::attribution::slurm::DeviceRef;

/// Bytes of one file.
pub(super) const BYTES_MAX: usize = 64 << 10;
/// Jobs that share one GPU.
const JOBS_MAX: usize = 128;

/// Jobs on the device that the file is called by.
///
/// # Errors
/// If name or lines are not what they should be.
pub(super) fn parse(bytes: &[u8], name: &str) -> Result<(DeviceRef, Vec<String>), String> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u32>().ok().filter(|_| digits)
    };
    let at = match name.split_once('.') {
        None => number(name).map(DeviceRef::Index),
        Some((index, instance)) => number(index)
            .zip(number(instance))
            .map(|(index, gpu_instance)| DeviceRef::IndexInstance { index, gpu_instance }),
    };
    let at = at.ok_or("its name should be a GPU's index, or index.instance")?;
    let mut jobs = Vec::new();
    for line in String::from_utf8_lossy(bytes).lines().map(str::trim).filter(|line| !line.is_empty()) {
        if line.len() > NAME_BYTES_MAX || !line.bytes().all(|byte| byte.is_ascii_graphic()) {
            let line: String = line.chars().take(100).collect();
            return Err(format!("{line:?}: each line should be a job's id"));
        }
        if !jobs.iter().any(|job| job == line) {
            jobs.push(line.to_owned());
        }
        if jobs.len() > JOBS_MAX {
            return Err(format!("over {JOBS_MAX} jobs"));
        }
    }
    Ok((at, jobs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_called_like_its_gpu_and_lists_jobs() {
        assert_eq!(parse(b"", "0"), Ok((DeviceRef::Index(0), Vec::new())));
        let jobs = Ok((DeviceRef::Index(12), vec!["7".to_owned(), "8_1".to_owned()]));
        assert_eq!(parse(b"7\n8_1\n\n7\n", "12"), jobs);
        let instance = DeviceRef::IndexInstance { index: 2, gpu_instance: 5 };
        assert_eq!(parse(b"7", "2.5"), Ok((instance, vec!["7".to_owned()])));
    }

    #[test]
    fn other_names_and_lines_are_errors_that_say_what_would_be_right() {
        for (bytes, name, right) in
            [("7", "gpu0", "index"), ("7", "0.1.2", "index"), ("7", "+1", "index"), ("a b", "0", "job's id")]
        {
            assert!(parse(bytes.as_bytes(), name).unwrap_err().contains(right), "{name}");
        }
    }
}
