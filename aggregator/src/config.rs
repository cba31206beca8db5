//! What the aggregator is told: flags, then environment, then a TOML file, then defaults. Only this file knows of
//! either. Parsing binds no port and opens no store.
//!
//! Unknown flags and unknown keys of the file are errors. Unknown environment is not: Kubernetes injects
//! `TONNAGE_..._PORT` and the like for a Service of that name, so no name here ends like those.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use serde::Deserialize;
use tonnage_runtime::notify::Supervisor;
use tonnage_runtime::settings::{self, SettingsError, parsed, wrong};
use tonnage_runtime::telemetry::Format;
use tonnage_runtime::tls::{IdentityFiles, ServerFiles};
use tracing::level_filters::LevelFilter;

mod estimator;
mod focus;
mod kubernetes;
mod opencost;
mod store;

use estimator::EstimatorArgs;
use focus::FocusArgs;
use kubernetes::KubernetesArgs;
pub use opencost::OpenCost;
use opencost::OpenCostArgs;
pub use store::{StoreArgs, place};

use crate::export::Parties;
use crate::kubernetes::Settings;
use crate::store::Location;

/// Takes in what agents sealed, keeps the ledger, prices it, and answers over REST.
#[derive(Debug, Parser)]
#[command(name = "tonnage-aggregator", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the aggregator.
    Serve(Box<ServeArgs>),
    /// Recompute the whole ledger from the journal's sealed bytes and compare it with what is stored.
    Verify(StoreArgs),
    /// Write a copy of the ledger to a file, all of one moment, while the aggregator may run.
    Backup {
        #[command(flatten)]
        store: StoreArgs,
        /// Must not exist.
        file: PathBuf,
    },
    /// Let the ledger go on from a backup. The aggregator must not run.
    Restore {
        #[command(flatten)]
        store: StoreArgs,
        file: PathBuf,
        /// Move a ledger that is there aside.
        #[arg(long)]
        replace: bool,
        /// For tests: a clock that stands in this file.
        #[arg(long, value_name = "FILE", hide = true)]
        simulated_clock: Option<PathBuf>,
    },
    /// Copy a whole ledger to a place that holds none yet: from a folder to a database, or back. No aggregator may run.
    Migrate {
        /// A folder, or the URL of a database, or a file with such a URL
        #[arg(long, value_name = "PLACE")]
        from: String,
        #[arg(long, value_name = "PLACE")]
        to: String,
    },
    /// Declare that this ledger continues a lost one, so that its agents send here what they have.
    Succeed {
        #[command(flatten)]
        store: StoreArgs,
        /// The lost ledger's id, 32 hexadecimal digits; agents and `tonnage version` tell it.
        ledger_id: String,
    },
    /// Tokens for people (reader, operator, admin) and for nodes. A token is shown once, when it is made.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Print the document of the REST API (OpenAPI 3.1).
    Openapi,
    /// Check a price book, a nodes file or both without a server.
    CheckPrices {
        /// The price book.
        #[arg(required_unless_present = "nodes_file")]
        file: Option<PathBuf>,
        #[arg(long, value_name = "FILE")]
        nodes_file: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it.
    Add {
        #[command(flatten)]
        store: StoreArgs,
        /// Its name in lists and logs.
        #[arg(long)]
        name: String,
        /// reader, gate, operator or admin: for people and scripts.
        #[arg(long, conflicts_with_all = ["node", "cluster"], required_unless_present = "node")]
        role: Option<String>,
        /// For the agent of this node: good for its usage and nothing else.
        #[arg(long, requires = "cluster")]
        node: Option<String>,
        #[arg(long, requires = "node")]
        cluster: Option<String>,
    },
    /// List tokens, without their secrets.
    List {
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Remove a token; it stops working within a minute.
    Remove {
        #[command(flatten)]
        store: StoreArgs,
        #[arg(long)]
        name: String,
    },
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// TOML file with any of these settings under their names (with underscores).
    #[arg(long, value_name = "FILE", env = "TONNAGE_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    store: StoreArgs,
    /// REST, metrics and health [default: 127.0.0.1:7788]
    #[arg(long, value_name = "ADDRESS", env = "TONNAGE_LISTEN_HTTP")]
    listen_http: Option<SocketAddr>,
    /// Agents' uplinks [default: 127.0.0.1:7787]
    #[arg(long, value_name = "ADDRESS", env = "TONNAGE_LISTEN_GRPC")]
    listen_grpc: Option<SocketAddr>,
    /// Certificate of the uplinks' listener (PEM, with those that lead to its CA); it then speaks TLS only. Read
    /// again when it changes, as are the two below
    #[arg(long, value_name = "FILE", env = "TONNAGE_TLS_CERT")]
    tls_cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", env = "TONNAGE_TLS_KEY")]
    tls_key: Option<PathBuf>,
    /// Ask agents for a certificate of this CA (PEM); its URI spiffe://DOMAIN/tonnage/CLUSTER/NODE is then their name
    #[arg(long, value_name = "FILE", env = "TONNAGE_TLS_CLIENT_CA")]
    tls_client_ca: Option<PathBuf>,
    /// Turn away agents without a certificate, also with a good token.
    #[arg(long)]
    require_client_cert: bool,
    /// Price book (TOML); without one everything is unpriced.
    #[arg(long, value_name = "FILE", env = "TONNAGE_PRICES")]
    prices: Option<PathBuf>,
    /// What nodes are (TOML: instance type, region, labels, ...), for prices to match by; outweighs what agents say.
    #[arg(long, value_name = "FILE", env = "TONNAGE_NODES_FILE")]
    nodes_file: Option<PathBuf>,
    /// How teams are told (TOML: labels, namespaces, Slurm accounts) [default: by the label team]
    #[arg(long, value_name = "FILE", env = "TONNAGE_TEAMS_FILE")]
    teams_file: Option<PathBuf>,
    /// Who is told of what (TOML: channels and rules) [default: nobody of anything]
    #[arg(long, value_name = "FILE", env = "TONNAGE_ALERTS_FILE")]
    alerts_file: Option<PathBuf>,
    /// Days for which slots and the journal's batches are kept; 0 = for ever [default: 0]
    #[arg(long, value_name = "DAYS", env = "TONNAGE_KEEP_DETAIL_DAYS")]
    keep_detail_days: Option<u32>,
    /// Days for which sums of hours are kept, at least as long as detail; 0 = for ever [default: 0]
    #[arg(long, value_name = "DAYS", env = "TONNAGE_KEEP_HOURS_DAYS")]
    keep_hours_days: Option<u32>,
    /// Days for which sums of days are kept, at least as long as hours; 0 = for ever [default: 0]
    #[arg(long, value_name = "DAYS", env = "TONNAGE_KEEP_DAYS_DAYS")]
    keep_days_days: Option<u32>,
    #[command(flatten)]
    opencost: OpenCostArgs,
    #[command(flatten)]
    kubernetes: KubernetesArgs,
    #[command(flatten)]
    focus: FocusArgs,
    #[command(flatten)]
    estimator: EstimatorArgs,
    /// Ask nobody for a token. Only with all listeners on loopback.
    #[arg(long)]
    insecure_loopback: bool,
    /// off, error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL", env = "TONNAGE_LOG_LEVEL")]
    log_level: Option<LevelFilter>,
    /// text or json [default: text]
    #[arg(long, value_name = "FORMAT", env = "TONNAGE_LOG_FORMAT")]
    log_format: Option<Format>,
    /// For tests: a clock that stands in this file.
    #[arg(long, value_name = "FILE", hide = true)]
    simulated_clock: Option<PathBuf>,
    #[command(flatten)]
    supervisor: SupervisorArgs,
}

/// What systemd sets in the environment of a service of `Type=notify`.
#[derive(Debug, Args)]
struct SupervisorArgs {
    #[arg(long, env = "NOTIFY_SOCKET", hide = true)]
    notify_socket: Option<OsString>,
    #[arg(long, env = "WATCHDOG_USEC", hide = true)]
    watchdog_usec: Option<u64>,
    #[arg(long, env = "WATCHDOG_PID", hide = true)]
    watchdog_pid: Option<u32>,
}

impl SupervisorArgs {
    fn resolve(self) -> Supervisor {
        Supervisor::new(self.notify_socket, self.watchdog_usec, self.watchdog_pid)
    }
}

/// The file's keys. The same settings; none is required.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    data: Option<PathBuf>,
    database_url: Option<String>,
    database_url_file: Option<PathBuf>,
    database_ca_file: Option<PathBuf>,
    database_cert_file: Option<PathBuf>,
    database_key_file: Option<PathBuf>,
    listen_http: Option<SocketAddr>,
    listen_grpc: Option<SocketAddr>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    tls_client_ca: Option<PathBuf>,
    require_client_cert: Option<bool>,
    prices: Option<PathBuf>,
    nodes_file: Option<PathBuf>,
    teams_file: Option<PathBuf>,
    alerts_file: Option<PathBuf>,
    keep_detail_days: Option<u32>,
    keep_hours_days: Option<u32>,
    keep_days_days: Option<u32>,
    opencost_listen: Option<SocketAddr>,
    opencost_upstream: Option<String>,
    opencost_upstream_ca_file: Option<PathBuf>,
    opencost_anonymous: Option<bool>,
    opencost_metrics: Option<bool>,
    #[serde(default)]
    kubernetes_cluster: Vec<String>,
    kubernetes_config: Option<PathBuf>,
    focus_provider: Option<String>,
    focus_host_provider: Option<String>,
    focus_invoice_issuer: Option<String>,
    focus_account_name: Option<String>,
    estimator_url: Option<String>,
    estimator_token_file: Option<PathBuf>,
    estimator_ca_file: Option<PathBuf>,
    estimator_timeout_ms: Option<u32>,
    insecure_loopback: Option<bool>,
    log_level: Option<String>,
    log_format: Option<String>,
}

/// Validated settings of `serve`.
#[derive(Debug, Clone)]
pub struct Config {
    pub store: Location,
    pub listen_http: SocketAddr,
    pub listen_grpc: SocketAddr,
    /// For `listen_grpc`; `None` = it speaks plain HTTP/2.
    pub tls: Option<ServerFiles>,
    pub prices: Option<PathBuf>,
    pub nodes_file: Option<PathBuf>,
    pub teams_file: Option<PathBuf>,
    /// `None` = nobody is told of anything.
    pub alerts_file: Option<PathBuf>,
    /// Days; 0 = for ever.
    pub keep_detail_days: u32,
    pub keep_hours_days: u32,
    pub keep_days_days: u32,
    /// `None` = not served.
    pub opencost: Option<OpenCost>,
    /// Clusters that are watched.
    pub kubernetes: Vec<Settings>,
    /// Who is who in exports.
    pub focus: Parties,
    /// `None` = prices decide.
    pub estimator: Option<crate::estimator::Settings>,
    pub insecure_loopback: bool,
    pub log_level: LevelFilter,
    pub log_format: Format,
    pub simulated_clock: Option<PathBuf>,
    pub supervisor: Supervisor,
}

impl ServeArgs {
    /// Merges flags and environment with the file and the defaults.
    ///
    /// # Errors
    /// If the file cannot be used, or a setting is wrong.
    pub fn resolve(self) -> Result<Config, SettingsError> {
        let file: File = settings::read(self.config.as_deref())?;
        // Whatever place is named nearer, it stands for all of them.
        let store = if self.store.is_named() { self.store } else { self.store.or(&file) };
        let insecure_loopback = self.insecure_loopback || file.insecure_loopback.unwrap_or(false);
        let opencost = self.opencost.resolve(&file, insecure_loopback)?;
        let focus = self.focus.resolve(&file)?;
        let kubernetes = self.kubernetes.resolve(&file)?;
        let estimator = self.estimator.resolve(&file)?;
        let log_level = parsed("log_level", file.log_level)?;
        let log_format = parsed("log_format", file.log_format)?;
        let config = Config {
            opencost,
            kubernetes,
            estimator,
            store: store.resolve()?,
            listen_http: self.listen_http.or(file.listen_http).unwrap_or(([127, 0, 0, 1], 7788).into()),
            listen_grpc: self.listen_grpc.or(file.listen_grpc).unwrap_or(([127, 0, 0, 1], 7787).into()),
            tls: tls(
                self.tls_cert.or(file.tls_cert),
                self.tls_key.or(file.tls_key),
                self.tls_client_ca.or(file.tls_client_ca),
                self.require_client_cert || file.require_client_cert.unwrap_or(false),
            )?,
            prices: self.prices.or(file.prices),
            nodes_file: self.nodes_file.or(file.nodes_file),
            teams_file: self.teams_file.or(file.teams_file),
            alerts_file: self.alerts_file.or(file.alerts_file),
            keep_detail_days: self.keep_detail_days.or(file.keep_detail_days).unwrap_or(0),
            keep_hours_days: self.keep_hours_days.or(file.keep_hours_days).unwrap_or(0),
            keep_days_days: self.keep_days_days.or(file.keep_days_days).unwrap_or(0),
            insecure_loopback,
            focus,
            log_level: self.log_level.or(log_level).unwrap_or(LevelFilter::INFO),
            log_format: self.log_format.or(log_format).unwrap_or(Format::Text),
            simulated_clock: self.simulated_clock,
            supervisor: self.supervisor.resolve(),
        };
        let forever = |days: u32| if days == 0 { u32::MAX } else { days };
        for (field, days, least) in [
            ("keep_hours_days", config.keep_hours_days, config.keep_detail_days),
            ("keep_days_days", config.keep_days_days, config.keep_hours_days),
        ] {
            if forever(days) < forever(least) {
                let least = if least == 0 { String::new() } else { format!("{least} or more, or ") };
                return Err(wrong(
                    field,
                    days,
                    format!("is shorter than what it sums up; use {least}0, for ever"),
                ));
            }
        }
        for (field, address) in [("listen_http", config.listen_http), ("listen_grpc", config.listen_grpc)] {
            if config.insecure_loopback && !address.ip().is_loopback() {
                return Err(wrong(
                    field,
                    address,
                    "with insecure_loopback it must be on loopback, as 127.0.0.1",
                ));
            }
        }
        Ok(config)
    }
}

fn tls(
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    client_ca: Option<PathBuf>,
    require_client_cert: bool,
) -> Result<Option<ServerFiles>, SettingsError> {
    let shown = |path: &Option<PathBuf>| path.as_deref().unwrap_or("".as_ref()).display().to_string();
    let (cert, key) = match (cert, key) {
        (Some(cert), Some(key)) => (cert, key),
        (Some(_), None) => return Err(wrong("tls_key", "", "name the key of tls_cert")),
        (None, Some(_)) => return Err(wrong("tls_cert", "", "name the certificate of tls_key")),
        (None, None) if client_ca.is_some() || require_client_cert => {
            let right = "client certificates need TLS: name tls_cert and tls_key too";
            return Err(wrong("tls_client_ca", shown(&client_ca), right));
        }
        (None, None) => return Ok(None),
    };
    if require_client_cert && client_ca.is_none() {
        return Err(wrong(
            "tls_client_ca",
            "",
            "name the CA of the certificates that require_client_cert wants",
        ));
    }
    Ok(Some(ServerFiles { identity: IdentityFiles { cert, key }, client_ca, require_client_cert }))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    pub(super) fn resolve(args: &[&str]) -> Result<Config, SettingsError> {
        let args = ["tonnage-aggregator", "serve"].iter().chain(args);
        match Cli::try_parse_from(args).unwrap().command {
            Command::Serve(args) => args.resolve(),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn a_flag_beats_the_file_and_the_file_beats_the_default() {
        let file = file("data = '/a'\nlisten_http = '127.0.0.1:1'\n");
        let path = file.path().to_str().unwrap();
        let config = resolve(&["--config", path, "--listen-http", "127.0.0.1:2"]).unwrap();
        assert!(
            matches!(&config.store, Location::Folder(data) if data == Path::new("/a")),
            "{:?}",
            config.store
        );
        assert_eq!(config.listen_http.port(), 2);
        assert_eq!(config.listen_grpc.port(), 7787);
    }

    #[test]
    fn an_unknown_key_of_the_file_is_an_error_that_names_it() {
        let file = file("data = '/a'\nlisten_htttp = '127.0.0.1:1'\n");
        let error = resolve(&["--config", file.path().to_str().unwrap()]).unwrap_err().to_string();
        assert!(error.contains("listen_htttp"), "{error}");
    }

    #[test]
    fn without_tokens_it_listens_on_loopback_only() {
        let error = resolve(&["--insecure-loopback", "--listen-grpc", "0.0.0.0:7787"]).unwrap_err();
        assert!(error.to_string().contains("listen_grpc"), "{error}");
        assert!(resolve(&["--insecure-loopback"]).is_ok());
    }

    #[test]
    fn sums_are_kept_at_least_as_long_as_what_they_sum_up() {
        let error = resolve(&["--keep-detail-days", "30", "--keep-hours-days", "7"]).unwrap_err().to_string();
        assert!(error.contains("keep_hours_days") && error.contains("30 or more, or 0"), "{error}");
        assert!(resolve(&["--keep-hours-days", "7"]).is_err(), "detail is kept for ever");
        assert!(resolve(&["--keep-detail-days", "30", "--keep-hours-days", "400"]).is_ok());
    }

    #[test]
    fn half_of_a_tls_setting_is_an_error_that_names_the_other_half() {
        for (args, field) in [
            (&["--tls-cert", "c"][..], "tls_key"),
            (&["--tls-key", "k"], "tls_cert"),
            (&["--tls-client-ca", "a"], "tls_client_ca: \"a\""),
            (&["--require-client-cert"], "tls_client_ca"),
            (&["--tls-cert", "c", "--tls-key", "k", "--require-client-cert"], "tls_client_ca"),
        ] {
            let error = resolve(args).unwrap_err().to_string();
            assert!(error.starts_with(field), "{error}");
        }
        let tls =
            resolve(&["--tls-cert", "c", "--tls-key", "k", "--tls-client-ca", "a"]).unwrap().tls.unwrap();
        assert_eq!((tls.client_ca.as_deref(), tls.require_client_cert), (Some(Path::new("a")), false));
    }

    #[test]
    fn opencost_is_off_unless_it_has_an_address_and_open_on_loopback_or_by_a_flag() {
        assert_eq!(resolve(&[]).unwrap().opencost, None);
        for (args, open) in [
            (&["--opencost-listen", "127.0.0.1:9003"][..], true),
            (&["--opencost-listen", "[::1]:9003"], true),
            (&["--opencost-listen", "0.0.0.0:9003"], false),
            (&["--opencost-listen", "0.0.0.0:9003", "--opencost-anonymous"], true),
        ] {
            assert_eq!(resolve(args).unwrap().opencost.unwrap().open, open, "{args:?}");
        }
        for (args, said) in [
            (&["--opencost-upstream", "http://a"][..], "opencost_upstream: \"http://a:9003\": has no effect"),
            (&["--opencost-metrics"], "opencost_metrics"),
            (
                &["--opencost-listen", "127.0.0.1:9003", "--opencost-upstream", "ftp://a"],
                "opencost_upstream: \"ftp://a\": use http://",
            ),
            (
                &["--opencost-upstream", "http://a", "--opencost-upstream-ca-file", "/ca"],
                "opencost_upstream_ca_file: \"/ca\": has no effect",
            ),
            (&["--insecure-loopback", "--opencost-listen", "0.0.0.0:9003"], "opencost_listen"),
        ] {
            let error = resolve(args).unwrap_err().to_string();
            assert!(error.starts_with(said), "{error}");
        }
    }

    #[test]
    fn an_unknown_flag_is_an_error() {
        assert!(Cli::try_parse_from(["tonnage-aggregator", "serve", "--dtaa", "x"]).is_err());
    }
}
