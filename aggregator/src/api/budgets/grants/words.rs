//! Grants as clients send and read them.

use jiff::civil::Date;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tonnage_proto::limits::DAY_NS;

use super::super::accounts::at;
use super::super::request::Money;
use super::super::words::number;
use super::super::{exact, one_of};
use crate::api::cost::plain::Number;
use crate::api::error::ApiError;
use crate::api::inventory::time;
use crate::budgets::burn;
use crate::budgets::grant::{Period, Standing};
use crate::budgets::{Award, Grant};

/// Periods that a grant can have, for their ids.
const PERIODS: i64 = 1_000;

/// A new grant, or what changes of one: what is not given stays as it is.
#[derive(Debug, Deserialize, JsonSchema)]
pub(in crate::api) struct GrantBody {
    /// The agency's number; of a new grant.
    #[serde(default)]
    grant_number: Option<String>,
    /// The account that spends it, with all below it.
    #[serde(default)]
    account: Option<String>,
    #[serde(default)]
    funding_agency: Option<String>,
    #[serde(default)]
    agency_program: Option<String>,
    #[serde(default)]
    principal_investigator: Option<String>,
    #[serde(default)]
    co_investigators: Option<Vec<String>>,
    #[serde(default)]
    institution: Option<String>,
    #[serde(default)]
    department: Option<String>,
    /// 2026-01-31, or a time that is a midnight of UTC.
    #[serde(default)]
    grant_start_date: Option<String>,
    /// The first day that it does not pay for.
    #[serde(default)]
    grant_end_date: Option<String>,
    #[serde(default)]
    total_award_amount: Option<Money>,
    /// Indirect costs for each of direct costs: 0.55 is 55 %. 0 unless told.
    #[serde(default)]
    indirect_cost_rate: Option<Money>,
    /// 1 to 60; 12 unless told.
    #[serde(default)]
    budget_period_months: Option<u8>,
    /// active or suspended; all else follows from dates, and from closing it.
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    compliance_requirements: Option<String>,
    #[serde(default)]
    federal_award_id: Option<String>,
    #[serde(default)]
    internal_project_code: Option<String>,
    #[serde(default)]
    cost_center: Option<String>,
}

/// A grant, and what is spent of it.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::api) struct GrantAnswer {
    id: i64,
    grant_number: String,
    account: String,
    funding_agency: String,
    agency_program: String,
    principal_investigator: String,
    co_investigators: Vec<String>,
    institution: String,
    department: String,
    grant_start_date: String,
    grant_end_date: String,
    total_award_amount: Number,
    /// What of it may be spent on the work itself.
    direct_costs: Number,
    indirect_cost_rate: Number,
    indirect_costs: Number,
    budget_period_months: u8,
    /// null before its start and from its end on.
    current_budget_period: Option<i64>,
    /// pending, active, suspended, completed, cancelled
    status: &'static str,
    compliance_requirements: String,
    federal_award_id: String,
    internal_project_code: String,
    cost_center: String,
    /// What its account and all below it were charged for the days that it pays for; null where sums of some are purged.
    spent_amount: Option<Number>,
    /// What their open holds reserve.
    committed_amount: Number,
    /// Of direct costs.
    remaining_amount: Option<Number>,
    created_at: String,
    updated_at: String,
    closed_at: Option<String>,
    exact: GrantExact,
}

/// The same amounts as texts.
#[derive(Debug, Serialize, JsonSchema)]
struct GrantExact {
    total_award_amount: String,
    direct_costs: String,
    indirect_costs: String,
    spent_amount: Option<String>,
    committed_amount: String,
    remaining_amount: Option<String>,
}

/// A part of a grant's time. Rates are per day, of direct costs; the variance is in percent.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::api) struct PeriodAnswer {
    id: i64,
    grant_id: i64,
    period_number: i64,
    period_start_date: String,
    period_end_date: String,
    /// Its part of the award; they sum to it.
    period_budget_amount: Number,
    /// Its part of direct costs.
    period_direct_amount: Number,
    /// null where sums of its days are purged.
    period_spent_amount: Option<Number>,
    period_committed_amount: Number,
    expected_burn_rate: Number,
    /// null before it begins.
    actual_burn_rate: Option<Number>,
    burn_rate_variance: Option<Number>,
    /// future, active, completed
    status: &'static str,
    exact: PeriodExact,
}

/// The same amounts as texts.
#[derive(Debug, Serialize, JsonSchema)]
struct PeriodExact {
    period_budget_amount: String,
    period_direct_amount: String,
    period_spent_amount: Option<String>,
    period_committed_amount: String,
}

/// What was charged, and what is held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Amounts {
    /// `None` where it is not known any more.
    pub(super) spent_nanos: Option<i128>,
    pub(super) held_nanos: i128,
}

impl GrantBody {
    pub(super) fn new_grant(self) -> Result<Grant, ApiError> {
        let needed = |field: &'static str| {
            ApiError::invalid(field, format!("{field}: give it; a new grant has no other"))
        };
        let day = |field: &'static str, text: &Option<String>| {
            date(field, text.as_ref().ok_or_else(|| needed(field))?)
        };
        let grant = Grant {
            number: self.grant_number.clone().ok_or_else(|| needed("grant_number"))?,
            account: self.account.clone().ok_or_else(|| needed("account"))?,
            agency: String::new(),
            program: String::new(),
            investigator: String::new(),
            co_investigators: Vec::new(),
            institution: String::new(),
            department: String::new(),
            start: day("grant_start_date", &self.grant_start_date)?,
            end: day("grant_end_date", &self.grant_end_date)?,
            total_nanos: self.total_award_amount.ok_or_else(|| needed("total_award_amount"))?.0,
            indirect_rate: 0,
            period_months: 12,
            suspended: false,
            compliance: String::new(),
            federal_award_id: String::new(),
            project_code: String::new(),
            cost_center: String::new(),
        };
        self.onto(grant)
    }

    /// The grant with what is given here.
    pub(super) fn onto(self, mut grant: Grant) -> Result<Grant, ApiError> {
        if self.grant_number.as_ref().is_some_and(|given| *given != grant.number) {
            return Err(ApiError::invalid("grant_number", "grant_number: a grant's number never changes"));
        }
        let texts = [
            (&mut grant.account, self.account),
            (&mut grant.agency, self.funding_agency),
            (&mut grant.program, self.agency_program),
            (&mut grant.investigator, self.principal_investigator),
            (&mut grant.institution, self.institution),
            (&mut grant.department, self.department),
            (&mut grant.compliance, self.compliance_requirements),
            (&mut grant.federal_award_id, self.federal_award_id),
            (&mut grant.project_code, self.internal_project_code),
            (&mut grant.cost_center, self.cost_center),
        ];
        for (field, given) in texts {
            if let Some(given) = given {
                *field = given;
            }
        }
        if let Some(text) = self.grant_start_date {
            grant.start = date("grant_start_date", &text)?;
        }
        if let Some(text) = self.grant_end_date {
            grant.end = date("grant_end_date", &text)?;
        }
        if let Some(status) = self.status {
            let status = one_of("status", status, &["active", "suspended"])?;
            grant.suspended = status == "suspended";
        }
        grant.co_investigators = self.co_investigators.unwrap_or(grant.co_investigators);
        grant.total_nanos = self.total_award_amount.map_or(grant.total_nanos, |Money(total)| total);
        grant.indirect_rate = self.indirect_cost_rate.map_or(grant.indirect_rate, |Money(rate)| rate);
        grant.period_months = self.budget_period_months.unwrap_or(grant.period_months);
        Ok(grant)
    }
}

impl GrantAnswer {
    /// What a reader of a report wants to know of it, by its names. What is not said is left out.
    pub(super) fn fields(&self) -> Vec<(&'static str, String)> {
        let exact = &self.exact;
        let amount = |amount: &Option<String>| amount.clone().unwrap_or_default();
        let fields = [
            ("grant_number", self.grant_number.clone()),
            ("account", self.account.clone()),
            ("funding_agency", self.funding_agency.clone()),
            ("agency_program", self.agency_program.clone()),
            ("principal_investigator", self.principal_investigator.clone()),
            ("co_investigators", self.co_investigators.join("; ")),
            ("institution", self.institution.clone()),
            ("department", self.department.clone()),
            ("grant_start_date", self.grant_start_date.clone()),
            ("grant_end_date", self.grant_end_date.clone()),
            ("status", self.status.to_owned()),
            ("total_award_amount", exact.total_award_amount.clone()),
            ("direct_costs", exact.direct_costs.clone()),
            ("indirect_cost_rate", super::super::exact(self.indirect_cost_rate.0)),
            ("indirect_costs", exact.indirect_costs.clone()),
            ("spent_amount", amount(&exact.spent_amount)),
            ("committed_amount", exact.committed_amount.clone()),
            ("remaining_amount", amount(&exact.remaining_amount)),
            ("federal_award_id", self.federal_award_id.clone()),
            ("internal_project_code", self.internal_project_code.clone()),
            ("cost_center", self.cost_center.clone()),
            ("compliance_requirements", self.compliance_requirements.clone()),
        ];
        fields.into_iter().filter(|(_, value)| !value.is_empty()).collect()
    }
}

/// A day of UTC, or the time at which it begins.
pub(super) fn date(field: &'static str, text: &str) -> Result<Date, ApiError> {
    let at_ns = at(field, text)?;
    let day = crate::budgets::period::date(at_ns, "UTC").filter(|_| at_ns.rem_euclid(DAY_NS) == 0);
    day.ok_or_else(|| {
        let message = format!("{field} {:?} is no midnight of UTC; use 2026-01-31", time(at_ns));
        ApiError::invalid(field, message)
    })
}

pub(super) fn grant(award: &Award, amounts: &Amounts, now_ns: i64) -> GrantAnswer {
    let Award { id, grant, created_ns, updated_ns, closed_ns } = award;
    let direct = grant.direct_nanos();
    let indirect = grant.total_nanos - direct;
    let left = amounts.spent_nanos.map(|spent| i128::from(direct) - spent - amounts.held_nanos);
    let standing = award.standing(now_ns);
    let goes_on = matches!(standing, Standing::Active | Standing::Suspended);
    let current = grant.periods().into_iter().find(|period| goes_on && period.has(now_ns));
    GrantAnswer {
        id: *id,
        grant_number: grant.number.clone(),
        account: grant.account.clone(),
        funding_agency: grant.agency.clone(),
        agency_program: grant.program.clone(),
        principal_investigator: grant.investigator.clone(),
        co_investigators: grant.co_investigators.clone(),
        institution: grant.institution.clone(),
        department: grant.department.clone(),
        grant_start_date: time(grant.span_ns().0),
        grant_end_date: time(grant.span_ns().1),
        total_award_amount: number(grant.total_nanos),
        direct_costs: number(direct),
        indirect_cost_rate: number(grant.indirect_rate),
        indirect_costs: number(indirect),
        budget_period_months: grant.period_months,
        current_budget_period: current.map(|period| period.number),
        status: standing.name(),
        compliance_requirements: grant.compliance.clone(),
        federal_award_id: grant.federal_award_id.clone(),
        internal_project_code: grant.project_code.clone(),
        cost_center: grant.cost_center.clone(),
        spent_amount: amounts.spent_nanos.map(Number),
        committed_amount: Number(amounts.held_nanos),
        remaining_amount: left.map(Number),
        created_at: time(*created_ns),
        updated_at: time(*updated_ns),
        closed_at: closed_ns.map(time),
        exact: GrantExact {
            total_award_amount: exact(grant.total_nanos),
            direct_costs: exact(direct),
            indirect_costs: exact(indirect),
            spent_amount: amounts.spent_nanos.map(exact),
            committed_amount: exact(amounts.held_nanos),
            remaining_amount: left.map(exact),
        },
    }
}

pub(super) fn period(award: &Award, period: &Period, amounts: &Amounts, now_ns: i64) -> PeriodAnswer {
    let Period { number: of, start_ns, end_ns, award_nanos, direct_nanos } = *period;
    let day = i128::from(DAY_NS);
    let expected = i128::from(direct_nanos) * day / i128::from((end_ns - start_ns).max(1));
    let over_ns = i128::from(now_ns.min(end_ns) - start_ns);
    let actual = amounts.spent_nanos.filter(|_| over_ns > 0).map(|spent| spent * day / over_ns);
    PeriodAnswer {
        id: award.id * PERIODS + of,
        grant_id: award.id,
        period_number: of,
        period_start_date: time(start_ns),
        period_end_date: time(end_ns),
        period_budget_amount: number(award_nanos),
        period_direct_amount: number(direct_nanos),
        period_spent_amount: amounts.spent_nanos.map(Number),
        period_committed_amount: Number(amounts.held_nanos),
        expected_burn_rate: Number(expected),
        actual_burn_rate: actual.map(Number),
        burn_rate_variance: actual.and_then(|actual| burn::variance(actual, expected)).map(Number),
        status: match () {
            () if now_ns < start_ns => "future",
            () if period.has(now_ns) => "active",
            () => "completed",
        },
        exact: PeriodExact {
            period_budget_amount: exact(award_nanos),
            period_direct_amount: exact(direct_nanos),
            period_spent_amount: amounts.spent_nanos.map(exact),
            period_committed_amount: exact(amounts.held_nanos),
        },
    }
}
