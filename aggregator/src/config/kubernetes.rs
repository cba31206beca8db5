//! Which clusters' pods and namespaces the ledger is to know.

use std::path::PathBuf;

use clap::Args;
use tonnage_proto::limits::NAME_BYTES_MAX;
use tonnage_runtime::settings::{SettingsError, wrong};

use super::File;
use crate::kubernetes::Settings;

/// Each is watched by a task with five streams.
const CLUSTERS_MAX: usize = 64;

#[derive(Debug, Args)]
pub(super) struct KubernetesArgs {
    /// Watch pods and namespaces of the Kubernetes cluster whose agents have this `--cluster`, for labels and controllers; by
    /// the API server that a kubeconfig leads to, if one is named. May be repeated, or have commas between [default: off]
    #[arg(long, value_name = "NAME[=KUBECONFIG]", env = "TONNAGE_KUBERNETES_CLUSTER", value_delimiter = ',')]
    kubernetes_cluster: Vec<String>,
    /// The kubeconfig of the cluster that is named without one [default: the cluster that this is a pod of]
    #[arg(long, value_name = "FILE", env = "TONNAGE_KUBERNETES_CONFIG")]
    kubernetes_config: Option<PathBuf>,
}

impl KubernetesArgs {
    /// Merges with the file's; none = off.
    pub(super) fn resolve(self, file: &File) -> Result<Vec<Settings>, SettingsError> {
        const CLUSTER: &str = "kubernetes_cluster";
        let mut kubeconfig = self.kubernetes_config.or(file.kubernetes_config.clone());
        let named = if self.kubernetes_cluster.is_empty() {
            file.kubernetes_cluster.clone()
        } else {
            self.kubernetes_cluster
        };
        if named.len() > CLUSTERS_MAX {
            return Err(wrong(CLUSTER, named.len(), format!("name at most {CLUSTERS_MAX} clusters")));
        }
        let mut clusters: Vec<Settings> = Vec::new();
        let mut without = 0;
        for text in named {
            let (cluster, own) = match text.split_once('=') {
                Some((cluster, path)) => (cluster, Some(PathBuf::from(path))),
                None => (text.as_str(), None),
            };
            if cluster.is_empty() || cluster.len() > NAME_BYTES_MAX || cluster.chars().any(char::is_control) {
                let right = format!(
                    "use the agents' --cluster: 1 to {NAME_BYTES_MAX} bytes without control characters"
                );
                return Err(wrong(CLUSTER, text, right));
            }
            if clusters.iter().any(|other| other.cluster == cluster) {
                return Err(wrong(CLUSTER, cluster, "is named twice; name each cluster once"));
            }
            if own.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
                return Err(wrong(CLUSTER, text, "has no kubeconfig behind the =; name its file"));
            }
            without += usize::from(own.is_none());
            if without > 1 {
                let right = "is the second without a kubeconfig of its own; write NAME=KUBECONFIG";
                return Err(wrong(CLUSTER, text, right));
            }
            let kubeconfig = own.or_else(|| kubeconfig.take());
            clusters.push(Settings { cluster: cluster.to_owned(), kubeconfig });
        }
        kubeconfig.map_or(Ok(clusters), |path| {
            let right = "has no effect without a kubernetes_cluster that has no kubeconfig of its own";
            Err(wrong("kubernetes_config", path.display(), right))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::resolve;
    use super::*;

    #[test]
    fn clusters_are_watched_that_have_a_name() {
        assert_eq!(resolve(&[]).unwrap().kubernetes, []);
        let of = |args: &[&str]| -> Vec<(String, Option<PathBuf>)> {
            let clusters = resolve(args).unwrap().kubernetes.into_iter();
            clusters.map(|settings| (settings.cluster, settings.kubeconfig)).collect()
        };
        assert_eq!(of(&["--kubernetes-cluster", "c"]), [("c".to_owned(), None)]);
        let several =
            ["--kubernetes-cluster", "a=/a,b", "--kubernetes-config", "/b", "--kubernetes-cluster", "c=/c=d"];
        let expected = [("a", "/a"), ("b", "/b"), ("c", "/c=d")];
        assert_eq!(of(&several), expected.map(|(name, path)| (name.to_owned(), Some(path.into()))));
        for (args, said) in [
            (&["--kubernetes-config", "/k"][..], "kubernetes_config: \"/k\": has no effect"),
            (
                &["--kubernetes-config", "/k", "--kubernetes-cluster", "a=/a"],
                "kubernetes_config: \"/k\": has no effect",
            ),
            (&["--kubernetes-cluster", ""], "kubernetes_cluster: \"\": use the agents'"),
            (&["--kubernetes-cluster", "=/a"], "kubernetes_cluster: \"=/a\": use the agents'"),
            (&["--kubernetes-cluster", "a="], "kubernetes_cluster: \"a=\": has no kubeconfig"),
            (&["--kubernetes-cluster", "a,a=/b"], "kubernetes_cluster: \"a\": is named twice"),
            (&["--kubernetes-cluster", "a,b"], "kubernetes_cluster: \"b\": is the second without"),
        ] {
            let error = resolve(args).unwrap_err().to_string();
            assert!(error.starts_with(said), "{error}");
        }
    }
}
