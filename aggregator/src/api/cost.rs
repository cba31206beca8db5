//! `GET /api/v1/cost/*`: costs and time of a window, in groups.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use axum::response::{IntoResponse as _, Response};
use tonnage_proto::method;
use tonnage_proto::rest::{self, CostAnswer, CostRow, CostStep};

use super::error::ApiError;
use super::figures::{coverage, figures};
use super::window::Window;
use super::{Api, inventory};
use crate::model::{NodeFacts, Teams};
use crate::prices::Book;
use crate::store::budgets;
use crate::store::query::{self, CostQuery, Dimension, Group, Groups, Kept, QueryError, Range, Sums};
use crate::store::sql::Connection;

mod arrange;
pub(crate) mod fields;
pub(super) mod months;
pub(super) mod plain;
mod pods;
pub(super) mod request;
mod step;

use arrange::Page;
use pods::{Pods, counted};
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

/// What rows can be ordered by.
pub(super) fn orders() -> Vec<&'static str> {
    arrange::Order::ALL.map(|(_, name)| name).to_vec()
}

/// What the ledger has to say to a request.
struct Found {
    page: Page,
    /// If they are to be counted.
    pods: Pods,
    totals: Sums,
    /// The rows and the totals of each step.
    series: Vec<(Vec<Group>, Sums)>,
    newest_ns: Option<i64>,
}

pub(super) async fn cost(
    State(api): State<Arc<Api>>,
    uri: Uri,
    table: &'static str,
    by: &'static [Dimension],
) -> Result<Response, ApiError> {
    let request = Request::read(&uri, by, api.state.clock.wall_ns())?;
    let plain = !request.regrouped;
    let (answer, pods) = answer(&api, request, plain && table == "namespaces").await?;
    Ok(match table {
        "namespaces" if plain => Json(plain::namespaces(answer, &pods)).into_response(),
        "pods" if plain => Json(plain::pods(answer)).into_response(),
        _ => Json(answer).into_response(),
    })
}

async fn answer(api: &Api, request: Request, count_pods: bool) -> Result<(CostAnswer, Pods), ApiError> {
    let (request, found) = ask(api, request, count_pods).await?;
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
    let book = Arc::clone(&api.state.prices.books.borrow());
    let answer = CostAnswer {
        window: window(request.window),
        currency: book.currency().to_owned(),
        idle_policy: book.idle(),
        aggregate: by.iter().map(Dimension::name).collect(),
        next_page: found.page.next.filter(|_| request.steps.is_empty()).map(|skip| request.page(skip)),
        rows: shown(found.page.rows, request.window),
        series: std::iter::zip(&request.steps, found.series).map(step).collect(),
        totals: figures(&found.totals, elapsed_ns(request.window)),
        coverage: observed(&found.totals),
        data_age_seconds: age_ns.map(|age_ns| age_ns / 1_000_000_000),
    };
    Ok((answer, found.pods))
}

fn window((start_ns, end_ns): Window) -> rest::Window {
    rest::Window { start: inventory::time(start_ns), end: inventory::time(end_ns) }
}

/// Asks the ledger, of one moment.
async fn ask(api: &Api, mut request: Request, count_pods: bool) -> Result<(Request, Found), ApiError> {
    let kept = api.queries.run(|connection, _| Ok(query::kept(connection)?)).await?;
    let (start_ns, end_ns) = request.window;
    kept.check(start_ns, end_ns).map_err(|message| ApiError::invalid("window", message))?;
    for (start_ns, end_ns) in &request.steps {
        kept.check(*start_ns, *end_ns).map_err(|message| {
            ApiError::invalid("step", format!("step makes a part that cannot be: {message}"))
        })?;
    }
    let says = api.state.prices.says();
    api.queries
        .run(move |connection, expired| {
            look_up(connection, &mut request.query, request.window, &says, expired)?;
            let sums = |query: &CostQuery| query::cost(connection, query, expired);
            let found = read(&request, &kept, count_pods, &sums)?;
            let newest_ns = query::newest_usage_ns(connection)?;
            Ok((request, Found { newest_ns, ..found }))
        })
        .await
}

/// The page and the steps of a request, by `sums`. A step's groups are let go of before the next one's are read.
fn read(
    request: &Request,
    kept: &Kept,
    count_pods: bool,
    sums: &impl Fn(&CostQuery) -> Result<Groups, QueryError>,
) -> Result<Found, QueryError> {
    let width = request.query.by.len();
    let within = |window| CostQuery { ranges: ranges(&request.query, window, kept), ..request.query.clone() };
    let whole = within(request.window);
    let (whole, pods) = if count_pods { counted(&whole, sums)? } else { (sums(&whole)?, None) };
    let page = arrange::arrange(whole.groups, width, request.view);
    let mut series = Vec::with_capacity(request.steps.len());
    for step in &request.steps {
        let part = sums(&within(*step))?;
        series.push((arrange::follow(part.groups, width, &page.rows), part.totals));
    }
    Ok(Found { page, pods, totals: whole.totals, series, newest_ns: None })
}

/// The rows that a query reads. How shares were split is told by slots alone: in an hour's row it is that of all its slots.
/// Within a range nothing of pods changes, if they are asked for.
pub(crate) fn ranges(query: &CostQuery, window: Window, kept: &Kept) -> Vec<Range> {
    let in_slots = query.names(|dimension| *dimension == Dimension::SharingMode);
    let pieces = query.described.pieces(window, &query.tree.edges(window), kept).into_iter();
    let ranges = pieces.map(|(start_ns, end_ns)| match in_slots {
        true => query::ranges_in_slots(start_ns, end_ns, kept.slots_from_ns),
        false => query::ranges(start_ns, end_ns),
    });
    ranges.flatten().collect()
}

/// Looks up what a query's dimensions need to know of nodes, pods and accounts.
pub(crate) fn look_up(
    connection: &Connection,
    query: &mut CostQuery,
    window: Window,
    (book, teams): &(Arc<Book>, Arc<Teams>),
    expired: impl Fn() -> bool,
) -> Result<(), QueryError> {
    if query.names(Dimension::of_node) {
        query.facts = query::facts(connection, window, outweigh(book), &expired)?;
    }
    if query.names(|dimension| *dimension == Dimension::Budget) {
        query.tree = Arc::new(budgets::tree(connection)?);
    }
    if query.names(Dimension::of_pod) || query.tree.is_by_labels() {
        query.described = query::described(connection, window, teams, &expired)?;
    }
    Ok(())
}

/// What nodes are: the nodes file's word, and what that does not say as their agents said.
pub(crate) fn outweigh(book: &Book) -> impl Fn(&str, &str, &NodeFacts) -> NodeFacts {
    |cluster, node, said| book.facts(cluster, node, said).into_owned()
}
