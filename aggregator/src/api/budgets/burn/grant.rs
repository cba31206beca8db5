//! `GET /api/v1/burn-rate/grant/{number}`: how fast a grant's direct costs are spent, and whether they last for its time.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::Uri;
use tonnage_proto::limits::DAY_NS;

use super::{Alert, Asked, BurnAnswer, Days, Known, answer_of, days};
use crate::api::Api;
use crate::api::budgets::grants::numbered;
use crate::api::budgets::seen::Seen;
use crate::api::cost::plain::Number;
use crate::api::error::ApiError;
use crate::budgets::grant::Standing;
use crate::budgets::period::Period;
use crate::budgets::{Award, Limit};
use crate::store::query::{self, QueryError};
use crate::store::{Connection, StoreError};

/// Whole days before a grant's end from which on its burn rate says that it ends.
const EXPIRING_DAYS: i64 = 30;

pub(in crate::api) async fn one(
    State(api): State<Arc<Api>>,
    Path(number): Path<String>,
    uri: Uri,
) -> Result<Json<BurnAnswer>, ApiError> {
    let asked = Asked::read(&uri)?;
    let award = numbered(&api, number).await?;
    let now_ns = api.state.clock.wall_ns();
    let (of, count) = (award.clone(), asked.days);
    let found = api.queries.run(move |db, expired| {
        let mut seen = Seen::read(db, now_ns)?;
        let Some(account) = seen.tree.by_name(&of.grant.account).cloned() else { return Ok(None) };
        let Some((limit, known)) = known(db, &mut seen, &of)? else { return Ok(None) };
        let days = paid_days(db, &seen, (account.id, &of), (&known, count), expired)?;
        Ok(Some((account, limit, known, days)))
    });
    let (account, limit, known, days) = found.await?.ok_or_else(purged)?;
    let alerted = asked.alerted;
    let mut answer = answer_of(&account, &limit, &known, &days, (asked, now_ns));
    answer.grant_number = Some(award.grant.number.clone());
    if let Some(alerts) = answer.alerts.as_mut().filter(|_| alerted) {
        alerts.extend(expiring(&award, account.id, now_ns));
    }
    Ok(Json(answer))
}

/// The last whole days that a grant pays for.
pub(in crate::api::budgets) fn paid_days(
    db: &Connection,
    seen: &Seen,
    (account, award): (i64, &Award),
    (known, count): (&Known, i64),
    expired: &dyn Fn() -> bool,
) -> Result<Days, QueryError> {
    let mut days = days(db, seen, (account, known.start_ns), (known, count), expired)?;
    days.list.retain(|(day_ns, _)| *day_ns < award.pays_ns().1);
    Ok(days)
}

/// That a grant has been asked about of which not all is known any more.
pub(in crate::api::budgets) fn purged() -> ApiError {
    let message = "grant_number: sums of days that this grant paid for are purged by the ledger's retention; keep days for longer";
    ApiError::invalid("grant_number", message)
}

/// A grant as a limit: its direct costs, over the time that it pays for. `None` where sums of it are purged.
pub(in crate::api::budgets) fn known(
    db: &Connection,
    seen: &mut Seen,
    award: &Award,
) -> Result<Option<(Limit, Known)>, StoreError> {
    let (start_ns, end_ns) = award.pays_ns();
    let Seen { tree, reserved, spent, now_ns } = seen;
    let Some(account) = tree.by_name(&award.grant.account).map(|account| account.id) else { return Ok(None) };
    if start_ns < end_ns && start_ns < query::kept(db)?.days_from_ns {
        return Ok(None);
    }
    let spent_nanos =
        if start_ns < end_ns { spent.of(db, tree, (start_ns, end_ns))?.of(account, |_, _| true) } else { 0 };
    let is_now = (start_ns..end_ns).contains(now_ns);
    let held_nanos = if is_now { reserved.of(account, |_, _| true) } else { 0 };
    let amount_nanos = award.grant.direct_nanos();
    let limit = Limit { amount_nanos, period: Period::Lifetime, partition: None, model: None };
    let (start_ns, end_ns) = award.grant.span_ns();
    let (end_ns, parts) = (Some(end_ns), Vec::new());
    let known = Known { span_start_ns: start_ns, start_ns, end_ns, spent_nanos, held_nanos, parts };
    Ok(Some((limit, known)))
}

/// It ends soon.
fn expiring(award: &Award, account_id: i64, now_ns: i64) -> Option<Alert> {
    let left_ns = award.grant.span_ns().1 - now_ns;
    let soon = (1..=EXPIRING_DAYS * DAY_NS).contains(&left_ns);
    let goes_on = matches!(award.standing(now_ns), Standing::Active | Standing::Suspended);
    let days = |days: i64| Number(i128::from(days) * 1_000_000_000);
    (soon && goes_on).then(|| Alert {
        account_id,
        alert_type: "grant_expiring",
        severity: "warning",
        threshold_value: days(EXPIRING_DAYS),
        actual_value: days(left_ns / DAY_NS),
        message: format!("the grant ends in {} whole days", left_ns / DAY_NS),
        status: "active",
    })
}
