//! An API that clients of OpenCost can be pointed at: `/allocation`, `/allocation/compute`, `/allocation/summary`,
//! `/assets` and `/healthz`, each also under `/model`; on a listener of its own, since its clients have no token.
//!
//! ```text
//! request -> params -> upstream (CPU, RAM, ...; if there is one) --.
//!                 '--> ledger -> allocation (fold, exact) ---------+-> answer (JSON)
//! ```
//!
//! GPU figures are the ledger's and nobody else's. docs/opencost.md says what differs from OpenCost, and why.
//! Limits: those of [`Queries`], `params::SETS_MAX` sets and [`ALLOCATIONS_MAX`] allocations in an answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{MatchedPath, Request as HttpRequest, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tonnage_proto::limits::slot_start;
use tonnage_runtime::clock::Clock;

use crate::api::auth::{self, Authenticator};
use crate::api::error::ApiError;
use crate::api::queries::Queries;
use crate::api::{Check, cost};
use crate::live::Live;
use crate::metrics::Metrics;
use crate::metrics::opencost::{Container, Facts, NodePrices};
use crate::model::{GpuTime, NodeFacts, NodeName};
use crate::prices::PriceFacts;
use crate::prices::watch::Prices;
use crate::store::Readers;
use crate::store::query::{self, CostQuery, DeviceRecord, Dimension, Groups, Kept, QueryError};

mod allocation;
mod answer;
mod assets;
mod figures;
mod hardware;
mod number;
mod params;
mod property;
mod question;
pub mod upstream;

use allocation::Allocations;
use answer::{Envelope, Frame, Merged, Span, Summary, SummarySet};
use params::{Plan, Request};
use question::Question;
use upstream::{Known, Upstream};

/// Allocations in an answer, over all of its sets; each is some kilobytes of JSON.
pub const ALLOCATIONS_MAX: usize = 20_000;
const UPSTREAM_AGE: HeaderName = HeaderName::from_static("x-tonnage-upstream-age-seconds");
const NO_UPSTREAM: &str = "costs of CPU, RAM, storage and network are not known here and shown as 0; \
    set opencost_upstream to have them";

/// What the API reads.
pub struct OpenCost {
    pub clock: Clock,
    pub readers: Readers,
    /// `None`: nobody is asked for a token.
    pub authenticator: Option<Arc<Authenticator>>,
    pub prices: Prices,
    pub live: Arc<Live>,
    pub metrics: Arc<Metrics>,
    pub upstream: Option<Arc<Upstream>>,
    pub health: Check,
    /// Serve the metrics that OpenCost exports?
    pub export: bool,
}

struct Api {
    queries: Queries,
    state: OpenCost,
}

/// All routes.
pub fn router(state: OpenCost) -> Router {
    let export = state.export;
    let queries = Queries::new(state.clock.clone(), state.readers.clone(), Arc::clone(&state.metrics));
    let api = Arc::new(Api { queries, state });
    let mut routes = Router::new();
    for prefix in ["", "/model"] {
        routes = routes
            .route(&format!("{prefix}/allocation"), get(allocations))
            .route(&format!("{prefix}/allocation/compute"), get(allocations))
            .route(&format!("{prefix}/allocation/summary"), get(summary))
            .route(&format!("{prefix}/assets"), get(assets));
    }
    if export {
        routes = routes.route("/metrics", get(metrics));
    }
    routes = routes.route_layer(from_fn_with_state(Arc::clone(&api), authorise));
    for prefix in ["", "/model"] {
        routes = routes.route(&format!("{prefix}/healthz"), get(healthz));
    }
    routes
        .fallback(|| async {
            ApiError::missing(
                "there are /allocation, /allocation/compute, /allocation/summary, /assets and /healthz",
            )
            .into_response()
        })
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed().into_response() })
        .layer(from_fn_with_state(Arc::clone(&api), observe))
        .with_state(api)
}

/// Lets whoever may read through.
async fn authorise(State(api): State<Arc<Api>>, request: HttpRequest, next: Next) -> Response {
    if let Some(authenticator) = &api.state.authenticator
        && let Err(error) =
            auth::reader(authenticator, &api.state.metrics, "opencost", request.headers()).await
    {
        return error.into_response();
    }
    next.run(request).await
}

/// Counts every request, gives every error OpenCost's shape, and makes an answer of a panic.
async fn observe(State(api): State<Arc<Api>>, request: HttpRequest, next: Next) -> Response {
    let started_ns = api.state.clock.monotonic_ns();
    let path = request.extensions().get::<MatchedPath>();
    let route = path.map_or_else(|| "none".to_owned(), |path| format!("opencost {}", path.as_str()));
    let mut response = tokio::spawn(next.run(request)).await.unwrap_or_else(|error| {
        tracing::error!(route, %error, "A request's handler ended without an answer.");
        ApiError::internal().into_response()
    });
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        response = answer::refused(&error);
    }
    let duration_ns = api.state.clock.monotonic_ns().saturating_sub(started_ns);
    api.state.metrics.request(&route, response.status().as_u16(), duration_ns);
    response
}

async fn healthz(State(api): State<Arc<Api>>) -> Result<&'static str, ApiError> {
    (api.state.health)().map(|()| "ok\n").map_err(ApiError::unavailable)
}

async fn allocations(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, ApiError> {
    api.answer(&uri, false).await
}

async fn summary(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, ApiError> {
    api.answer(&uri, true).await
}

impl Api {
    async fn answer(&self, uri: &Uri, summary: bool) -> Result<Response, ApiError> {
        let request = Request::read(uri)?;
        let now_ns = self.state.clock.wall_ns();
        let plan = request.plan(now_ns)?;
        let kept = self.kept(&plan.sets).await?;
        let known = self.known(&Question::Allocations(request.clone()), &plan).await;
        let age = known.age_seconds;
        let condition = request.condition()?;
        let says = self.state.prices.says();
        let body = self
            .queries
            .run(move |connection, expired| {
                let mut unpriced = GpuTime::default();
                let mut sets = Vec::new();
                let by = request.detail();
                let mut query = CostQuery { by, condition, idle: true, ..CostQuery::default() };
                cost::look_up(connection, &mut query, plan.window, &says, expired)?;
                let described = if request.names_pods() {
                    Some(query::described(connection, plan.window, &says.1, expired)?)
                } else {
                    None
                };
                for window in &plan.sets {
                    query.ranges = cost::ranges(&query, *window, &kept);
                    let Groups { groups, totals } = query::cost(connection, &query, expired)?;
                    unpriced += totals.unpriced;
                    let mut set = allocation::fold(groups, &request.by, request.idle);
                    if let Some(described) = &described {
                        allocation::describe(&mut set, described, window.1 - 1);
                    }
                    sets.push(set);
                    if sets.iter().map(Allocations::len).sum::<usize>() > ALLOCATIONS_MAX {
                        return Ok(None);
                    }
                }
                Ok(Some(write(&plan, &sets, known, unpriced, now_ns, summary)))
            })
            .await?;
        let Some(body) = body else {
            let message = format!(
                "the answer has more than {ALLOCATIONS_MAX} allocations; aggregate by less, or ask for a shorter window"
            );
            return Err(ApiError::invalid("aggregate", message));
        };
        Ok(aged(written(body)?, age))
    }

    /// What an upstream says, if there is one.
    async fn known(&self, question: &Question, plan: &Plan) -> Known {
        match &self.state.upstream {
            Some(upstream) => upstream.get(question, plan).await,
            None => Known { warnings: vec![NO_UPSTREAM.to_owned()], ..Known::default() },
        }
    }

    /// Are the rows still there from which these windows are put together?
    async fn kept(&self, sets: &[(i64, i64)]) -> Result<Kept, ApiError> {
        let kept = self.queries.run(|connection, _| Ok(query::kept(connection)?)).await?;
        for (start_ns, end_ns) in sets {
            kept.check(*start_ns, *end_ns).map_err(|message| ApiError::invalid("window", message))?;
        }
        Ok(kept)
    }

    /// What is known of each node, the nodes file's word before the agent's.
    fn facts(&self, devices: &[DeviceRecord]) -> BTreeMap<NodeName, NodeFacts> {
        let book = Arc::clone(&self.state.prices.books.borrow());
        let mut newest: BTreeMap<NodeName, &DeviceRecord> = BTreeMap::new();
        for device in devices {
            let known = newest.entry(device.node.clone()).or_insert(device);
            if device.observed_until_ns > known.observed_until_ns {
                *known = device;
            }
        }
        let facts = newest.into_iter().map(|(node, device)| {
            let facts = book.facts(&node.cluster, &node.node, &device.facts).into_owned();
            (node, facts)
        });
        facts.collect()
    }
}

/// An answer with the age of what an upstream said in it.
fn aged(body: Vec<u8>, age_seconds: Option<i64>) -> Response {
    let mut response = answer::json(StatusCode::OK, body);
    if let Some(age_seconds) = age_seconds {
        response.headers_mut().insert(UPSTREAM_AGE, HeaderValue::from(age_seconds));
    }
    response
}

fn by(dimensions: &[Dimension], start_ns: i64, end_ns: i64) -> CostQuery {
    let ranges = query::ranges(start_ns, end_ns);
    CostQuery { ranges, by: dimensions.to_vec(), idle: true, ..CostQuery::default() }
}

fn written(body: Result<Vec<u8>, serde_json::Error>) -> Result<Vec<u8>, ApiError> {
    body.map_err(|error| {
        tracing::error!(%error, "An answer could not be written.");
        ApiError::internal()
    })
}

fn write(
    plan: &Plan,
    sets: &[Allocations],
    known: Known,
    unpriced: GpuTime,
    now_ns: i64,
    summary: bool,
) -> Result<Vec<u8>, serde_json::Error> {
    let mut warnings = known.warnings;
    warnings.extend(unpriced_warning(unpriced));
    let said = known.answer.as_ref().map(|answer| answer.sets.as_slice()).unwrap_or_default();
    let merged: Vec<Merged<'_>> = std::iter::zip(&plan.sets, sets)
        .enumerate()
        .map(|(at, (window, allocations))| {
            let frame = Frame::new(*window, now_ns);
            Merged { frame, allocations, upstream: said.get(at), summary }
        })
        .collect();
    if !summary {
        return Envelope::bytes(merged, &warnings);
    }
    let step = plan.sets.first().map_or(0, |(start_ns, end_ns)| end_ns - start_ns);
    let sets =
        merged.into_iter().map(|merged| SummarySet { window: merged.frame.window(), allocations: merged });
    Envelope::bytes(Summary { step, sets: sets.collect(), window: Span::of(plan.window) }, &warnings)
}

fn unpriced_warning(unpriced: GpuTime) -> Option<String> {
    (unpriced != GpuTime::default())
        .then(|| format!("{} GPU hours have no price and cost nothing here", answer::hours(unpriced)))
}

async fn assets(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, ApiError> {
    let now_ns = api.state.clock.wall_ns();
    let question = Question::assets(&uri)?;
    let plan = question.plan(now_ns)?;
    let (start_ns, end_ns) = plan.window;
    api.kept(&[(start_ns, end_ns)]).await?;
    let known = api.known(&question, &plan).await;
    let (found, devices) = api
        .queries
        .run(move |connection, expired| {
            let found = query::cost(connection, &by(&assets::DETAIL, start_ns, end_ns), expired)?;
            Ok((found, query::devices(connection).map_err(QueryError::from)?))
        })
        .await?;
    let mut warnings = known.warnings;
    warnings.extend(unpriced_warning(found.totals.unpriced));
    let frame = Frame::new((start_ns, end_ns), now_ns);
    let none = BTreeMap::new();
    let hardware = known.answer.as_ref().map_or(&none, |answer| &answer.hardware);
    let assets = assets::assets(found.groups, &api.facts(&devices), hardware, frame);
    Ok(aged(written(Envelope::bytes(assets, &warnings))?, known.age_seconds))
}

/// What OpenCost exports of GPUs, for whoever has no OpenCost that exports it too.
async fn metrics(State(api): State<Arc<Api>>) -> Result<Response, ApiError> {
    let devices = api.queries.run(|connection, _| Ok(query::devices(connection)?)).await?;
    let (now_ns, book) = (api.state.clock.wall_ns(), Arc::clone(&api.state.prices.books.borrow()));
    let known = api.facts(&devices);
    let mut nodes: BTreeMap<NodeName, NodePrices> = BTreeMap::new();
    for device in devices.iter().filter(|device| !device.retired) {
        let Some(facts) = known.get(&device.node) else { continue };
        let (cluster, node) = (&device.node.cluster, &device.node.node);
        let facts = PriceFacts { cluster, node, gpu_model: &device.model, facts };
        let rate = book.rate(&facts, slot_start(now_ns), device.slices);
        let prices = nodes.entry(device.node.clone()).or_insert_with(|| NodePrices {
            instance_type: facts.facts.instance_type.clone(),
            region: facts.facts.region.clone(),
            spot: assets::preemptible(facts.facts),
            ..NodePrices::default()
        });
        prices.gpus += 1;
        prices.hourly_nanos += rate.map_or(0, |rate| rate.per_gpu_hour_nanos(device.slices));
    }
    let mut containers: BTreeMap<Container, u64> = BTreeMap::new();
    for share in api.state.live.own_shares(&book, now_ns).into_iter().filter(|share| !share.intruder) {
        let Some(owner) = share.owner.filter(|owner| !owner.namespace.is_empty()) else { continue };
        let container = Container {
            node: share.node,
            namespace: owner.namespace.clone(),
            pod: owner.pod.clone(),
            container: owner.container.clone(),
        };
        *containers.entry(container).or_default() += u64::from(share.held_permille);
    }
    let text = crate::metrics::opencost::render(&Facts { nodes, containers });
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}
