//! Settings of Slurm nodes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use tonnage_runtime::settings::{SettingsError, wrong};

use super::File;
use crate::attribution::slurm::Paths;

/// The group's flags; the file's keys are the same.
#[derive(Debug, Default, Args)]
pub(super) struct SlurmArgs {
    /// Slurm's configuration, which `check` looks at [default: /etc/slurm/slurm.conf]
    #[arg(long = "slurm.conf", value_name = "FILE", env = "TONNAGE_SLURM_CONF")]
    pub(super) slurm_conf: Option<PathBuf>,
    /// Says which GPU a GRES index is [default: gres.conf beside slurm.conf]
    #[arg(long = "slurm.gres-conf", value_name = "FILE", env = "TONNAGE_SLURM_GRES_CONF")]
    pub(super) slurm_gres_conf: Option<PathBuf>,
    /// The same by hand, where that does not say it, as with AutoDetect: GRES indices and device nodes, like
    /// 0=/dev/nvidia3,1=/dev/nvidia1
    #[arg(long = "slurm.gpu-map", value_name = "MAP", env = "TONNAGE_SLURM_GPU_MAP")]
    pub(super) slurm_gpu_map: Option<String>,
    /// Where Slurm's hooks note jobs [default: /run/tonnage/jobs]
    #[arg(long = "slurm.jobs-dir", value_name = "DIR", env = "TONNAGE_SLURM_JOBS_DIR")]
    pub(super) slurm_jobs_dir: Option<PathBuf>,
    /// Where a site notes jobs for dcgm-exporter (its DCGM_HPC_JOB_MAPPING_DIR), for nodes without the hooks
    #[arg(long = "slurm.job-mapping-dir", value_name = "DIR", env = "TONNAGE_SLURM_JOB_MAPPING_DIR")]
    pub(super) slurm_job_mapping_dir: Option<PathBuf>,
    /// What Slurm calls this node [default: the host's name up to its first dot]
    #[arg(long = "slurm.node", value_name = "NAME", env = "TONNAGE_SLURM_NODE")]
    pub(super) slurm_node: Option<String>,
}

/// Validated settings.
#[derive(Debug, Clone)]
pub(super) struct SlurmConfig {
    pub conf: PathBuf,
    pub paths: Paths,
}

/// Flags outweigh the file. `hostname` is the node's.
pub(super) fn resolve(
    flags: SlurmArgs,
    file: &mut File,
    hostname: &str,
) -> Result<SlurmConfig, SettingsError> {
    let conf = flags.slurm_conf.or(file.slurm_conf.take()).unwrap_or_else(|| "/etc/slurm/slurm.conf".into());
    let gres_conf = flags.slurm_gres_conf.or(file.slurm_gres_conf.take());
    let jobs = flags.slurm_jobs_dir.or(file.slurm_jobs_dir.take());
    let short = || hostname.split('.').next().unwrap_or_default().to_owned();
    let gpu_map = flags.slurm_gpu_map.or(file.slurm_gpu_map.take()).unwrap_or_default();
    Ok(SlurmConfig {
        paths: Paths {
            jobs: jobs.unwrap_or_else(|| "/run/tonnage/jobs".into()),
            gres_conf: gres_conf.unwrap_or_else(|| conf.with_file_name("gres.conf")),
            slurm_conf: conf.clone(),
            gpu_map: map(&gpu_map)?,
            job_mapping: flags.slurm_job_mapping_dir.or(file.slurm_job_mapping_dir.take()),
            // The paths' to say.
            procfs: PathBuf::new(),
            node: flags.slurm_node.or(file.slurm_node.take()).unwrap_or_else(short),
        },
        conf,
    })
}

fn map(text: &str) -> Result<BTreeMap<u32, PathBuf>, SettingsError> {
    let mut map = BTreeMap::new();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let right = "use GRES indices, each once, and device nodes, like 0=/dev/nvidia3,1=/dev/nvidia1";
        let known = pair.split_once('=').filter(|(_, path)| path.starts_with('/'));
        let index = known.and_then(|(index, path)| Some((index.parse::<u32>().ok()?, path)));
        let (index, path) = index.ok_or_else(|| wrong("slurm_gpu_map", pair, right))?;
        if map.insert(index, path.into()).is_some() {
            return Err(wrong("slurm_gpu_map", pair, right));
        }
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(map: &str) -> Result<SlurmConfig, SettingsError> {
        let flags = SlurmArgs { slurm_gpu_map: Some(map.to_owned()), ..SlurmArgs::default() };
        let mut file = File { slurm_conf: Some("/opt/slurm/slurm.conf".into()), ..File::default() };
        resolve(flags, &mut file, "gpu1.example.org")
    }

    #[test]
    fn gres_conf_lies_beside_slurm_conf_and_the_node_has_a_short_name() {
        let paths = resolved("").unwrap().paths;
        assert_eq!(paths.gres_conf, PathBuf::from("/opt/slurm/gres.conf"));
        assert_eq!((paths.node.as_str(), paths.gpu_map.len()), ("gpu1", 0));
    }

    #[test]
    fn a_map_is_of_indices_to_device_nodes() {
        let map = resolved("0=/dev/nvidia3,1=/dev/nvidia1").unwrap().paths.gpu_map;
        assert_eq!(map, BTreeMap::from([(0, "/dev/nvidia3".into()), (1, "/dev/nvidia1".into())]));
        for bad in ["0", "x=/dev/nvidia0", "0=1", "0=/a,0=/b"] {
            let error = resolved(bad).unwrap_err().to_string();
            assert!(error.contains("slurm_gpu_map") && error.contains("/dev/nvidia3"), "{error}");
        }
    }
}
