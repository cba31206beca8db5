//! Which GPU a GRES index is: `gres.conf`, as slurmd of one node reads it. Pure: text in, a [`Gres`] out.
//!
//! `SLURM_JOB_GPUS` counts the GPUs in the order of `gres.conf`'s lines: 22.05.8 with `File=/dev/nvidia3` before
//! `File=/dev/nvidia1` calls the former 0, and gives the job that one in its device cgroup. That is not NVML's order.
//! Types come in the order in which slurm.conf has them (`slurm_conf`), and only within a type the lines count. Where Slurm finds the GPUs by itself (`AutoDetect=`) the file does not say the order.
//!
//! Shards and MPS: `Count` is of the line's files, else of all GPUs, divided evenly, the first ones getting what is
//! left.
//!
//! Not for: cores and links: they choose a GPU, but do not number it.

use crate::attribution::slurm::hostlist;
use crate::attribution::slurm::slurm_conf::GpuType;

/// Bytes of a file that are read.
pub const BYTES_MAX: usize = 1 << 20;
/// Files that may include one another, in all.
pub const FILES_MAX: usize = 32;
/// GPUs, and instances of GPUs, of one node.
pub const GPUS_MAX: usize = 256;

/// What the configuration says of one node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gres {
    /// By index. Several files only for a part of a GPU (`MultipleFiles`).
    pub gpus: Vec<GresGpu>,
    /// Slurm finds GPUs by itself, besides those that are listed.
    pub auto_detect: bool,
    /// GPUs are of several types, and slurm.conf does not say which come first.
    pub unordered: bool,
    /// What was not understood: line, and what would be right.
    pub problems: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GresGpu {
    pub files: Vec<String>,
    /// In lower case.
    pub of_type: Option<String>,
    /// How many shards it is divided into; 0 = none.
    pub shards: u32,
    /// How many parts of MPS.
    pub mps: u32,
}

/// A line of shards or MPS, until all GPUs are known.
struct Shared {
    of_mps: bool,
    files: Vec<String>,
    count: u64,
}

/// Reads `text` as the node called `node`, whose GPUs are of these `types` by slurm.conf. `include` gives the text of
/// another file by its path as written; `None` where it cannot be read.
pub fn parse(
    text: &str,
    node: &str,
    types: &[GpuType],
    include: &mut dyn FnMut(&str) -> Option<String>,
) -> Gres {
    let mut gres = Gres::default();
    let mut shared = Vec::new();
    let mut texts = vec![lines(text)];
    let mut files = 1;
    while let Some(last) = texts.last_mut() {
        let Some(line) = last.pop() else {
            texts.pop();
            continue;
        };
        let mut words = line.split_whitespace();
        if words.next().is_some_and(|word| word.eq_ignore_ascii_case("include")) {
            let path = words.next().unwrap_or_default();
            files += 1;
            match include(path).filter(|_| files <= FILES_MAX) {
                Some(text) => texts.push(lines(&text)),
                None => gres.problem(&line, "name a file that can be read, and at most 32 of them"),
            }
            continue;
        }
        record(&line, node, &mut gres, &mut shared);
    }
    gres.order(types);
    for line in shared {
        gres.share(&line);
    }
    gres
}

/// Lines without comments, those that end in a backslash joined, the last one first.
pub(super) fn lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut whole = String::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        match line.strip_suffix('\\') {
            Some(begin) => whole += begin,
            None => {
                whole += line;
                lines.push(std::mem::take(&mut whole));
            }
        }
    }
    lines.push(whole);
    lines.retain(|line| !line.is_empty());
    lines.reverse();
    lines
}

/// One line of `Key=Value`.
fn record(line: &str, node: &str, gres: &mut Gres, shared: &mut Vec<Shared>) {
    let (mut name, mut of_type) = (None, None);
    let mut count = None;
    let (mut files, mut multiple) = (None, None);
    let mut auto_detect = None;
    for word in line.split_whitespace() {
        let Some((key, value)) = word.split_once('=') else {
            return gres.problem(line, "use Key=Value");
        };
        let value = value.trim_matches('"');
        match key.to_ascii_lowercase().as_str() {
            "nodename" if !hostlist::contains(value, node) => return,
            "name" => name = Some(value.to_ascii_lowercase()),
            "type" => of_type = Some(value.to_lowercase()),
            "autodetect" => auto_detect = Some(!value.eq_ignore_ascii_case("off")),
            "file" => files = Some(hostlist::expand(value)),
            "multiplefiles" => multiple = Some(hostlist::expand(value)),
            "count" => match number(value) {
                Some(number) => count = Some(number),
                None => return gres.problem(line, "Count should be a number, with K, M or G if large"),
            },
            _ => {}
        }
    }
    if let Some(on) = auto_detect {
        gres.auto_detect = on;
    }
    if [&files, &multiple].into_iter().any(|files| files.as_ref().is_some_and(Vec::is_empty)) {
        return gres.problem(line, "File should name device files, like /dev/nvidia[0-3]");
    }
    match name.as_deref() {
        Some("gpu") => {
            let whole = files.unwrap_or_default().into_iter().map(|file| vec![file]);
            for files in whole.chain(multiple) {
                gres.add(line, files, of_type.clone());
            }
        }
        Some(of @ ("shard" | "mps")) => {
            let files = files.or(multiple).unwrap_or_default();
            if shared.len() < GPUS_MAX {
                // Without a count slurmd takes slurm.conf's, which is not read here.
                shared.push(Shared { of_mps: of == "mps", files, count: count.unwrap_or(0) });
            }
        }
        _ => {}
    }
}

impl Gres {
    fn add(&mut self, line: &str, files: Vec<String>, of_type: Option<String>) {
        if self.gpus.len() < GPUS_MAX {
            self.gpus.push(GresGpu { files, of_type, ..GresGpu::default() });
        } else {
            self.problem(line, "one node has at most 256 GPUs");
        }
    }

    /// Puts the GPUs in the order of types, and leaves out what slurm.conf does not count.
    fn order(&mut self, types: &[GpuType]) {
        if types.is_empty() {
            self.unordered =
                self.gpus.windows(2).any(|pair| matches!(pair, [a, b] if a.of_type != b.of_type));
            return;
        }
        let mut left = std::mem::take(&mut self.gpus);
        for (of_type, count) in types {
            let mut many = *count;
            let mut is_of = |gpu: &mut GresGpu| {
                let is_of = many > 0 && (of_type.is_none() || gpu.of_type == *of_type);
                many -= u64::from(is_of);
                is_of
            };
            self.gpus.extend(left.extract_if(.., |gpu| is_of(gpu)));
        }
    }

    fn share(&mut self, line: &Shared) {
        let meant = |gpu: &GresGpu| line.files.is_empty() || gpu.files.iter().any(|f| line.files.contains(f));
        let many = self.gpus.iter().filter(|gpu| meant(gpu)).count() as u64;
        for (at, gpu) in (0..).zip(self.gpus.iter_mut().filter(|gpu| meant(gpu))) {
            let part = line.count / many + u64::from(at < line.count % many);
            let part = u32::try_from(part).unwrap_or(u32::MAX);
            let total = if line.of_mps { &mut gpu.mps } else { &mut gpu.shards };
            *total = total.saturating_add(part);
        }
    }

    fn problem(&mut self, line: &str, right: &str) {
        if self.problems.len() < FILES_MAX {
            let line: String = line.chars().take(200).collect();
            self.problems.push(format!("gres.conf: {line:?}: {right}"));
        }
    }
}

/// `16`, `4K`: with the multiples of 1024 that Slurm knows.
pub(super) fn number(text: &str) -> Option<u64> {
    let (digits, unit) = match text.chars().last()?.to_ascii_uppercase() {
        'K' => (text.get(..text.len() - 1)?, 1 << 10),
        'M' => (text.get(..text.len() - 1)?, 1 << 20),
        'G' => (text.get(..text.len() - 1)?, 1 << 30),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests;
