//! Settings of what the agent knows of its machine and who supervises it.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use tonnage_runtime::notify::Supervisor;
use tonnage_runtime::settings::{SettingsError, wrong};

use crate::cloud::{self, Settings};
use crate::facts::Provider;

#[derive(Debug, Default, Args)]
pub(super) struct MachineArgs {
    /// Ask the cloud's metadata service what this machine is: off, auto, aws, gcp or azure [default: off]
    #[arg(long, value_name = "NAME", env = "TONNAGE_CLOUD_METADATA")]
    pub(super) cloud_metadata: Option<String>,
    /// Where that service is; link-local [default: 169.254.169.254]
    #[arg(long, value_name = "ADDRESS", env = "TONNAGE_CLOUD_METADATA_ADDRESS")]
    pub(super) cloud_metadata_address: Option<String>,
    /// What the firmware says of this machine [default: /sys/class/dmi/id]
    #[arg(long = "path.dmi", value_name = "DIR", env = "TONNAGE_PATH_DMI")]
    pub(super) path_dmi: Option<PathBuf>,
    #[command(flatten)]
    pub(super) supervisor: SupervisorArgs,
}

/// What systemd sets in the environment of a service of `Type=notify`.
#[derive(Debug, Default, Args)]
pub(super) struct SupervisorArgs {
    #[arg(long, env = "NOTIFY_SOCKET", hide = true)]
    notify_socket: Option<OsString>,
    #[arg(long, env = "WATCHDOG_USEC", hide = true)]
    watchdog_usec: Option<u64>,
    #[arg(long, env = "WATCHDOG_PID", hide = true)]
    watchdog_pid: Option<u32>,
}

impl SupervisorArgs {
    pub(super) fn resolve(self) -> Supervisor {
        Supervisor::new(self.notify_socket, self.watchdog_usec, self.watchdog_pid)
    }
}

/// Whom to ask; `None`: nobody.
pub(super) fn cloud(
    name: Option<String>,
    address: Option<String>,
) -> Result<Option<Settings>, SettingsError> {
    let address = address.unwrap_or_else(|| cloud::ADDRESS.to_owned());
    let right =
        "use a link-local address: one of 169.254.0.0/16, or of fe80::/10 with its interface, as fe80::1%2";
    // Checked even where nobody is asked, so that it is not found wrong later.
    let address =
        cloud::link_local(&address).ok_or_else(|| wrong("cloud_metadata_address", &address, right))?;
    let provider = match name.as_deref().unwrap_or("off") {
        "off" => return Ok(None),
        "auto" => None,
        name => {
            let known = [Provider::Aws, Provider::Gcp, Provider::Azure];
            let found = known.into_iter().find(|provider| provider.name() == name);
            Some(found.ok_or_else(|| wrong("cloud_metadata", name, "use off, auto, aws, gcp or azure"))?)
        }
    };
    Ok(Some(Settings { provider, address }))
}
