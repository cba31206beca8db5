//! Which cluster's pods and namespaces the ledger is to know.

use std::path::PathBuf;

use clap::Args;
use tonnage_proto::limits::NAME_BYTES_MAX;
use tonnage_runtime::settings::{SettingsError, wrong};

use super::File;
use crate::kubernetes::Settings;

#[derive(Debug, Args)]
pub(super) struct KubernetesArgs {
    /// Watch pods and namespaces of the Kubernetes cluster whose agents have this `--cluster`, for labels and controllers
    /// [default: off]
    #[arg(long, value_name = "NAME", env = "TONNAGE_KUBERNETES_CLUSTER")]
    kubernetes_cluster: Option<String>,
    /// A kubeconfig that leads to its API server [default: the cluster that this is a pod of]
    #[arg(long, value_name = "FILE", env = "TONNAGE_KUBERNETES_CONFIG")]
    kubernetes_config: Option<PathBuf>,
}

impl KubernetesArgs {
    /// Merges with the file's; `None` = off.
    pub(super) fn resolve(self, file: &File) -> Result<Option<Settings>, SettingsError> {
        let kubeconfig = self.kubernetes_config.or(file.kubernetes_config.clone());
        let Some(cluster) = self.kubernetes_cluster.or(file.kubernetes_cluster.clone()) else {
            return kubeconfig.map_or(Ok(None), |path| {
                let right = "has no effect without kubernetes_cluster: name the cluster too";
                Err(wrong("kubernetes_config", path.display(), right))
            });
        };
        if cluster.is_empty() || cluster.len() > NAME_BYTES_MAX || cluster.chars().any(char::is_control) {
            let right =
                format!("use the agents' --cluster: 1 to {NAME_BYTES_MAX} bytes without control characters");
            return Err(wrong("kubernetes_cluster", cluster, right));
        }
        Ok(Some(Settings { cluster, kubeconfig }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::resolve;

    #[test]
    fn a_cluster_is_watched_if_it_has_a_name() {
        assert_eq!(resolve(&[]).unwrap().kubernetes, None);
        let settings = resolve(&["--kubernetes-cluster", "c"]).unwrap().kubernetes.unwrap();
        assert_eq!((settings.cluster.as_str(), settings.kubeconfig), ("c", None));
        for (args, said) in [
            (&["--kubernetes-config", "/k"][..], "kubernetes_config: \"/k\": has no effect"),
            (&["--kubernetes-cluster", ""], "kubernetes_cluster: \"\": use the agents'"),
        ] {
            let error = resolve(args).unwrap_err().to_string();
            assert!(error.starts_with(said), "{error}");
        }
    }
}
