//! `GET /api/v1/unobserved`: how long GPUs existed without anybody looking, and why.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use tonnage_proto::decimal;
use tonnage_proto::rest::{UnobservedAnswer, UnobservedRow, Window};

use super::error::ApiError;
use super::params::Params;
use super::{Api, inventory, window};
use crate::ledger::coverage::Interval;
use crate::store::audit;

pub(super) const PARAMETERS: [&str; 2] = ["window", "device"];

pub(super) async fn unobserved(
    State(api): State<Arc<Api>>,
    uri: Uri,
) -> Result<Json<UnobservedAnswer>, ApiError> {
    let mut params = Params::read(&uri, &PARAMETERS)?;
    let text = params.take("window").unwrap_or_else(|| "24h".to_owned());
    let (start_ns, end_ns) = window::parse(&text, api.state.clock.wall_ns())
        .map_err(|message| ApiError::invalid("window", message))?;
    let device = params.take("device");
    let sums = api
        .queries
        .run(move |db, _| {
            let mut sums: BTreeMap<(String, String, String, &'static str), i128> = BTreeMap::new();
            audit::unobserved(db, Interval { start_ns, end_ns }, device.as_deref(), |piece| {
                let key = (piece.node.cluster, piece.node.node, piece.device, piece.reason);
                *sums.entry(key).or_default() += i128::from(piece.end_ns - piece.start_ns);
            })?;
            Ok(sums)
        })
        .await?;
    let rows = sums.into_iter().map(|((cluster, node, device, reason), ns)| UnobservedRow {
        cluster,
        node,
        device,
        reason: reason.to_owned(),
        seconds: decimal::from_nanos(ns),
    });
    let window = Window { start: inventory::time(start_ns), end: inventory::time(end_ns) };
    Ok(Json(UnobservedAnswer { window, rows: rows.collect() }))
}
