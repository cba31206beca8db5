//! What Slurm's hooks (`deploy/slurm`) note of a job: lines of `key=value` in a file that is called like the job. Pure.
//!
//! Keys that are not known are left for later versions. An error names the field, its value and what would be right.
//!
//! Of shards and MPS the file repeats what `scontrol --details show job` says (`detail`), since a Prolog's environment
//! does not: 22.05.8 sets `SLURM_JOB_GPUS=0` for `--gres=shard:2` as for a whole GPU, and
//! `CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=0` for `--gres=mps:50`.

use std::collections::HashMap;

use tonnage_proto::limits::NAME_BYTES_MAX;

use crate::attribution::slurm::gres::GPUS_MAX;
use crate::attribution::slurm::hostlist;

/// Bytes of a file; a longer one is wrong.
pub const BYTES_MAX: usize = 64 << 10;

/// A file that was understood.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JobFile {
    pub job_id: String,
    pub boot_id: String,
    /// Wall clock; `None`: the hook had no clock.
    pub start_ns: Option<i64>,
    /// Once the job's Epilog has run.
    pub end_ns: Option<i64>,
    /// The same moments on the boot clock, rounded down to hundredths of a second; hooks of earlier versions have none.
    pub start_boot_ns: Option<i64>,
    pub end_boot_ns: Option<i64>,
    pub uid: Option<u32>,
    pub user: String,
    pub account: String,
    pub partition: String,
    /// What Slurm calls the node; empty where it did not say.
    pub node: String,
    /// GRES indices of the GPUs that the job has something of.
    pub gpus: Vec<u32>,
    /// What it has of each; `None`: the file does not say (nothing on the node is shared), or not in words that are
    /// understood.
    pub parts: Option<Vec<Part>>,
    /// Percent of each GPU, by the environment; only where `parts` does not say.
    pub mps_percent: Option<u32>,
}

/// What a job has of one GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    pub gpu: u32,
    pub kind: PartKind,
    /// How many shards, or parts of MPS; 1 of a whole GPU.
    pub count: u32,
    /// Slurm says how many on several GPUs together: `count` is an even part of it.
    pub inferred: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartKind {
    Whole,
    Shard,
    Mps,
}

/// A file is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {value:?}: {right}")]
pub struct JobFileError {
    pub field: &'static str,
    pub value: String,
    pub right: &'static str,
}

fn wrong(field: &'static str, value: &str, right: &'static str) -> JobFileError {
    JobFileError { field, value: value.chars().take(100).collect(), right }
}

/// Reads the file called `name`.
///
/// # Errors
/// If a field is missing, appears twice or is not what the hooks write.
pub fn parse(bytes: &[u8], name: &str) -> Result<JobFile, JobFileError> {
    let text = std::str::from_utf8(bytes).map_err(|_| wrong("file", name, "it should be UTF-8"))?;
    if text.len() > BYTES_MAX {
        return Err(wrong("file", name, "it should be of at most 64 KiB"));
    }
    let mut fields: HashMap<&str, &str> = HashMap::new();
    for line in text.lines() {
        let (key, value) =
            line.split_once('=').ok_or_else(|| wrong("line", line, "it should be key=value"))?;
        if fields.insert(key, value).is_some() {
            return Err(wrong("line", line, "its key should appear once"));
        }
    }
    let get = |key: &str| fields.get(key).copied().unwrap_or_default();
    if get("version") != "1" {
        return Err(wrong("version", get("version"), "it should be 1: are hooks and agent of one release?"));
    }
    let job_id = get("job_id");
    if job_id != name || !is_number(job_id) {
        return Err(wrong("job_id", job_id, "it should be a number, and the file's name"));
    }
    let short = |key: &'static str| {
        let value = get(key);
        let good = value.len() <= NAME_BYTES_MAX && !value.chars().any(char::is_control);
        if good { Ok(value.to_owned()) } else { Err(wrong(key, value, "use at most 256 bytes of text")) }
    };
    let boot_id = short("boot_id")?;
    if boot_id.is_empty() {
        return Err(wrong("boot_id", "", "it should be that of /proc/sys/kernel/random/boot_id"));
    }
    let node = short("node")?;
    let gpus = numbers(get("gpus"))
        .ok_or_else(|| wrong("gpus", get("gpus"), "it should be like 0,2-3, with at most 256 GPUs"))?;
    Ok(JobFile {
        job_id: job_id.to_owned(),
        boot_id,
        start_ns: time("start_ns", get("start_ns"))?,
        end_ns: time("end_ns", get("end_ns"))?,
        start_boot_ns: uptime("start_boot_s", get("start_boot_s"))?,
        end_boot_ns: uptime("end_boot_s", get("end_boot_s"))?,
        uid: get("uid").parse().ok(),
        user: short("user")?,
        account: short("account")?,
        partition: short("partition")?,
        gpus,
        parts: parts(get("detail"), &node).filter(|parts| !parts.is_empty()),
        node,
        // Slurm 22.05.8 says 0, and 1666 where the node has shards too: neither is a part of a GPU.
        mps_percent: get("mps_percent").parse().ok().filter(|percent| (1..=100).contains(percent)),
    })
}

/// A name that a job's file may have.
#[must_use]
pub fn is_number(text: &str) -> bool {
    !text.is_empty() && text.len() <= 10 && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn time(field: &'static str, text: &str) -> Result<Option<i64>, JobFileError> {
    if text.is_empty() {
        return Ok(None);
    }
    let ns = text.parse().ok().filter(|ns: &i64| *ns >= 0 && !text.starts_with('+'));
    let right = "it should be nanoseconds since the Unix epoch";
    ns.map(Some).ok_or_else(|| wrong(field, text, right))
}

/// `17986.13`, as `/proc/uptime` has it.
fn uptime(field: &'static str, text: &str) -> Result<Option<i64>, JobFileError> {
    if text.is_empty() {
        return Ok(None);
    }
    let whole = |digits: &str| digits.parse::<u32>().ok().filter(|_| !digits.starts_with('+')).map(i64::from);
    let (s, hundredths) = text.split_once('.').unwrap_or((text, "00"));
    let ns = whole(s).zip(whole(hundredths).filter(|_| hundredths.len() == 2));
    let right = "it should be seconds since boot with two decimals, as /proc/uptime has them";
    ns.map(|(s, hundredths)| Some(s * 1_000_000_000 + hundredths * 10_000_000))
        .ok_or_else(|| wrong(field, text, right))
}

/// `0,2-3`: at least one number, each once, in order.
fn numbers(text: &str) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    for range in text.split(',') {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        let (from, to): (u32, u32) = (from.parse().ok()?, to.parse().ok()?);
        if from > to || to - from >= u32::try_from(GPUS_MAX).ok()? {
            return None;
        }
        numbers.extend(from..=to);
        if numbers.len() > GPUS_MAX {
            return None;
        }
    }
    numbers.sort_unstable();
    numbers.dedup();
    Some(numbers)
}

/// What `scontrol` says of one node: `Nodes=n[1-2] CPU_IDs=0 Mem=0 GRES=gpu:a100:1(IDX:0),shard:2(IDX:1) Nodes=...`.
/// `None` where it says nothing of the node, or nothing that can be understood.
fn parts(detail: &str, node: &str) -> Option<Vec<Part>> {
    let mut of_node = false;
    for word in detail.split_whitespace() {
        match word.split_once('=')? {
            ("Nodes", nodes) => of_node = hostlist::contains(nodes, node),
            ("GRES", gres) if of_node => return gres_parts(gres),
            _ => {}
        }
    }
    None
}

/// `gpu:a100:1(IDX:0),shard:2(IDX:1)`, or `shard:3(1/4,2/4)` with what each GPU gives. Other GRES are left out.
fn gres_parts(gres: &str) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let mut rest = gres;
    while !rest.is_empty() {
        let (what, within, after) = match rest.split_once('(') {
            Some((what, within)) => {
                let (within, after) = within.split_once(')')?;
                (what, within, after.trim_start_matches(','))
            }
            None => (rest, "", ""),
        };
        rest = after;
        // What has no index in brackets stands before, with commas: `craynetwork:1,gpu:1`.
        let what = what.rsplit(',').next()?;
        let kind = match what.split(':').next()? {
            "gpu" => PartKind::Whole,
            "shard" => PartKind::Shard,
            "mps" => PartKind::Mps,
            _ => continue,
        };
        match within.strip_prefix("IDX:") {
            Some(indices) => {
                let count: u32 = what.rsplit(':').next()?.parse().ok()?;
                even(kind, count, &numbers(indices)?, &mut parts);
            }
            None => each(kind, within, &mut parts)?,
        }
        if parts.len() > GPUS_MAX {
            return None;
        }
    }
    Some(parts)
}

fn even(kind: PartKind, count: u32, gpus: &[u32], parts: &mut Vec<Part>) {
    let many = u32::try_from(gpus.len()).unwrap_or(u32::MAX).max(1);
    for (at, gpu) in (0..).zip(gpus) {
        let count = if kind == PartKind::Whole { 1 } else { count / many + u32::from(at < count % many) };
        let inferred = kind != PartKind::Whole && many > 1;
        if count > 0 {
            parts.push(Part { gpu: *gpu, kind, count, inferred });
        }
    }
}

/// `1/4,0/4`: one after the other.
fn each(kind: PartKind, within: &str, parts: &mut Vec<Part>) -> Option<()> {
    for (gpu, part) in (0..).zip(within.split(',')) {
        let (count, _) = part.split_once('/')?;
        let count = count.parse().ok()?;
        if count > 0 {
            parts.push(Part { gpu, kind, count, inferred: false });
        }
    }
    Some(())
}

#[cfg(test)]
mod tests;
