//! `GET /api/v1/cost/*`: costs and time of a window, in groups.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use tonnage_proto::method;
use tonnage_proto::rest::{self, CostAnswer, CostRow, CostStep};

use super::error::ApiError;
use super::figures::{coverage, figures};
use super::window::Window;
use super::{Api, inventory};
use crate::model::NodeFacts;
use crate::prices::Book;
use crate::store::query::{self, CostQuery, Dimension, Group, Groups, Kept, QueryError, Range, Sums};

mod arrange;
mod fields;
pub(super) mod request;
mod step;

use arrange::Page;
use request::Request;

/// Endpoints and what they group by unless told otherwise.
pub(super) const TABLES: [(&str, &[Dimension]); 6] = [
    ("namespaces", &[Dimension::Namespace]),
    ("pods", &[Dimension::Namespace, Dimension::Pod]),
    ("jobs", &[Dimension::Cluster, Dimension::Job]),
    ("users", &[Dimension::User]),
    ("devices", &[Dimension::Cluster, Dimension::Node, Dimension::Device, Dimension::Model]),
    ("nodes", &[Dimension::Cluster, Dimension::Node]),
];

/// What the ledger has to say to a request.
struct Found {
    page: Page,
    totals: Sums,
    /// The rows and the totals of each step.
    series: Vec<(Vec<Group>, Sums)>,
    newest_ns: Option<i64>,
}

pub(super) async fn cost(
    State(api): State<Arc<Api>>,
    uri: Uri,
    by: &'static [Dimension],
) -> Result<Json<CostAnswer>, ApiError> {
    let request = Request::read(&uri, by, api.state.clock.wall_ns())?;
    answer(&api, request).await.map(Json)
}

async fn answer(api: &Api, request: Request) -> Result<CostAnswer, ApiError> {
    let (request, found) = ask(api, request).await?;
    let by = &request.query.by;
    let shown = |groups: Vec<Group>, (start_ns, end_ns): Window| -> Vec<CostRow> {
        let row = |group: Group| CostRow {
            key: std::iter::zip(by.iter().map(Dimension::name), group.key).collect(),
            figures: figures(&group.sums, request.now_ns.min(end_ns) - start_ns),
            methods: method::names(group.sums.method).map(str::to_owned).collect(),
        };
        groups.into_iter().map(row).collect()
    };
    // Of a part of the owners' time nobody can say how much of it was not seen.
    let picks_owners = request.query.picks_owners();
    let observed = |totals: &Sums| if picks_owners { String::new() } else { coverage(totals) };
    let elapsed_ns = |(start_ns, end_ns): Window| request.now_ns.min(end_ns) - start_ns;
    let step = |(part, (groups, totals)): (&Window, (Vec<Group>, Sums))| CostStep {
        window: window(*part),
        rows: shown(groups, *part),
        totals: figures(&totals, elapsed_ns(*part)),
        coverage: observed(&totals),
    };
    let age_ns = found.newest_ns.map(|newest_ns| request.now_ns.saturating_sub(newest_ns).max(0));
    Ok(CostAnswer {
        window: window(request.window),
        currency: api.state.prices.books.borrow().currency().to_owned(),
        aggregate: by.iter().map(Dimension::name).collect(),
        next_page: found.page.next.filter(|_| request.steps.is_empty()).map(|skip| request.page(skip)),
        rows: shown(found.page.rows, request.window),
        series: std::iter::zip(&request.steps, found.series).map(step).collect(),
        totals: figures(&found.totals, elapsed_ns(request.window)),
        coverage: observed(&found.totals),
        data_age_seconds: age_ns.map(|age_ns| age_ns / 1_000_000_000),
    })
}

fn window((start_ns, end_ns): Window) -> rest::Window {
    rest::Window { start: inventory::time(start_ns), end: inventory::time(end_ns) }
}

/// Asks the ledger, of one moment.
async fn ask(api: &Api, mut request: Request) -> Result<(Request, Found), ApiError> {
    let kept = api.queries.run(|connection, _| Ok(query::kept(connection)?)).await?;
    let (start_ns, end_ns) = request.window;
    kept.check(start_ns, end_ns).map_err(|message| ApiError::invalid("window", message))?;
    for (start_ns, end_ns) in &request.steps {
        kept.check(*start_ns, *end_ns).map_err(|message| {
            ApiError::invalid("step", format!("step makes a part that cannot be: {message}"))
        })?;
    }
    let book = Arc::clone(&api.state.prices.books.borrow());
    api.queries
        .run(move |connection, expired| {
            if request.query.names(Dimension::of_node) {
                request.query.facts = query::facts(connection, request.window, outweigh(&book), expired)?;
            }
            let sums = |query: &CostQuery| query::cost(connection, query, expired);
            let (page, totals, series) = read(&request, &kept, &sums)?;
            let newest_ns = query::newest_usage_ns(connection)?;
            Ok((request, Found { page, totals, series, newest_ns }))
        })
        .await
}

type Read = (Page, Sums, Vec<(Vec<Group>, Sums)>);

/// The page and the steps of a request, by `sums`. A step's groups are let go of before the next one's are read.
fn read(
    request: &Request,
    kept: &Kept,
    sums: &impl Fn(&CostQuery) -> Result<Groups, QueryError>,
) -> Result<Read, QueryError> {
    let width = request.query.by.len();
    let mut query = request.query.clone();
    let mut within = |window: Window| {
        query.ranges = ranges(&query, window, kept);
        sums(&query)
    };
    let whole = within(request.window)?;
    let page = arrange::arrange(whole.groups, width, request.view);
    let mut series = Vec::with_capacity(request.steps.len());
    for step in &request.steps {
        let part = within(*step)?;
        series.push((arrange::follow(part.groups, width, &page.rows), part.totals));
    }
    Ok((page, whole.totals, series))
}

/// How shares were split is told by slots alone: in an hour's row it is that of all its slots.
fn ranges(query: &CostQuery, (start_ns, end_ns): Window, kept: &Kept) -> Vec<Range> {
    if query.names(|dimension| *dimension == Dimension::SharingMode) {
        return query::ranges_in_slots(start_ns, end_ns, kept.slots_from_ns);
    }
    query::ranges(start_ns, end_ns)
}

/// What nodes are: the nodes file's word, and what that does not say as their agents said.
fn outweigh(book: &Book) -> impl Fn(&str, &str, &NodeFacts) -> NodeFacts {
    |cluster, node, said| book.facts(cluster, node, said).into_owned()
}
