//! `GET /api/v1/quarantine` and `GET /api/v1/quarantine/{id}`: windows that are not counted, and why.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::Uri;
use tonnage_proto::decimal;
use tonnage_proto::rest::{CoveredRow, ExplainedUsage, QuarantineAnswer, QuarantineExplained, QuarantineRow};

use super::error::{ApiError, quoted};
use super::params::Params;
use super::{Api, inventory, orders};
use crate::live;
use crate::store::quarantine::{self, LIST_MAX, Record, State as Held};
use crate::store::query::QueryError;
use crate::store::{StoreError, existence};
use crate::wire;

pub(super) const PARAMETERS: [&str; 4] = ["after", "device", "state", "limit"];
pub(super) const LIMIT_MAX: usize = LIST_MAX as usize;

pub(super) async fn list(State(api): State<Arc<Api>>, uri: Uri) -> Result<Json<QuarantineAnswer>, ApiError> {
    let mut params = Params::read(&uri, &PARAMETERS)?;
    let limit = params.take_count("limit", 100, LIMIT_MAX)?;
    let after = params.take_after()?;
    let device = params.take("device");
    let state = match params.take("state").as_deref() {
        None | Some("held") => Some(Held::Held),
        Some("released") => Some(Held::Released),
        Some("counted") => Some(Held::Counted),
        Some("all") => None,
        Some(other) => {
            let message = format!("state {:?} is none of held, released, counted and all", quoted(other));
            return Err(ApiError::invalid("state", message));
        }
    };
    let most = u32::try_from(limit).unwrap_or(LIST_MAX);
    let found = api
        .queries
        .run(move |db, _| Ok(quarantine::list(db, after, device.as_deref(), state, most)?))
        .await?;
    let next = (found.len() == limit).then(|| found.last().map(|record| record.id)).flatten();
    Ok(Json(QuarantineAnswer { rows: found.iter().map(row).collect(), next }))
}

pub(super) async fn explain(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Json<QuarantineExplained>, ApiError> {
    Params::read(&uri, &[])?;
    let id = orders::number(&id)?;
    let found = api
        .queries
        .run(move |db, _| {
            let Some(record) = quarantine::by_id(db, id)? else { return Ok(None) };
            explained(db, &record).map(Some)
        })
        .await?;
    found.map(Json).ok_or_else(|| ApiError::missing(format!("id: there is no quarantined window {id}")))
}

fn explained(db: &crate::store::Connection, record: &Record) -> Result<QuarantineExplained, QueryError> {
    let batch = quarantine::batch(db, record.journal)?;
    let damaged = |detail: String| StoreError::Damaged { what: "journal", detail };
    let valid = wire::decode(&batch.payload, &batch.node, &batch.epoch, batch.seq).map_err(damaged)?;
    let window = valid.windows.get(record.window);
    let window =
        window.ok_or_else(|| damaged(format!("entry {} has no window {}", batch.id, record.window)))?;
    let mut counted = Vec::new();
    if let Some(device) = existence::device_by_uuid(db, &record.device)? {
        let slot = tonnage_proto::limits::slot_start(record.span.start_ns);
        let coverage = existence::coverage(db, device, slot, slot + tonnage_proto::limits::SLOT_NS)?;
        for covered in coverage.overlapping(record.span) {
            let node = existence::tenure_by_id(db, covered.tenure)?.node;
            counted.push(CoveredRow {
                cluster: node.cluster,
                node: node.node,
                start: inventory::time(covered.span.start_ns),
                end: inventory::time(covered.span.end_ns),
                ordered: covered.cursor == 0,
            });
        }
    }
    let advice = match (record.state, record.kind.as_str()) {
        (Held::Released | Held::Counted, _) => "It counts; nothing is to be done.",
        (Held::Held, "slices") => {
            "It counts other slices than the ledger and cannot be added; look at both nodes."
        }
        (Held::Held, "too_late") => "Its slot is frozen by the retention; it cannot be added.",
        (Held::Held, _) if counted.is_empty() => "Its time is free: release it if it is right.",
        (Held::Held, _) => {
            "Another counts for this time. Find out which of the two nodes has the GPU, and stop the other's agent."
        }
    };
    let usages = window.usages.iter().map(|usage| ExplainedUsage {
        owner: live::owner_name(&valid.owners[usage.owner]),
        intruder: usage.intruder,
        held_seconds: decimal::from_nanos(i128::from(usage.held_ns)),
        busy_seconds: decimal::from_nanos(i128::from(usage.busy_ns)),
    });
    Ok(QuarantineExplained {
        row: row(record),
        journal: record.journal,
        epoch: record.epoch.iter().map(|byte| format!("{byte:02x}")).collect(),
        seq: record.seq,
        idle_seconds: decimal::from_nanos(i128::from(window.idle_ns)),
        usages: usages.collect(),
        counted,
        advice: advice.to_owned(),
    })
}

fn row(record: &Record) -> QuarantineRow {
    QuarantineRow {
        id: record.id,
        cluster: record.node.cluster.clone(),
        node: record.node.node.clone(),
        device: record.device.clone(),
        start: inventory::time(record.span.start_ns),
        end: inventory::time(record.span.end_ns),
        kind: record.kind.clone(),
        reason: record.reason.clone(),
        state: record.state.name().to_owned(),
        journalled: inventory::time(record.journalled_ns),
    }
}
