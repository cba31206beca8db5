//! Grants: what an agency awarded for some years, and whose account spends it (docs/grants.md).
//!
//! Direct costs, periods, their budgets and how a grant stands are functions of the grant and of the time, and are kept nowhere.
//! All dates are midnights of UTC: sums of whole days are kept longest, so that a grant of many years can still be told to the
//! nano when its detail is purged.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use jiff::ToSpan as _;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use tonnage_proto::limits::{DAY_NS, NAME_BYTES_MAX};

use super::tree::Tree;
use super::{BudgetError, invalid};

/// Grants in one ledger, closed ones with them.
pub const GRANTS_MAX: usize = 5_000;
pub const CO_INVESTIGATORS_MAX: usize = 50;
pub const PERIOD_MONTHS_MAX: u8 = 60;
/// From the start to the end.
const YEARS_MAX: i64 = 40;
/// Bytes of a name of somebody, and of other text.
const LINE_BYTES_MAX: usize = 512;
const TEXT_BYTES_MAX: usize = 4096;
/// One whole, of rates.
const WHOLE: i64 = 1_000_000_000;

/// All that is said of a grant. Journalled as JSON, so that fields may be added and none be renamed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// The agency's; never changes, and is never used again.
    pub number: String,
    /// It pays for this account and all below it.
    pub account: String,
    pub agency: String,
    #[serde(default)]
    pub program: String,
    /// Who leads it.
    pub investigator: String,
    #[serde(default)]
    pub co_investigators: Vec<String>,
    pub institution: String,
    #[serde(default)]
    pub department: String,
    pub start: Date,
    /// The first day that it does not pay for.
    pub end: Date,
    pub total_nanos: i64,
    /// Indirect costs for each of direct costs, in billionths.
    #[serde(default)]
    pub indirect_rate: i64,
    pub period_months: u8,
    #[serde(default)]
    pub suspended: bool,
    #[serde(default)]
    pub compliance: String,
    #[serde(default)]
    pub federal_award_id: String,
    #[serde(default)]
    pub project_code: String,
    #[serde(default)]
    pub cost_center: String,
}

/// A grant as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Award {
    pub id: i64,
    pub grant: Grant,
    pub created_ns: i64,
    pub updated_ns: i64,
    pub closed_ns: Option<i64>,
}

/// What an operator wants changed. Journalled as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantChange {
    Create(Box<Grant>),
    /// All that is said of it.
    Update(Box<Grant>),
    /// It pays until the end of that day, and nothing is erased.
    Close(String),
}

/// How a grant stands at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Before its start.
    Pending,
    Active,
    Suspended,
    /// From its end on.
    Completed,
    /// Closed before its end.
    Cancelled,
}

impl Standing {
    /// By their numbers.
    pub const NAMES: [&'static str; 5] = ["pending", "active", "suspended", "completed", "cancelled"];

    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// A part of a grant's time, half-open, with its part of the award and of its direct costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// From 1 on.
    pub number: i64,
    pub start_ns: i64,
    pub end_ns: i64,
    pub award_nanos: i64,
    pub direct_nanos: i64,
}

impl Period {
    #[must_use]
    pub fn has(&self, at_ns: i64) -> bool {
        (self.start_ns..self.end_ns).contains(&at_ns)
    }
}

impl Grant {
    /// # Errors
    /// At the first field that is wrong by itself.
    pub fn check(&self) -> Result<(), BudgetError> {
        let word =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '+' | ':' | ' ');
        let number = &self.number;
        let edges = [number.chars().next(), number.chars().next_back()];
        let plain = edges.iter().all(|c| c.is_some_and(|c| c.is_ascii_alphanumeric()));
        // `reports` is what all of them have in the API's paths.
        if !plain || number.len() > NAME_BYTES_MAX || !number.chars().all(word) || number == "reports" {
            let shown: String = number.chars().take(80).collect();
            let reason = format!(
                "{shown:?} has to be 1 to {NAME_BYTES_MAX} letters, digits, blanks, or - _ . / + :, begin and end \
                 with a letter or a digit, and not be reports"
            );
            return Err(invalid("grant_number", reason));
        }
        self.check_texts()?;
        let years = |date: Date| (1970..=2200).contains(&date.year());
        if !years(self.start) || !years(self.end) {
            return Err(invalid("grant_start_date", "or grant_end_date is not in the years 1970 to 2200"));
        }
        if self.end <= self.start {
            return Err(invalid("grant_end_date", "is not after grant_start_date"));
        }
        if self.start.checked_add(YEARS_MAX.years()).is_ok_and(|last| last < self.end) {
            return Err(invalid("grant_end_date", format!("is more than {YEARS_MAX} years after the start")));
        }
        if self.total_nanos <= 0 {
            return Err(invalid("total_award_amount", "is not more than 0"));
        }
        if !(0..=WHOLE).contains(&self.indirect_rate) {
            return Err(invalid("indirect_cost_rate", "is not 0 to 1, such as 0.55 for 55 %"));
        }
        if !(1..=PERIOD_MONTHS_MAX).contains(&self.period_months) {
            let reason = format!("{} is not 1 to {PERIOD_MONTHS_MAX}", self.period_months);
            return Err(invalid("budget_period_months", reason));
        }
        Ok(())
    }

    fn check_texts(&self) -> Result<(), BudgetError> {
        let needed = [
            ("funding_agency", &self.agency),
            ("principal_investigator", &self.investigator),
            ("institution", &self.institution),
        ];
        if let Some((field, _)) = needed.into_iter().find(|(_, text)| text.trim().is_empty()) {
            return Err(invalid(field, "is not there"));
        }
        if self.co_investigators.len() > CO_INVESTIGATORS_MAX {
            return Err(invalid("co_investigators", format!("are more than {CO_INVESTIGATORS_MAX}")));
        }
        let others = [
            ("agency_program", &self.program),
            ("department", &self.department),
            ("federal_award_id", &self.federal_award_id),
            ("internal_project_code", &self.project_code),
            ("cost_center", &self.cost_center),
        ];
        let co = self.co_investigators.iter().map(|name| ("co_investigators", name));
        for (field, text) in needed.into_iter().chain(others).chain(co) {
            if text.len() > LINE_BYTES_MAX || text.chars().any(char::is_control) {
                let reason = format!("is longer than {LINE_BYTES_MAX} bytes, or has control characters");
                return Err(invalid(field, reason));
            }
        }
        if self.compliance.len() > TEXT_BYTES_MAX || self.compliance.contains('\0') {
            let reason = format!("is longer than {TEXT_BYTES_MAX} bytes, or has the character U+0000");
            return Err(invalid("compliance_requirements", reason));
        }
        Ok(())
    }

    /// What of the award may be spent on the work itself, rounded down: `total / (1 + rate)`. The rest is indirect.
    #[must_use]
    pub fn direct_nanos(&self) -> i64 {
        let (whole, rate) = (i128::from(WHOLE), i128::from(self.indirect_rate));
        let direct = i128::from(self.total_nanos) * whole / (whole + rate);
        i64::try_from(direct).unwrap_or(self.total_nanos)
    }

    /// From its first midnight to its last.
    #[must_use]
    pub fn span_ns(&self) -> (i64, i64) {
        (midnight_ns(self.start), midnight_ns(self.end))
    }

    /// The year of the grant, counted from its start, that has `at_ns`; before it the first, and behind it the last.
    #[must_use]
    pub fn year(&self, at_ns: i64) -> (i64, i64) {
        let yearly = Self { period_months: 12, ..self.clone() }.periods();
        let year = yearly.iter().find(|year| at_ns < year.end_ns).or(yearly.last());
        year.map_or_else(|| self.span_ns(), |year| (year.start_ns, year.end_ns))
    }

    /// All periods: so many months each, counted from the start, so that those from the 31st of January have one from the 28th of
    /// February and one from the 31st of March; the last ends with the grant. Budgets go by days, and sum to the whole.
    #[must_use]
    pub fn periods(&self) -> Vec<Period> {
        let mut edges = vec![self.start];
        let months = i64::from(self.period_months);
        for at in 1.. {
            let Ok(next) = self.start.checked_add((at * months).months()) else { break };
            if next >= self.end {
                break;
            }
            edges.push(next);
        }
        edges.push(self.end);
        let edges: Vec<i64> = edges.into_iter().map(midnight_ns).collect();
        let days: Vec<i64> = edges.windows(2).map(|edge| (edge[1] - edge[0]) / DAY_NS).collect();
        let (award, direct) = (split(self.total_nanos, &days), split(self.direct_nanos(), &days));
        let parts = std::iter::zip(award, direct);
        let period = |((number, edge), (award_nanos, direct_nanos)): ((i64, &[i64]), (i64, i64))| Period {
            number,
            start_ns: edge[0],
            end_ns: edge[1],
            award_nanos,
            direct_nanos,
        };
        (1..).zip(edges.windows(2)).zip(parts).map(period).collect()
    }
}

impl Award {
    #[must_use]
    pub fn standing(&self, now_ns: i64) -> Standing {
        let (start_ns, end_ns) = self.grant.span_ns();
        match self.closed_ns {
            Some(closed_ns) if closed_ns < end_ns => Standing::Cancelled,
            Some(_) => Standing::Completed,
            None if end_ns <= now_ns => Standing::Completed,
            None if self.grant.suspended => Standing::Suspended,
            None if now_ns < start_ns => Standing::Pending,
            None => Standing::Active,
        }
    }

    /// What it pays for: from its start to its end, or to the end of the day on which it was closed.
    #[must_use]
    pub fn pays_ns(&self) -> (i64, i64) {
        let (start_ns, end_ns) = self.grant.span_ns();
        let closed_ns = self.closed_ns.map_or(i64::MAX, |at_ns| (at_ns.div_euclid(DAY_NS) + 1) * DAY_NS);
        (start_ns, end_ns.min(closed_ns).max(start_ns))
    }
}

/// All grants, by their numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Awards(BTreeMap<String, Award>);

impl Awards {
    /// As they are stored.
    #[must_use]
    pub fn new(awards: Vec<Award>) -> Self {
        Self(awards.into_iter().map(|award| (award.grant.number.clone(), award)).collect())
    }

    pub fn iter(&self) -> impl Iterator<Item = &Award> {
        self.0.values()
    }

    /// # Errors
    /// If there is none of this number.
    pub fn numbered(&self, number: &str) -> Result<&Award, BudgetError> {
        self.0.get(number).ok_or_else(|| {
            let shown: String = number.chars().take(80).collect();
            BudgetError::NotFound(format!("grant_number: there is no grant {shown:?}"))
        })
    }

    /// Makes a change at `now_ns`; gives the grant that changed.
    ///
    /// # Errors
    /// If it does not fit; then nothing has changed.
    pub fn apply(&mut self, change: &GrantChange, tree: &Tree, now_ns: i64) -> Result<Award, BudgetError> {
        let award = match change {
            GrantChange::Create(grant) => {
                if let Some(known) = self.0.get(&grant.number) {
                    let state =
                        if known.closed_ns.is_some() { "closed, and stays so" } else { "there already" };
                    let text = format!("grant_number: grant {:?} is {state}", grant.number);
                    return Err(BudgetError::Conflict(text));
                }
                if self.0.len() >= GRANTS_MAX {
                    let text = format!("grants: the ledger has {GRANTS_MAX} already");
                    return Err(BudgetError::Conflict(text));
                }
                let id = self.iter().map(|award| award.id).max().unwrap_or(0) + 1;
                let grant = Grant::clone(grant);
                Award { id, grant, created_ns: now_ns, updated_ns: now_ns, closed_ns: None }
            }
            GrantChange::Update(grant) => {
                Award { grant: Grant::clone(grant), updated_ns: now_ns, ..self.open(&grant.number)?.clone() }
            }
            GrantChange::Close(number) => {
                Award { updated_ns: now_ns, closed_ns: Some(now_ns), ..self.open(number)?.clone() }
            }
        };
        award.grant.check()?;
        let account = tree.named(&award.grant.account)?;
        let before = self.0.get(&award.grant.number);
        // Of what an account did spend before it was closed, all may still be said that is to be said.
        let is_new = before.is_none_or(|before| before.grant.account != award.grant.account);
        if is_new && account.closed_ns.is_some() {
            let text = format!("account: {:?} is closed, and spends nothing", award.grant.account);
            return Err(BudgetError::Conflict(text));
        }
        let mut after = self.clone();
        after.0.insert(award.grant.number.clone(), award.clone());
        after.fits(tree)?;
        *self = after;
        Ok(award)
    }

    /// No day of an account is paid for by two grants, be it by one of an account above or by one that was closed since: else both would
    /// report the same money.
    ///
    /// # Errors
    /// If one is, which.
    pub fn fits(&self, tree: &Tree) -> Result<(), BudgetError> {
        let mut of: BTreeMap<&str, Vec<&Award>> = BTreeMap::new();
        let paying = || self.iter().filter(|award| award.pays_ns().0 < award.pays_ns().1);
        for award in paying() {
            of.entry(&award.grant.account).or_default().push(award);
        }
        for award in paying() {
            let (from_ns, to_ns) = award.pays_ns();
            let grant = &award.grant;
            let path = tree.by_name(&grant.account).into_iter().flat_map(|account| tree.path(account.id));
            let others = path.filter_map(|account| of.get(account.spec.name.as_str())).flatten();
            let mut others = others.filter(|other| other.grant.number != grant.number);
            let both = others.find(|other| other.pays_ns().0 < to_ns && from_ns < other.pays_ns().1);
            if let Some(Award { grant: other, .. }) = both {
                return Err(BudgetError::Conflict(format!(
                    "account: grants {:?} of account {:?} and {:?} of {:?} would both pay for the same days of {:?}",
                    grant.number, grant.account, other.number, other.account, grant.account
                )));
            }
        }
        Ok(())
    }

    fn open(&self, number: &str) -> Result<&Award, BudgetError> {
        let award = self.numbered(number)?;
        if award.closed_ns.is_some() {
            return Err(BudgetError::Conflict(format!("grant_number: {number:?} is closed, for good")));
        }
        Ok(award)
    }
}

/// When a day of UTC begins. Every date of the years that are checked has it.
#[must_use]
pub fn midnight_ns(date: Date) -> i64 {
    let at = date.to_zoned(TimeZone::UTC).ok().map(|at| at.timestamp().as_nanosecond());
    at.and_then(|at| i64::try_from(at).ok()).unwrap_or(0)
}

/// Parts of a sum by their weights, that sum to it: each rounded down, and what is left to those that lost most, the first first.
fn split(total: i64, weights: &[i64]) -> Vec<i64> {
    let whole = weights.iter().map(|weight| i128::from(*weight)).sum::<i128>().max(1);
    let share = |weight: &i64| {
        let product = i128::from(total) * i128::from(*weight);
        (product.div_euclid(whole), product.rem_euclid(whole))
    };
    let shares: Vec<(i128, i128)> = weights.iter().map(share).collect();
    let mut parts: Vec<i64> = shares.iter().map(|(part, _)| i64::try_from(*part).unwrap_or(total)).collect();
    let left = usize::try_from(total - parts.iter().sum::<i64>()).unwrap_or(0);
    let mut order: Vec<usize> = (0..shares.len()).collect();
    order.sort_by_key(|at| Reverse(shares[*at].1));
    for at in order.into_iter().take(left) {
        parts[at] += 1;
    }
    parts
}

#[cfg(test)]
mod tests;
