//! What is to be moved, worked out from what an ASBB says. Pure.
//!
//! Of an account moves what is left: its limit here is its limit there less what was spent there, since here slots alone charge. Of its
//! holds those move that are open. That cannot be read off their status, which is `completed` from the beginning, nor off `budget_held`,
//! from which a reconciled hold is never taken: a hold is open if no charge and no refund is of its job or names it.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use tonnage_proto::decimal::from_nanos;

use super::rows::{self, Account, JobFile, Nanos, Schedule, Transaction, text};
use super::source::Source;

/// How the description of a moved account begins.
pub(super) const MARK: &str = "moved from ASBB: ";
const DESCRIPTION_CHARS_MAX: usize = 900;
/// Holds that are moved wait for their jobs for a week.
const LEASE_SECONDS: u32 = 7 * 86_400;

/// An account, and what is left of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) name: String,
    pub(super) limit: i128,
    pub(super) used: i128,
    /// As it says itself.
    pub(super) held: i128,
    /// What its open holds sum to.
    pub(super) open: i128,
    pub(super) body: Value,
    /// The parts that are still to come, each with whether it is paused.
    pub(super) schedules: Vec<(Value, bool)>,
}

/// Something else, and what is sent for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) name: String,
    pub(super) amount: Option<i128>,
    pub(super) body: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) what: &'static str,
    pub(super) name: String,
    pub(super) reason: String,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) accounts: Vec<Moved>,
    pub(super) holds: Vec<Item>,
    pub(super) grants: Vec<Item>,
    pub(super) jobs: Vec<Item>,
    pub(super) refused: Vec<Refused>,
}

impl Moved {
    /// What was left of it there,
    pub(super) fn before(&self) -> i128 {
        self.limit - self.used - self.held
    }

    /// and what is to be left of it here: with what was held for jobs that had been reconciled.
    pub(super) fn after(&self) -> i128 {
        self.limit - self.used - self.open
    }
}

/// What a grant is made of.
const GRANT_FIELDS: [&str; 17] = [
    "grant_number",
    "funding_agency",
    "agency_program",
    "principal_investigator",
    "co_investigators",
    "institution",
    "department",
    "grant_start_date",
    "grant_end_date",
    "total_award_amount",
    "indirect_cost_rate",
    "budget_period_months",
    "status",
    "compliance_requirements",
    "federal_award_id",
    "internal_project_code",
    "cost_center",
];

impl Plan {
    pub(super) fn of(source: &Source, cluster: Option<&str>, grant_accounts: &[(String, String)]) -> Self {
        let mut plan = Self::default();
        let accounts = plan.read::<Account>("account", "accounts", source.accounts.as_deref());
        let schedules = plan.read::<Schedule>("schedule", "allocations", source.allocations.as_deref());
        let transactions = plan.read::<Transaction>("hold", "transactions", source.transactions.as_deref());
        let names: HashMap<String, String> =
            accounts.iter().map(|account| (text(&account.id), account.slurm_account.clone())).collect();
        let mut open: HashMap<String, i128> = HashMap::new();
        for hold in open_holds(&transactions) {
            match names.get(&text(&hold.account_id)) {
                Some(account) => {
                    *open.entry(account.clone()).or_default() += hold.amount.0;
                    plan.holds.push(item(hold, account, cluster));
                }
                None => {
                    let reason = format!("account_id {}: is no account of the list", text(&hold.account_id));
                    plan.refuse("hold", &hold.transaction_id, reason);
                }
            }
        }
        for account in accounts {
            let own = |of: &&Schedule| text(&of.account_id) == text(&account.id);
            let own: Vec<&Schedule> = schedules.iter().filter(own).collect();
            let held = open.get(&account.slurm_account).copied().unwrap_or_default();
            plan.account(&account, &own, held);
        }
        for (at, row) in source.grants.iter().flatten().enumerate() {
            plan.grant(at, row, grant_accounts);
        }
        for (name, read) in &source.job_files {
            plan.job(name, read.as_deref(), cluster);
        }
        plan
    }

    fn refuse(&mut self, what: &'static str, name: &str, reason: impl Into<String>) {
        self.refused.push(Refused { what, name: name.to_owned(), reason: reason.into() });
    }

    fn read<T: serde::de::DeserializeOwned>(
        &mut self,
        what: &'static str,
        list: &str,
        rows: Option<&[Box<RawValue>]>,
    ) -> Vec<T> {
        let mut good = Vec::new();
        for row in rows::read(list, rows.unwrap_or_default()) {
            match row {
                Ok(row) => good.push(row),
                Err((name, reason)) => self.refuse(what, &name, reason),
            }
        }
        good
    }

    fn account(&mut self, account: &Account, schedules: &[&Schedule], open: i128) {
        let (Nanos(limit), Nanos(used), Nanos(held)) =
            (account.budget_limit, account.budget_used, account.budget_held);
        let name = &account.slurm_account;
        if used > limit {
            let over = from_nanos(used - limit);
            let reason = format!("budget_used is {over} more than budget_limit: nothing is left to be moved");
            return self.refuse("account", name, reason);
        }
        let status = match account.status.as_str() {
            "" | "active" => "active",
            // By its end it is expired here, too; without one it may not spend either.
            "inactive" | "expired" => "inactive",
            "suspended" => "suspended",
            other => {
                let reason = format!("status {other:?} is none of active, inactive, suspended, expired");
                return self.refuse("account", name, reason);
            }
        };
        let said: String = account.description.chars().take(DESCRIPTION_CHARS_MAX).collect();
        let [of, spent] = [limit, used].map(from_nanos);
        let mut body = json!({
            "slurm_account": name, "name": account.name, "budget_limit": from_nanos(limit - used), "status": status,
            "description": format!("{MARK}of {of} it had spent {spent}. {said}").trim_end(),
            // Bound once all of it is there: usage before is in what was spent.
            "bindings": [],
        });
        for (field, date) in [("start_date", &account.start_date), ("end_date", &account.end_date)] {
            if let Some(date) = date_of(date.as_deref()) {
                body[field] = date.into();
            }
        }
        let to_come =
            |of: &&&Schedule| of.remaining_budget.0 > 0 && matches!(of.status.as_str(), "active" | "paused");
        let schedules: Vec<(Value, bool)> =
            schedules.iter().filter(to_come).map(|of| (schedule(name, of), of.status == "paused")).collect();
        if account.has_incremental_budget && schedules.is_empty() {
            let reason = "has_incremental_budget, and no schedule with parts to come is there: what has come is moved; make one \
                          by tonnage allocation create";
            self.refuse("schedule", name, reason);
        }
        self.accounts.push(Moved { name: name.clone(), limit, used, held, open, body, schedules });
    }

    /// A grant under the fields that it is made of here; what else an ASBB tells follows from them.
    fn grant(&mut self, at: usize, row: &RawValue, grant_accounts: &[(String, String)]) {
        let mut grant: BTreeMap<String, Box<RawValue>> = serde_json::from_str(row.get()).unwrap_or_default();
        let word = |field: &str| {
            let value = grant.get(field)?;
            serde_json::from_str::<String>(value.get()).ok().filter(|word| !word.is_empty())
        };
        let Some(name) = word("grant_number") else {
            let reason = "is no object with a grant_number";
            return self.refuse("grant", &format!("grants[{at}]"), reason);
        };
        let status = word("status").unwrap_or_default();
        if status == "cancelled" {
            return self.refuse("grant", &name, "status: is cancelled, so it pays for nothing here");
        }
        let told =
            grant_accounts.iter().find(|(number, _)| *number == name).map(|(_, account)| account.clone());
        let named =
            || word("internal_project_code").filter(|code| self.accounts.iter().any(|of| of.name == *code));
        let Some(account) = told.or_else(named) else {
            let reason = format!("no account is known that it pays for: add --grant-account {name}=ACCOUNT");
            return self.refuse("grant", &name, reason);
        };
        grant.retain(|field, value| {
            // Whether it is pending, active or completed its dates say.
            GRANT_FIELDS.contains(&field.as_str())
                && value.get() != "null"
                && (field != "status" || status == "suspended")
        });
        // Amounts stay as they are written.
        let body = to_raw_value(&account).and_then(|account| {
            grant.insert("account".to_owned(), account);
            serde_json::to_string(&grant)
        });
        match body {
            Ok(body) => self.grants.push(Item { name, amount: None, body }),
            Err(error) => self.refuse("grant", &name, error.to_string()),
        }
    }

    fn job(&mut self, name: &str, read: Result<&str, &String>, cluster: Option<&str>) {
        let text_of_file = match read {
            Ok(text) => text,
            Err(reason) => return self.refuse("job", name, reason.as_str()),
        };
        let file: JobFile = match serde_json::from_str(text_of_file) {
            Ok(file) => file,
            Err(error) => return self.refuse("job", name, error.to_string()),
        };
        let cost = from_nanos(file.actual_cost.0);
        let body = json!({ "job_cost_data": {
            "job_id": text(&file.job_id), "account": file.account, "actual_cost": cost,
            // Who writes these files runs jobs there alone.
            "aws_cost": cost,
            "completed_at": file.export_time.as_ref().map(text), "plugin_version": file.plugin_version,
            "cluster": cluster.unwrap_or_default(),
        } });
        let amount = Some(file.actual_cost.0);
        self.jobs.push(Item { name: text(&file.job_id), amount, body: body.to_string() });
    }
}

/// A time, unless there is none: that is a text of nothing, or the first year, in which Go's times begin.
fn date_of(date: Option<&str>) -> Option<&str> {
    date.filter(|date| !date.is_empty() && !date.starts_with("0001-01-01T"))
}

/// The parts that are still to come of a schedule.
fn schedule(account: &str, of: &Schedule) -> Value {
    let Nanos(left) = of.remaining_budget;
    let mut body = json!({
        "account": account, "total_budget": from_nanos(left),
        "allocation_amount": from_nanos(of.allocation_amount.0.min(left)),
        "allocation_frequency": of.allocation_frequency, "start_date": of.next_allocation_date.clone().unwrap_or_default(),
        "auto_allocate": of.auto_allocate,
    });
    if let Some(end) = date_of(of.end_date.as_deref()) {
        body["end_date"] = end.into();
    }
    body
}

/// Holds that no charge and no refund has ended.
fn open_holds(transactions: &[Transaction]) -> Vec<&Transaction> {
    let gone = |of: &&Transaction| matches!(of.status.as_str(), "failed" | "cancelled");
    let job = |of: &Transaction| of.job_id.as_ref().map(text).filter(|job| !job.is_empty());
    let (mut jobs, mut named) = (HashSet::new(), HashSet::new());
    let ends = |of: &&Transaction| matches!(of.kind.as_str(), "charge" | "refund") && !gone(of);
    for end in transactions.iter().filter(ends) {
        jobs.extend(job(end).map(|job| (text(&end.account_id), job)));
        for said in [&end.parent_transaction_id, &end.description, &end.metadata] {
            let said = text(said);
            let words = said.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-');
            named.extend(words.filter(|word| word.starts_with("txn_")).map(str::to_owned));
        }
    }
    let is_open = |hold: &&Transaction| {
        hold.kind == "hold"
            && !gone(hold)
            && !named.contains(&hold.transaction_id)
            && job(hold).is_none_or(|job| !jobs.contains(&(text(&hold.account_id), job)))
    };
    transactions.iter().filter(is_open).collect()
}

/// A hold of so much, under a key by which it is the same one whenever it is moved again.
fn item(hold: &Transaction, account: &str, cluster: Option<&str>) -> Item {
    let id = &hold.transaction_id;
    let body = json!({
        "idempotency_key": format!("asbb:{id}"), "account": account, "amount": from_nanos(hold.amount.0),
        "cluster": cluster.unwrap_or_default(), "job_id": hold.job_id.as_ref().map(text),
        "lease_seconds": LEASE_SECONDS,
        "job_details": { "asbb_transaction_id": id, "asbb_created_at": hold.created_at.clone().unwrap_or_default() },
    });
    Item { name: id.clone(), amount: Some(hold.amount.0), body: body.to_string() }
}

#[cfg(test)]
mod tests;
