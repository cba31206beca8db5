//! Which Slurm job holds which GPU, from what root wrote on this node: the files of the hooks (`deploy/slurm`), else the
//! folder that sites write for dcgm-exporter.
//!
//! [`Jobs::read`] is called at every sample. It looks at the folder, reads what has changed, and gives every job with
//! what it holds and since when; a job that ended is given too, with its end, until its file is gone. A file of another
//! boot is no job: slurmd ended it when the node went down.
//!
//! Constraints: files that others than root could have written are not believed (`folder`); what is not understood is
//! left out and said once, in the log and in [`Jobs::problems`]; nothing grows without a limit.
//!
//! What a job has of devices becomes claims in `grants`. Not for: processes, which have their cgroups, and what a user's environment says.

pub mod gres;
pub mod hostlist;
pub mod job_file;
pub mod sluid;
pub mod slurm_conf;

mod folder;
mod grants;
mod handover;
mod index;
mod mapping_dir;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use tonnage_runtime::clock::Reading;
use tracing::warn;

use crate::attribution::slurm::folder::Folder;
pub(crate) use crate::attribution::slurm::folder::safe_folder;
pub(super) use crate::attribution::slurm::grants::grants;
use crate::attribution::slurm::index::Indices;
pub use crate::attribution::slurm::index::Located;
use crate::attribution::slurm::job_file::{JobFile, Part, PartKind};
use crate::model::SharedBy;

/// Problems that are kept and told.
const PROBLEMS_MAX: usize = 256;

/// A file can be written after the clocks were read and before it is.
const SOON_NS: i64 = 1_000_000_000;

/// What was made of a job's moments at first sight, by its id and the wall clock's time. It stays, since the wall clock
/// may be set afterwards.
type Sighted = BTreeMap<(String, i64), Option<Moment>>;

/// Where Slurm's facts are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Paths {
    /// What the hooks write; it need not exist.
    pub jobs: PathBuf,
    /// It need not exist.
    pub gres_conf: PathBuf,
    /// Says in which order the types of GPUs are numbered; it need not exist.
    pub slurm_conf: PathBuf,
    /// GRES index to device node, by a person; outweighs `gres_conf`.
    pub gpu_map: BTreeMap<u32, PathBuf>,
    /// What a site writes for dcgm-exporter.
    pub job_mapping: Option<PathBuf>,
    pub procfs: PathBuf,
    /// What Slurm calls this node, where the hooks do not say.
    pub node: String,
}

/// A job, and what it holds on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Slurm's number: of an array's task its own, as `sacct` shows it as `JobIDRaw`.
    pub job_id: String,
    /// Name, else number; empty where it is not known.
    pub user: String,
    pub account: String,
    pub partition: String,
    pub devices: Vec<JobDevice>,
    /// `None`: it is not known when it began.
    pub from: Option<Moment>,
    /// `None`: it goes on.
    pub until: Option<Moment>,
    /// By the hooks, not only by a mapping folder.
    pub by_hooks: bool,
    /// Of at least one device it is not certain that it is this one, or how much of it.
    pub inferred: bool,
}

/// A moment by both clocks: the wall clock is finer, and the boot clock is never set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    pub wall_ns: i64,
    pub boot_ns: i64,
}

/// What a job has of a device: `parts` of `of`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobDevice {
    pub at: DeviceRef,
    pub parts: u32,
    /// 1: a whole device. Else its shards, or its parts of MPS.
    pub of: u32,
    /// Slurm gave it as a whole, which it does to one job at a time.
    pub whole: bool,
    pub shared_by: SharedBy,
}

/// A GPU, or a part of one, as far as Slurm names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceRef {
    /// The driver's minor number.
    Minor(u32),
    /// NVML's index, only from a job mapping folder.
    Index(u32),
    /// The same with a GPU instance of it.
    IndexInstance {
        index: u32,
        gpu_instance: u32,
    },
    Instance {
        minor: u32,
        gpu_instance: u32,
        compute_instance: u32,
    },
}

/// The jobs of this node.
#[derive(Debug)]
pub struct Jobs {
    node: String,
    files: Folder<JobFile>,
    mapping: Option<Folder<(DeviceRef, Vec<String>)>>,
    indices: Indices,
    boot_id: String,
    sighted: Sighted,
    ends: handover::Ends,
    jobs: Vec<Job>,
    problems: BTreeSet<String>,
}

impl Jobs {
    #[must_use]
    pub fn new(paths: Paths) -> Self {
        let mapping = paths.job_mapping.clone();
        Self {
            indices: Indices::new(&paths),
            files: Folder::new(paths.jobs, job_file::BYTES_MAX),
            mapping: mapping.map(|path| Folder::new(path, mapping_dir::BYTES_MAX)),
            node: paths.node,
            boot_id: String::new(),
            sighted: Sighted::new(),
            ends: handover::Ends::new(),
            jobs: Vec::new(),
            problems: BTreeSet::new(),
        }
    }

    /// All jobs that the node knows of now, in the order of their ids as text.
    pub fn read(&mut self, boot_id: &str, now: Reading) -> &[Job] {
        let files = self.files.refresh(|bytes, name| {
            if !job_file::is_number(name) {
                return Err("its name should be a job's number".to_owned());
            }
            job_file::parse(bytes, name).map_err(|error| error.to_string())
        });
        let mapping = self.mapping.as_mut().is_some_and(|folder| folder.refresh(mapping_dir::parse));
        let indices = self.indices.refresh();
        if files || mapping || indices || self.boot_id != boot_id {
            boot_id.clone_into(&mut self.boot_id);
            self.gather(now);
        }
        &self.jobs
    }

    /// What is wrong now, for people.
    pub fn problems(&self) -> impl Iterator<Item = &str> {
        self.problems.iter().map(String::as_str)
    }

    /// The device at a GRES index of this node, and as what it is divided.
    ///
    /// # Errors
    /// If nothing says which it is: then what to do.
    pub fn locate(&mut self, index: u32) -> Result<Located, String> {
        self.indices.locate(index, &self.node)
    }

    /// How many GPUs `gres.conf` lists for this node, and what of it is not understood.
    pub fn listed(&mut self) -> (usize, &[String]) {
        let gres = self.indices.gres(&self.node);
        (gres.gpus.len(), &gres.problems)
    }

    /// Works the jobs out anew.
    fn gather(&mut self, now: Reading) {
        let mut problems: BTreeSet<String> = self.files.problems().map(str::to_owned).collect();
        let mut jobs = BTreeMap::new();
        let before = std::mem::take(&mut self.sighted);
        for (id, file) in self.files.files().filter(|(_, file)| file.boot_id == self.boot_id) {
            let mut job = job(file, &self.node, &mut self.indices, &mut problems);
            let mut moment = |wall_ns: i64, boot_ns: Option<i64>, future| {
                let at = (id.to_owned(), wall_ns);
                let known = before.get(&at).copied();
                let known = known.unwrap_or_else(|| moment(wall_ns, boot_ns, now).or(future));
                self.sighted.insert(at, known);
                known
            };
            job.from = file.start_ns.and_then(|ns| moment(ns, file.start_boot_ns, None));
            // An ended job is at an end, whatever the clock was.
            let ended = Moment { wall_ns: now.wall_ns, boot_ns: now.boot_ns };
            job.until = file.end_ns.and_then(|ns| moment(ns, file.end_boot_ns, Some(ended)));
            jobs.insert(id.to_owned(), job);
        }
        problems.extend(handover::end_at_the_next(&mut jobs, &mut self.ends));
        if let Some(folder) = &self.mapping {
            problems.extend(folder.problems().map(str::to_owned));
            for (id, job) in mapped(folder, now.wall_ns.saturating_sub(now.boot_ns)) {
                // The hooks know more.
                jobs.entry(id).or_insert(job);
            }
        }
        problems.extend(self.indices.gres(&self.node).problems.iter().cloned());
        while problems.len() > PROBLEMS_MAX {
            problems.pop_last();
        }
        for problem in problems.difference(&self.problems) {
            warn!(problem, "Cannot use all that Slurm says");
        }
        self.problems = problems;
        self.jobs = jobs.into_values().collect();
    }
}

/// When a moment that the hooks noted was on the boot clock: as they noted it, else by what the wall clock shows now.
/// `None`: it lies in the future, so the wall clock was set back.
fn moment(wall_ns: i64, boot_ns: Option<i64>, now: Reading) -> Option<Moment> {
    let reckoned_ns = now.boot_ns.saturating_sub(now.wall_ns.saturating_sub(wall_ns));
    let soon_ns = now.boot_ns.saturating_add(SOON_NS);
    let mut boot_ns = boot_ns.into_iter().chain([reckoned_ns]).filter(|boot_ns| *boot_ns <= soon_ns);
    boot_ns.next().map(|boot_ns| Moment { wall_ns, boot_ns })
}

/// A job of the hooks, without its times.
fn job(file: &JobFile, node: &str, indices: &mut Indices, problems: &mut BTreeSet<String>) -> Job {
    let node = if file.node.is_empty() { node } else { &file.node };
    let mut inferred = false;
    let mut devices = Vec::new();
    let whole = |gpu: &u32| Part { gpu: *gpu, kind: PartKind::Whole, count: 1, inferred: false };
    let parts = file.parts.clone().unwrap_or_else(|| file.gpus.iter().map(whole).collect());
    for part in parts {
        let located = match indices.locate(part.gpu, node) {
            Ok(located) => located,
            Err(problem) => {
                problems.insert(format!("job {}: {problem}", file.job_id));
                continue;
            }
        };
        inferred |= located.inferred || part.inferred;
        let mut guessed = part.inferred;
        let (parts, of) = match part.kind {
            PartKind::Shard => (part.count, located.shards),
            PartKind::Mps => (part.count, located.mps),
            PartKind::Whole if file.parts.is_some() || (located.shards, located.mps) == (0, 0) => (1, 1),
            PartKind::Whole => match file.mps_percent {
                Some(percent) if located.mps > 0 => (percent, 100),
                _ => {
                    (inferred, guessed) = (true, true);
                    problems.insert(format!(
                        "job {}: its GPUs can be shared, and the hook could not ask scontrol for how much of them it \
                         has: they are taken to be its alone",
                        file.job_id
                    ));
                    (1, 1)
                }
            },
        };
        // More than there is, or of something that gres.conf does not count: then all of it.
        guessed |= of == 0 || parts > of;
        inferred |= guessed;
        let of = of.max(1);
        // Slurm 22.05.8 gives a GPU as a whole while shards or MPS of it are in use: all of those are not the GPU.
        let whole = !guessed && part.kind == PartKind::Whole;
        let shared_by = match part.kind {
            PartKind::Shard => SharedBy::Shards,
            PartKind::Mps => SharedBy::Mps,
            PartKind::Whole if of > 1 => SharedBy::Mps,
            PartKind::Whole => SharedBy::Contexts,
        };
        devices.push(JobDevice { at: located.at, parts: parts.min(of), of, whole, shared_by });
    }
    Job {
        job_id: file.job_id.clone(),
        user: if file.user.is_empty() {
            file.uid.map(|uid| uid.to_string())
        } else {
            Some(file.user.clone())
        }
        .unwrap_or_default(),
        account: file.account.clone(),
        partition: file.partition.clone(),
        devices,
        from: None,
        until: None,
        by_hooks: true,
        inferred,
    }
}

/// Jobs of the mapping folder by files of this boot: the folder may survive it, and its jobs did not. Of several on one GPU nobody says how much each has: equal parts.
fn mapped(folder: &Folder<(DeviceRef, Vec<String>)>, booted_wall_ns: i64) -> BTreeMap<String, Job> {
    let mut jobs: BTreeMap<String, Job> = BTreeMap::new();
    for (_, (at, ids)) in folder.files_since(booted_wall_ns) {
        let of = u32::try_from(ids.len()).unwrap_or(u32::MAX).max(1);
        for id in ids {
            let job = jobs.entry(id.clone()).or_insert_with(|| Job {
                job_id: id.clone(),
                user: String::new(),
                account: String::new(),
                partition: String::new(),
                devices: Vec::new(),
                from: None,
                until: None,
                by_hooks: false,
                inferred: false,
            });
            job.devices.push(JobDevice {
                at: *at,
                parts: 1,
                of,
                whole: false,
                shared_by: SharedBy::Contexts,
            });
            job.inferred |= of > 1;
        }
    }
    jobs
}

#[cfg(test)]
mod tests;
