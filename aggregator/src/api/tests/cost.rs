//! Costs in steps, pages and orders.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tonnage_proto::limits::HOUR_NS;
use tonnage_proto::rest::{CostRow, Figures};

use super::*;

/// Pods of the ledger.
const PODS: i64 = 7;
const DAYS: i64 = 40;

/// Forty days of a GPU of three slices from 1970-01-01 on, made at random, in slots, hours and days.
fn forty_days(rng: &mut StdRng) -> String {
    let mut sql = String::from(
        "BEGIN;
         INSERT INTO node (id, cluster, name, agent_version, accepted) VALUES (1, 'c', 'n1', '0.1.0', 7);
         INSERT INTO device VALUES (1, 'GPU-1', 'H100', 80, 0, '', '');
         INSERT INTO tenure (id, device, node, life, slices, claimed_ns, to_ns, covered_until_ns)
         VALUES (1, 1, 1, 'b', 3, 0, 3456000000000000, 3456000000000000);",
    );
    for pod in 1..=PODS {
        let namespace = if pod < 4 { "ml" } else { "web" };
        sql += &format!(
            "INSERT INTO owner VALUES ({pod}, 2, '{namespace}', 'pod-{pod}', 'uid-{pod}', '', '', '', '', '', '', '', '');"
        );
    }
    let mut sums: BTreeMap<(&str, i64, i64, i64), [i64; 2]> = BTreeMap::new();
    for _ in 0..800 {
        let kind = rng.random_range(0..4_i64);
        let owner = if kind == 0 { rng.random_range(1..=PODS) } else { 0 };
        let start = rng.random_range(0..DAYS * 96) * SLOT_NS;
        let figures = [rng.random_range(0..SLOT_NS), rng.random_range(0..9_000_000_000)];
        for (table, width) in [("slot", SLOT_NS), ("hour", HOUR_NS), ("day", DAY_NS)] {
            let sum = sums.entry((table, start - start % width, owner, kind)).or_default();
            *sum = std::array::from_fn(|at| sum[at] + figures[at]);
        }
    }
    for ((table, start, owner, kind), [time_ns, cost]) in sums {
        sql += &format!(
            "INSERT INTO {table} VALUES ({start}, 1, 0, {owner}, {kind}, {time_ns}, 0, 0, 0, 1, {cost}, 0);"
        );
    }
    sql + "COMMIT;"
}

fn busy_site() -> Site {
    let seed = rand::random();
    println!("seed {seed}");
    let sql = forty_days(&mut StdRng::seed_from_u64(seed));
    site_of(|store, _| fill(store, DAYS, &sql))
}

fn sum(parts: impl Iterator<Item = Figures>) -> i128 {
    parts.map(|figures| to_nanos(&figures.cost).unwrap()).sum()
}

fn rows_cost(rows: &[CostRow]) -> i128 {
    sum(rows.iter().map(|row| row.figures.clone()))
}

const WINDOW: &str = "window=1970-01-02T07:15:00Z,1970-02-08T03:30:00Z";

#[tokio::test]
async fn steps_of_any_width_sum_to_the_whole_row_by_row() {
    let site = busy_site();
    for (step, count) in [("1h", 885), ("1d", 38), ("1w", 6), ("1mo", 2)] {
        let path = format!("/api/v1/cost/pods?{WINDOW}&step={step}&limit=3");
        let answer: CostAnswer = site.get(&path).await.json();
        assert_eq!(answer.series.len(), count, "{step}");
        assert_eq!(answer.series[0].window.start, answer.window.start);
        assert_eq!(answer.series[count - 1].window.end, answer.window.end);
        assert_eq!(answer.next_page, None);
        let totals = sum(answer.series.iter().map(|part| part.totals.clone()));
        assert_eq!(Some(totals), to_nanos(&answer.totals.cost), "{step}");
        assert_eq!(Some(rows_cost(&answer.rows)), to_nanos(&answer.totals.cost));
        for row in &answer.rows {
            let same = answer.series.iter().flat_map(|part| &part.rows).filter(|part| part.key == row.key);
            let cost = sum(same.map(|part| part.figures.clone()));
            assert_eq!(Some(cost), to_nanos(&row.figures.cost), "{step}: {:?}", row.key);
        }
        for part in &answer.series {
            assert_eq!(Some(rows_cost(&part.rows)), to_nanos(&part.totals.cost), "{step}");
        }
    }
}

#[tokio::test]
async fn pages_show_every_row_once_whatever_the_time_is_meanwhile() {
    let site = busy_site();
    let query = format!("filter=namespace~:%22%22&order=held_seconds&limit=2&{WINDOW}");
    let whole: CostAnswer =
        site.get(&format!("/api/v1/cost/pods?{}", query.replace("limit=2", "limit=100"))).await.json();
    let mut seen = Vec::new();
    let mut path = format!("/api/v1/cost/pods?{query}");
    loop {
        let answer: CostAnswer = site.get(&path).await.json();
        assert_eq!((&answer.window, &answer.totals), (&whole.window, &whole.totals));
        let other = |row: &CostRow| row.key["pod"] == "__other__";
        assert_eq!(answer.rows.iter().any(other), answer.next_page.is_some());
        seen.extend(answer.rows.into_iter().filter(|row| !other(row)));
        let Some(page) = answer.next_page else { break };
        // The window is the first page's, whatever is asked for.
        path = format!("/api/v1/cost/pods?{}&page={page}", query.replace(WINDOW, "window=24h"));
    }
    seen.sort_by(|a, b| a.key.cmp(&b.key));
    let mut expected = whole.rows;
    expected.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_page_goes_on_with_its_own_query_alone() {
    let site = busy_site();
    let first: CostAnswer = site.get(&format!("/api/v1/cost/pods?{WINDOW}&limit=1")).await.json();
    let page = first.next_page.unwrap();
    for (query, said) in [
        (format!("page={page}&order=name"), "is of another query"),
        (format!("page={page}&filter=pod:%22x%22"), "is of another query"),
        (format!("page={page}&aggregate=pod"), "is of another query"),
        (format!("page={page}-1"), "is not a next_page"),
        ("page=1-2".to_owned(), "is not a next_page"),
        ("page=9-1-1-0".to_owned(), "is not a next_page"),
        (format!("page=0-900-{}-0", u64::MAX), "is not a next_page"),
        (format!("page={page}&step=1d"), "exclude each other"),
    ] {
        let (status, _, field, message) = site.get(&format!("/api/v1/cost/pods?{query}")).await.error();
        assert_eq!((status, field.as_deref()), (400, Some("page")), "{query}");
        assert!(message.contains(said), "{message}");
    }
}

#[tokio::test]
async fn an_offset_moves_the_window_back() {
    let site = busy_site();
    let ask = async |query: &str| site.get(&format!("/api/v1/cost/devices?{query}")).await;
    let moved: CostAnswer = ask("window=1970-01-20T00:00:00Z,1970-01-22T00:00:00Z&offset=1w").await.json();
    let there: CostAnswer = ask("window=1970-01-13T00:00:00Z,1970-01-15T00:00:00Z").await.json();
    assert_eq!((&moved.window, &moved.rows), (&there.window, &there.rows));
    for (query, field, said) in [
        ("window=today&offset=7x", "offset", "\"7x\" is not a length"),
        ("window=today&offset=7m", "offset", "whole quarters of an hour"),
        ("window=today&offset=1d", "offset", "before 1970"),
        ("window=today&step=2h", "step", "\"2h\" is not known; use 1h, 1d, 1w or 1mo"),
        ("window=1970-01-01T00:00:00Z,1970-03-01T00:00:00Z&step=1h", "step", "more than 1000"),
        ("window=1970-01-01T00:00:00Z,1970-02-01T00:00:00Z&step=1h&limit=200", "step", "a limit of 134"),
        ("window=today&order=size", "order", "use cost"),
    ] {
        let (status, _, named, message) = ask(query).await.error();
        assert_eq!((status, named.as_deref()), (400, Some(field)), "{query}");
        assert!(message.contains(said), "{message}");
    }
}

#[tokio::test]
async fn clients_of_kubecent_find_their_fields_as_numbers_beside_ours() {
    let site = site();
    let body = site.get("/api/v1/cost/namespaces?window=today").await.body;
    // Exact in the text, whatever a reader makes of it.
    let ml = "{\"name\":\"ml\",\"total_cost\":0.333333333,\"gpu_cost\":0.333333333,\"gpu_hours\":0.083333333,\
        \"cpu_cost\":0.000000000,\"memory_cost\":0.000000000,\"storage_cost\":0,\"network_cost\":0,\"idle_cost\":0.000000000,\"pod_count\":1}";
    assert!(body.contains(ml), "{body}");
    assert!(body.contains("\"total\":1.000000000,\"item_count\":4"), "{body}");
    let value: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(value["rows"].as_array().unwrap().len(), 4);
    assert_eq!(value["totals"]["cost"], "1.000000000");
    assert_eq!(value["not_measured"][0], "cpu_cost");

    let value: Value = site.get("/api/v1/cost/pods?window=today&namespace=ml").await.json();
    assert_eq!(
        (&value["pods"][0]["name"], &value["pods"][0]["namespace"]),
        (&"train-0".into(), &"ml".into())
    );
    assert_eq!((&value["item_count"], value["pods"][0].get("pod_count")), (&1.into(), None));
    // Grouped by something else, neither list would be what it is called.
    let other: Value = site.get("/api/v1/cost/pods?window=today&aggregate=node").await.json();
    assert_eq!((other.get("pods"), other.get("total")), (None, None));
}

#[tokio::test]
async fn months_and_the_cluster_are_the_sum_of_what_is_in_them() {
    let site = busy_site();
    // The clock stands in the first month: what lies behind is there all the same.
    let months: Value = site.get("/api/v1/cost/monthly?months=3").await.json();
    let january: CostAnswer = site.get("/api/v1/cost/pods?window=1970-01").await.json();
    let month = &months["months"][0];
    assert_eq!((&month["month"], &months["item_count"]), (&"1970-01".into(), &1.into()));
    assert_eq!(month["cost"], january.totals.cost.as_str());
    assert_eq!((&month["namespaces"], &month["pods"]), (&2.into(), &7.into()));
    assert_eq!(months["total"], month["total_cost"]);
    assert!(site.get("/api/v1/cost/monthly?months=14").await.error().3.contains("from 1 to 13"));
    assert_eq!(site.get("/api/v1/cost/monthly?step=1d").await.error().0, 400);

    let query = "window=1970-01&filter=namespace:%22web%22";
    let cluster: Value = site.get(&format!("/api/v1/cost/cluster?{query}")).await.json();
    let web: CostAnswer = site.get(&format!("/api/v1/cost/pods?{query}")).await.json();
    assert_eq!(cluster["totals"]["cost"], web.totals.cost.as_str());
    assert_eq!((&cluster["cluster_name"], &cluster["pods"]), (&"c".into(), &4.into()));
    assert_eq!(cluster["allocation"]["total_cost"], cluster["clusters"][0]["total_cost"]);
    assert_eq!(cluster["allocation"]["memory_cost"], 0.0);
    let nothing: Value = site.get("/api/v1/cost/cluster?window=1970-01&cluster=x").await.json();
    assert_eq!((&nothing["cluster_name"], &nothing["namespaces"]), (&"x".into(), &0.into()));
}
