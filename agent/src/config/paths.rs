//! Settings of where the node's facts are: in a container, where the host's folders are mounted.

use std::path::PathBuf;

use clap::Args;

use super::File;
use crate::attribution::{Paths, slurm};

#[derive(Debug, Default, Args)]
pub(super) struct PathArgs {
    /// The host's /proc [default: /proc]
    #[arg(long = "path.procfs", value_name = "DIR", env = "TONNAGE_PATH_PROCFS")]
    pub(super) path_procfs: Option<PathBuf>,
    /// The host's cgroups [default: /sys/fs/cgroup]
    #[arg(long = "path.cgroup", value_name = "DIR", env = "TONNAGE_PATH_CGROUP")]
    pub(super) path_cgroup: Option<PathBuf>,
    /// The kubelet's socket for pod resources, which says to whom GPUs are allocated; it need not be there [default:
    /// /var/lib/kubelet/pod-resources/kubelet.sock]
    #[arg(long = "kubelet.socket", value_name = "FILE", env = "TONNAGE_KUBELET_SOCKET")]
    pub(super) kubelet_socket: Option<PathBuf>,
    /// The checkpoint of NVIDIA's DRA driver, which says where its MIG devices are [default:
    /// /var/lib/kubelet/plugins/gpu.nvidia.com/checkpoint.json]
    #[arg(long = "path.dra-checkpoint", value_name = "FILE", env = "TONNAGE_PATH_DRA_CHECKPOINT")]
    pub(super) path_dra_checkpoint: Option<PathBuf>,
    /// The kubelet's pod logs, whose folder names tell pods' names [default: /var/log/pods]
    #[arg(long = "path.pod-logs", value_name = "DIR", env = "TONNAGE_PATH_POD_LOGS")]
    pub(super) path_pod_logs: Option<PathBuf>,
    /// The host's passwd file, for users' names [default: /etc/passwd]
    #[arg(long = "path.passwd", value_name = "FILE", env = "TONNAGE_PATH_PASSWD")]
    pub(super) path_passwd: Option<PathBuf>,
    /// Docker's containers, whose configurations tell their names [default: /var/lib/docker/containers]
    #[arg(long = "path.docker", value_name = "DIR", env = "TONNAGE_PATH_DOCKER")]
    pub(super) path_docker: Option<PathBuf>,
    /// The list of root's Podman containers, which tells their names [default:
    /// /var/lib/containers/storage/overlay-containers/containers.json]
    #[arg(long = "path.podman", value_name = "FILE", env = "TONNAGE_PATH_PODMAN")]
    pub(super) path_podman: Option<PathBuf>,
}

/// Flags and environment first, then the file, then where hosts have these things.
pub(super) fn resolve(args: PathArgs, slurm: slurm::Paths, file: &mut File) -> Paths {
    let path = |flag: Option<PathBuf>, file: &mut Option<PathBuf>, default: &str| {
        flag.or(file.take()).unwrap_or_else(|| default.into())
    };
    let procfs = path(args.path_procfs, &mut file.path_procfs, "/proc");
    Paths {
        slurm: slurm::Paths { procfs: procfs.clone(), ..slurm },
        procfs,
        cgroup: path(args.path_cgroup, &mut file.path_cgroup, "/sys/fs/cgroup"),
        pod_logs: path(args.path_pod_logs, &mut file.path_pod_logs, "/var/log/pods"),
        passwd: path(args.path_passwd, &mut file.path_passwd, "/etc/passwd"),
        dra_checkpoint: path(
            args.path_dra_checkpoint,
            &mut file.path_dra_checkpoint,
            "/var/lib/kubelet/plugins/gpu.nvidia.com/checkpoint.json",
        ),
        docker: path(args.path_docker, &mut file.path_docker, "/var/lib/docker/containers"),
        podman: path(
            args.path_podman,
            &mut file.path_podman,
            "/var/lib/containers/storage/overlay-containers/containers.json",
        ),
    }
}
