//! What `/proc/<pid>/cgroup` says about whose a process is. Pure: text in, a [`Place`] out; never panics.
//!
//! A path is read from the root inwards, and what stands further out outweighs what stands within, because only
//! the outer folders are evidence: whoever owns a part of the tree (a user's own systemd, a container with a
//! writable cgroup) can make any folder in it, also one that looks like another's pod. So:
//!
//! - within `user-<uid>.slice` everything belongs to that user, whatever it is called;
//! - of nested pods the outermost counts. With cgroup namespaces that is also the one that this node's API server
//!   knows: an agent inside the outer pod does not see the outer pod's own folder;
//! - a pod or a Slurm job within a container counts, since that is how kind and test clusters run nodes: their
//!   node container is as trusted as a node;
//! - a container that is in no pod and no job counts before the unit that started it.
//!
//! Paths of other cgroup namespaces begin with `/../..`, and a kubelet may have a root of its own: so components
//! are matched wherever they stand, never whole paths.
//!
//! With v1 and hybrid mounts there is a line per hierarchy; the strongest wins (Slurm's own hierarchies say the
//! job, while systemd's says the session that it was adopted from).

mod component;

use crate::attribution::cgroup::component::{
    container_id, pod, slurm_job, slurm_root, slurm_uid, user_slice,
};

/// Bytes of the file that are read; the kernel writes a line of at most a few KiB per hierarchy.
pub(super) const BYTES_MAX: usize = 64 << 10;
/// Longest unit, step or id that is believed; the kernel allows no longer names of folders.
const NAME_BYTES_MAX: usize = tonnage_proto::limits::NAME_BYTES_MAX;

/// Whose a cgroup is. Stronger evidence stands later: the order chooses between hierarchies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The root, or folders that say nothing.
    Nowhere,
    /// A systemd service or scope.
    Unit { name: String },
    /// A login session or a user's own services; `uid: None` = the process's own.
    User { uid: Option<u32>, container_id: String },
    /// docker, podman, ... without a pod.
    Container { id: String },
    /// `job` is the job's number; under Slurm 26.05's default paths its SLUID, which the path gives instead.
    Slurm { job: String, step: String, uid: Option<u32> },
    /// `container_id` is empty for the pod's own folder.
    Pod { uid: String, container_id: String },
}

/// The strongest evidence in the file. What is beyond 64 KiB is not looked at.
#[must_use]
pub fn parse(text: &[u8]) -> Place {
    let text = String::from_utf8_lossy(&text[..text.len().min(BYTES_MAX)]);
    // "<number>:<controllers>:<path>"; a path may contain colons.
    let paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.map(place).max().unwrap_or(Place::Nowhere)
}

fn place(path: &str) -> Place {
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    let components: Vec<&str> =
        path.split('/').filter(|c| !matches!(*c, "" | "." | "..") && c.len() <= NAME_BYTES_MAX).collect();
    let mut container = None;
    let mut unit = None;
    for (at, component) in components.iter().enumerate() {
        let within = components.get(at + 1..).unwrap_or_default();
        if let Some(uid) = pod(component) {
            let inner = container_id(component).or_else(|| within.iter().find_map(|c| container_id(c)));
            return Place::Pod { uid, container_id: inner.unwrap_or_default() };
        }
        if slurm_root(component)
            && let Some(slurm) = slurm(within)
        {
            return slurm;
        }
        if let Some(uid) = user_slice(component) {
            let inner = || within.iter().find_map(|c| container_id(c)).unwrap_or_default();
            let user = || Place::User { uid: Some(uid), container_id: inner() };
            return container.map_or_else(user, |id| Place::Container { id });
        }
        container = container.or_else(|| container_id(component));
        // The outermost: units stand in slices, and within a unit its own process may make folders.
        unit = unit.or_else(|| is_unit(component).then_some(*component));
    }
    match (container, unit) {
        (Some(id), _) => Place::Container { id },
        (None, Some(unit)) if unit.starts_with("session-") && unit.ends_with(".scope") => {
            Place::User { uid: None, container_id: String::new() }
        }
        (None, Some(unit)) => Place::Unit { name: unit.to_owned() },
        (None, None) => Place::Nowhere,
    }
}

/// What follows Slurm's own folder: `[uid_N/]job_J/step_S/...`, or `<SLUID>/step_S/...`.
fn slurm(within: &[&str]) -> Option<Place> {
    let at = within.iter().position(|component| slurm_job(component).is_some())?;
    let job = slurm_job(within.get(at)?)?;
    let step = within.get(at + 1).and_then(|component| component.strip_prefix("step_")).unwrap_or_default();
    let uid = within.iter().take(at).find_map(|component| slurm_uid(component));
    Some(Place::Slurm { job: job.to_owned(), step: step.to_owned(), uid })
}

/// The uid of the pod whose folder this is, or the folder of a container of which.
pub(super) fn pod_uid(component: &str) -> Option<String> {
    pod(component)
}

/// What a user may write to stands below it.
pub(super) fn is_of_a_user(component: &str) -> bool {
    user_slice(component).is_some()
}

fn is_unit(component: &str) -> bool {
    component.ends_with(".service") || component.ends_with(".scope")
}

#[cfg(test)]
mod tests;
