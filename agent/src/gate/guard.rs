//! A coarse second guard, in Slurm itself: accounts that may not spend, or have nothing left, may not submit (`GrpSubmitJobs=0`), also while
//! neither gate nor plugin is there. Off unless told: it goes for jobs without GPUs too. Where that is told as well, jobs of others start only
//! as long as there is money for their GPUs (`GrpTRESMins`, `minutes`).
//!
//! Only accounts of Slurm that an account here is bound to whole. What a limit was before is noted, flushed, before it is set, and
//! set again once there is money; limits that are not noted are a person's, and stay.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tonnage_proto::decimal::to_nanos;
use tonnage_runtime::telemetry::chain;

use super::ledger::{Ledger, LedgerError};
use super::slurm::{Slurm, SlurmError};

mod minutes;

/// Slurm's words for no limit.
const NONE: &str = "-1";

/// An account, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Account {
    status: String,
    bindings: Vec<Binding>,
    exact: Left,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Left {
    /// `None`: it has no limit.
    budget_available: Option<String>,
    #[serde(default)]
    budget_held: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Binding {
    #[serde(default)]
    cluster: Option<String>,
    #[serde(default)]
    account: Option<String>,
    #[serde(default)]
    partition: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    namespace_labels: BTreeMap<String, String>,
    /// `None` while it is in force.
    to: Option<String>,
}

/// An account of Slurm, its limit from now on, and what that was before: `None` where it is set back.
type Change = (String, String, Option<String>);

/// The accounts of Slurm that an account is bound to whole.
fn whole<'a>(account: &'a Account, cluster: &'a str) -> impl Iterator<Item = &'a str> {
    let whole = move |binding: &&Binding| {
        let fields = [&binding.partition, &binding.namespace, &binding.user];
        binding.to.is_none()
            && binding.labels.is_empty()
            && binding.namespace_labels.is_empty()
            && fields.iter().all(|field| field.is_none())
            && binding.cluster.as_deref().is_none_or(|own| own == cluster)
    };
    account.bindings.iter().filter(whole).filter_map(|binding| binding.account.as_deref())
}

/// Accounts of Slurm, and whether each is to be stopped.
fn stopped(accounts: &[Account], cluster: &str) -> BTreeMap<String, bool> {
    let mut all = BTreeMap::new();
    for account in accounts {
        let left = account.exact.budget_available.as_deref().and_then(to_nanos);
        let is_over =
            !matches!(account.status.as_str(), "active" | "pending") || left.is_some_and(|left| left <= 0);
        all.extend(whole(account, cluster).map(|name| (name.to_owned(), is_over)));
    }
    all
}

/// Limits to be set, with what each was before: `None` where it is set back.
fn changes(
    stopped: &BTreeMap<String, bool>,
    now: &BTreeMap<String, String>,
    noted: &BTreeMap<String, String>,
) -> Vec<Change> {
    // What no account is bound to any more has no reason to be stopped.
    let unbound = noted.keys().filter(|name| !stopped.contains_key(*name)).map(|name| (name, &false));
    let change = |(name, is_over): (&String, &bool)| {
        let current = now.get(name)?;
        match (is_over, noted.get(name)) {
            (true, None) if current != "0" => Some((name.clone(), "0".to_owned(), Some(current.clone()))),
            // It was cut off between the note and the limit.
            (true, Some(before)) if current == before => {
                Some((name.clone(), "0".to_owned(), Some(before.clone())))
            }
            (false, Some(before)) => Some((name.clone(), before.clone(), None)),
            _ => None,
        }
    };
    stopped.iter().chain(unbound).filter_map(change).collect()
}

/// Where limits are set, and of which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    pub sacctmgr: PathBuf,
    /// As Slurm has it.
    pub slurm_cluster: String,
    /// Where GPU-minutes are to be limited, too.
    pub minutes: Option<Programs>,
}

/// What tells of Slurm what it takes to limit minutes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    pub sshare: PathBuf,
    pub scontrol: PathBuf,
}

/// See the module.
#[derive(Debug)]
pub struct Guard {
    terms: Terms,
    submits: Noted,
    minutes: Noted,
}

/// The guard could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("one of Slurm's programs")]
    Slurm(#[from] SlurmError),
    #[error("what limits were before cannot be noted")]
    Noted(#[from] io::Error),
    #[error("{0}")]
    Unsafe(&'static str),
}

impl Guard {
    #[must_use]
    pub fn new(terms: Terms, state: &Path) -> Self {
        let [submits, minutes] = ["limits.json", "minutes.json"].map(|name| Noted(state.join(name)));
        Self { terms, submits, minutes }
    }

    /// Says what it could not do; the next time it tries again.
    pub async fn tend(&self, ledger: &Ledger, slurm: &Slurm) {
        if let Err(error) = self.once(ledger, slurm).await {
            let error = chain(&error);
            tracing::warn!(%error, "The limits in Slurm could not be brought up to date.");
        }
    }

    async fn once(&self, ledger: &Ledger, slurm: &Slurm) -> Result<(), GuardError> {
        let accounts = ledger.accounts().await?;
        let now = limits(&self.associations(slurm, "GrpSubmitJobs").await?)?;
        let stopped = stopped(&accounts, &ledger.cluster);
        let changes = changes(&stopped, &now, &self.submits.read()?);
        self.set(slurm, &self.submits, "GrpSubmitJobs", changes).await?;
        let Some(programs) = &self.terms.minutes else { return Ok(()) };
        let config = slurm.run(&programs.scontrol, &["show", "config"]).await?;
        if let Some(why) = minutes::unsafe_because(&config) {
            return Err(GuardError::Unsafe(why));
        }
        // Of the slurmctld beside it, which is that cluster's.
        let ask = ["--noheader", "--parsable2", "--all", "--format=Account,User,GrpTRESRaw"];
        let used = minutes::used(&slurm.run(&programs.sshare, &ask).await?)?;
        let now = minutes::limits(&self.associations(slurm, "GrpTRESMins").await?)?;
        let price = minutes::cheapest(&ledger.prices().await?, &ledger.cluster);
        let wanted = minutes::wanted(&accounts, &ledger.cluster, price);
        let changes = minutes::changes(&wanted, &used, &now, &self.minutes.read()?);
        self.set(slurm, &self.minutes, "GrpTRESMins=gres/gpu", changes).await
    }

    async fn associations(&self, slurm: &Slurm, limit: &str) -> Result<String, SlurmError> {
        let (of, format) = (self.of(), format!("format=Account,User,{limit}"));
        let show = ["--noheader", "--parsable2", "show", "associations", &of, &format];
        slurm.run(&self.terms.sacctmgr, &show).await
    }

    fn of(&self) -> String {
        format!("cluster={}", self.terms.slurm_cluster)
    }

    /// Notes and sets, one after the other.
    async fn set(
        &self,
        slurm: &Slurm,
        kept: &Noted,
        limit: &str,
        changes: Vec<Change>,
    ) -> Result<(), GuardError> {
        let mut noted = kept.read()?;
        for (name, value, before) in changes {
            if let Some(before) = &before {
                noted.insert(name.clone(), before.clone());
                kept.write(&noted)?;
            }
            let set = format!("{limit}={}", if value.is_empty() { NONE } else { &value });
            let (who, of) = (format!("name={name}"), self.of());
            let modify = ["--immediate", "modify", "account", "where", &who, &of, "set", &set];
            slurm.run(&self.terms.sacctmgr, &modify).await?;
            tracing::info!(
                account = name,
                limit = set,
                "A limit is set in Slurm, by what is left of the account's budget."
            );
            if before.is_none() {
                noted.remove(&name);
                kept.write(&noted)?;
            }
        }
        Ok(())
    }
}

/// What limits were before, in a file.
#[derive(Debug)]
struct Noted(PathBuf);

impl Noted {
    fn read(&self) -> io::Result<BTreeMap<String, String>> {
        match fs::read(&self.0) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(error),
        }
    }

    fn write(&self, noted: &BTreeMap<String, String>) -> io::Result<()> {
        let begun = self.0.with_extension("new");
        let mut file = File::create(&begun)?;
        file.write_all(&serde_json::to_vec(noted)?)?;
        file.sync_all()?;
        fs::rename(&begun, &self.0)?;
        File::open(self.0.parent().unwrap_or(Path::new("/")))?.sync_all()
    }
}

/// Limits of accounts themselves, empty without one.
fn limits(text: &str) -> Result<BTreeMap<String, String>, SlurmError> {
    let mut limits = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        match line.split('|').collect::<Vec<_>>().as_slice() {
            // sshare indents accounts by what they are below.
            [account, "", limit] => drop(limits.insert(account.trim().to_owned(), (*limit).to_owned())),
            [_, _, _] => {}
            _ => return Err(SlurmError::Line { line: line.chars().take(120).collect() }),
        }
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn an_account_without_money_or_leave_is_stopped_where_it_is_bound_whole() {
        let account = |status: &str, left: Option<&str>, binding: serde_json::Value| -> Account {
            let json = serde_json::json!({ "status": status, "bindings": [binding], "exact": { "budget_available": left } });
            serde_json::from_value(json).unwrap()
        };
        let of = |name: &str| serde_json::json!({ "account": name, "from": "x", "to": null });
        let accounts = [
            account("active", Some("0.000000001"), of("rich")),
            account("active", Some("0.000000000"), of("poor")),
            account("active", None, of("free")),
            account("suspended", Some("5"), of("bad")),
            account(
                "active",
                Some("-1"),
                serde_json::json!({ "account": "part", "partition": "gpu", "to": null }),
            ),
            account(
                "active",
                Some("-1"),
                serde_json::json!({ "account": "elsewhere", "cluster": "d", "to": null }),
            ),
            account(
                "active",
                Some("-1"),
                serde_json::json!({ "account": "labelled", "labels": { "a": "b" }, "to": null }),
            ),
            account("active", Some("-1"), serde_json::json!({ "account": "former", "to": "x" })),
        ];
        let expected = [("bad", true), ("free", false), ("poor", true), ("rich", false)];
        let expected: BTreeMap<String, bool> = expected.map(|(name, is)| (name.to_owned(), is)).into();
        assert_eq!(stopped(&accounts, "c"), expected);
    }

    #[test]
    fn a_limit_is_set_back_to_what_it_was_and_a_persons_own_stays() {
        let stop = |is_over| BTreeMap::from([("a".to_owned(), is_over)]);
        let set = |limit: &str, before: Option<&str>| {
            vec![("a".to_owned(), limit.to_owned(), before.map(str::to_owned))]
        };
        let (none, seven) = (map(&[]), map(&[("a", "7")]));
        assert_eq!(changes(&stop(true), &seven, &none), set("0", Some("7")));
        assert_eq!(changes(&stop(true), &map(&[("a", "0")]), &seven), []);
        assert_eq!(changes(&stop(true), &seven, &seven), set("0", Some("7")), "noted, and not set yet");
        assert_eq!(changes(&stop(false), &map(&[("a", "0")]), &seven), set("7", None));
        assert_eq!(changes(&stop(false), &map(&[("a", "0")]), &none), [], "somebody else's");
        assert_eq!(changes(&stop(true), &none, &none), [], "Slurm has no such account");
        let unbound = BTreeMap::new();
        assert_eq!(changes(&unbound, &map(&[("a", "0")]), &seven), set("7", None), "its budget is closed");
        assert_eq!(changes(&unbound, &map(&[("a", "0")]), &none), []);
        assert_eq!(limits("a||7\na|ada|3\nb||\n").unwrap(), map(&[("a", "7"), ("b", "")]));
        assert!(limits("a||7|x").is_err());
    }
}
