//! Channels of the alerts file: who is told, and how. Pure.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use hyper::http::uri::Authority;
use serde::Deserialize;

use super::{RulesError, wrong};
use crate::alerts::email::is_mailbox;
use crate::http::Server;

const PAGERDUTY: &str = "https://events.pagerduty.com/v2/enqueue";
/// Who gets one e-mail.
const TO_MAX: usize = 20;

/// Who is told, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    pub name: String,
    pub kind: ChannelKind,
    pub to: To,
    /// Of the server's certificate, in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// What signs a webhook, the routing key of PagerDuty, or the password at a mail server.
    pub secret_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelKind {
    Slack,
    Teams,
    Pagerduty,
    Webhook,
    Email,
}

/// Where a channel listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum To {
    Url(String),
    /// A file with the URL, which is a secret itself.
    File(PathBuf),
    Mail(Box<Mail>),
}

/// Who gets e-mail, and which server takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    pub host: String,
    pub port: u16,
    pub tls: MailTls,
    /// Its password is the channel's secret.
    pub username: Option<String>,
    /// Addresses, with or without a name.
    pub from: String,
    pub to: Vec<String>,
}

/// How the way to a mail server is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MailTls {
    /// From a command on, without which nothing is sent.
    Starttls,
    /// From the first byte on.
    Implicit,
    /// Not at all.
    None,
}

impl MailTls {
    /// Where servers listen for it.
    fn port(self) -> u16 {
        match self {
            Self::Starttls => 587,
            Self::Implicit => 465,
            Self::None => 25,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChannelTable {
    name: String,
    kind: ChannelKind,
    url: Option<String>,
    url_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    secret_file: Option<PathBuf>,
    routing_key_file: Option<PathBuf>,
    server: Option<String>,
    tls: Option<MailTls>,
    username: Option<String>,
    password_file: Option<PathBuf>,
    from: Option<String>,
    to: Option<Vec<String>>,
}

impl TryFrom<ChannelTable> for Channel {
    type Error = RulesError;

    fn try_from(table: ChannelTable) -> Result<Self, RulesError> {
        let is_mail = table.kind == ChannelKind::Email;
        let given = [
            ("url", table.url.is_some(), !is_mail),
            ("url_file", table.url_file.is_some(), !is_mail),
            ("secret_file", table.secret_file.is_some(), !is_mail),
            ("routing_key_file", table.routing_key_file.is_some(), !is_mail),
            ("server", table.server.is_some(), is_mail),
            ("tls", table.tls.is_some(), is_mail),
            ("username", table.username.is_some(), is_mail),
            ("password_file", table.password_file.is_some(), is_mail),
            ("from", table.from.is_some(), is_mail),
            ("to", table.to.is_some(), is_mail),
        ];
        if let Some((field, ..)) = given.into_iter().find(|(_, given, has)| *given && !has) {
            let right = "is of another kind of channel; remove it";
            return Err(wrong(&format!("channel.{field}"), &table.name, "it", right));
        }
        if is_mail { mail(table) } else { web(table) }
    }
}

fn absolute(name: &str, field: &str, path: Option<PathBuf>) -> Result<Option<PathBuf>, RulesError> {
    match path {
        Some(path) if !path.is_absolute() => {
            Err(wrong(field, name, Path::display(&path), "is no path from the root; begin it with /"))
        }
        path => Ok(path),
    }
}

fn web(table: ChannelTable) -> Result<Channel, RulesError> {
    let ChannelTable { name, kind, url, url_file, ca_file, secret_file, routing_key_file, .. } = table;
    let url_file = absolute(&name, "channel.url_file", url_file)?;
    let ca_file = absolute(&name, "channel.ca_file", ca_file)?;
    let secret_file = absolute(&name, "channel.secret_file", secret_file)?;
    let routing_key_file = absolute(&name, "channel.routing_key_file", routing_key_file)?;
    let secret_file = match (kind, secret_file, routing_key_file) {
        (ChannelKind::Pagerduty, None, Some(key)) => Some(key),
        (ChannelKind::Pagerduty, _, _) => {
            return Err(wrong("channel.routing_key_file", &name, "it", "is needed, and secret_file is not"));
        }
        (ChannelKind::Webhook, secret, None) => secret,
        (_, None, None) => None,
        (_, Some(_), _) => return Err(wrong("channel.secret_file", &name, "it", "is for webhooks alone")),
        (_, None, Some(_)) => {
            return Err(wrong("channel.routing_key_file", &name, "it", "is for pagerduty alone"));
        }
    };
    let to = match (url, url_file) {
        (None, Some(file)) => To::File(file),
        (Some(url), None) => {
            server(&url, ca_file.as_deref())
                .ok_or_else(|| wrong("channel.url", &name, &url, "is no http:// or https:// address"))?;
            To::Url(url)
        }
        (None, None) if kind == ChannelKind::Pagerduty => To::Url(PAGERDUTY.to_owned()),
        _ => return Err(wrong("channel.url_file", &name, "it", "is needed: give either url_file or url")),
    };
    Ok(Channel { name, kind, to, ca_file, secret_file })
}

/// The server at a URL; `None` if it is none, or has a certificate's CA and no TLS.
#[must_use]
pub fn server(url: &str, ca_file: Option<&Path>) -> Option<Server> {
    let server = Server::parse(url.trim(), 80, "channel.ca_file")?;
    match ca_file {
        Some(ca) => server.of_ca(ca.to_owned()),
        None => Some(server),
    }
}

fn mail(table: ChannelTable) -> Result<Channel, RulesError> {
    let ChannelTable { name, kind, ca_file, server, tls, username, password_file, from, to, .. } = table;
    let ca_file = absolute(&name, "channel.ca_file", ca_file)?;
    let secret_file = absolute(&name, "channel.password_file", password_file)?;
    let needed = |field: &str| wrong(&format!("channel.{field}"), &name, "it", "is needed");
    let tls = tls.unwrap_or(MailTls::Starttls);
    let server = server.ok_or_else(|| needed("server"))?;
    let (host, port) = host_and_port(&server, tls).ok_or_else(|| {
        wrong("channel.server", &name, format!("{server:?}"), "is no server; write e.g. mail.example.org:587")
    })?;
    if tls == MailTls::None && ca_file.is_some() {
        return Err(wrong("channel.ca_file", &name, "it", "has no effect with tls = \"none\"; remove it"));
    }
    match (&username, &secret_file) {
        (None, None) | (Some(_), Some(_)) => {}
        (Some(_), None) => return Err(needed("password_file")),
        (None, Some(_)) => return Err(needed("username")),
    }
    // Whoever writes "none" says that others may read what is told. A password is more than that.
    if tls == MailTls::None && secret_file.is_some() && !is_here(&host) {
        let right = "is sent to this machine alone without TLS; use tls = \"starttls\" or \"implicit\"";
        return Err(wrong("channel.password_file", &name, "it", right));
    }
    let (from, to) = (from.ok_or_else(|| needed("from"))?, to.ok_or_else(|| needed("to"))?);
    if to.is_empty() || to.len() > TO_MAX {
        let right = format!("are not 1 to {TO_MAX}; give a list's address, or a second channel");
        return Err(wrong("channel.to", &name, format!("{} addresses", to.len()), &right));
    }
    for (field, address) in [("from", &from)].into_iter().chain(to.iter().map(|to| ("to", to))) {
        if !is_mailbox(address) {
            let right =
                "is no address; write e.g. ops@example.org or \"Operators <ops@example.org>\", in ASCII";
            return Err(wrong(&format!("channel.{field}"), &name, format!("{address:?}"), right));
        }
    }
    let mail = Mail { host, port, tls, username, from, to };
    Ok(Channel { name, kind, to: To::Mail(Box::new(mail)), ca_file, secret_file })
}

/// Of `HOST[:PORT]`; an IPv6 address stands in brackets, which are no part of the host.
fn host_and_port(server: &str, tls: MailTls) -> Option<(String, u16)> {
    let authority: Authority = server.parse().ok()?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let rest = authority.as_str().strip_prefix(authority.host())?;
    let port = if rest.is_empty() { tls.port() } else { authority.port_u16()? };
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

fn is_here(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = r#"
name = "mail"
kind = "email"
server = "mail.example.org:2525"
username = "tonnage"
password_file = "/etc/tonnage/mail-password"
from = "Tonnage <tonnage@example.org>"
to = ["ops@example.org", "Ada <ada@example.org>"]
ca_file = "/etc/tonnage/mail-ca.pem"
"#;

    fn parse(text: &str) -> Result<Channel, String> {
        let table: ChannelTable = toml::from_str(text).map_err(|error| error.to_string())?;
        Channel::try_from(table).map_err(|error| error.to_string())
    }

    #[test]
    fn mail_goes_by_starttls_unless_told_and_each_way_has_its_port() {
        let To::Mail(mail) = parse(TABLE).unwrap().to else { panic!("no mail") };
        assert_eq!((mail.host.as_str(), mail.port, mail.tls), ("mail.example.org", 2525, MailTls::Starttls));
        for (server, tls, host, port) in [
            ("mail.example.org", "starttls", "mail.example.org", 587),
            ("mail.example.org", "implicit", "mail.example.org", 465),
            ("[2001:db8::1]:26", "implicit", "2001:db8::1", 26),
        ] {
            let text = TABLE.replace("mail.example.org:2525", server) + &format!("tls = \"{tls}\"\n");
            let To::Mail(mail) = parse(&text).unwrap().to else { panic!("no mail") };
            assert_eq!((mail.host.as_str(), mail.port), (host, port), "{server}");
        }
        let here =
            "name = 'm'\nkind = 'email'\nserver = '[::1]'\ntls = 'none'\nfrom = 'a@b.c'\nto = ['a@b.c']\n";
        let To::Mail(mail) = parse(here).unwrap().to else { panic!("no mail") };
        assert_eq!((mail.host.as_str(), mail.port), ("::1", 25));
    }

    #[test]
    fn a_wrong_channel_of_mail_is_refused_with_its_field_and_what_would_be_right() {
        for (from, to, said) in [
            ("server = \"mail.example.org:2525\"\n", "", "channel.server of \"mail\": it is needed"),
            (":2525", ":70000", "channel.server of \"mail\": \"mail.example.org:70000\" is no server"),
            ("mail.example.org:2525", "a@mail.example.org", "is no server; write e.g. mail.example.org:587"),
            ("username = \"tonnage\"\n", "", "channel.username of \"mail\": it is needed"),
            (
                "password_file = \"/etc/tonnage/mail-password\"\n",
                "",
                "channel.password_file of \"mail\": it is needed",
            ),
            (
                "\"/etc/tonnage/mail-password\"",
                "\"word\"",
                "channel.password_file of \"mail\": word is no path",
            ),
            ("ca_file", "tls = \"none\"\nca_file", "channel.ca_file of \"mail\": it has no effect"),
            (
                "ca_file = \"/etc/tonnage/mail-ca.pem\"",
                "tls = \"none\"",
                "is sent to this machine alone without TLS",
            ),
            (
                "<tonnage@example.org>",
                "<tonnage>",
                "channel.from of \"mail\": \"Tonnage <tonnage>\" is no address",
            ),
            (
                "ops@example.org",
                "öps@example.org",
                "channel.to of \"mail\": \"öps@example.org\" is no address",
            ),
            ("ops@example.org", "ops@example.org\\r\\nBcc: x@example.org", "is no address"),
            (
                "[\"ops@example.org\", \"Ada <ada@example.org>\"]",
                "[]",
                "channel.to of \"mail\": 0 addresses are not 1 to 20",
            ),
            (
                "kind = \"email\"",
                "kind = \"slack\"",
                "channel.server of \"mail\": it is of another kind of channel",
            ),
            (
                "username",
                "url = \"https://x\"\nusername",
                "channel.url of \"mail\": it is of another kind of channel",
            ),
        ] {
            assert!(TABLE.contains(from), "{from}");
            let error = parse(&TABLE.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(said), "{from} -> {to}: {error}");
        }
    }
}
