//! MPS: its control daemon and servers by `/proc`, and which server is believed to be one.
//!
//! A server has the one context that all its clients share, and the driver lists it as a process on the device. It works
//! for them, so it is neither a holder nor an intruder; but only a server may hide behind that. What a process calls
//! itself is its own to write, so a name alone says nothing. It is believed if it is in the host's pid namespace, as no
//! container of a user is, and
//!
//! - it is root's, or its parent is a control daemon that is root's; or
//! - all clients on the device have its uid, since a control daemon starts a server under its clients' user: then what it
//!   could hide is that user's own.
//!
//! Not for: what clients are limited to (`crate::mps`); and who the clients are, which the driver says.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::attribution::process;
use crate::model::Owner;

/// What the kernel keeps of both names; it keeps 15 bytes.
const COMM: &str = "nvidia-cuda-mps";
const SERVER: &str = "nvidia-cuda-mps-server";
const CONTROL: &str = "nvidia-cuda-mps-control";
/// Processes that are looked at for one answer.
const PROCESSES_MAX: usize = 65_536;

/// A process that calls itself a server, and is in the host's pid namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Server {
    uid: u32,
    /// It is root's, or was started by what is.
    is_of_root: bool,
}

impl Server {
    /// Whether it may be taken for the server of these clients, given by their uids.
    pub(super) fn is_believed(self, mut clients: impl ExactSizeIterator<Item = Option<u32>>) -> bool {
        self.is_of_root || (clients.len() > 0 && clients.all(|uid| uid == Some(self.uid)))
    }
}

/// What of MPS runs on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Present {
    pub controls: usize,
    pub servers: usize,
}

/// Looks through all processes: some milliseconds of file reads for each thousand.
#[must_use]
pub fn present(procfs: &Path) -> Present {
    let mut present = Present::default();
    let Ok(entries) = fs::read_dir(procfs) else { return present };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids.take(PROCESSES_MAX) {
        let Ok(comm) = fs::read_to_string(procfs.join(pid.to_string()).join("comm")) else { continue };
        if comm.trim_end() == COMM {
            match program(procfs, pid).as_str() {
                CONTROL => present.controls += 1,
                SERVER => present.servers += 1,
                _ => {}
            }
        }
    }
    present
}

/// The server that this process on a device says it is. A control daemon has no context on any.
pub(super) fn server(procfs: &Path, pid: u32) -> Option<Server> {
    let (comm, parent) = process::name_and_parent(procfs, pid)?;
    // A process may have cleared its arguments; that it has others says that it is something else.
    let is_named = comm == COMM && matches!(program(procfs, pid).as_str(), SERVER | "");
    let (uid, true) = process::user(procfs, pid).filter(|_| is_named)? else { return None };
    Some(Server { uid, is_of_root: uid == 0 || is_control_of_root(procfs, parent) })
}

/// Who stands for the clients where the driver does not list them: nobody, with a name that says why.
pub(super) fn nobody() -> Arc<Owner> {
    Arc::new(Owner { unit: SERVER.to_owned(), ..Owner::default() })
}

fn is_control_of_root(procfs: &Path, pid: u32) -> bool {
    let comm = process::name_and_parent(procfs, pid).map(|(comm, _)| comm);
    comm.as_deref() == Some(COMM) && process::user(procfs, pid) == Some((0, true))
}

/// The base name of what it was started as; empty if it does not say.
fn program(procfs: &Path, pid: u32) -> String {
    let title = process::title(procfs, pid).unwrap_or_default();
    title.rsplit('/').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_name_is_what_both_programs_begin_with() {
        for program in [SERVER, CONTROL] {
            assert_eq!(&program[..15], COMM);
        }
    }

    #[test]
    fn a_server_is_roots_or_of_the_user_of_all_its_clients() {
        let believed = |uid, is_of_root, clients: &[Option<u32>]| {
            Server { uid, is_of_root }.is_believed(clients.iter().copied())
        };
        assert!(believed(0, true, &[]) && believed(1000, true, &[Some(7)]));
        assert!(believed(1000, false, &[Some(1000), Some(1000)]));
        assert!(!believed(1000, false, &[]), "nobody vouches for it");
        assert!(!believed(1000, false, &[Some(1000), Some(1001)]));
        assert!(!believed(1000, false, &[Some(1000), None]), "a client that is gone vouches for nobody");
    }

    #[test]
    fn the_daemon_and_its_servers_are_told_apart_by_what_they_were_started_as() {
        let procfs = tempfile::tempdir().unwrap();
        let process = |pid: u32, comm: &str, cmdline: &str| {
            let folder = procfs.path().join(pid.to_string());
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("comm"), format!("{comm}\n")).unwrap();
            fs::write(folder.join("cmdline"), cmdline).unwrap();
        };
        process(10, COMM, "/usr/bin/nvidia-cuda-mps-control\0-d\0");
        process(11, COMM, "nvidia-cuda-mps-server\0");
        process(12, COMM, "/usr/bin/nvidia-cuda-mps-server\0-multiuser-server\0");
        process(13, COMM, "python3\0");
        process(14, "python3", "nvidia-cuda-mps-server\0");
        assert_eq!(present(procfs.path()), Present { controls: 1, servers: 2 });
        assert_eq!(present(&procfs.path().join("none")), Present::default());
    }
}
