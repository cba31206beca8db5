//! The alerts file: what somebody is to know, and how they are told (docs/alerts.md). Pure.
//!
//! Secrets are in files of their own, which are read when something is told.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tonnage_proto::decimal;
use tonnage_proto::limits::NAME_BYTES_MAX;

use crate::http::Server;
use crate::model::Severity;

/// Rules, and channels, of one file.
const RULES_MAX: usize = 200;
const CHANNELS_MAX: usize = 50;
const PERCENT_MAX: i64 = 1_000;
/// Before a grant's end, unless told; and at most.
const WITHIN_DAYS: i64 = 30;
const WITHIN_DAYS_MAX: i64 = 3_660;
const PAGERDUTY: &str = "https://events.pagerduty.com/v2/enqueue";

/// An alerts file that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RulesError(String);

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    pub channels: Vec<Channel>,
    pub rules: Vec<Rule>,
}

/// Who is told, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    pub name: String,
    pub kind: ChannelKind,
    pub to: To,
    /// Of the server's certificate, in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// What signs a webhook, or the routing key of PagerDuty.
    pub secret_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelKind {
    Slack,
    Teams,
    Pagerduty,
    Webhook,
}

/// Where a channel listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum To {
    Url(String),
    /// A file with the URL, which is a secret itself.
    File(PathBuf),
}

/// What somebody is to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub name: String,
    pub when: When,
    pub severity: Severity,
    pub channels: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// So much of a limit of these accounts (a glob) is charged, or charged and held.
    Spent { percent: i64, accounts: String, held: bool },
    /// More than so much was charged to nobody's budget in the last 24 hours.
    Unassigned { nanos: i128 },
    /// More GPU time than this had no price in the last 24 hours.
    Unpriced { seconds: i64 },
    /// More windows than this wait in quarantine.
    Quarantine { windows: i64 },
    /// A grant of one of these accounts (a glob) ends within so many days.
    GrantExpiring { within_days: i64, accounts: String },
}

impl When {
    /// As alerts are told apart by those who read them.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Spent { .. } => "budget_threshold",
            Self::Unassigned { .. } => "unassigned",
            Self::Unpriced { .. } => "unpriced",
            Self::Quarantine { .. } => "quarantine",
            Self::GrantExpiring { .. } => "grant_expiring",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    channel: Vec<ChannelTable>,
    #[serde(default)]
    rule: Vec<RuleTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChannelTable {
    name: String,
    kind: ChannelKind,
    url: Option<String>,
    url_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    secret_file: Option<PathBuf>,
    routing_key_file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Spent,
    Unassigned,
    Unpriced,
    Quarantine,
    GrantExpiring,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleTable {
    name: String,
    kind: Kind,
    severity: Option<Severity>,
    channels: Vec<String>,
    percent: Option<i64>,
    accounts: Option<String>,
    held: Option<bool>,
    amount: Option<String>,
    gpu_hours: Option<i64>,
    windows: Option<i64>,
    within_days: Option<i64>,
}

fn wrong(field: &str, name: &str, value: impl std::fmt::Display, right: &str) -> RulesError {
    RulesError(format!("{field} of {name:?}: {value} {right}"))
}

impl Rules {
    /// Reads an alerts file.
    ///
    /// # Errors
    /// At the first thing that is wrong, with what would be right.
    pub fn parse(text: &str) -> Result<Self, RulesError> {
        let file: File = toml::from_str(text).map_err(|e| RulesError(e.to_string().trim_end().to_owned()))?;
        let (channels, rules) = (file.channel.len(), file.rule.len());
        if channels > CHANNELS_MAX || rules > RULES_MAX {
            return Err(RulesError(format!(
                "it has {channels} channels and {rules} rules; at most {CHANNELS_MAX} and {RULES_MAX} are taken"
            )));
        }
        let channels = file.channel.into_iter().map(channel).collect::<Result<Vec<_>, _>>()?;
        unique("channel.name", channels.iter().map(|channel| channel.name.as_str()))?;
        let known: BTreeSet<&str> = channels.iter().map(|channel| channel.name.as_str()).collect();
        let rules = file.rule.into_iter().map(|table| rule(table, &known)).collect::<Result<Vec<_>, _>>()?;
        unique("rule.name", rules.iter().map(|rule| rule.name.as_str()))?;
        Ok(Self { channels, rules })
    }
}

fn unique<'a>(field: &str, names: impl Iterator<Item = &'a str>) -> Result<(), RulesError> {
    let mut seen = BTreeSet::new();
    for name in names {
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            let right = format!("use 1 to {NAME_BYTES_MAX} bytes without control characters");
            return Err(RulesError(format!("{field}: {name:?} is no name; {right}")));
        }
        if !seen.insert(name) {
            return Err(RulesError(format!("{field}: {name:?} is there twice; each name may be used once")));
        }
    }
    Ok(())
}

fn absolute(name: &str, field: &str, path: Option<PathBuf>) -> Result<Option<PathBuf>, RulesError> {
    match path {
        Some(path) if !path.is_absolute() => {
            Err(wrong(field, name, Path::display(&path), "is no path from the root; begin it with /"))
        }
        path => Ok(path),
    }
}

fn channel(table: ChannelTable) -> Result<Channel, RulesError> {
    let ChannelTable { name, kind, url, url_file, ca_file, secret_file, routing_key_file } = table;
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

fn rule(table: RuleTable, channels: &BTreeSet<&str>) -> Result<Rule, RulesError> {
    let name = table.name;
    if let Some(unknown) = table.channels.iter().find(|channel| !channels.contains(channel.as_str())) {
        return Err(wrong("rule.channels", &name, format!("{unknown:?}"), "is no channel of this file"));
    }
    let at_least = |field: &str, value: Option<i64>, least: i64, most: i64, unless: i64| {
        let value = value.unwrap_or(unless);
        if (least..=most).contains(&value) {
            return Ok(value);
        }
        Err(wrong(field, &name, value, &format!("is not between {least} and {most}")))
    };
    let given = [
        ("percent", table.percent.is_some(), matches!(table.kind, Kind::Spent)),
        ("accounts", table.accounts.is_some(), matches!(table.kind, Kind::Spent | Kind::GrantExpiring)),
        ("held", table.held.is_some(), matches!(table.kind, Kind::Spent)),
        ("amount", table.amount.is_some(), matches!(table.kind, Kind::Unassigned)),
        ("gpu_hours", table.gpu_hours.is_some(), matches!(table.kind, Kind::Unpriced)),
        ("windows", table.windows.is_some(), matches!(table.kind, Kind::Quarantine)),
        ("within_days", table.within_days.is_some(), matches!(table.kind, Kind::GrantExpiring)),
    ];
    if let Some((field, ..)) = given.into_iter().find(|(_, given, has)| *given && !has) {
        return Err(wrong(&format!("rule.{field}"), &name, "it", "is of another kind of rule; remove it"));
    }
    let when = match table.kind {
        Kind::Spent => When::Spent {
            percent: match table.percent {
                None => {
                    return Err(wrong("rule.percent", &name, "it", "is missing; write e.g. percent = 80"));
                }
                percent => at_least("rule.percent", percent, 1, PERCENT_MAX, 0)?,
            },
            accounts: table.accounts.unwrap_or_else(|| "*".to_owned()),
            held: table.held.unwrap_or(true),
        },
        Kind::Unassigned => {
            let text = table.amount.unwrap_or_else(|| "0".to_owned());
            let nanos = decimal::to_nanos(&text).filter(|nanos| *nanos >= 0);
            let nanos = nanos.ok_or_else(|| {
                wrong(
                    "rule.amount",
                    &name,
                    format!("{text:?}"),
                    "is no amount; write e.g. amount = \"10.00\"",
                )
            })?;
            When::Unassigned { nanos }
        }
        Kind::Unpriced => {
            let hours = at_least("rule.gpu_hours", table.gpu_hours, 0, 1_000_000_000, 0)?;
            When::Unpriced { seconds: hours * 3_600 }
        }
        Kind::GrantExpiring => When::GrantExpiring {
            within_days: at_least("rule.within_days", table.within_days, 1, WITHIN_DAYS_MAX, WITHIN_DAYS)?,
            accounts: table.accounts.unwrap_or_else(|| "*".to_owned()),
        },
        Kind::Quarantine => {
            When::Quarantine { windows: at_least("rule.windows", table.windows, 0, i64::MAX, 0)? }
        }
    };
    Ok(Rule { name, when, severity: table.severity.unwrap_or(Severity::Warning), channels: table.channels })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
[[channel]]
name = "ops"
kind = "slack"
url_file = "/etc/tonnage/slack"

[[channel]]
name = "pager"
kind = "pagerduty"
routing_key_file = "/etc/tonnage/pager"

[[channel]]
name = "hook"
kind = "webhook"
url = "https://hooks.example/tonnage?a=b"
secret_file = "/etc/tonnage/hook"

[[rule]]
name = "nearly spent"
kind = "spent"
percent = 80
accounts = "physics*"
channels = ["ops", "hook"]

[[rule]]
name = "nobody's"
kind = "unassigned"
amount = "10.00"
severity = "critical"
channels = ["pager"]

[[rule]]
name = "no price"
kind = "unpriced"
channels = []
"#;

    #[test]
    fn a_file_says_who_is_told_of_what() {
        let Rules { channels, rules } = Rules::parse(FILE).unwrap();
        assert_eq!(channels[1].to, To::Url(PAGERDUTY.to_owned()));
        assert_eq!(channels[1].secret_file.as_deref(), Some(Path::new("/etc/tonnage/pager")));
        assert_eq!(rules[0].when, When::Spent { percent: 80, accounts: "physics*".into(), held: true });
        assert_eq!(
            (&rules[1].when, rules[1].severity),
            (&When::Unassigned { nanos: 10_000_000_000 }, Severity::Critical)
        );
        assert_eq!((&rules[2].when, rules[2].severity), (&When::Unpriced { seconds: 0 }, Severity::Warning));
    }

    #[test]
    fn a_wrong_file_is_refused_with_its_field_its_value_and_what_would_be_right() {
        for (from, to, said) in [
            ("percent = 80", "percent = 0", "rule.percent of \"nearly spent\": 0 is not between 1 and 1000"),
            ("percent = 80\n", "", "rule.percent of \"nearly spent\": it is missing"),
            (
                "\"ops\", \"hook\"",
                "\"nobody\"",
                "rule.channels of \"nearly spent\": \"nobody\" is no channel",
            ),
            (
                "kind = \"unpriced\"",
                "kind = \"unpriced\"\npercent = 1",
                "rule.percent of \"no price\": it is of another kind",
            ),
            (
                "kind = \"unpriced\"",
                "kind = \"grant_expiring\"\nwithin_days = 0",
                "rule.within_days of \"no price\": 0 is not between 1 and 3660",
            ),
            ("\"10.00\"", "\"ten\"", "rule.amount of \"nobody's\": \"ten\" is no amount"),
            ("/etc/tonnage/slack", "slack", "channel.url_file of \"ops\": slack is no path from the root"),
            ("url_file = \"/etc/tonnage/slack\"\n", "", "channel.url_file of \"ops\": it is needed"),
            (
                "https://hooks",
                "ftp://hooks",
                "channel.url of \"hook\": ftp://hooks.example/tonnage?a=b is no http",
            ),
            ("routing_key_file", "secret_file", "channel.routing_key_file of \"pager\": it is needed"),
            ("name = \"hook\"", "name = \"ops\"", "channel.name: \"ops\" is there twice"),
            ("kind = \"slack\"", "kind = \"irc\"", "unknown variant `irc`"),
            ("name = \"no price\"", "name = \"\"", "rule.name: \"\" is no name"),
        ] {
            assert!(FILE.contains(from), "{from}");
            let error = Rules::parse(&FILE.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(said), "{from} -> {to}: {error}");
        }
    }
}
