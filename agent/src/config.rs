//! What the agent is told: flags, then environment, then a TOML file, then defaults. Only this file knows of
//! either. Parsing opens nothing and binds no port.
//!
//! Unknown flags and unknown keys of the file are errors. Unknown environment is not: Kubernetes injects
//! `TONNAGE_..._PORT` and the like for a Service of that name, so no name here ends like those.

mod slurm;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use serde::Deserialize;
use tonic::transport::Endpoint;
use tonnage_proto::limits::NAME_BYTES_MAX;
use tonnage_proto::token;
use tonnage_runtime::notify::Supervisor;
use tonnage_runtime::settings::{self, SettingsError, parsed, wrong};
use tonnage_runtime::telemetry::Format;
use tonnage_runtime::tls::{ClientFiles, IdentityFiles, is_server_name};
use tracing::level_filters::LevelFilter;

use crate::cloud;
use crate::driver::nvml::DEFAULT_LIBRARY;
use crate::facts::Machine;
use crate::kubelet;
use crate::uplink::tls::{self, is_loopback};

mod control;
mod gate;
mod machine;
mod mps;
mod paths;

use machine::MachineArgs;
use mps::MpsArgs;
use paths::PathArgs;
use slurm::SlurmArgs;

pub use control::{ControlArgs, ReleaseArgs};
pub use gate::{GateArgs, GateConfig};

const DEFAULT_SPOOL: &str = "/var/lib/tonnage-agent/spool";

/// Meters the GPUs of this node: whose seconds they were, kept on disk until the ledger has them.
#[derive(Debug, Parser)]
#[command(name = "tonnage-agent", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent.
    Run(Box<RunArgs>),
    /// Say in plain words what the agent sees on this node, what it cannot see, and what to do about it.
    Check(Box<RunArgs>),
    /// Have the running agent let go of the driver for a while, so that MIG can be cut anew or the driver reloaded.
    Release(ReleaseArgs),
    /// Have it take the driver up again, before that time is over.
    Resume(ControlArgs),
    /// Beside slurmctld: say whether a job may be submitted, by its account's budget.
    Gate(Box<GateArgs>),
}

/// Every setting may stand in the file given by --config too, under its name with underscores for dashes and dots.
#[derive(Debug, Default, Args)]
pub struct RunArgs {
    /// TOML file with any of these settings
    #[arg(long, value_name = "FILE", env = "TONNAGE_CONFIG")]
    config: Option<PathBuf>,
    /// The ledger's address [default: http://127.0.0.1:7787]
    #[arg(long, value_name = "URL", env = "TONNAGE_AGGREGATOR_URL")]
    aggregator: Option<String>,
    /// File with this node's token; read again for each connection
    #[arg(long, value_name = "FILE", env = "TONNAGE_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// The CA of the ledger's certificate (PEM), for an https address; read again for each connection, as are the two
    /// below
    #[arg(long, value_name = "FILE", env = "TONNAGE_TLS_CA")]
    tls_ca: Option<PathBuf>,
    /// This node's certificate (PEM), shown to a ledger that asks; then no token is needed
    #[arg(long, value_name = "FILE", env = "TONNAGE_TLS_CERT")]
    tls_cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", env = "TONNAGE_TLS_KEY")]
    tls_key: Option<PathBuf>,
    /// The name that the ledger's certificate must have [default: the address's host]
    #[arg(long, value_name = "NAME", env = "TONNAGE_TLS_SERVER_NAME")]
    tls_server_name: Option<String>,
    /// Send no token. Only to a ledger on loopback
    #[arg(long)]
    insecure_loopback: bool,
    /// Name of the cluster [default: default]
    #[arg(long, value_name = "NAME", env = "TONNAGE_CLUSTER")]
    cluster: Option<String>,
    /// Name of this node [default: the host's name]
    #[arg(long, value_name = "NAME", env = "TONNAGE_NODE")]
    node: Option<String>,
    /// Folder for what is not in the ledger yet [default: /var/lib/tonnage-agent/spool]
    #[arg(long, value_name = "DIR", env = "TONNAGE_SPOOL")]
    spool: Option<PathBuf>,
    /// Most bytes that the spool holds [default: 268435456]
    #[arg(long, value_name = "BYTES", env = "TONNAGE_SPOOL_BYTES")]
    spool_bytes: Option<usize>,
    /// Most bytes of batches kept after the ledger has them [default: 2000000]
    #[arg(long, value_name = "BYTES", env = "TONNAGE_SPOOL_KEPT_BYTES")]
    spool_kept_bytes: Option<usize>,
    /// Health and metrics [default: 127.0.0.1:9788]
    #[arg(long, value_name = "ADDRESS", env = "TONNAGE_LISTEN")]
    listen: Option<SocketAddr>,
    /// nvml, or none for a host without GPUs [default: nvml]
    #[arg(long, value_name = "NAME", env = "TONNAGE_DRIVER")]
    driver: Option<String>,
    /// NVML's library [default: libnvidia-ml.so.1, where the loader finds it]
    #[arg(long, value_name = "PATH", env = "TONNAGE_NVML_LIBRARY")]
    nvml_library: Option<PathBuf>,
    /// Also read PCIe and NVLink, with every tenth sample: slow, some 40 ms per GPU
    #[arg(long = "driver.slow-signals", env = "TONNAGE_DRIVER_SLOW_SIGNALS")]
    slow_signals: bool,
    /// Milliseconds between samples, 100 to 5000 [default: 1000]
    #[arg(long, value_name = "MS", env = "TONNAGE_PERIOD_MS")]
    period_ms: Option<u32>,
    /// Milliseconds that a stop may take to deliver what is left [default: 10000]
    #[arg(long, value_name = "MS", env = "TONNAGE_DRAIN_MS")]
    drain_ms: Option<u32>,
    #[command(flatten)]
    paths: PathArgs,
    #[command(flatten)]
    machine: MachineArgs,
    #[command(flatten)]
    slurm: SlurmArgs,
    #[command(flatten)]
    mps: MpsArgs,
    /// For the price book: the node's instance type
    #[arg(long, value_name = "TYPE", env = "TONNAGE_INSTANCE_TYPE")]
    instance_type: Option<String>,
    /// For the price book: the node's region
    #[arg(long, value_name = "NAME", env = "TONNAGE_REGION")]
    region: Option<String>,
    /// For the price book: the node's zone
    #[arg(long, value_name = "NAME", env = "TONNAGE_ZONE")]
    zone: Option<String>,
    /// For the price book: on-demand, spot, reserved, ...
    #[arg(long, value_name = "TYPE", env = "TONNAGE_CAPACITY_TYPE")]
    capacity_type: Option<String>,
    /// For the price book: a label of the node; may be repeated
    #[arg(long = "node-label", value_name = "KEY=VALUE", value_parser = label)]
    node_labels: Vec<(String, String)>,
    /// off, error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL", env = "TONNAGE_LOG_LEVEL")]
    log_level: Option<String>,
    /// text or json [default: text]
    #[arg(long, value_name = "FORMAT", env = "TONNAGE_LOG_FORMAT")]
    log_format: Option<String>,
    /// For tests: a clock that stands in this file
    #[arg(long, value_name = "FILE", hide = true)]
    simulated_clock: Option<PathBuf>,
}

/// The file's keys; none is required.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    aggregator: Option<String>,
    token_file: Option<PathBuf>,
    tls_ca: Option<PathBuf>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    tls_server_name: Option<String>,
    insecure_loopback: Option<bool>,
    cluster: Option<String>,
    node: Option<String>,
    spool: Option<PathBuf>,
    spool_bytes: Option<usize>,
    spool_kept_bytes: Option<usize>,
    listen: Option<SocketAddr>,
    driver: Option<String>,
    nvml_library: Option<PathBuf>,
    driver_slow_signals: Option<bool>,
    period_ms: Option<u32>,
    drain_ms: Option<u32>,
    path_procfs: Option<PathBuf>,
    path_cgroup: Option<PathBuf>,
    kubelet_socket: Option<PathBuf>,
    path_dra_checkpoint: Option<PathBuf>,
    path_pod_logs: Option<PathBuf>,
    path_passwd: Option<PathBuf>,
    path_docker: Option<PathBuf>,
    path_podman: Option<PathBuf>,
    cloud_metadata: Option<String>,
    cloud_metadata_address: Option<String>,
    path_dmi: Option<PathBuf>,
    slurm_conf: Option<PathBuf>,
    slurm_gres_conf: Option<PathBuf>,
    slurm_gpu_map: Option<String>,
    slurm_jobs_dir: Option<PathBuf>,
    slurm_job_mapping_dir: Option<PathBuf>,
    slurm_node: Option<String>,
    mps_control: Option<PathBuf>,
    #[serde(default)]
    mps_pipe_directory: Vec<PathBuf>,
    instance_type: Option<String>,
    region: Option<String>,
    zone: Option<String>,
    capacity_type: Option<String>,
    #[serde(default)]
    node_labels: BTreeMap<String, String>,
    log_level: Option<String>,
    log_format: Option<String>,
}

/// Which driver to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DriverChoice {
    Nvml(PathBuf),
    None,
}

/// Validated settings.
#[derive(Debug, Clone)]
pub struct Config {
    pub aggregator: Endpoint,
    /// For an `https` address; `None` = plain `http`.
    pub tls: Option<tls::Settings>,
    pub token_file: Option<PathBuf>,
    pub cluster: String,
    pub node: String,
    pub spool: PathBuf,
    pub spool_bytes: usize,
    pub spool_kept_bytes: usize,
    pub listen: SocketAddr,
    pub driver: DriverChoice,
    pub slow_signals: bool,
    pub period_ns: i64,
    pub drain: std::time::Duration,
    pub paths: crate::attribution::Paths,
    pub kubelet_socket: PathBuf,
    pub mps: crate::mps::Settings,
    /// Which cloud to ask what this machine is, if any.
    pub cloud: Option<cloud::Settings>,
    pub path_dmi: PathBuf,
    /// What the settings say of it.
    pub machine: Machine,
    pub supervisor: Supervisor,
    /// Slurm's configuration, for `check`.
    pub slurm_conf: PathBuf,
    pub log_level: LevelFilter,
    pub log_format: Format,
    pub simulated_clock: Option<PathBuf>,
}

impl RunArgs {
    /// Merges flags and environment with the file and the defaults.
    ///
    /// # Errors
    /// If the file cannot be used, or a setting is wrong.
    pub fn resolve(mut self) -> Result<Config, SettingsError> {
        let mut file: File = settings::read(self.config.as_deref())?;
        let kubelet_socket = self.paths.kubelet_socket.take().or(file.kubelet_socket.take());
        let kubelet_socket = kubelet_socket.unwrap_or_else(|| kubelet::DEFAULT_SOCKET.into());
        let slurm = slurm::resolve(self.slurm, &mut file, &hostname())?;
        let mps = mps::resolve(self.mps, &mut file)?;
        let paths = paths::resolve(self.paths, slurm.paths, &mut file);
        let insecure = self.insecure_loopback || file.insecure_loopback.unwrap_or(false);
        let url = self.aggregator.or(file.aggregator).unwrap_or_else(|| "http://127.0.0.1:7787".into());
        let token_file = self.token_file.or(file.token_file);
        if token_file.as_ref().is_some_and(|path| token::stands_in(&path.to_string_lossy())) {
            return Err(wrong("token_file", "", token::BELONGS_IN_A_FILE));
        }
        let mut node_labels = file.node_labels;
        node_labels.extend(self.node_labels);
        let path = |flag: Option<PathBuf>, file: Option<PathBuf>, default: &str| {
            flag.or(file).unwrap_or_else(|| default.into())
        };
        let period_ms = self.period_ms.or(file.period_ms).unwrap_or(1000);
        let identity = identity(self.tls_cert.or(file.tls_cert), self.tls_key.or(file.tls_key))?;
        let has_credential = token_file.is_some() || identity.is_some();
        let server_name = self.tls_server_name.or(file.tls_server_name);
        let drain_ms = self.drain_ms.or(file.drain_ms).unwrap_or(10_000);
        Ok(Config {
            aggregator: endpoint(&url, insecure, has_credential)?,
            tls: tls_settings(&url, self.tls_ca.or(file.tls_ca), identity, server_name)?,
            token_file,
            cluster: name("cluster", self.cluster.or(file.cluster).unwrap_or_else(|| "default".into()))?,
            node: name("node", self.node.or(file.node).unwrap_or_else(hostname))?,
            spool: path(self.spool, file.spool, DEFAULT_SPOOL),
            spool_bytes: self.spool_bytes.or(file.spool_bytes).unwrap_or(256 << 20),
            spool_kept_bytes: self.spool_kept_bytes.or(file.spool_kept_bytes).unwrap_or(2_000_000),
            listen: self.listen.or(file.listen).unwrap_or(([127, 0, 0, 1], 9788).into()),
            driver: driver(self.driver.or(file.driver), self.nvml_library.or(file.nvml_library))?,
            slow_signals: self.slow_signals || file.driver_slow_signals.unwrap_or(false),
            period_ns: i64::from(within("period_ms", period_ms, 100, 5_000)?) * 1_000_000,
            drain: std::time::Duration::from_millis(u64::from(within("drain_ms", drain_ms, 0, 600_000)?)),
            kubelet_socket,
            mps,
            paths,
            slurm_conf: slurm.conf,
            cloud: machine::cloud(
                self.machine.cloud_metadata.or(file.cloud_metadata),
                self.machine.cloud_metadata_address.or(file.cloud_metadata_address),
            )?,
            path_dmi: path(self.machine.path_dmi, file.path_dmi, "/sys/class/dmi/id"),
            machine: Machine {
                instance_id: String::new(),
                instance_type: self.instance_type.or(file.instance_type).unwrap_or_default(),
                region: self.region.or(file.region).unwrap_or_default(),
                zone: self.zone.or(file.zone).unwrap_or_default(),
                capacity_type: self.capacity_type.or(file.capacity_type).unwrap_or_default(),
                labels: node_labels,
            },
            supervisor: self.machine.supervisor.resolve(),
            log_level: parsed("log_level", self.log_level.or(file.log_level))?.unwrap_or(LevelFilter::INFO),
            log_format: parsed("log_format", self.log_format.or(file.log_format))?.unwrap_or(Format::Text),
            simulated_clock: self.simulated_clock,
        })
    }
}

fn endpoint(url: &str, insecure: bool, has_credential: bool) -> Result<Endpoint, SettingsError> {
    let right = "use a URL like https://aggregator:7787";
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|_| wrong("aggregator", url, right))?;
    let host = endpoint.uri().host().ok_or_else(|| wrong("aggregator", url, right))?;
    if !matches!(endpoint.uri().scheme_str(), Some("http" | "https")) {
        return Err(wrong("aggregator", url, right));
    }
    if insecure && !is_loopback(host) {
        return Err(wrong("aggregator", url, "with insecure_loopback it must be on loopback"));
    }
    if !insecure && !has_credential {
        let right =
            "name the file with this node's token, or tls_cert and tls_key (or set insecure_loopback)";
        return Err(wrong("token_file", "", right));
    }
    let keep_alive = std::time::Duration::from_secs(20);
    Ok(endpoint.http2_keep_alive_interval(keep_alive).keep_alive_while_idle(true).tcp_nodelay(true))
}

fn identity(cert: Option<PathBuf>, key: Option<PathBuf>) -> Result<Option<IdentityFiles>, SettingsError> {
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some(IdentityFiles { cert, key })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(wrong("tls_key", "", "name the key of tls_cert")),
        (None, Some(_)) => Err(wrong("tls_cert", "", "name the certificate of tls_key")),
    }
}

fn tls_settings(
    url: &str,
    ca: Option<PathBuf>,
    identity: Option<IdentityFiles>,
    server_name: Option<String>,
) -> Result<Option<tls::Settings>, SettingsError> {
    if !url.starts_with("https:") {
        let none = ca.is_none() && identity.is_none() && server_name.is_none();
        let right = "settings of TLS are given, so it should begin with https://";
        return if none { Ok(None) } else { Err(wrong("aggregator", url, right)) };
    }
    let right =
        "an https address needs the file with the CA of the ledger's certificate; no other CA is trusted";
    let ca = ca.ok_or_else(|| wrong("tls_ca", "", right))?;
    if let Some(name) = server_name.as_ref().filter(|name| !is_server_name(name)) {
        return Err(wrong("tls_server_name", name, "use the name of a host, or an address"));
    }
    Ok(Some(tls::Settings { files: ClientFiles { ca, identity }, server_name }))
}

fn driver(name: Option<String>, library: Option<PathBuf>) -> Result<DriverChoice, SettingsError> {
    match name.as_deref().unwrap_or("nvml") {
        "nvml" => Ok(DriverChoice::Nvml(library.unwrap_or_else(|| DEFAULT_LIBRARY.into()))),
        "none" => Ok(DriverChoice::None),
        other => Err(wrong("driver", other, "use nvml or none")),
    }
}

fn name(field: &'static str, value: String) -> Result<String, SettingsError> {
    let good = !value.is_empty() && value.len() <= NAME_BYTES_MAX && !value.chars().any(char::is_control);
    if good { Ok(value) } else { Err(wrong(field, value, "use 1 to 256 bytes without control characters")) }
}

fn within(field: &'static str, value: u32, min: u32, max: u32) -> Result<u32, SettingsError> {
    if (min..=max).contains(&value) {
        Ok(value)
    } else {
        Err(wrong(field, value, format!("use {min} to {max}")))
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("use KEY=VALUE")?;
    if key.is_empty() || text.len() > NAME_BYTES_MAX {
        return Err("use KEY=VALUE with a key, in at most 256 bytes".to_owned());
    }
    Ok((key.to_owned(), value.to_owned()))
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(args: &[&str]) -> Result<Config, SettingsError> {
        let args = ["tonnage-agent", "run"].iter().chain(args);
        match Cli::try_parse_from(args).unwrap().command {
            Command::Run(args) | Command::Check(args) => args.resolve(),
            Command::Release(_) | Command::Resume(_) | Command::Gate(_) => panic!("no settings of a run"),
        }
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn a_flag_beats_the_file_and_the_file_beats_the_default() {
        let file = file("cluster = 'from-file'\nnode = 'from-file'\ninsecure_loopback = true\n");
        let config = resolve(&["--config", file.path().to_str().unwrap(), "--node", "from-flag"]).unwrap();
        assert_eq!((config.cluster.as_str(), config.node.as_str()), ("from-file", "from-flag"));
        assert_eq!(config.period_ns, 1_000_000_000);
    }

    #[test]
    fn an_unknown_key_of_the_file_is_an_error_that_names_it() {
        let file = file("insecure_loopback = true\nnoed = 'x'\n");
        let error = resolve(&["--config", file.path().to_str().unwrap()]).unwrap_err().to_string();
        assert!(error.contains("noed"), "{error}");
    }

    #[test]
    fn bad_values_are_refused_by_field_and_value() {
        for (args, parts) in [
            (vec!["--insecure-loopback", "--period-ms", "50"], ["period_ms", "50"]),
            (vec!["--insecure-loopback", "--driver", "rocm"], ["driver", "rocm"]),
            (vec!["--insecure-loopback", "--aggregator", "http://10.0.0.1:1"], ["aggregator", "10.0.0.1"]),
            (vec!["--insecure-loopback", "--log-level", "loud"], ["log_level", "loud"]),
            (vec!["--insecure-loopback", "--cloud-metadata", "ovh"], ["cloud_metadata: \"ovh\"", "azure"]),
            (
                vec!["--insecure-loopback", "--cloud-metadata-address", "10.0.0.1"],
                ["cloud_metadata_address: \"10.0.0.1\"", "169.254.0.0/16"],
            ),
            (vec![], ["token_file", "token"]),
            (vec!["--insecure-loopback", "--aggregator", "ftp://127.0.0.1:1"], ["aggregator", "ftp"]),
            (vec!["--token-file", "t", "--aggregator", "https://a:1"], ["tls_ca", "no other CA"]),
            (vec!["--token-file", "t", "--tls-ca", "c"], ["aggregator", "https://"]),
            (vec!["--tls-cert", "c"], ["tls_key", "tls_cert"]),
            (vec!["--tls-key", "k"], ["tls_cert", "tls_key"]),
            (
                vec![
                    "--token-file",
                    "t",
                    "--aggregator",
                    "https://a:1",
                    "--tls-ca",
                    "c",
                    "--tls-server-name",
                    "a b",
                ],
                ["tls_server_name", "a b"],
            ),
        ] {
            let error = resolve(&args).unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }

    #[test]
    fn a_certificate_stands_in_for_a_token() {
        let args = ["--aggregator", "https://a:1", "--tls-ca", "a", "--tls-cert", "c", "--tls-key", "k"];
        let config = resolve(&args).unwrap();
        assert_eq!(config.token_file, None);
        assert_eq!(config.tls.unwrap().files.identity.unwrap().cert, PathBuf::from("c"));
    }

    #[test]
    fn an_unknown_flag_is_an_error() {
        assert!(Cli::try_parse_from(["tonnage-agent", "run", "--nod", "x"]).is_err());
    }
}
