//! How a database is reached: what its URL and the settings beside it say, above all of TLS, in libpq's words.
//!
//! Served of `sslmode` are `disable`, `prefer`, `require`, `verify-ca` and `verify-full`; of files `sslrootcert`, `sslcert`
//! and `sslkey`. Two things are otherwise than in libpq. Without a `sslmode` a database on another machine has to prove
//! who it is (`verify-full`), where libpq would take what it gets. And a server that speaks TLS badly is refused under
//! `prefer`, too: plain is what a server offers that has none. <https://www.postgresql.org/docs/current/libpq-ssl.html>

use std::error::Error as _;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tonnage_runtime::clock::Clock;
use tonnage_runtime::telemetry::chain;
use tonnage_runtime::tls::foreign::{ForeignConfig, ForeignFiles, Refused, Verified, refused};
use tonnage_runtime::tls::{IdentityFiles, TlsError};

use crate::store::StoreError;

const CONNECT: Duration = Duration::from_secs(10);
/// The settings of [`TlsFiles`].
const SETTINGS: [&str; 3] = ["database_ca_file", "database_cert_file", "database_key_file"];

/// Files for TLS that stand beside a URL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The database's certificate has to be of one of these CAs; `None`: of the system's.
    pub ca: Option<PathBuf>,
    /// Our own certificate and its key.
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

impl TlsFiles {
    /// The first of their settings that is given.
    #[must_use]
    pub fn given(&self) -> Option<&'static str> {
        let all = [&self.ca, &self.cert, &self.key];
        SETTINGS.into_iter().zip(all).find(|(_, file)| file.is_some()).map(|(setting, _)| setting)
    }
}

/// A database, and how to reach it.
#[derive(Debug, Clone)]
pub struct Access {
    pub(in crate::store) config: Config,
    /// What one host may take to let us in, whatever it hangs in.
    pub(in crate::store) connect: Duration,
    /// `None`: no TLS is spoken.
    tls: Option<ForeignFiles>,
    /// As it is in force, and whether somebody said so.
    mode: (&'static str, bool),
    /// Nobody but this machine carries what is said.
    local: bool,
}

/// What is served of `sslmode`.
const MODES: [(&str, SslMode, Verified); 5] = [
    ("disable", SslMode::Disable, Verified::Nothing),
    ("prefer", SslMode::Prefer, Verified::Nothing),
    ("require", SslMode::Require, Verified::Nothing),
    ("verify-ca", SslMode::Require, Verified::Issuer),
    ("verify-full", SslMode::Require, Verified::Name),
];

impl Access {
    /// By a URL; errors name no secret.
    ///
    /// # Errors
    /// If it cannot be understood, or says of TLS what does not fit together.
    pub fn parse(url: &str, files: &TlsFiles) -> Result<Self, StoreError> {
        let wrong = |text: String| StoreError::Url(text);
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(wrong("it is none".to_owned()));
        }
        let (url, Said { mode, mut files }) = Said::taken_from(url, files.clone())?;
        let mut config: Config = url.parse().map_err(|e: tokio_postgres::Error| wrong(chain(&e)))?;
        if config.get_dbname().is_none() {
            return Err(wrong("it names no database".to_owned()));
        }
        // libpq's word for the system's CAs.
        let system = files.ca.take_if(|ca| ca.as_os_str() == "system").is_some();
        let [socket, local] = [sockets(&config), local(&config)];
        let default = if local && files.given().is_none() && !system { "prefer" } else { "verify-full" };
        let word = mode.as_deref().unwrap_or(default);
        let known = MODES.into_iter().find(|(name, ..)| *name == word);
        let Some((name, ssl_mode, mut verified)) = known else {
            let names = MODES.map(|(name, ..)| name).join(", ");
            return Err(wrong(format!("sslmode={word} is not served; there are {names}")));
        };
        if (system && name != "verify-full") || (name == "verify-ca" && files.ca.is_none()) {
            let text = "lets in whoever has a certificate of any CA of the system: use verify-full, or name the database's \
                        CA by database_ca_file";
            return Err(wrong(format!("sslmode={name} {text}")));
        }
        if let Some(setting) = files.given().filter(|_| matches!(name, "disable" | "prefer")) {
            let text = "would connect without what it names: use verify-full";
            return Err(wrong(format!("sslmode={name} with {setting} {text}")));
        }
        // As in libpq: whoever names a CA wants it looked at.
        if name == "require" && files.ca.is_some() {
            verified = Verified::Issuer;
        }
        let identity = match (files.cert.take(), files.key.take()) {
            (Some(cert), Some(key)) => Some(IdentityFiles { cert, key }),
            (None, None) => None,
            (Some(_), None) => return Err(wrong(format!("{} has no {}", SETTINGS[1], SETTINGS[2]))),
            (None, Some(_)) => return Err(wrong(format!("{} has no {}", SETTINGS[2], SETTINGS[1]))),
        };
        let plain = ssl_mode == SslMode::Disable || socket;
        config.ssl_mode(if plain { SslMode::Disable } else { ssl_mode });
        let tls = ForeignFiles { verified, ca: files.ca, identity, settings: SETTINGS };
        let mode = (name, mode.is_some());
        Ok(Self { config, connect: CONNECT, tls: (!plain).then_some(tls), mode, local })
    }

    /// For a handshake with the files as they are now; `None`: there is none.
    pub(in crate::store) fn tls(&self) -> Result<Option<ForeignConfig>, TlsError> {
        self.tls.as_ref().map(|files| files.load(&Clock::system())).transpose()
    }

    /// Do both name one database, as far as their names tell?
    pub(in crate::store) fn is(&self, other: &Self) -> bool {
        let place = |access: &Self| {
            let config = &access.config;
            let hosts = (config.get_hosts().to_vec(), config.get_hostaddrs().to_vec());
            (hosts, config.get_ports().to_vec(), config.get_dbname().map(str::to_owned))
        };
        place(self) == place(other)
    }

    /// The same for who waits no longer than this.
    #[must_use]
    pub fn within(&self, patience: Option<Duration>) -> Self {
        Self { connect: patience.unwrap_or(CONNECT).min(CONNECT), ..self.clone() }
    }

    /// What a stranger on the way could do, if anything.
    #[must_use]
    pub fn exposure(&self) -> Option<String> {
        let verified = self.tls.as_ref().map(|files| files.verified);
        if self.local {
            return None;
        }
        let can = match (verified, self.mode.0) {
            (None, _) | (_, "prefer") => "read and change all that is said to the database, and its password",
            (Some(Verified::Nothing), _) => "answer in the database's place",
            (Some(Verified::Issuer | Verified::Name), _) => return None,
        };
        Some(format!("whoever is on the way can {can} (sslmode={}); use verify-full", self.mode.0))
    }

    /// Why there is no connection, by the setting that could change it; `None` if it is not about TLS.
    pub(in crate::store) fn explained(&self, error: &tokio_postgres::Error) -> Option<String> {
        let (mode, said) = self.mode;
        let by = if said { "" } else { ", the default for a database on another machine," };
        let ca = match self.tls.as_ref().and_then(|files| files.ca.as_ref()) {
            Some(path) => format!("database_ca_file ({})", path.display()),
            None => "the system's CAs; name its own by database_ca_file".to_owned(),
        };
        if let Some(refusal) = error.as_db_error() {
            // What `pg_hba.conf` asks for is told in these words alone.
            let text = refusal.message();
            let certificate =
                text.contains("client certificate") || text.contains("certificate authentication");
            if refusal.code() != &SqlState::INVALID_AUTHORIZATION_SPECIFICATION {
                return None;
            }
            if certificate {
                return Some(format!(
                    "it lets in only who has a certificate of its CA, for this user: {text}; name ours by \
                     database_cert_file and database_key_file"
                ));
            }
            let plain = text.ends_with("no encryption");
            return plain.then(|| format!("it may want TLS, and sslmode={mode} speaks none: {text}"));
        }
        if let Some((kind, text)) = refused(error) {
            return Some(match kind {
                Refused::Issuer => format!("its certificate is of none of {ca}: {text}"),
                Refused::Name => format!(
                    "sslmode={mode}{by} wants a certificate of the host's name: {text}; call it by a name that its \
                     certificate has, or use sslmode=verify-ca"
                ),
                Refused::Certificate => format!("its certificate is not good: {text}"),
                Refused::Protocol => {
                    format!("it does not speak TLS 1.3, the only one that is spoken here: {text}")
                }
                Refused::Otherwise => format!("the handshake failed: {text}"),
            });
        }
        let text = error.source().map(ToString::to_string).unwrap_or_default();
        (text == "server does not support TLS").then(|| {
            format!(
                "sslmode={mode}{by} wants TLS, and the server has none: switch it on there (ssl = on); \
                 sslmode=disable would send the ledger and the password in the clear"
            )
        })
    }
}

/// What a URL says of TLS, which its parser does not know, or not whole.
struct Said {
    mode: Option<String>,
    files: TlsFiles,
}

impl Said {
    /// The URL without it.
    fn taken_from(url: &str, files: TlsFiles) -> Result<(String, Self), StoreError> {
        let mut said = Self { mode: None, files };
        let Some((place, query)) = url.split_once('?') else { return Ok((url.to_owned(), said)) };
        let mut rest = Vec::new();
        for part in query.split('&') {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let value = percent_decode_str(value).decode_utf8();
            let value = value.map_err(|_| StoreError::Url(format!("{name} is not text")))?;
            let (file, setting) = match name {
                "sslmode" => {
                    if said.mode.replace(value.into_owned()).is_some() {
                        return Err(StoreError::Url("it says sslmode twice".to_owned()));
                    }
                    continue;
                }
                "sslrootcert" => (&mut said.files.ca, SETTINGS[0]),
                "sslcert" => (&mut said.files.cert, SETTINGS[1]),
                "sslkey" => (&mut said.files.key, SETTINGS[2]),
                _ => {
                    rest.push(part);
                    continue;
                }
            };
            if value.is_empty() || file.replace(PathBuf::from(value.as_ref())).is_some() {
                let text =
                    format!("{name} has to name one file, here or as {setting}, and not in both places");
                return Err(StoreError::Url(text));
            }
        }
        let url = if rest.is_empty() { place.to_owned() } else { format!("{place}?{}", rest.join("&")) };
        Ok((url, said))
    }
}

/// Sockets of this machine alone, where TLS is not spoken?
fn sockets(config: &Config) -> bool {
    let hosts = config.get_hosts();
    config.get_hostaddrs().is_empty()
        && !hosts.is_empty()
        && hosts.iter().all(|host| matches!(host, Host::Unix(_)))
}

/// Is every host this machine?
fn local(config: &Config) -> bool {
    let here = |name: &str| {
        name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    };
    let hosts = config.get_hosts().iter().all(|host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => here(name),
    });
    hosts && config.get_hostaddrs().iter().all(std::net::IpAddr::is_loopback)
}

#[cfg(test)]
mod tests;
