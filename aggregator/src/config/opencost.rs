//! Settings of the API that OpenCost's clients use.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use tonnage_runtime::settings::{SettingsError, parsed, wrong};

use super::File;
use crate::opencost::upstream::Address;

#[derive(Debug, Args)]
pub(super) struct OpenCostArgs {
    /// Answer clients of OpenCost here, as 127.0.0.1:9003. On loopback nobody is asked for a token [default: off]
    #[arg(long, value_name = "ADDRESS", env = "TONNAGE_OPENCOST_LISTEN")]
    opencost_listen: Option<SocketAddr>,
    /// An OpenCost that knows what CPU, RAM, storage and network cost, as http://opencost.opencost:9003 or
    /// https://opencost.example
    #[arg(long, value_name = "URL", env = "TONNAGE_OPENCOST_UPSTREAM")]
    opencost_upstream: Option<String>,
    /// CAs of the upstream's certificate (PEM), where it is asked by https:// [default: the system's]
    #[arg(long, value_name = "FILE", env = "TONNAGE_OPENCOST_UPSTREAM_CA_FILE")]
    opencost_upstream_ca_file: Option<PathBuf>,
    /// Ask nobody for a token there, wherever it listens.
    #[arg(long)]
    opencost_anonymous: bool,
    /// Serve the GPU metrics that OpenCost exports there under /metrics. Not where Prometheus scrapes an OpenCost too.
    #[arg(long)]
    opencost_metrics: bool,
}

/// Validated; without an address there is no such API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenCost {
    pub listen: SocketAddr,
    pub upstream: Option<Address>,
    /// Is nobody asked for a token?
    pub open: bool,
    pub metrics: bool,
}

impl OpenCostArgs {
    /// Merges with the file's.
    pub(super) fn resolve(
        self,
        file: &File,
        insecure_loopback: bool,
    ) -> Result<Option<OpenCost>, SettingsError> {
        let mut upstream: Option<Address> =
            parsed("opencost_upstream", self.opencost_upstream.or(file.opencost_upstream.clone()))?;
        if let Some(ca) = self.opencost_upstream_ca_file.or(file.opencost_upstream_ca_file.clone()) {
            let shown = ca.display().to_string();
            upstream = upstream.and_then(|address| address.of_ca(ca));
            if upstream.is_none() {
                let right = "has no effect without an opencost_upstream of https://";
                return Err(wrong("opencost_upstream_ca_file", shown, right));
            }
        }
        let anonymous = self.opencost_anonymous || file.opencost_anonymous.unwrap_or(false);
        let metrics = self.opencost_metrics || file.opencost_metrics.unwrap_or(false);
        let Some(listen) = self.opencost_listen.or(file.opencost_listen) else {
            for (field, value) in [
                ("opencost_upstream", upstream.as_ref().map(Address::to_string)),
                ("opencost_anonymous", anonymous.then(|| "true".to_owned())),
                ("opencost_metrics", metrics.then(|| "true".to_owned())),
            ] {
                if let Some(value) = value {
                    return Err(wrong(
                        field,
                        value,
                        "has no effect without opencost_listen: name an address too",
                    ));
                }
            }
            return Ok(None);
        };
        if insecure_loopback && !listen.ip().is_loopback() {
            let right = "with insecure_loopback it must be on loopback, as 127.0.0.1";
            return Err(wrong("opencost_listen", listen, right));
        }
        Ok(Some(OpenCost { listen, upstream, open: anonymous || listen.ip().is_loopback(), metrics }))
    }
}
