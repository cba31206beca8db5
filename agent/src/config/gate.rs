//! Settings of the gate beside slurmctld.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use tonnage_proto::token;
use tonnage_runtime::notify::Supervisor;
use tonnage_runtime::settings::{self, SettingsError, parsed, wrong};
use tonnage_runtime::telemetry::Format;
use tracing::level_filters::LevelFilter;

use super::machine::SupervisorArgs;
use super::{name, within};
use crate::gate::client::{Address, Target};
use crate::gate::escrow::Terms;
use crate::gate::guard;
use crate::gate::need::Site;
use crate::gate::plan::Waits;
use crate::gate::reporter::Programs;
use crate::gate::settings::{Policy, Settings};
use crate::gate::slurm::Slurm;
use crate::uplink::tls::is_loopback;

/// Addresses of aggregators over one database.
const ADDRESSES_MAX: usize = 8;
const S: i64 = 1_000_000_000;

/// Every setting may stand in the file given by --config too, under its name with underscores for dashes and dots.
#[derive(Debug, Default, Args)]
pub struct GateArgs {
    /// TOML file with any of these settings
    #[arg(long, value_name = "FILE", env = "TONNAGE_CONFIG")]
    config: Option<PathBuf>,
    /// The aggregator's REST; may be repeated, the first that answers is asked [default: http://127.0.0.1:7788]
    #[arg(long, value_name = "URL", env = "TONNAGE_AGGREGATOR_URL", value_delimiter = ',')]
    aggregator: Vec<String>,
    /// File with a token of the role gate; read again for each request
    #[arg(long, value_name = "FILE", env = "TONNAGE_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// CAs of an https address (PEM) [default: the system's]
    #[arg(long, value_name = "FILE", env = "TONNAGE_TLS_CA")]
    tls_ca: Option<PathBuf>,
    /// Send no token. Only to an aggregator on loopback
    #[arg(long)]
    insecure_loopback: bool,
    /// Name of the cluster, as its agents have it [default: default]
    #[arg(long, value_name = "NAME", env = "TONNAGE_CLUSTER")]
    cluster: Option<String>,
    /// Where job_submit.lua asks [default: /run/tonnage-gate/gate.sock]
    #[arg(long, value_name = "FILE", env = "TONNAGE_GATE_SOCKET")]
    socket: Option<PathBuf>,
    /// Folder for what a crash must not forget [default: /var/lib/tonnage-gate]
    #[arg(long, value_name = "DIR", env = "TONNAGE_GATE_STATE")]
    state: Option<PathBuf>,
    /// slurmctld's user, who may ask [default: slurm, if there is one]
    #[arg(long, value_name = "NAME", env = "TONNAGE_SLURM_USER")]
    slurm_user: Option<String>,
    /// Users by their names [default: /etc/passwd]
    #[arg(long = "path.passwd", value_name = "FILE", env = "TONNAGE_PATH_PASSWD")]
    path_passwd: Option<PathBuf>,
    /// Where the aggregator does not answer in time: open lets work in and books it later, closed refuses it
    /// [default: closed]
    #[arg(long, value_name = "POLICY", env = "TONNAGE_GATE_POLICY")]
    policy: Option<String>,
    /// Where an account is of no budget: open or closed [default: closed]
    #[arg(long, value_name = "POLICY", env = "TONNAGE_GATE_UNBUDGETED")]
    unbudgeted: Option<String>,
    /// Milliseconds that the aggregator may take over a submission, 1 to 5000; less than job_submit.lua waits
    /// [default: 400]
    #[arg(long, value_name = "MS", env = "TONNAGE_GATE_DEADLINE_MS")]
    deadline_ms: Option<u32>,
    /// Shards that a GPU is cut into, 1 to 1024; parts count as whole GPUs, rounded up [default: 1]
    #[arg(long, value_name = "COUNT", env = "TONNAGE_GATE_SHARDS_PER_GPU")]
    shards_per_gpu: Option<u32>,
    /// Jobs without GPUs too: hold for their CPUs and memory, and report what they ran for, by sacct, to be charged
    #[arg(long, env = "TONNAGE_GATE_CPU_JOBS")]
    cpu_jobs: bool,
    /// GPU-hours of an account, a user, a partition and a model that are leased at once, so that submissions need no answer
    /// of the aggregator's, 0 to 9600 [default: 0]
    #[arg(long, value_name = "HOURS", env = "TONNAGE_GATE_ESCROW_GPU_HOURS")]
    escrow_gpu_hours: Option<u32>,
    /// Seconds of a lease, 60 to 3600 [default: 600]
    #[arg(long, value_name = "SECONDS", env = "TONNAGE_GATE_ESCROW_SECONDS")]
    escrow_seconds: Option<u32>,
    /// Health and metrics [default: 127.0.0.1:9789]
    #[arg(long, value_name = "ADDRESS", env = "TONNAGE_LISTEN")]
    listen: Option<SocketAddr>,
    /// Slurm's squeue [default: /usr/bin/squeue]
    #[arg(long = "slurm.squeue", value_name = "FILE", env = "TONNAGE_SLURM_SQUEUE")]
    slurm_squeue: Option<PathBuf>,
    /// Slurm's configuration [default: where Slurm looks by itself]
    #[arg(long = "slurm.conf", value_name = "FILE", env = "TONNAGE_SLURM_CONF")]
    slurm_conf: Option<PathBuf>,
    /// Set GrpSubmitJobs=0 in Slurm, too, for accounts that have nothing left or may not spend, of the cluster that Slurm calls so;
    /// the gate's user has to be an operator of Slurm's
    #[arg(long, value_name = "CLUSTER", env = "TONNAGE_GATE_PUSH_LIMITS")]
    push_limits: Option<String>,
    /// With push_limits: set GrpTRESMins=gres/gpu, too, to what there is money for. AccountingStorageEnforce has to have safe
    #[arg(long, env = "TONNAGE_GATE_PUSH_GPU_MINUTES")]
    push_gpu_minutes: bool,
    /// Slurm's sshare, for push_gpu_minutes [default: /usr/bin/sshare]
    #[arg(long = "slurm.sshare", value_name = "FILE", env = "TONNAGE_SLURM_SSHARE")]
    slurm_sshare: Option<PathBuf>,
    /// Slurm's sacctmgr [default: /usr/bin/sacctmgr]
    #[arg(long = "slurm.sacctmgr", value_name = "FILE", env = "TONNAGE_SLURM_SACCTMGR")]
    slurm_sacctmgr: Option<PathBuf>,
    /// Seconds between two looks at Slurm's jobs, 1 to 600 [default: 15]
    #[arg(long, value_name = "SECONDS", env = "TONNAGE_GATE_SWEEP_SECONDS")]
    sweep_seconds: Option<u32>,
    /// Seconds in which a submission becomes a job, 5 to 3600; then its hold is voided [default: 60]
    #[arg(long, value_name = "SECONDS", env = "TONNAGE_GATE_TOKEN_SECONDS")]
    token_seconds: Option<u32>,
    /// Seconds from a job's end until its hold is settled, 0 to 3600: its last windows are in by then [default: 60]
    #[arg(long, value_name = "SECONDS", env = "TONNAGE_GATE_SETTLE_SECONDS")]
    settle_seconds: Option<u32>,
    /// Slurm's sacct, for cpu_jobs [default: /usr/bin/sacct]
    #[arg(long = "slurm.sacct", value_name = "FILE", env = "TONNAGE_SLURM_SACCT")]
    slurm_sacct: Option<PathBuf>,
    /// Slurm's scontrol, for cpu_jobs [default: /usr/bin/scontrol]
    #[arg(long = "slurm.scontrol", value_name = "FILE", env = "TONNAGE_SLURM_SCONTROL")]
    slurm_scontrol: Option<PathBuf>,
    /// off, error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL", env = "TONNAGE_LOG_LEVEL")]
    log_level: Option<String>,
    /// text or json [default: text]
    #[arg(long, value_name = "FORMAT", env = "TONNAGE_LOG_FORMAT")]
    log_format: Option<String>,
    #[command(flatten)]
    supervisor: SupervisorArgs,
}

/// The file's keys; none is required.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    aggregator: Vec<String>,
    token_file: Option<PathBuf>,
    tls_ca: Option<PathBuf>,
    insecure_loopback: Option<bool>,
    cluster: Option<String>,
    socket: Option<PathBuf>,
    state: Option<PathBuf>,
    slurm_user: Option<String>,
    path_passwd: Option<PathBuf>,
    policy: Option<String>,
    unbudgeted: Option<String>,
    deadline_ms: Option<u32>,
    shards_per_gpu: Option<u32>,
    cpu_jobs: Option<bool>,
    escrow_gpu_hours: Option<u32>,
    escrow_seconds: Option<u32>,
    listen: Option<SocketAddr>,
    slurm_squeue: Option<PathBuf>,
    slurm_conf: Option<PathBuf>,
    push_limits: Option<String>,
    push_gpu_minutes: Option<bool>,
    slurm_sshare: Option<PathBuf>,
    slurm_sacctmgr: Option<PathBuf>,
    slurm_sacct: Option<PathBuf>,
    slurm_scontrol: Option<PathBuf>,
    sweep_seconds: Option<u32>,
    token_seconds: Option<u32>,
    settle_seconds: Option<u32>,
    log_level: Option<String>,
    log_format: Option<String>,
}

/// Validated settings, with those of the process.
#[derive(Debug, Clone)]
pub struct GateConfig {
    pub settings: Settings,
    pub supervisor: Supervisor,
    pub log_level: LevelFilter,
    pub log_format: Format,
}

impl GateArgs {
    /// Merges flags and environment with the file and the defaults.
    ///
    /// # Errors
    /// If a file cannot be used, or a setting is wrong.
    pub fn resolve(self) -> Result<GateConfig, SettingsError> {
        let file: File = settings::read(self.config.as_deref())?;
        let insecure = self.insecure_loopback || file.insecure_loopback.unwrap_or(false);
        let addresses = if self.aggregator.is_empty() { file.aggregator } else { self.aggregator };
        let target =
            target(addresses, self.token_file.or(file.token_file), self.tls_ca.or(file.tls_ca), insecure)?;
        let path = |flag: Option<PathBuf>, file: Option<PathBuf>, default: &str| {
            flag.or(file).unwrap_or_else(|| default.into())
        };
        let passwd = path(self.path_passwd, file.path_passwd, "/etc/passwd");
        let seconds = |field, flag: Option<u32>, file: Option<u32>, default, min, max| {
            within(field, flag.or(file).unwrap_or(default), min, max)
        };
        let sweep = seconds("sweep_seconds", self.sweep_seconds, file.sweep_seconds, 15, 1, 600)?;
        let token = seconds("token_seconds", self.token_seconds, file.token_seconds, 60, 5, 3600)?;
        let settle = seconds("settle_seconds", self.settle_seconds, file.settle_seconds, 60, 0, 3600)?;
        let deadline = seconds("deadline_ms", self.deadline_ms, file.deadline_ms, 400, 1, 5000)?;
        let shards = seconds("shards_per_gpu", self.shards_per_gpu, file.shards_per_gpu, 1, 1, 1024)?;
        let programs = Programs {
            sacct: path(self.slurm_sacct, file.slurm_sacct, "/usr/bin/sacct"),
            scontrol: path(self.slurm_scontrol, file.slurm_scontrol, "/usr/bin/scontrol"),
        };
        let cpu_jobs = self.cpu_jobs || file.cpu_jobs.unwrap_or(false);
        let sacctmgr = path(self.slurm_sacctmgr, file.slurm_sacctmgr, "/usr/bin/sacctmgr");
        let pushed = self.push_limits.or(file.push_limits).map(|cluster| name("push_limits", cluster));
        let sshare = path(self.slurm_sshare, file.slurm_sshare, "/usr/bin/sshare");
        let push_minutes = self.push_gpu_minutes || file.push_gpu_minutes.unwrap_or(false);
        if push_minutes && pushed.is_none() {
            return Err(wrong(
                "push_gpu_minutes",
                true,
                "set push_limits, too, to the cluster's name in Slurm",
            ));
        }
        let minutes = push_minutes.then(|| guard::Programs { sshare, scontrol: programs.scontrol.clone() });
        let guard = pushed.transpose()?;
        let guard = guard.map(|slurm_cluster| guard::Terms { sacctmgr, slurm_cluster, minutes });
        let hours = seconds("escrow_gpu_hours", self.escrow_gpu_hours, file.escrow_gpu_hours, 0, 0, 9600)?;
        let lease = seconds("escrow_seconds", self.escrow_seconds, file.escrow_seconds, 600, 60, 3600)?;
        let settings = Settings {
            target,
            cluster: name("cluster", self.cluster.or(file.cluster).unwrap_or_else(|| "default".into()))?,
            socket: path(self.socket, file.socket, "/run/tonnage-gate/gate.sock"),
            state: path(self.state, file.state, "/var/lib/tonnage-gate"),
            slurm_uid: slurm_uid(self.slurm_user.or(file.slurm_user), &passwd)?,
            listen: self.listen.or(file.listen).unwrap_or(([127, 0, 0, 1], 9789).into()),
            policy: policy("policy", self.policy.or(file.policy))?,
            unbudgeted: policy("unbudgeted", self.unbudgeted.or(file.unbudgeted))?,
            deadline: Duration::from_millis(deadline.into()),
            site: Site { shards_per_gpu: shards.into(), cpu_jobs },
            escrow: Terms { gpu_seconds: u64::from(hours) * 3600, seconds: lease },
            slurm: Slurm {
                squeue: path(self.slurm_squeue, file.slurm_squeue, "/usr/bin/squeue"),
                conf: self.slurm_conf.or(file.slurm_conf),
                within: Duration::from_secs(60),
            },
            guard,
            reports: cpu_jobs.then_some(programs),
            sweep_every: Duration::from_secs(sweep.into()),
            waits: Waits { token_ns: i64::from(token) * S, settle_ns: i64::from(settle) * S },
        };
        Ok(GateConfig {
            settings,
            supervisor: self.supervisor.resolve(),
            log_level: parsed("log_level", self.log_level.or(file.log_level))?.unwrap_or(LevelFilter::INFO),
            log_format: parsed("log_format", self.log_format.or(file.log_format))?.unwrap_or(Format::Text),
        })
    }
}

fn target(
    mut urls: Vec<String>,
    token_file: Option<PathBuf>,
    tls_ca: Option<PathBuf>,
    insecure: bool,
) -> Result<Target, SettingsError> {
    if urls.is_empty() {
        urls.push("http://127.0.0.1:7788".to_owned());
    }
    if urls.len() > ADDRESSES_MAX {
        return Err(wrong("aggregator", urls.len(), format!("name at most {ADDRESSES_MAX}")));
    }
    if token_file.as_ref().is_some_and(|path| token::stands_in(&path.to_string_lossy())) {
        return Err(wrong("token_file", "", token::BELONGS_IN_A_FILE));
    }
    if token_file.is_none() && !insecure {
        let right = "name the file with a token of the role gate (or set insecure_loopback)";
        return Err(wrong("token_file", "", right));
    }
    let address = |url: &String| url.parse::<Address>().map_err(|right| wrong("aggregator", url, right));
    let addresses = urls.iter().map(address).collect::<Result<Vec<_>, _>>()?;
    for (url, address) in urls.iter().zip(&addresses) {
        if insecure && !is_loopback(&address.host) {
            return Err(wrong("aggregator", url, "with insecure_loopback it must be on loopback"));
        }
        if !address.is_tls && !is_loopback(&address.host) {
            let right =
                "use https://, since a token is sent there (a proxy before the aggregator speaks TLS)";
            return Err(wrong("aggregator", url, right));
        }
    }
    if tls_ca.is_some() && !addresses.iter().any(|address| address.is_tls) {
        return Err(wrong("tls_ca", "", "an address should begin with https:// then"));
    }
    Ok(Target { addresses, tls_ca, token_file })
}

fn policy(field: &'static str, value: Option<String>) -> Result<Policy, SettingsError> {
    match value.as_deref().unwrap_or("closed") {
        "open" => Ok(Policy::Open),
        "closed" => Ok(Policy::Closed),
        other => Err(wrong(field, other, "use open or closed")),
    }
}

/// The default user need not be there.
fn slurm_uid(user: Option<String>, passwd: &Path) -> Result<Option<u32>, SettingsError> {
    let text = std::fs::read_to_string(passwd).unwrap_or_default();
    let uid_of = |user: &str| {
        let fields = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let mut own = fields.filter(|fields| fields.first() == Some(&user));
        own.find_map(|fields| fields.get(2)?.parse().ok())
    };
    match user {
        None => Ok(uid_of("slurm")),
        Some(user) => {
            let right = format!("there is no such user in {}", passwd.display());
            uid_of(&user).map(Some).ok_or_else(|| wrong("slurm_user", &user, right))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(change: impl FnOnce(&mut GateArgs)) -> Result<GateConfig, String> {
        let mut args = GateArgs { insecure_loopback: true, ..GateArgs::default() };
        change(&mut args);
        args.resolve().map_err(|error| error.to_string())
    }

    #[test]
    fn without_a_word_it_refuses_what_nobody_can_say() {
        let settings = resolve(|_| {}).unwrap().settings;
        assert_eq!((settings.policy, settings.unbudgeted), (Policy::Closed, Policy::Closed));
        assert_eq!(settings.deadline, Duration::from_millis(400));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let url = |url: &str| vec![url.to_owned()];
        type Change = Box<dyn FnOnce(&mut GateArgs)>;
        let cases: Vec<(Change, [&str; 2])> = vec![
            (Box::new(|args| args.insecure_loopback = false), ["token_file", "role gate"]),
            (Box::new(|args| args.policy = Some("maybe".into())), ["policy", "maybe"]),
            (Box::new(|args| args.deadline_ms = Some(0)), ["deadline_ms", "1 to 5000"]),
            (Box::new(move |args| args.aggregator = url("http://10.0.0.1")), ["aggregator", "loopback"]),
            (
                Box::new(move |args| {
                    args.insecure_loopback = false;
                    args.token_file = Some("t".into());
                    args.aggregator = url("http://10.0.0.1");
                }),
                ["aggregator", "https://"],
            ),
            (Box::new(move |args| args.aggregator = url("ftp://a")), ["aggregator", "ftp://a"]),
            (Box::new(|args| args.tls_ca = Some("c".into())), ["tls_ca", "https://"]),
            (
                Box::new(|args| args.slurm_user = Some("nobody-at-all".into())),
                ["slurm_user", "nobody-at-all"],
            ),
        ];
        for (change, parts) in cases {
            let error = resolve(change).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }
}
