//! `GET /api/v1/{nodes,devices,live}`: what there is, and who is on it.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use tonnage_proto::decimal;
use tonnage_proto::limits::{SILENCE_NS, slot_start};
use tonnage_proto::rest::{self, DeviceInstance, DeviceRow, DevicesAnswer, LiveAnswer, NodeRow, NodesAnswer};

use super::Api;
use super::error::ApiError;
use super::params::Params;
use crate::model::{NodeFacts, NodeName};
use crate::prices::{Book, PriceFacts};
use crate::store::query::{self, DeviceRecord, NodeRecord};

pub(super) async fn nodes(State(api): State<Arc<Api>>, uri: Uri) -> Result<Json<NodesAnswer>, ApiError> {
    Params::read(&uri, &[])?;
    let (found, devices) =
        api.queries.run(|connection, _| Ok((query::nodes(connection)?, query::devices(connection)?))).await?;
    let book = Arc::clone(&api.state.prices.books.borrow());
    let mut said: BTreeMap<NodeName, (i64, NodeFacts)> = BTreeMap::new();
    for device in devices {
        let newest = said.entry(device.node).or_insert((i64::MIN, NodeFacts::default()));
        if device.observed_until_ns > newest.0 {
            *newest = (device.observed_until_ns, device.facts);
        }
    }
    let now_ns = api.state.clock.wall_ns();
    let nodes = found
        .into_iter()
        .map(|record| {
            let connected = api.state.live.connected(&record.node, now_ns);
            let (_, facts) = said.remove(&record.node).unwrap_or_default();
            let facts = book.facts(&record.node.cluster, &record.node.node, &facts).into_owned();
            node(record, connected, facts)
        })
        .collect();
    Ok(Json(NodesAnswer { nodes }))
}

pub(super) async fn devices(State(api): State<Arc<Api>>, uri: Uri) -> Result<Json<DevicesAnswer>, ApiError> {
    Params::read(&uri, &[])?;
    let found = api.queries.run(|connection, _| Ok(query::devices(connection)?)).await?;
    let now_ns = api.state.clock.wall_ns();
    let book = Arc::clone(&api.state.prices.books.borrow());
    Ok(Json(DevicesAnswer {
        devices: found.into_iter().map(|record| device(record, &book, now_ns)).collect(),
    }))
}

pub(super) async fn live(State(api): State<Arc<Api>>, uri: Uri) -> Result<Json<LiveAnswer>, ApiError> {
    Params::read(&uri, &[])?;
    let book = Arc::clone(&api.state.prices.books.borrow());
    Ok(Json(api.state.live.answer(&book, api.state.clock.wall_ns())))
}

fn node(record: NodeRecord, connected: bool, facts: NodeFacts) -> NodeRow {
    let NodeFacts { instance_type, region, zone, capacity_type, labels } = facts;
    NodeRow {
        cluster: record.node.cluster,
        node: record.node.node,
        devices: record.devices,
        agent_version: record.agent_version,
        connected,
        observed_until: record.observed_until_ns.map(time),
        clock_skew_ms: record.skew_ns.map(|skew_ns| skew_ns / 1_000_000),
        batches_accepted: record.accepted,
        batches_refused: record.refused,
        batches_quarantined: record.quarantined,
        facts: rest::NodeFacts { instance_type, region, zone, capacity_type, labels },
    }
}

fn device(record: DeviceRecord, book: &Book, now_ns: i64) -> DeviceRow {
    let facts = PriceFacts {
        cluster: &record.node.cluster,
        node: &record.node.node,
        gpu_model: &record.model,
        facts: &record.facts,
    };
    let rate = book.rate(&facts, slot_start(now_ns), record.slices);
    let instances = record.instances.into_iter().map(|(instance, held)| DeviceInstance {
        uuid: instance.uuid,
        profile: instance.profile,
        slices: instance.slices,
        memory_bytes: instance.memory_bytes,
        memory_share: instance.memory.map_or_else(String::new, |of| of.to_words(instance.slices)),
        held,
    });
    DeviceRow {
        price_per_hour: rate.map(|rate| decimal::from_nanos(rate.per_gpu_hour_nanos(record.slices))),
        uuid: record.uuid,
        model: record.model,
        cluster: record.node.cluster,
        node: record.node.node,
        memory_bytes: record.memory_bytes,
        slices: record.slices,
        since: time(record.from_ns),
        observed_until: time(record.observed_until_ns),
        state: if record.retired {
            "retired"
        } else if now_ns.saturating_sub(record.observed_until_ns) > SILENCE_NS {
            "silent"
        } else {
            "observed"
        }
        .to_owned(),
        instances: instances.collect(),
    }
}

/// RFC 3339 in UTC. Every i64 of nanoseconds is a time.
#[must_use]
pub fn time(at_ns: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(at_ns)).map_or_else(|_| String::new(), |at| at.to_string())
}
