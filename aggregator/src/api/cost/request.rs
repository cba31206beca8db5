//! What a request for costs asks, from its parameters. Pure.

use axum::http::Uri;
use sha2::{Digest as _, Sha256};
use tonnage_proto::limits::SLOT_NS;

use super::arrange::{Order, View};
use super::fields;
use super::step::Step;
use crate::api::error::{ApiError, quoted};
use crate::api::params::Params;
use crate::api::window::{self, Window};
use crate::store::query::{CostQuery, Dimension, Filter, GROUPS_MAX};

const PARAMETERS: [&str; 8] = ["window", "offset", "step", "aggregate", "idle", "order", "limit", "page"];
/// What [`filtered`] takes.
pub(super) const FILTERS: [&str; 9] =
    ["filter", "cluster", "node", "namespace", "owner", "account", "partition", "device", "profile"];
const LIMIT_DEFAULT: usize = 1_000;
/// Of each step.
const STEP_LIMIT_DEFAULT: usize = 100;
pub(in crate::api) const LIMIT_MAX: usize = 10_000;
const SECOND_NS: i64 = 1_000_000_000;

/// The parameters of a request.
pub(in crate::api) fn known() -> Vec<&'static str> {
    [&PARAMETERS[..], &FILTERS].concat()
}

/// A request that makes sense.
pub(super) struct Request {
    pub(super) now_ns: i64,
    pub(super) window: Window,
    /// Without its ranges and facts.
    pub(super) query: CostQuery,
    pub(super) view: View,
    pub(super) steps: Vec<Window>,
    /// Is it grouped otherwise than its endpoint is?
    pub(super) regrouped: bool,
    /// Of all that decides which rows there are and in what order, but the window.
    digest: u64,
}

impl Request {
    /// Reads the parameters of `uri` at an endpoint that groups by `by`.
    ///
    /// # Errors
    /// The first that is wrong.
    pub(super) fn read(uri: &Uri, by: &[Dimension], now_ns: i64) -> Result<Self, ApiError> {
        let mut params = Params::read(uri, &known())?;
        let mut window = window(&mut params, now_ns)?;
        let step = params.take("step").map(|text| Step::parse(&text)).transpose()?;
        let limit_default = if step.is_some() { STEP_LIMIT_DEFAULT } else { LIMIT_DEFAULT };
        let limit = params.take_count("limit", limit_default, LIMIT_MAX)?;
        let order = params.take("order").map_or_else(|| Ok(Order::default()), |text| Order::parse(&text))?;
        let aggregate = params.take("aggregate");
        let query = CostQuery {
            by: aggregate.as_ref().map_or_else(|| Ok(by.to_vec()), |list| fields::aggregate(list))?,
            idle: params.take_bool("idle", true)?,
            ..filtered(&mut params)?
        };
        let digest = digest(&query, order);
        let mut skip = 0;
        if let Some(page) = params.take("page") {
            if step.is_some() {
                return Err(ApiError::invalid("page", "page and step exclude each other; leave one out"));
            }
            (window, skip) = follow(&page, digest)?;
        }
        let steps = step.map_or_else(|| Ok(Vec::new()), |step| step.cut(window, limit))?;
        let view = View { order, skip, limit };
        Ok(Self { now_ns, window, query, view, steps, regrouped: aggregate.is_some(), digest })
    }

    /// What leads to the rows behind the first `skip`, over the same window whatever the time is then.
    pub(super) fn page(&self, skip: usize) -> String {
        let (start_ns, end_ns) = self.window;
        format!("{}-{}-{skip}-{:016x}", start_ns / SECOND_NS, end_ns / SECOND_NS, self.digest)
    }
}

/// The window of `window` and `offset`.
pub(super) fn window(params: &mut Params, now_ns: i64) -> Result<Window, ApiError> {
    let text = params.take("window").unwrap_or_else(|| "24h".to_owned());
    let (start_ns, end_ns) =
        window::parse(&text, now_ns).map_err(|message| ApiError::invalid("window", message))?;
    let Some(text) = params.take("offset") else { return Ok((start_ns, end_ns)) };
    let wrong = |reason: &str| ApiError::invalid("offset", format!("offset {:?} {reason}", quoted(&text)));
    let offset_ns = window::length(&text)
        .filter(|offset_ns| offset_ns % SLOT_NS == 0)
        .ok_or_else(|| wrong("is not a length of whole quarters of an hour; use 30m, 12h, 7d or 2w"))?;
    if offset_ns > start_ns {
        return Err(wrong("leads to before 1970; use a shorter one"));
    }
    Ok((start_ns - offset_ns, end_ns - offset_ns))
}

/// A query of all that the filters let through, idle time too.
pub(super) fn filtered(params: &mut Params) -> Result<CostQuery, ApiError> {
    let condition = params.take("filter").map(|text| fields::condition(&text)).transpose()?;
    Ok(CostQuery { filter: filter(params), condition, idle: true, ..CostQuery::default() })
}

/// Whom an answer is about, as far as it was said.
pub(in crate::api) fn filter(params: &mut Params) -> Filter {
    Filter {
        cluster: params.take("cluster"),
        node: params.take("node"),
        namespace: params.take("namespace"),
        owner: params.take("owner"),
        account: params.take("account"),
        partition: params.take("partition"),
        device: params.take("device"),
        profile: params.take("profile"),
    }
}

/// What [`Request::page`] said, if it was said of the same query.
fn follow(page: &str, digest: u64) -> Result<(Window, usize), ApiError> {
    let wrong = |reason: &str| ApiError::invalid("page", format!("page {:?} {reason}", quoted(page)));
    let not_ours = || wrong("is not a next_page of an answer; give one as it came");
    let mut parts = page.split('-');
    let mut part = || parts.next().filter(|part| part.len() <= 20).ok_or_else(not_ours);
    let (start, end, skip, told) = (part()?, part()?, part()?, part()?);
    let window = window::parse(&format!("{start},{end}"), 0).map_err(|_| not_ours())?;
    let skip = skip.parse().ok().filter(|skip| *skip <= GROUPS_MAX).ok_or_else(not_ours)?;
    let told = u64::from_str_radix(told, 16).map_err(|_| not_ours())?;
    if parts.next().is_some() {
        return Err(not_ours());
    }
    if told != digest {
        return Err(wrong("is of another query; repeat aggregate, filters, idle and order as they were"));
    }
    Ok((window, skip))
}

fn digest(query: &CostQuery, order: Order) -> u64 {
    let CostQuery { by, filter, condition, idle, ranges: _, facts: _, described: _, tree: _ } = query;
    let hash = Sha256::digest(format!("{:?}", (by, filter, condition, idle, order)));
    hash.iter().take(8).fold(0, |digest, byte| digest << 8 | u64::from(*byte))
}
