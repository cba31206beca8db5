//! `/api/v1/grants`: what agencies awarded, its budget periods and what was spent of them, under the names of their clients
//! (docs/grants.md).

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::{Extension, Json};

use super::seen::Seen;
use super::{Body, act, may, one_of, read, refused};
use crate::api::Api;
use crate::api::auth::Identity;
use crate::api::error::ApiError;
use crate::api::params::Params;
use crate::budgets::grant::Standing;
use crate::budgets::{Acted, Award, GrantChange, What};
use crate::store::query::{self, QueryError};
use crate::store::tokens::Role;
use crate::store::{Connection, StoreError, grants as stored};

pub(in crate::api) mod report;
mod words;

use words::{Amounts, grant, period};
pub(in crate::api) use words::{GrantAnswer, GrantBody, PeriodAnswer};

pub(in crate::api) const LIST_PARAMETERS: [&str; 4] = ["limit", "offset", "status", "account"];
pub(in crate::api) const CHANGE_PARAMETERS: [&str; 1] = ["dry_run"];
pub(in crate::api) const LIMIT_MAX: usize = super::accounts::LIMIT_MAX;

pub(in crate::api) async fn list(
    State(api): State<Arc<Api>>,
    uri: Uri,
) -> Result<Json<Vec<GrantAnswer>>, ApiError> {
    let mut params = Params::read(&uri, &LIST_PARAMETERS)?;
    let limit = params.take_count("limit", LIMIT_MAX, LIMIT_MAX)?;
    let offset = super::transactions::offset(&mut params)?;
    let status =
        params.take("status").map(|status| one_of("status", status, &Standing::NAMES)).transpose()?;
    let account = params.take("account");
    let now_ns = api.state.clock.wall_ns();
    let answers = api.queries.run(move |db, expired| {
        let awards = stored::awards(db)?;
        let mut seen = Seen::read(db, now_ns)?;
        let own = |award: &&Award| {
            status.as_ref().is_none_or(|status| award.standing(now_ns).name() == status)
                && account.as_ref().is_none_or(|account| award.grant.account == *account)
        };
        let mut answers = Vec::new();
        for award in awards.iter().filter(own).skip(offset).take(limit) {
            // Each may be a sum over years.
            if expired() {
                return Err(QueryError::Expired);
            }
            answers.push(shown(db, &mut seen, award)?);
        }
        Ok(answers)
    });
    Ok(Json(answers.await?))
}

pub(in crate::api) async fn one(
    State(api): State<Arc<Api>>,
    Path(number): Path<String>,
    uri: Uri,
) -> Result<Json<GrantAnswer>, ApiError> {
    Params::read(&uri, &[])?;
    answer(&api, numbered(&api, number).await?).await.map(Json)
}

pub(in crate::api) async fn create(
    State(api): State<Arc<Api>>,
    Extension(identity): Extension<Identity>,
    uri: Uri,
    body: Body,
) -> Result<(StatusCode, Json<GrantAnswer>), ApiError> {
    let dry_run = Params::read(&uri, &CHANGE_PARAMETERS)?.take_bool("dry_run", false)?;
    let by = may(&identity, Role::Operator)?;
    let body: GrantBody = read(body)?;
    let grant = Box::new(body.new_grant()?);
    let award = changed(&api, GrantChange::Create(grant), (by, dry_run)).await?;
    Ok((StatusCode::CREATED, Json(answer(&api, award).await?)))
}

pub(in crate::api) async fn update(
    State(api): State<Arc<Api>>,
    Extension(identity): Extension<Identity>,
    Path(number): Path<String>,
    uri: Uri,
    body: Body,
) -> Result<Json<GrantAnswer>, ApiError> {
    let dry_run = Params::read(&uri, &CHANGE_PARAMETERS)?.take_bool("dry_run", false)?;
    let by = may(&identity, Role::Operator)?;
    let body: GrantBody = read(body)?;
    let grant = Box::new(body.onto(numbered(&api, number).await?.grant)?);
    let award = changed(&api, GrantChange::Update(grant), (by, dry_run)).await?;
    answer(&api, award).await.map(Json)
}

pub(in crate::api) async fn close(
    State(api): State<Arc<Api>>,
    Extension(identity): Extension<Identity>,
    Path(number): Path<String>,
    uri: Uri,
) -> Result<StatusCode, ApiError> {
    let dry_run = Params::read(&uri, &CHANGE_PARAMETERS)?.take_bool("dry_run", false)?;
    let by = may(&identity, Role::Operator)?;
    changed(&api, GrantChange::Close(number), (by, dry_run)).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(in crate::api) async fn periods(
    State(api): State<Arc<Api>>,
    Path(number): Path<String>,
    uri: Uri,
) -> Result<Json<Vec<PeriodAnswer>>, ApiError> {
    Params::read(&uri, &[])?;
    let now_ns = api.state.clock.wall_ns();
    let award = numbered(&api, number).await?;
    let answers = api.queries.run(move |db, expired| {
        let mut seen = Seen::read(db, now_ns)?;
        let mut answers = Vec::new();
        for of in award.grant.periods() {
            if expired() {
                return Err(QueryError::Expired);
            }
            let amounts = spent(db, &mut seen, &award, (of.start_ns, of.end_ns))?;
            answers.push(period(&award, &of, &amounts, now_ns));
        }
        Ok(answers)
    });
    answers.await.map(Json)
}

/// Has it changed, or with `dry_run` only finds out what it would be.
async fn changed(api: &Api, change: GrantChange, (by, dry_run): (String, bool)) -> Result<Award, ApiError> {
    if dry_run {
        let now_ns = api.state.clock.wall_ns();
        let would = api.queries.run(move |db, _| {
            Ok(stored::awards(db)?.apply(&change, &crate::store::budgets::tree(db)?, now_ns))
        });
        return would.await?.map_err(refused);
    }
    match act(api, What::Grant(change), by).await? {
        Acted::Grant(award) => Ok(*award),
        _ => Err(ApiError::internal()),
    }
}

pub(super) async fn numbered(api: &Api, number: String) -> Result<Award, ApiError> {
    let found = api.queries.run(move |db, _| Ok(stored::awards(db)?.numbered(&number).cloned()));
    found.await?.map_err(refused)
}

async fn answer(api: &Api, award: Award) -> Result<GrantAnswer, ApiError> {
    let now_ns = api.state.clock.wall_ns();
    api.queries.run(move |db, _| Ok(shown(db, &mut Seen::read(db, now_ns)?, &award)?)).await
}

fn shown(db: &Connection, seen: &mut Seen, award: &Award) -> Result<GrantAnswer, StoreError> {
    let amounts = spent(db, seen, award, award.pays_ns())?;
    Ok(grant(award, &amounts, seen.now_ns))
}

/// What a grant's account and all below it were charged within `span_ns`, as far as the grant pays for it and sums are kept; and
/// what they hold now, if that is now.
fn spent(
    db: &Connection,
    seen: &mut Seen,
    award: &Award,
    (from_ns, to_ns): (i64, i64),
) -> Result<Amounts, StoreError> {
    let (pays_from_ns, pays_to_ns) = award.pays_ns();
    let (from_ns, to_ns) = (from_ns.max(pays_from_ns), to_ns.min(pays_to_ns));
    let Seen { now_ns, tree, reserved, spent } = seen;
    let Some(account) = tree.by_name(&award.grant.account).map(|account| account.id) else {
        return Ok(Amounts::default());
    };
    let spent_nanos = match () {
        () if from_ns >= to_ns => Some(0),
        // Days were purged that it paid for.
        () if from_ns < query::kept(db)?.days_from_ns => None,
        () => Some(spent.of(db, tree, (from_ns, to_ns))?.of(account, |_, _| true)),
    };
    let is_now = (from_ns..to_ns).contains(now_ns);
    let held_nanos = if is_now { reserved.of(account, |_, _| true) } else { 0 };
    Ok(Amounts { spent_nanos, held_nanos })
}
