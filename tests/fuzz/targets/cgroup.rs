//! `/proc/<pid>/cgroup`, whose folders users can make in parts of the tree: never a panic, never half an id.

use rand::RngExt;
use rand::rngs::StdRng;
use tonnage_agent::attribution::cgroup::{Place, parse};

use crate::target::{Target, promise};

const WORDS: &[&str] = &[
    "0::/",
    "1:name=systemd:/",
    "\n",
    "/",
    "/..",
    "kubepods.slice",
    "kubepods-burstable-pod",
    "pod",
    ".slice",
    ".scope",
    "cri-containerd-",
    "docker-",
    "system.slice",
    "user.slice",
    "user-1000.slice",
    "user@1000.service",
    "session-3.scope",
    "slurm",
    "slurmstepd.scope",
    "uid_1000",
    "job_42",
    "step_0",
    "step_batch",
    "s0123456789ABC",
    " (deleted)",
    ":",
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "01234567_89ab_cdef_0123_456789abcdef",
    "01234567-89ab-cdef-0123-456789abcdef",
    "0123456789abcdef0123456789abcdef",
    "sshd.service",
    "4294967296",
    "é",
];

pub(crate) fn target() -> Target {
    Target { name: "cgroup", generate, warp, words: WORDS, bytes_max: 1 << 17, check }
}

fn generate(rng: &mut StdRng) -> Vec<u8> {
    let mut text = String::new();
    for _ in 0..rng.random_range(1..4) {
        text += "0::";
        for _ in 0..rng.random_range(1..6) {
            text += "/";
            text += WORDS[rng.random_range(0..WORDS.len())];
        }
        text += "\n";
    }
    text.into_bytes()
}

/// A folder more, or one made of two words.
fn warp(mut bytes: Vec<u8>, rng: &mut StdRng) -> Vec<u8> {
    let slashes: Vec<_> = bytes.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at).collect();
    let at = if slashes.is_empty() { bytes.len() } else { slashes[rng.random_range(0..slashes.len())] };
    let word = |rng: &mut StdRng| WORDS[rng.random_range(0..WORDS.len())];
    let folder = format!("/{}{}", word(rng), word(rng));
    bytes.splice(at..at, folder.bytes());
    bytes
}

fn check(bytes: &[u8]) -> Result<bool, String> {
    let place = parse(bytes);
    let hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let container = |id: &str| id.is_empty() || (id.len() == 64 && hex(id));
    let short = |text: &str| text.len() <= 256 && !text.contains('/');
    let good = match &place {
        Place::Nowhere => true,
        Place::Unit { name } => !name.is_empty() && short(name),
        Place::User { container_id, .. } => container(container_id),
        Place::Container { id } => !id.is_empty() && container(id),
        Place::Slurm { job, step, .. } => {
            !job.is_empty() && job.bytes().all(|b| b.is_ascii_alphanumeric()) && short(step)
        }
        Place::Pod { uid, container_id } => {
            matches!(uid.len(), 32 | 36) && hex(&uid.replace('-', "")) && container(container_id)
        }
    };
    promise(good, || format!("half an id: {place:?}"))?;
    // The kernel's order of hierarchies says nothing.
    if bytes.len() < 1 << 16 {
        let mut lines: Vec<_> = bytes.split(|byte| *byte == b'\n').collect();
        lines.reverse();
        let reversed = parse(&lines.join(&b'\n'));
        promise(reversed == place, || format!("{place:?}, and {reversed:?} from the last line on"))?;
    }
    Ok(place != Place::Nowhere)
}
