//! `GET /api/v1/explain`: one slot of a GPU, a MIG instance, a pod or a job, line by line.
//!
//! The price is worked out again from the book that the ledger priced by, not read: where it is not what is stored, a note
//! says so. Limits: [`DEVICES_MAX`] devices, [`ROWS_MAX`] rows and as many entries
//! of each, and the windows of `evidence`; a note says what was cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use tonnage_proto::decimal::from_nanos;
use tonnage_proto::limits::{SLOT_NS, slot_start};
use tonnage_proto::rest::Window;
use tonnage_proto::rest::explain::{
    ExplainAnswer, ExplainedDevice, ExplainedEntry, ExplainedMatch, ExplainedPrice, ExplainedRow,
};

use super::error::{ApiError, quoted};
use super::inventory::time;
use super::params::Params;
use super::{Api, window};
use crate::ledger::coverage::Interval;
use crate::ledger::memory::{self, ByMemory};
use crate::ledger::rows::{Key, Rows};
use crate::live::owner_name;
use crate::model::{GpuTime, MemoryShare, RowKind};
use crate::prices::{Book, Matched, PriceFacts, Rate};
use crate::store::query::explain::{self as ledger, RowRecord, SlotRecord, Subject, Who};
use crate::store::query::{QueryError, kept};
use crate::store::{Connection, StoreError, audit, existence};

mod evidence;
mod jobs;
mod words;

pub(super) const PARAMETERS: [&str; 6] = ["device", "instance", "pod", "job", "cluster", "at"];
/// Devices that one answer shows.
const DEVICES_MAX: usize = 16;
/// Rows, and entries, of one device.
const ROWS_MAX: usize = 1_000;

/// An explanation, or why there is none.
enum Found {
    Answer(Box<ExplainAnswer>),
    Missing(String),
    Ambiguous(&'static str, String),
    Purged(String),
}

pub(super) async fn explain(State(api): State<Arc<Api>>, uri: Uri) -> Result<Json<ExplainAnswer>, ApiError> {
    let mut params = Params::read(&uri, &PARAMETERS)?;
    let now_ns = api.state.clock.wall_ns();
    let at_ns = match params.take("at") {
        None => now_ns,
        Some(text) => window::time(&text).ok_or_else(|| {
            let message = format!("at {:?} is not a time; use RFC 3339 or Unix seconds", quoted(&text));
            ApiError::invalid("at", message)
        })?,
    };
    let mut named = [
        params.take("device").map(Subject::Device),
        params.take("instance").map(Subject::Instance),
        params.take("pod").map(Subject::Pod),
        params.take("job").map(Subject::Job),
    ]
    .into_iter()
    .flatten();
    let (Some(subject), None) = (named.next(), named.next()) else {
        return Err(ApiError::bad_request("name one of device, instance, pod and job, and no more than one"));
    };
    let cluster = params.take("cluster");
    let found = api
        .queries
        .run(move |db, expired| find(db, &subject, cluster.as_deref(), slot_start(at_ns), expired))
        .await?;
    match found {
        Found::Answer(answer) => Ok(Json(*answer)),
        Found::Missing(message) => Err(ApiError::missing(message)),
        Found::Ambiguous(field, message) => Err(ApiError::invalid(field, message)),
        Found::Purged(message) => Err(ApiError::invalid("at", message)),
    }
}

fn find(
    db: &Connection,
    subject: &Subject,
    cluster: Option<&str>,
    start_ns: i64,
    expired: &dyn Fn() -> bool,
) -> Result<Found, QueryError> {
    let Some(who) = ledger::find(db, subject)? else {
        return Ok(Found::Missing(format!("{}: the ledger never heard of it", name(subject))));
    };
    let slots_from_ns = kept(db)?.slots_from_ns;
    if start_ns < slots_from_ns {
        let text = format!(
            "at lies in a slot whose detail is purged; only sums of hours or days are left there: tonnage cost --window {},{}",
            time(start_ns),
            time(start_ns + SLOT_NS)
        );
        return Ok(Found::Purged(text));
    }
    let mut found = ledger::owners_in(db, &who, start_ns)?;
    found.retain(|(_, place, _)| cluster.is_none_or(|cluster| cluster == place));
    if let Some((field, text)) = ambiguous(subject, &found) {
        return Ok(Found::Ambiguous(field, text));
    }
    let tenures = ledger::tenures(db, &who, start_ns, cluster)?;
    if tenures.is_empty() {
        let near = ledger::nearest(db, &who, cluster, start_ns, slots_from_ns)?.map_or_else(
            || format!("nor has any slot of {} days around", ledger::NEAREST_DAYS),
            |near_ns| format!("the nearest slot that has some starts at {}", time(near_ns)),
        );
        let text = format!("{}: has nothing in the slot of {}; {near}", name(subject), time(start_ns));
        return Ok(Found::Missing(text));
    }
    let applied = audit::applied_book(db)?.unwrap_or_default();
    let book = parse(&applied)?;
    let mut answer = ExplainAnswer {
        subject: name(subject),
        slot: Window { start: time(start_ns), end: time(start_ns + SLOT_NS) },
        currency: book.currency().to_owned(),
        closed: start_ns < audit::closed_until(db)?,
        devices: Vec::new(),
        asked_gpu_seconds: String::new(),
        asked_cost_nanos: 0,
        notes: Vec::new(),
    };
    let mut asked = GpuTime::default();
    for (at, tenure) in tenures.iter().enumerate() {
        if expired() {
            return Err(QueryError::Expired);
        }
        let (time_ns, cost_nanos, slices) = ledger::asked(db, &who, start_ns, *tenure)?;
        answer.asked_cost_nanos += cost_nanos;
        // What jobs without GPUs ran for is no time of a GPU's.
        if !existence::tenure_by_id(db, *tenure)?.is_of_jobs() {
            asked += GpuTime::of_slices(i128::from(time_ns), slices);
        }
        if at < DEVICES_MAX {
            let slot = ledger::slot(db, start_ns, *tenure)?;
            let shown = device(db, (&book, &who), slot, expired, &mut answer.notes)?;
            answer.devices.push(shown);
        }
    }
    answer.asked_gpu_seconds = from_nanos(asked.ns());
    if tenures.len() > DEVICES_MAX {
        answer
            .notes
            .push(format!("{DEVICES_MAX} of {} devices are shown; the sums are of all", tenures.len()));
    }
    Ok(Found::Answer(Box::new(answer)))
}

fn parse(text: &str) -> Result<Book, StoreError> {
    Book::kept(text)
        .map_err(|e| StoreError::Damaged { what: "price book in the ledger", detail: e.to_string() })
}

fn name(subject: &Subject) -> String {
    match subject {
        Subject::Device(uuid) => format!("device {}", quoted(uuid)),
        Subject::Instance(uuid) => format!("instance {}", quoted(uuid)),
        Subject::Pod(pod) => format!("pod {}", quoted(pod)),
        Subject::Job(job) => format!("job {}", quoted(job)),
    }
}

/// Which ones there are, if a name is of more than one: pods by UID, jobs by cluster.
fn ambiguous(
    subject: &Subject,
    found: &[(i64, String, crate::model::Owner)],
) -> Option<(&'static str, String)> {
    let ones: BTreeSet<String> = found
        .iter()
        .map(|(_, cluster, owner)| match subject {
            Subject::Job(_) => format!("cluster {cluster}"),
            _ if owner.pod_uid.is_empty() => {
                format!("{}/{} of cluster {cluster}", owner.namespace, owner.pod)
            }
            _ => format!("uid {} of cluster {cluster}", owner.pod_uid),
        })
        .collect();
    if ones.len() < 2 {
        return None;
    }
    let list = ones.iter().take(20).cloned().collect::<Vec<_>>().join("; ");
    let (field, how) = match subject {
        Subject::Job(_) => ("job", "name the cluster too"),
        _ => ("pod", "name it by namespace/name, by its UID, or with its cluster"),
    };
    Some((field, format!("{} is {} at that time: {list}; {how}", name(subject), ones.len())))
}

fn device(
    db: &Connection,
    (book, who): (&Book, &Who),
    slot: SlotRecord,
    expired: &dyn Fn() -> bool,
    notes: &mut Vec<String>,
) -> Result<ExplainedDevice, QueryError> {
    if slot.tenure.is_of_jobs() {
        return Ok(jobs::partition(db, (book, who), slot, notes)?);
    }
    let SlotRecord { start_ns, tenure, extent, facts, price_nanos, rows } = slot;
    let priced_by = PriceFacts {
        cluster: &tenure.node.cluster,
        node: &tenure.node.node,
        gpu_model: &tenure.model,
        facts: &facts,
    };
    let matched = book.matched(&priced_by, start_ns, tenure.slices);
    let rate = matched.as_ref().map(|matched| matched.rate);
    let price = matched.map(|matched| price(matched, tenure.slices, extent.existence_ns));
    if price.as_ref().map(|price| price.price_nanos) != price_nanos {
        notes.push(format!("{}: its slot is being priced again by another book; ask once more", tenure.uuid));
    }
    let mut asked: Vec<&RowRecord> = rows.iter().filter(|row| who.has(row.key)).collect();
    let (windows, cut) = evidence::windows(db, start_ns, &tenure, &asked, expired)?;
    if cut {
        notes.push(format!("{}: the first {} windows are shown", tenure.uuid, windows.len()));
    }
    if windows.is_empty() && extent.covered_ns > 0 {
        notes.push(format!("{}: the journal no longer has the windows that its time rests on", tenure.uuid));
    }
    let entries = ledger::entries(db, who, start_ns, &tenure, ROWS_MAX)?;
    // Whoever asks about an owner is told of theirs, and of what all share.
    asked = rows.iter().filter(|row| who.has(row.key) || row.owner.is_none()).collect();
    let others = rows.len() - asked.len();
    if others > 0 {
        notes.push(format!("{}: {others} rows of others are not shown; they are in the sums", tenure.uuid));
    }
    if asked.len() > ROWS_MAX || entries.len() == ROWS_MAX {
        notes.push(format!("{}: the first {ROWS_MAX} rows and entries are shown", tenure.uuid));
    }
    let weighed = rate.and_then(|rate| weighed(&rows, rate, extent.covered_ns, tenure.slices));
    if weighed.is_none()
        && rate.is_some_and(|rate| rate.is_by_memory())
        && rows.iter().any(|row| row.instance.is_some())
    {
        notes
            .push(format!("{}: its price is by memory, and no instance says its memory slices", tenure.uuid));
    }
    let shown = asked.into_iter().take(ROWS_MAX);
    Ok(ExplainedDevice {
        unobserved_reasons: reasons(db, start_ns, &tenure)?,
        device: tenure.uuid,
        model: tenure.model,
        cluster: tenure.node.cluster,
        node: tenure.node.node,
        life: tenure.life,
        slices: tenure.slices,
        existence_ns: extent.existence_ns,
        covered_ns: extent.covered_ns,
        unobserved_ns: extent.existence_ns - extent.covered_ns,
        price,
        rows: shown
            .map(|record| {
                let part = weighed.as_ref().and_then(|weighed| weighed.get(&record.key).copied());
                row(record, who, rate.map(|rate| (rate, part, tenure.slices)), extent.existence_ns)
            })
            .collect(),
        rows_ns: rows.iter().map(|record| record.row.time_ns).sum(),
        rows_cost_nanos: rows.iter().map(|record| record.row.cost_nanos).sum(),
        entries: entries.into_iter().map(entry).collect(),
        evidence: windows,
    })
}

/// Wall nanoseconds of a tenure's stays in a slot that nobody observed, by reason.
fn reasons(
    db: &Connection,
    start_ns: i64,
    tenure: &existence::TenureRecord,
) -> Result<BTreeMap<String, i64>, QueryError> {
    let slot = Interval { start_ns, end_ns: start_ns + SLOT_NS };
    let mut sums = BTreeMap::new();
    for stay in existence::stays(db, tenure.device)?.iter().filter(|stay| stay.tenure == tenure.id) {
        let span = stay.span().intersect(slot);
        if span.length_ns() > 0 {
            audit::unobserved(db, span, Some(&tenure.uuid), |piece| {
                *sums.entry(piece.reason.to_owned()).or_default() += piece.end_ns - piece.start_ns;
            })?;
        }
    }
    Ok(sums)
}

fn price(matched: Matched, slices: u32, existence_ns: i64) -> ExplainedPrice {
    let Matched { row, facts, rate } = matched;
    let (num, den) = rate.parts();
    let nanos = rate.charge(i128::from(existence_ns));
    let facts = facts.into_iter().map(|(key, pattern, value)| (key, ExplainedMatch { pattern, value }));
    ExplainedPrice {
        line: row.line,
        valid_from: row.valid_from,
        price: row.price,
        unit: row.unit,
        weight: row.weight,
        matched: facts.collect(),
        num: num.to_string(),
        den: den.to_string(),
        per_gpu_hour: from_nanos(rate.per_gpu_hour_nanos(slices)),
        arithmetic: words::arithmetic(rate, existence_ns, nanos),
        price_nanos: i64::try_from(nanos).unwrap_or(i64::MAX),
    }
}

/// What each row has of the GPU's memory, in parts, where its price is by that.
fn weighed(rows: &[RowRecord], rate: Rate, covered_ns: i64, slices: u32) -> Option<BTreeMap<Key, i128>> {
    let shares: BTreeMap<i64, MemoryShare> =
        rows.iter().filter_map(|record| Some((record.key.0, record.instance.as_ref()?.memory?))).collect();
    if !rate.is_by_memory() || shares.is_empty() {
        return None;
    }
    let share = |instance: i64| shares.get(&instance).copied();
    let all: Rows = rows.iter().map(|record| (record.key, record.row)).collect();
    let parts = memory::parts(&all, covered_ns, ByMemory { slices, share: &share, charge: &|_| 0 })?;
    Some(all.keys().copied().zip(parts).collect())
}

/// With the rate, what the row has of the memory, where the price is by that, and the GPU's slices.
fn row(
    record: &RowRecord,
    who: &Who,
    rate: Option<(Rate, Option<i128>, u32)>,
    existence_ns: i64,
) -> ExplainedRow {
    let (_, _, kind) = record.key;
    let figures = record.row;
    let arithmetic = match (kind, rate) {
        (RowKind::Rounding, _) => "the slot's price less the charges of all other rows".to_owned(),
        (RowKind::Cpu | RowKind::Memory, _) => String::new(),
        (RowKind::Intruder, _) => "no time of its own, so no charge".to_owned(),
        (_, None) => "unpriced".to_owned(),
        (_, Some((rate, Some(part), slices))) => words::by_memory(rate, record, part, slices),
        (_, Some((rate, None, _))) => {
            words::arithmetic(rate, figures.time_ns, rate.charge(i128::from(figures.time_ns)))
        }
    };
    let instance = record.instance.as_ref();
    ExplainedRow {
        kind: words::kind(kind).to_owned(),
        owner: record.owner.as_ref().map(owner_name),
        instance: instance.map_or_else(String::new, |instance| instance.uuid.clone()),
        profile: instance.map_or_else(String::new, |instance| instance.profile.clone()),
        asked: who.has(record.key),
        time_ns: figures.time_ns,
        share: words::share(figures.time_ns, existence_ns),
        busy_ns: figures.busy_ns,
        memory_byte_seconds: figures.memory_byte_seconds,
        energy_uj: figures.energy_uj,
        methods: words::methods(figures.method),
        arithmetic,
        cost_nanos: figures.cost_nanos,
    }
}

fn entry(entry: ledger::EntryRecord) -> ExplainedEntry {
    ExplainedEntry {
        id: entry.id,
        checkpoint: entry.checkpoint,
        corrects: entry.corrects,
        kind: words::kind(entry.kind).to_owned(),
        owner: entry.owner.as_ref().map(owner_name),
        instance: entry.instance.map_or_else(String::new, |instance| instance.uuid),
        time_ns: entry.time_ns,
        cost_nanos: entry.cost_nanos,
    }
}
