//! `GET /api/v1/cost/monthly` and `GET /api/v1/cost/cluster`: months, and one cluster or all of them, as a whole.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use schemars::JsonSchema;
use serde::Serialize;
use tonnage_proto::limits::DAY_NS;
use tonnage_proto::rest::{Figures, MonthRow, Window as Shown};

use super::plain::{Number, PlainCosts, PlainSum, exact};
use super::pods::{Pods, counted};
use super::{look_up, ranges, request, window};
use crate::api::error::ApiError;
use crate::api::figures::{coverage, figures};
use crate::api::params::Params;
use crate::api::window::{Window, first_of_month};
use crate::api::{Api, inventory};
use crate::store::query::{self, CostQuery, Dimension, Groups, Sums};

const MONTHS_DEFAULT: usize = 6;
pub(in crate::api) const MONTHS_MAX: usize = 13;

/// `tonnage_proto::rest::MonthsAnswer`, with plain numbers.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::api) struct MonthsAnswer {
    months: Vec<PlainMonth>,
    #[serde(flatten)]
    sum: PlainSum,
    period: String,
    currency: String,
    data_age_seconds: Option<i64>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct PlainMonth {
    #[serde(flatten)]
    exact: MonthRow,
    #[serde(flatten)]
    costs: PlainCosts,
    /// Of the days that have passed.
    daily_average: Number,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::api) struct ClusterAnswer {
    /// Empty if there are several.
    cluster_name: String,
    clusters: Vec<PlainCluster>,
    namespaces: Option<u64>,
    pods: Option<u64>,
    allocation: PlainCosts,
    #[serde(flatten)]
    sum: PlainSum,
    window: Shown,
    currency: String,
    totals: Figures,
    coverage: String,
    timestamp: String,
    data_age_seconds: Option<i64>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct PlainCluster {
    name: String,
    #[serde(flatten)]
    costs: PlainCosts,
}

/// Sums of one window.
struct Part {
    window: Window,
    totals: Sums,
    pods: Pods,
    /// By cluster, if it was asked for.
    clusters: Groups,
}

/// Parameters of [`monthly`].
pub(in crate::api) fn monthly_known() -> Vec<&'static str> {
    [&["months"], &request::FILTERS[..]].concat()
}

/// Parameters of [`cluster`].
pub(in crate::api) fn cluster_known() -> Vec<&'static str> {
    [&["window", "offset"], &request::FILTERS[..]].concat()
}

pub(in crate::api) async fn monthly(
    State(api): State<Arc<Api>>,
    uri: Uri,
) -> Result<Json<MonthsAnswer>, ApiError> {
    let mut params = Params::read(&uri, &monthly_known())?;
    let now_ns = api.state.clock.wall_ns();
    let count = params.take_count("months", MONTHS_DEFAULT, MONTHS_MAX)?;
    let query = request::filtered(&mut params)?;
    let picks_owners = query.picks_owners();
    let (parts, newest_ns) = ask(&api, "months", query, months(now_ns, count), false).await?;
    let months: Vec<PlainMonth> = parts
        .iter()
        .map(|part| {
            let (start_ns, end_ns) = part.window;
            let elapsed_ns = (now_ns.min(end_ns) - start_ns).max(1);
            let figures = figures(&part.totals, elapsed_ns);
            let daily = (part.totals.cost_nanos() * i128::from(DAY_NS)).div_euclid(i128::from(elapsed_ns));
            let (namespaces, pods) = counts(&part.pods);
            PlainMonth {
                costs: PlainCosts::of(&figures),
                daily_average: Number(daily),
                exact: MonthRow {
                    month: inventory::time(start_ns).chars().take("2026-01".len()).collect(),
                    window: window(part.window),
                    figures,
                    coverage: if picks_owners { String::new() } else { coverage(&part.totals) },
                    namespaces,
                    pods,
                },
            }
        })
        .collect();
    let total = parts.iter().map(|part| part.totals.cost_nanos()).sum();
    Ok(Json(MonthsAnswer {
        sum: PlainSum::new(Number(total), months.len()),
        period: format!("{} months", months.len()),
        months,
        currency: api.state.prices.books.borrow().currency().to_owned(),
        data_age_seconds: age(newest_ns, now_ns),
    }))
}

pub(in crate::api) async fn cluster(
    State(api): State<Arc<Api>>,
    uri: Uri,
) -> Result<Json<ClusterAnswer>, ApiError> {
    let mut params = Params::read(&uri, &cluster_known())?;
    let now_ns = api.state.clock.wall_ns();
    let asked = request::window(&mut params, now_ns)?;
    let query = request::filtered(&mut params)?;
    let picks_owners = query.picks_owners();
    let named = query.filter.cluster.clone();
    let (parts, newest_ns) = ask(&api, "window", query, vec![asked], true).await?;
    let part = parts.into_iter().next().ok_or_else(ApiError::internal)?;
    let (start_ns, end_ns) = part.window;
    let elapsed_ns = now_ns.min(end_ns) - start_ns;
    let mut clusters: Vec<PlainCluster> = part
        .clusters
        .groups
        .into_iter()
        .map(|group| PlainCluster {
            name: group.key.concat(),
            costs: PlainCosts::of(&figures(&group.sums, elapsed_ns)),
        })
        .collect();
    clusters.sort_by(|a, b| a.name.cmp(&b.name));
    let only = match clusters.as_slice() {
        [only] => Some(only.name.clone()),
        _ => None,
    };
    let totals = figures(&part.totals, elapsed_ns);
    let (namespaces, pods) = counts(&part.pods);
    Ok(Json(ClusterAnswer {
        cluster_name: named.or(only).unwrap_or_default(),
        sum: PlainSum::new(exact(&totals.cost), clusters.len()),
        clusters,
        namespaces,
        pods,
        allocation: PlainCosts::of(&totals),
        window: window(part.window),
        currency: api.state.prices.books.borrow().currency().to_owned(),
        totals,
        coverage: if picks_owners { String::new() } else { coverage(&part.totals) },
        timestamp: inventory::time(now_ns),
        data_age_seconds: age(newest_ns, now_ns),
    }))
}

/// Sums of each of the `windows`, which parameter `field` led to, and when the newest usage ended.
async fn ask(
    api: &Api,
    field: &'static str,
    mut query: CostQuery,
    windows: Vec<Window>,
    by_cluster: bool,
) -> Result<(Vec<Part>, Option<i64>), ApiError> {
    let kept = api.queries.run(|connection, _| Ok(query::kept(connection)?)).await?;
    for (start_ns, end_ns) in &windows {
        kept.check(*start_ns, *end_ns)
            .map_err(|reason| ApiError::invalid(field, format!("{field}: {reason}")))?;
    }
    let says = api.state.prices.says();
    api.queries
        .run(move |connection, expired| {
            let sums = |query: &CostQuery| query::cost(connection, query, expired);
            let mut parts = Vec::with_capacity(windows.len());
            for window in windows {
                look_up(connection, &mut query, window, &says, expired)?;
                query.by = vec![Dimension::Namespace];
                query.ranges = ranges(&query, window, &kept);
                let (found, pods) = counted(&query, &sums)?;
                query.by = vec![Dimension::Cluster];
                let clusters = if by_cluster { sums(&query)? } else { Groups::default() };
                parts.push(Part { window, totals: found.totals, pods, clusters });
            }
            Ok((parts, query::newest_usage_ns(connection)?))
        })
        .await
}

/// The month of `now_ns` and those before it, the earliest first; none before 1970.
fn months(now_ns: i64, count: usize) -> Vec<Window> {
    let today = now_ns - now_ns.rem_euclid(DAY_NS);
    let mut start_ns = first_of_month(today);
    let mut found = vec![(start_ns, first_of_month(start_ns + 31 * DAY_NS))];
    while found.len() < count && start_ns > 0 {
        let end_ns = start_ns;
        start_ns = first_of_month(end_ns - DAY_NS);
        found.push((start_ns, end_ns));
    }
    found.reverse();
    found
}

/// Namespaces and pods.
fn counts(pods: &Pods) -> (Option<u64>, Option<u64>) {
    let namespaces = pods.as_ref().map(|pods| u64::try_from(pods.len()).unwrap_or(u64::MAX));
    (namespaces, pods.as_ref().map(|pods| pods.values().sum()))
}

fn age(newest_ns: Option<i64>, now_ns: i64) -> Option<i64> {
    newest_ns.map(|newest_ns| now_ns.saturating_sub(newest_ns).max(0) / 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::window::time;

    #[test]
    fn months_are_the_calendars_and_begin_no_earlier_than_time_does() {
        let shown = |now: &str, count| {
            let found = months(time(now).unwrap(), count);
            assert!(found.windows(2).all(|pair| pair[0].1 == pair[1].0));
            found.iter().map(|(start, _)| inventory::time(*start)[..7].to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(shown("2026-03-31T23:59:59Z", 3), ["2026-01", "2026-02", "2026-03"]);
        assert_eq!(shown("1970-02-01T00:00:00Z", 6), ["1970-01", "1970-02"]);
    }
}
