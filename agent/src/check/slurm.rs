//! What `check` says of Slurm: is it here, do its hooks run, and which GPU is which GRES index.
//!
//! Reads slurm.conf only as far as that needs: keys and values, with what it includes.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use tonnage_runtime::clock::Reading;

use crate::attribution::slurm::{DeviceRef, Jobs, safe_folder};
use crate::check::Findings;
use crate::config::Config;
use crate::model::DeviceReading;
use crate::node;

/// Files that may include one another, and hooks of one pattern.
const FILES_MAX: usize = 32;
const BYTES_MAX: usize = 4 << 20;
/// Any of them makes Slurm run the Prolog when a job gets its GPUs (slurm.conf(5): Contain, X11 and RunInJob imply Alloc).
const AT_ALLOCATION: [&str; 4] = ["alloc", "contain", "x11", "runinjob"];

/// Keys in lower case; a key that appears again has all its values.
type Conf = HashMap<String, Vec<String>>;

pub(super) fn slurm(config: &Config, devices: &[DeviceReading], now: Reading, findings: &mut Findings) {
    let (slurm, slurm_conf) = (&config.paths.slurm, &config.slurm_conf);
    let path = slurm_conf.display();
    let mut conf = Conf::new();
    match fs::metadata(slurm_conf) {
        Ok(_) => {
            read(slurm_conf, &mut conf, &mut 0);
            findings.good(&format!("Slurm is configured by {path}"));
            hooks(&conf, config, findings);
        }
        Err(_) if slurm.jobs.exists() || slurm.job_mapping.is_some() => findings.note(&format!(
            "{path} is not there, so Slurm's settings cannot be looked at: name it with --slurm.conf"
        )),
        Err(_) => {
            return findings.note(&format!(
                "{path} is not there: no Slurm on this node. If there is, name the file with --slurm.conf"
            ));
        }
    }
    let hooked = folder(&slurm.jobs, findings);
    if !hooked && slurm.job_mapping.is_none() {
        return;
    }
    let mut jobs = Jobs::new(slurm.clone());
    if let Ok(boot_id) = node::boot_id(&config.paths.procfs) {
        let many = jobs.read(&boot_id, now).iter().filter(|job| job.until.is_none()).count();
        findings.good(&format!("{many} jobs hold GPUs"));
    }
    indices(&mut jobs, devices, findings);
    let problems: Vec<String> = jobs.problems().map(str::to_owned).collect();
    problems.iter().for_each(|problem| findings.problem(problem));
}

/// Whether Slurm runs the hooks, and when.
fn hooks(conf: &Conf, config: &Config, findings: &mut Findings) {
    let all = |key: &str| conf.get(key).cloned().unwrap_or_default();
    let flags = all("prologflags").join(",").to_lowercase();
    if flags.split(',').any(|flag| AT_ALLOCATION.contains(&flag.trim())) {
        findings.good("the Prolog runs when a job gets its GPUs (PrologFlags)");
    } else {
        findings.problem(
            "PrologFlags has neither Alloc nor Contain, so a job's time begins with its first step only: set \
             PrologFlags=Alloc in slurm.conf",
        );
    }
    for (key, hook) in [("Prolog", "prolog.sh"), ("Epilog", "epilog.sh")] {
        let values = all(&key.to_lowercase());
        let ours = values.iter().flat_map(|value| files(value)).find(|file| mentions_tonnage(file));
        match ours {
            Some(file) => findings.good(&format!("{key}: {}", file.display())),
            None if config.paths.slurm.job_mapping.is_some() => findings.note(&format!(
                "{key} does not run Tonnage's {hook}: when jobs begin and end is seen only at the next sample"
            )),
            None => findings.problem(&format!(
                "{key} is {}, and does not run Tonnage's {hook}: install it, and name it in slurm.conf",
                if values.is_empty() { "not set".to_owned() } else { values.join(", ") }
            )),
        }
    }
    let proctrack = all("proctracktype");
    if !proctrack.iter().any(|value| value.ends_with("cgroup")) {
        findings.note(
            "ProctrackType is not proctrack/cgroup: a process on a GPU cannot be told to be a job's, only that a job \
             holds the GPU",
        );
    }
}

/// Whether the folder is there and safe.
fn folder(path: &Path, findings: &mut Findings) -> bool {
    let shown = path.display();
    match fs::metadata(path).map(|metadata| safe_folder(path, &metadata)) {
        Ok(Ok(())) => findings.good(&format!("jobs are noted in {shown}")),
        Ok(Err(problem)) => {
            findings.problem(&problem);
            return false;
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => findings.note(&format!(
            "{shown} is not there yet: the first job with a GPU makes it. In a container mount the host's"
        )),
        Err(error) => {
            findings.problem(&format!("{shown}: {error}: let the agent's user read it"));
            return false;
        }
    }
    true
}

/// Which GPU each index is.
fn indices(jobs: &mut Jobs, devices: &[DeviceReading], findings: &mut Findings) {
    let (listed, problems) = jobs.listed();
    let problems = problems.to_vec();
    let many = if listed == 0 { devices.len() } else { listed };
    for index in (0..many).filter_map(|index| u32::try_from(index).ok()) {
        match jobs.locate(index) {
            Err(problem) => findings.problem(&problem),
            Ok(located) => {
                let (minor, part) = match located.at {
                    DeviceRef::Instance { minor, gpu_instance, .. } => {
                        (minor, format!(", instance {gpu_instance}"))
                    }
                    DeviceRef::Minor(minor) => (minor, String::new()),
                    DeviceRef::Index(_) | DeviceRef::IndexInstance { .. } => continue,
                };
                let gpu = devices.iter().find(|device| device.info.minor == Some(minor));
                match gpu {
                    None => findings.problem(&format!(
                        "GRES index {index} is minor {minor}{part}, which the driver does not know: see gres.conf, or \
                         say which GPU it is with --slurm.gpu-map"
                    )),
                    Some(gpu) if located.inferred => findings.note(&format!(
                        "GRES index {index} is taken to be {}{part}: where Slurm finds GPUs by itself gres.conf does \
                         not say; to be certain use --slurm.gpu-map",
                        gpu.info.uuid
                    )),
                    Some(gpu) => findings.good(&format!("GRES index {index} is {}{part}", gpu.info.uuid)),
                }
            }
        }
    }
    // Also told by the jobs, once there are any.
    if jobs.problems().next().is_none() {
        problems.iter().for_each(|problem| findings.problem(problem));
    }
}

/// Adds a file's keys, and those of what it includes.
fn read(path: &Path, conf: &mut Conf, files: &mut usize) {
    *files += 1;
    let Ok(bytes) = fs::read(path) else { return };
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(BYTES_MAX)]).into_owned();
    for line in text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()) {
        if let Some((word, rest)) = line.split_once(char::is_whitespace)
            && word.eq_ignore_ascii_case("include")
        {
            if *files < FILES_MAX {
                let folder = path.parent().unwrap_or(Path::new("/"));
                read(&folder.join(rest.trim()), conf, files);
            }
        } else if let Some((key, value)) = line.split_once('=') {
            // The keys that matter here stand alone on their line.
            let value = value.split_whitespace().next().unwrap_or_default().trim_matches('"');
            conf.entry(key.trim().to_lowercase()).or_default().push(value.to_owned());
        }
    }
}

/// The files that a hook's setting names: one, or all of a pattern like `/etc/slurm/prolog.d/*.sh`.
fn files(value: &str) -> Vec<PathBuf> {
    let path = PathBuf::from(value);
    let pattern = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.split_once('*'));
    let Some((begin, end)) = pattern else { return vec![path] };
    let entries = fs::read_dir(path.parent().unwrap_or(Path::new("/"))).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with(begin) && name.ends_with(end)
    });
    paths.take(FILES_MAX).collect()
}

/// A hook of ours, or one that calls ours: both have the name in their text.
fn mentions_tonnage(path: &Path) -> bool {
    let text = fs::read(path).unwrap_or_default();
    let named = |text: &str| text.to_lowercase().contains("tonnage");
    named(&path.to_string_lossy()) || named(&String::from_utf8_lossy(&text))
}

#[cfg(test)]
mod tests;
