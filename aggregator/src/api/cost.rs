//! `GET /api/v1/cost/*`: costs and time of a window, in groups.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use tonnage_proto::method;
use tonnage_proto::rest::{CostAnswer, CostRow, Window, sentinel};

use super::error::ApiError;
use super::figures::{coverage, figures};
use super::params::Params;
use super::{Api, inventory, window};
use crate::model::NodeFacts;
use crate::prices::Book;
use crate::store::query::{self, CostQuery, Dimension, Filter, Group, Kept, Range};

mod fields;

/// Endpoints and what they group by unless told otherwise.
pub(super) const TABLES: [(&str, &[Dimension]); 6] = [
    ("namespaces", &[Dimension::Namespace]),
    ("pods", &[Dimension::Namespace, Dimension::Pod]),
    ("jobs", &[Dimension::Cluster, Dimension::Job]),
    ("users", &[Dimension::User]),
    ("devices", &[Dimension::Cluster, Dimension::Node, Dimension::Device, Dimension::Model]),
    ("nodes", &[Dimension::Cluster, Dimension::Node]),
];
const PARAMETERS: [&str; 13] = [
    "window",
    "aggregate",
    "filter",
    "idle",
    "cluster",
    "node",
    "namespace",
    "owner",
    "account",
    "partition",
    "device",
    "profile",
    "limit",
];
const LIMIT_DEFAULT: usize = 1_000;
const LIMIT_MAX: usize = 10_000;

pub(super) async fn cost(
    State(api): State<Arc<Api>>,
    uri: Uri,
    by: &'static [Dimension],
) -> Result<Json<CostAnswer>, ApiError> {
    let mut params = Params::read(&uri, &PARAMETERS)?;
    let now_ns = api.state.clock.wall_ns();
    let text = params.take("window").unwrap_or_else(|| "24h".to_owned());
    let (start_ns, end_ns) =
        window::parse(&text, now_ns).map_err(|message| ApiError::invalid("window", message))?;
    let limit = params.take_count("limit", LIMIT_DEFAULT, LIMIT_MAX)?;
    let mut query = CostQuery {
        by: params.take("aggregate").map_or_else(|| Ok(by.to_vec()), |list| fields::aggregate(&list))?,
        idle: params.take_bool("idle", true)?,
        filter: filter(&mut params),
        condition: params.take("filter").map(|text| fields::condition(&text)).transpose()?,
        ..CostQuery::default()
    };
    let kept = api.queries.run(|connection, _| Ok(query::kept(connection)?)).await?;
    kept.check(start_ns, end_ns).map_err(|message| ApiError::invalid("window", message))?;
    query.ranges = ranges(&query, (start_ns, end_ns), &kept);
    let (by, picks_owners) = (query.by.clone(), query.picks_owners());
    let book = Arc::clone(&api.state.prices.books.borrow());
    let (found, newest_ns) = api
        .queries
        .run(move |connection, expired| {
            if query.names(Dimension::of_node) {
                query.facts = query::facts(connection, (start_ns, end_ns), outweigh(&book), expired)?;
            }
            Ok((query::cost(connection, &query, expired)?, query::newest_usage_ns(connection)?))
        })
        .await?;
    let elapsed_ns = now_ns.min(end_ns) - start_ns;
    let rows = arrange(found.groups, by.len(), limit)
        .into_iter()
        .map(|group| CostRow {
            key: std::iter::zip(by.iter().map(Dimension::name), group.key).collect(),
            figures: figures(&group.sums, elapsed_ns),
            methods: method::names(group.sums.method).map(str::to_owned).collect(),
        })
        .collect();
    Ok(Json(CostAnswer {
        window: Window { start: inventory::time(start_ns), end: inventory::time(end_ns) },
        currency: api.state.prices.books.borrow().currency().to_owned(),
        aggregate: by.iter().map(Dimension::name).collect(),
        rows,
        totals: figures(&found.totals, elapsed_ns),
        // Of a part of the owners' time nobody can say how much of it was not seen.
        coverage: if picks_owners { String::new() } else { coverage(&found.totals) },
        data_age_seconds: newest_ns.map(|newest| now_ns.saturating_sub(newest).max(0) / 1_000_000_000),
    }))
}

/// Whom an answer is about, as far as it was said.
pub(super) fn filter(params: &mut Params) -> Filter {
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

/// How shares were split is told by slots alone: in an hour's row it is that of all its slots.
fn ranges(query: &CostQuery, (start_ns, end_ns): window::Window, kept: &Kept) -> Vec<Range> {
    if query.names(|dimension| *dimension == Dimension::SharingMode) {
        return query::ranges_in_slots(start_ns, end_ns, kept.slots_from_ns);
    }
    query::ranges(start_ns, end_ns)
}

/// What nodes are: the nodes file's word, and what that does not say as their agents said.
fn outweigh(book: &Book) -> impl Fn(&str, &str, &NodeFacts) -> NodeFacts {
    |cluster, node, said| book.facts(cluster, node, said).into_owned()
}

/// By cost, the dearest first, then by key. Beyond `limit` owners, the rest is one row at the end; what nobody held
/// does not count as an owner, and is kept apart as far as `limit` allows that too.
fn arrange(groups: Vec<Group>, width: usize, limit: usize) -> Vec<Group> {
    let (mut sentinels, mut owners): (Vec<_>, Vec<_>) = groups.into_iter().partition(|group| group.sentinel);
    let mut other: Option<Group> = None;
    for part in [&mut owners, &mut sentinels] {
        part.sort_by(dearest);
        for group in part.drain(limit.min(part.len())..) {
            let key = vec![sentinel::OTHER.to_owned(); width];
            let other = other.get_or_insert(Group { key, sentinel: true, sums: query::Sums::default() });
            other.sums.add(&group.sums);
        }
    }
    owners.append(&mut sentinels);
    owners.sort_by(dearest);
    owners.extend(other);
    owners
}

fn dearest(a: &Group, b: &Group) -> std::cmp::Ordering {
    b.sums.cost_nanos().cmp(&a.sums.cost_nanos()).then_with(|| a.key.cmp(&b.key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::query::Sums;

    fn group(key: &str, cost: i128, sentinel: bool) -> Group {
        let sums = Sums { held_cost_nanos: cost, ..Sums::default() };
        Group { key: vec![key.to_owned()], sentinel, sums }
    }

    #[test]
    fn rows_beyond_the_limit_are_one_row_so_that_the_sum_still_holds() {
        let groups = vec![
            group("b", 3, false),
            group("a", 3, false),
            group("c", 2, false),
            group("d", 1, false),
            group("__idle__", 9, true),
        ];
        let rows = arrange(groups, 1, 2);
        let shown: Vec<_> = rows.iter().map(|g| (g.key[0].as_str(), g.sums.held_cost_nanos)).collect();
        assert_eq!(shown, [("__idle__", 9), ("a", 3), ("b", 3), ("__other__", 3)]);
    }
}
