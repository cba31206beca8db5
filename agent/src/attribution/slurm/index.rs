//! Which GPU a GRES index is on this node: `gres.conf`, `slurm.conf` and device nodes, or what a person said.
//!
//! A device node's minor number is the GPU's (`nvmlDeviceGetMinorNumber`). Where the node is not visible, as in a
//! container, its name has it: `/dev/nvidia<minor>`. A part of a GPU is a file of capabilities
//! (`/dev/nvidia-caps/nvidia-cap<N>`), of which `/proc/driver/nvidia-caps/mig-minors` says which instance it is.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use crate::attribution::slurm::folder::Stamp;
use crate::attribution::slurm::gres::{self, Gres};
use crate::attribution::slurm::slurm_conf;
use crate::attribution::slurm::{DeviceRef, Paths};

/// Files that are watched: both, and what they include.
const FILES_MAX: usize = 2 * gres::FILES_MAX;
/// Nodes that are served by one host; several slurmd on one host are for tests.
const NODES_MAX: usize = 64;

/// Where a GRES index points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Located {
    pub at: DeviceRef,
    /// Shards and parts of MPS into which it is divided; 0 = not.
    pub shards: u32,
    pub mps: u32,
    /// Nobody said it: indices were taken to be in the order of minor numbers.
    pub inferred: bool,
}

#[derive(Debug)]
pub(super) struct Indices {
    gres_conf: PathBuf,
    slurm_conf: PathBuf,
    map: BTreeMap<u32, PathBuf>,
    procfs: PathBuf,
    /// The files that were read, with what they then were.
    read: Vec<(PathBuf, Option<Stamp>)>,
    by_node: HashMap<String, Gres>,
    /// gres.conf is there and cannot be read: why.
    unreadable: Option<String>,
}

impl Indices {
    pub(super) fn new(paths: &Paths) -> Self {
        Self {
            gres_conf: paths.gres_conf.clone(),
            slurm_conf: paths.slurm_conf.clone(),
            map: paths.gpu_map.clone(),
            procfs: paths.procfs.clone(),
            read: Vec::new(),
            by_node: HashMap::new(),
            unreadable: None,
        }
    }

    /// Forgets what has changed on disk, and says whether anything has.
    pub(super) fn refresh(&mut self) -> bool {
        // Its mode may have changed, which a stamp does not have.
        let same = self.unreadable.is_none()
            && !self.read.is_empty()
            && self.read.iter().all(|(path, known)| stamp(path) == *known);
        if !same {
            self.by_node.clear();
            let both = [&self.gres_conf, &self.slurm_conf];
            self.read = both.map(|path| (path.clone(), stamp(path))).into();
        }
        !same
    }

    pub(super) fn gres(&mut self, node: &str) -> &Gres {
        if !self.by_node.contains_key(node) {
            if self.by_node.len() >= NODES_MAX {
                self.by_node.clear();
            }
            let read = &mut self.read;
            let mut include_of = |file: &Path, path: &str| {
                let path = file.parent().unwrap_or(Path::new("/")).join(path);
                if read.len() < FILES_MAX && !read.iter().any(|(known, _)| *known == path) {
                    read.push((path.clone(), stamp(&path)));
                }
                text(&path)
            };
            let slurm_conf = text(&self.slurm_conf).unwrap_or_default();
            let types =
                slurm_conf::gpu_types(&slurm_conf, node, &mut |path| include_of(&self.slurm_conf, path));
            let gres_conf = read_text(&self.gres_conf);
            self.unreadable =
                gres_conf.as_ref().err().filter(|error| error.kind() != ErrorKind::NotFound).map(|error| {
                    format!("{}: {error}: let the agent's user read it", self.gres_conf.display())
                });
            let gres_conf = gres_conf.unwrap_or_default();
            let mut gres =
                gres::parse(&gres_conf, node, &types, &mut |path| include_of(&self.gres_conf, path));
            gres.problems.extend(self.unreadable.clone());
            self.by_node.insert(node.to_owned(), gres);
        }
        self.by_node.entry(node.to_owned()).or_default()
    }

    /// The device at `index` on `node`.
    ///
    /// # Errors
    /// If nothing says which it is: then what to do.
    pub(super) fn locate(&mut self, index: u32, node: &str) -> Result<Located, String> {
        let path = self.gres_conf.display().to_string();
        let by_person = self.map.get(&index).map(|file| vec![file.display().to_string()]);
        let (listed, auto_detect, unordered) = {
            let gres = self.gres(node);
            let gpu = gres.gpus.get(usize::try_from(index).unwrap_or(usize::MAX)).cloned();
            (gpu, gres.auto_detect, gres.unordered)
        };
        let none_listed = self.gres(node).gpus.is_empty();
        let (shards, mps) = listed.as_ref().map_or((0, 0), |gpu| (gpu.shards, gpu.mps));
        let said = by_person.or_else(|| listed.map(|gpu| gpu.files));
        if let Some(files) = said {
            let at = self.device(&files)?;
            // Slurm sorts what it finds; whether it then keeps the order of the lines is not known.
            let sorted = !unordered && (!auto_detect || self.ascending(node));
            return Ok(Located { at, shards, mps, inferred: !self.map.contains_key(&index) && !sorted });
        }
        if !none_listed && !auto_detect {
            return Err(format!(
                "GRES index {index} of node {node}: {path} lists fewer GPUs: say which it is with --slurm.gpu-map"
            ));
        }
        if let Some(problem) = &self.unreadable {
            return Err(format!("GRES index {index} of node {node}: {problem}"));
        }
        if self.is_divided() {
            return Err(format!(
                "GRES index {index} of node {node}: Slurm finds GPUs by itself, and here are MIG devices, whose order is \
                 not known: say which it is with --slurm.gpu-map"
            ));
        }
        let minors = self.minors();
        let minor = minors.get(usize::try_from(index).unwrap_or(usize::MAX)).copied();
        let minor = minor.or(minors.is_empty().then_some(index)).ok_or_else(|| {
            format!("GRES index {index} of node {node}: the driver knows fewer GPUs: see --slurm.gpu-map")
        })?;
        Ok(Located { at: DeviceRef::Minor(minor), shards, mps, inferred: true })
    }

    /// Whether the files of all GPUs are in the order of their minor numbers: then any sorting leaves them as they are.
    fn ascending(&mut self, node: &str) -> bool {
        let gpus = self.gres(node).gpus.clone();
        let minors: Option<Vec<u32>> = gpus
            .iter()
            .map(|gpu| match self.device(&gpu.files) {
                Ok(DeviceRef::Minor(minor)) => Some(minor),
                _ => None,
            })
            .collect();
        minors.is_some_and(|minors| minors.is_sorted())
    }

    /// What a GPU's device nodes are.
    fn device(&self, files: &[String]) -> Result<DeviceRef, String> {
        let caps = files.iter().filter_map(|file| number_after(file, "nvidia-cap"));
        let caps: Vec<u32> = caps.collect();
        if !caps.is_empty() {
            let path = self.procfs.join("driver/nvidia-caps/mig-minors");
            let minors = text(&path).unwrap_or_default();
            // The compute instance's file says more than the GPU instance's.
            let found = caps.iter().filter_map(|cap| instance(&minors, *cap)).max_by_key(|(_, of_ci)| *of_ci);
            return found.map(|(at, _)| at).ok_or_else(|| {
                format!("{}: {} does not name its instance", files.join(","), path.display())
            });
        }
        let file = files.first().map(String::as_str).unwrap_or_default();
        let minor = node_minor(Path::new(file)).or_else(|| number_after(file, "nvidia"));
        minor
            .map(DeviceRef::Minor)
            .ok_or_else(|| format!("{file}: no device node, and not called like /dev/nvidia0"))
    }

    /// Whether any GPU has instances. `mig-minors` does not tell: it lists all that there could be.
    fn is_divided(&self) -> bool {
        let folders = |path: PathBuf| {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            entries.take(gres::GPUS_MAX).filter_map(|entry| entry.file_name().into_string().ok())
        };
        let capabilities = self.procfs.join("driver/nvidia/capabilities");
        let mut gpus = folders(capabilities.clone()).filter(|name| name.starts_with("gpu"));
        gpus.any(|gpu| folders(capabilities.join(gpu).join("mig")).any(|name| name.starts_with("gi")))
    }

    /// Minor numbers of the driver's GPUs, sorted.
    fn minors(&self) -> Vec<u32> {
        let gpus = fs::read_dir(self.procfs.join("driver/nvidia/gpus")).into_iter().flatten().flatten();
        let minor = |folder: PathBuf| {
            let information = text(&folder.join("information"))?;
            information.lines().find_map(|line| line.strip_prefix("Device Minor:")?.trim().parse().ok())
        };
        let mut minors: Vec<u32> =
            gpus.take(gres::GPUS_MAX).filter_map(|entry| minor(entry.path())).collect();
        minors.sort_unstable();
        minors
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    fs::metadata(path).ok().map(|metadata| Stamp::of(&metadata))
}

/// A file's text up to the limit of its parser.
fn text(path: &Path) -> Option<String> {
    read_text(path).ok()
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(gres::BYTES_MAX).unwrap_or(u64::MAX);
    fs::File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The minor number of a character device.
fn node_minor(path: &Path) -> Option<u32> {
    let stat = rustix::fs::stat(path).ok()?;
    let is_device =
        rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::CharacterDevice;
    is_device.then(|| rustix::fs::minor(stat.st_rdev))
}

/// `7` of `/dev/nvidia7` after `nvidia`.
fn number_after(path: &str, name: &str) -> Option<u32> {
    let digits = path.rsplit('/').next()?.strip_prefix(name)?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// Of `gpu0/gi1/ci0/access 4` the instance whose number is `cap`, and whether it is a compute instance's.
fn instance(mig_minors: &str, cap: u32) -> Option<(DeviceRef, bool)> {
    mig_minors.lines().find_map(|line| {
        let (what, number) = line.trim().split_once(' ')?;
        if number.parse() != Ok(cap) {
            return None;
        }
        let mut parts = what.split('/');
        let minor = parts.next()?.strip_prefix("gpu")?.parse().ok()?;
        let gpu_instance = parts.next()?.strip_prefix("gi")?.parse().ok()?;
        let compute_instance = parts.next()?.strip_prefix("ci").map(str::parse).transpose().ok()?;
        let at = DeviceRef::Instance {
            minor,
            gpu_instance,
            compute_instance: compute_instance.unwrap_or_default(),
        };
        Some((at, compute_instance.is_some()))
    })
}

#[cfg(test)]
mod tests;
