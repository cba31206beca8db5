//! The alerts file: what somebody is to know, and how they are told (docs/alerts.md). Pure.
//!
//! Secrets are in files of their own, which are read when something is told.

use std::collections::BTreeSet;

use serde::Deserialize;
use tonnage_proto::decimal;
use tonnage_proto::limits::NAME_BYTES_MAX;

use crate::model::Severity;

pub mod channel;
mod pace;

use channel::{Channel, ChannelTable};

/// Rules, and channels, of one file.
const RULES_MAX: usize = 200;
const CHANNELS_MAX: usize = 50;
const PERCENT_MAX: i64 = 1_000;
const DAYS_MAX: i64 = 3_660;
/// Before a grant's end, unless told.
const WITHIN_DAYS: i64 = 30;

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
    /// A limit of these accounts is spent so many thousandths as fast as it would last for its period, in the last hours of a long
    /// window and in those of a short one.
    BurnRate { times_permille: i64, accounts: String, long_hours: i64, short_hours: i64 },
    /// A limit of these accounts will be spent before its period ends, and within so many days.
    Depletion { accounts: String, within_days: Option<i64> },
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
            Self::BurnRate { .. } => "burn_rate",
            Self::Depletion { .. } => "depletion",
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

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Spent,
    BurnRate,
    Depletion,
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
    times: Option<f64>,
    long_hours: Option<i64>,
    short_hours: Option<i64>,
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
        let channels = file.channel.into_iter().map(Channel::try_from).collect::<Result<Vec<_>, _>>()?;
        unique("channel.name", channels.iter().map(|channel| channel.name.as_str()))?;
        let known: BTreeSet<&str> = channels.iter().map(|channel| channel.name.as_str()).collect();
        let rules = file.rule.into_iter().map(|table| rule(table, &known)).collect::<Result<Vec<_>, _>>()?;
        unique("rule.name", rules.iter().map(|rule| rule.name.as_str()))?;
        pace::check(&rules)?;
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

fn rule(table: RuleTable, channels: &BTreeSet<&str>) -> Result<Rule, RulesError> {
    let name = table.name.clone();
    if let Some(unknown) = table.channels.iter().find(|channel| !channels.contains(channel.as_str())) {
        return Err(wrong("rule.channels", &name, format!("{unknown:?}"), "is no channel of this file"));
    }
    let kinds = |kinds: &[Kind]| kinds.contains(&table.kind);
    let given = [
        ("percent", table.percent.is_some(), kinds(&[Kind::Spent])),
        (
            "accounts",
            table.accounts.is_some(),
            kinds(&[Kind::Spent, Kind::BurnRate, Kind::Depletion, Kind::GrantExpiring]),
        ),
        ("held", table.held.is_some(), kinds(&[Kind::Spent])),
        ("times", table.times.is_some(), kinds(&[Kind::BurnRate])),
        ("long_hours", table.long_hours.is_some(), kinds(&[Kind::BurnRate])),
        ("short_hours", table.short_hours.is_some(), kinds(&[Kind::BurnRate])),
        ("within_days", table.within_days.is_some(), kinds(&[Kind::Depletion, Kind::GrantExpiring])),
        ("amount", table.amount.is_some(), kinds(&[Kind::Unassigned])),
        ("gpu_hours", table.gpu_hours.is_some(), kinds(&[Kind::Unpriced])),
        ("windows", table.windows.is_some(), kinds(&[Kind::Quarantine])),
    ];
    if let Some((field, ..)) = given.into_iter().find(|(_, given, has)| *given && !has) {
        return Err(wrong(&format!("rule.{field}"), &name, "it", "is of another kind of rule; remove it"));
    }
    let when = when(&name, &table)?;
    Ok(Rule { name, when, severity: table.severity.unwrap_or(Severity::Warning), channels: table.channels })
}

fn when(name: &str, table: &RuleTable) -> Result<When, RulesError> {
    let between = |field, value: Option<i64>, within, unless| between(name, field, (value, unless), within);
    let accounts = || table.accounts.clone().unwrap_or_else(|| "*".to_owned());
    Ok(match table.kind {
        Kind::Spent => When::Spent {
            percent: match table.percent {
                None => return Err(wrong("rule.percent", name, "it", "is missing; write e.g. percent = 80")),
                percent => between("rule.percent", percent, (1, PERCENT_MAX), 0)?,
            },
            accounts: accounts(),
            held: table.held.unwrap_or(true),
        },
        Kind::BurnRate => pace::burn_rate(name, table, accounts())?,
        Kind::Depletion => {
            let days =
                table.within_days.map(|days| between("rule.within_days", Some(days), (1, DAYS_MAX), 0));
            When::Depletion { accounts: accounts(), within_days: days.transpose()? }
        }
        Kind::Unassigned => {
            let text = table.amount.as_deref().unwrap_or("0");
            let nanos = decimal::to_nanos(text).filter(|nanos| *nanos >= 0);
            let right = "is no amount; write e.g. amount = \"10.00\"";
            When::Unassigned {
                nanos: nanos.ok_or_else(|| wrong("rule.amount", name, format!("{text:?}"), right))?,
            }
        }
        Kind::Unpriced => {
            let hours = between("rule.gpu_hours", table.gpu_hours, (0, 1_000_000_000), 0)?;
            When::Unpriced { seconds: hours * 3_600 }
        }
        Kind::GrantExpiring => When::GrantExpiring {
            within_days: between("rule.within_days", table.within_days, (1, DAYS_MAX), WITHIN_DAYS)?,
            accounts: accounts(),
        },
        Kind::Quarantine => {
            When::Quarantine { windows: between("rule.windows", table.windows, (0, i64::MAX), 0)? }
        }
    })
}

/// A value, or what it is unless told.
fn between(
    name: &str,
    field: &str,
    (value, unless): (Option<i64>, i64),
    (least, most): (i64, i64),
) -> Result<i64, RulesError> {
    let value = value.unwrap_or(unless);
    if (least..=most).contains(&value) {
        return Ok(value);
    }
    Err(wrong(field, name, value, &format!("is not between {least} and {most}")))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::channel::To;
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
        assert_eq!(channels[1].to, To::Url("https://events.pagerduty.com/v2/enqueue".to_owned()));
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
