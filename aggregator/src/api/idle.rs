//! `GET /api/v1/idle`: GPUs that are held and not used, used by others than their holders, or by nobody who is known.
//!
//! Sums are the ledger's; who holds a device now, and since when it was not used, are the live view's.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use tonnage_proto::decimal::from_nanos;
use tonnage_proto::rest::{HeldIdleRow, IdleAnswer, IdleTotals, IntruderRow, UnattributedRow, Window};

use super::error::ApiError;
use super::params::Params;
use super::{Api, cost, inventory, window};
use crate::live::{Holding, owner_name};
use crate::model::NodeName;
use crate::store::query::{self, HeldIdle, IdleSums, Intrusion, Unattributed};

pub(super) const PARAMETERS: [&str; 10] =
    ["window", "cluster", "node", "namespace", "owner", "account", "partition", "device", "profile", "limit"];
const LIMIT_DEFAULT: usize = 100;
pub(super) const LIMIT_MAX: usize = 10_000;

type Holdings = HashMap<(NodeName, String), Vec<Holding>>;

pub(super) async fn idle(State(api): State<Arc<Api>>, uri: Uri) -> Result<Json<IdleAnswer>, ApiError> {
    let mut params = Params::read(&uri, &PARAMETERS)?;
    let now_ns = api.state.clock.wall_ns();
    let text = params.take("window").unwrap_or_else(|| "24h".to_owned());
    let (start_ns, end_ns) =
        window::parse(&text, now_ns).map_err(|message| ApiError::invalid("window", message))?;
    let limit = params.take_count("limit", LIMIT_DEFAULT, LIMIT_MAX)?;
    let filter = cost::request::filter(&mut params);
    let kept = api.queries.run(|connection, _| Ok(query::kept(connection)?)).await?;
    kept.check(start_ns, end_ns).map_err(|message| ApiError::invalid("window", message))?;
    let ranges = query::ranges_in_slots(start_ns, end_ns, kept.slots_from_ns);
    let (found, newest_ns) = api
        .queries
        .run(move |connection, expired| {
            let found = query::idle(connection, &ranges, &filter, limit, expired)?;
            Ok((found, query::newest_usage_ns(connection)?))
        })
        .await?;
    let holdings = api.state.live.holdings(now_ns);
    Ok(Json(IdleAnswer {
        window: Window { start: inventory::time(start_ns), end: inventory::time(end_ns) },
        currency: api.state.prices.books.borrow().currency().to_owned(),
        held_idle: found.held_idle.into_iter().map(|row| held_idle(row, &holdings)).collect(),
        intruders: found.intruders.into_iter().map(intruder).collect(),
        unattributed: found.unattributed.into_iter().map(unattributed).collect(),
        totals: totals(&found.totals),
        data_age_seconds: newest_ns.map(|newest| now_ns.saturating_sub(newest).max(0) / 1_000_000_000),
    }))
}

fn held_idle(row: HeldIdle, holdings: &Holdings) -> HeldIdleRow {
    let place = (row.place.node.clone(), row.place.device.clone());
    let now = holdings
        .get(&place)
        .into_iter()
        .flatten()
        .find(|held| *held.owner == row.owner && held.instance == row.place.instance);
    HeldIdleRow {
        idle_seconds: row.idle().map(|idle| from_nanos(idle.ns())),
        idle_cost: row.idle_cost_nanos().map(from_nanos),
        cluster: row.place.node.cluster,
        node: row.place.node.node,
        device: row.place.device,
        model: row.place.model,
        instance: row.place.instance,
        profile: row.place.profile,
        owner: owner_name(&row.owner),
        busy_known: row.busy_known,
        held_seconds: from_nanos(row.held.ns()),
        busy_seconds: from_nanos(row.busy.ns()),
        unpriced_seconds: from_nanos(row.unpriced.ns()),
        holding_now: now.is_some(),
        idle_since: now.and_then(|held| held.idle_since_ns).map(inventory::time),
    }
}

fn intruder(row: Intrusion) -> IntruderRow {
    IntruderRow {
        cluster: row.place.node.cluster,
        node: row.place.node.node,
        device: row.place.device,
        model: row.place.model,
        instance: row.place.instance,
        profile: row.place.profile,
        owner: owner_name(&row.owner),
        holder: row.holder.as_ref().map(owner_name),
        busy_known: row.busy_known,
        busy_seconds: from_nanos(row.busy.ns()),
        energy_joules: from_nanos(row.energy_uj * 1000),
        first: inventory::time(row.first_ns),
        last: inventory::time(row.last_ns),
    }
}

fn unattributed(row: Unattributed) -> UnattributedRow {
    UnattributedRow {
        cluster: row.place.node.cluster,
        node: row.place.node.node,
        device: row.place.device,
        model: row.place.model,
        busy_unattributed_seconds: from_nanos(row.busy.ns()),
        unowned_held_seconds: from_nanos(row.unowned_held.ns()),
        unowned_cost: from_nanos(row.unowned_cost_nanos),
    }
}

fn totals(sums: &IdleSums) -> IdleTotals {
    let rows = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    IdleTotals {
        held_seconds: from_nanos(sums.held.ns()),
        busy_seconds: from_nanos(sums.busy.ns()),
        idle_seconds: from_nanos((sums.held - sums.busy).ns()),
        idle_cost: from_nanos(sums.idle_cost_nanos),
        busy_unknown_held_seconds: from_nanos(sums.busy_unknown_held.ns()),
        unpriced_seconds: from_nanos(sums.unpriced.ns()),
        intruder_busy_seconds: from_nanos(sums.intruder_busy.ns()),
        busy_unattributed_seconds: from_nanos(sums.busy_unattributed.ns()),
        unowned_held_seconds: from_nanos(sums.unowned_held.ns()),
        unowned_cost: from_nanos(sums.unowned_cost_nanos),
        held_idle_rows: rows(sums.held_idle_rows),
        intruder_rows: rows(sums.intruder_rows),
        unattributed_rows: rows(sums.unattributed_rows),
    }
}
