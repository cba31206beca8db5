//! The whole API over one small ledger: one node, one GPU, one slot of usage.

use std::sync::Mutex;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use serde_json::Value;
use tokio::sync::oneshot;
use tonnage_proto::decimal::to_nanos;
use tonnage_proto::limits::{DAY_NS, SLOT_NS};
use tonnage_proto::rest::{CostAnswer, DevicesAnswer, ErrorAnswer, IdleAnswer, NodesAnswer, PricesAnswer};
use tonnage_runtime::clock::{Reading, write_simulated};
use tower::ServiceExt as _;

use super::*;
use crate::commit::{Committer, Submission};
use crate::prices::Book;
use crate::prices::book::BOOK_BYTES_MAX;
use crate::store::tokens::{self, Grant, Role};
use crate::store::{Store, rollup, server};

const NODES: &str = "[[node]]\nname = \"n*\"\ninstance_type = \"dgx\"\n";
const BOOK: &str = "currency = \"USD\"\n[[price]]\nprice = \"4\"\nunit = \"gpu_hour\"\n";

struct Site {
    /// The ledger, and the clock.
    files: (tempfile::TempDir, tempfile::NamedTempFile),
    router: Router,
    reader: String,
    gate: String,
    operator: String,
    node: String,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn json<T: serde::de::DeserializeOwned>(&self) -> T {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    fn error(&self) -> (u16, String, Option<String>, String) {
        let error = self.json::<ErrorAnswer>().error;
        assert_eq!(self.headers["x-request-id"], error.request_id.as_str());
        (self.status.as_u16(), error.code, error.field, error.message)
    }
}

mod budgets;
mod cost;
mod explain;
mod export;
mod grants;
mod openapi;

/// The slot is [0, 900 s); now is 1000 s.
fn site() -> Site {
    site_of(|store, _| fill(store, 1, &seed()))
}

/// Runs SQL that has rows of the first so many days.
fn fill(store: &Store, days: i64, sql: &str) {
    let db = store.writer().unwrap();
    for table in ["slot", "slot_state", "entry", "hour", "day"] {
        server::make_room(&db, table, (0..days).map(|day| day * DAY_NS)).unwrap();
    }
    db.execute_batch(sql).unwrap();
    roll_up(&db);
}

/// Roll-ups of what was written behind their back.
fn roll_up(db: &crate::store::Connection) {
    let transaction = db.begin().unwrap();
    rollup::rebuild(&transaction).unwrap();
    transaction.commit().unwrap();
}

/// A site whose ledger was filled in this way.
fn site_of(fill: impl FnOnce(&Store, &Clock)) -> Site {
    let folder = tempfile::tempdir().unwrap();
    let clock_file = tempfile::NamedTempFile::new().unwrap();
    let now_ns = 1_000_000_000_000;
    let reading = Reading { wall_ns: now_ns, monotonic_ns: now_ns, boot_ns: now_ns };
    write_simulated(clock_file.as_file(), reading).unwrap();
    let clock = Clock::simulated(clock_file.path()).unwrap();
    let store = Store::open(folder.path()).unwrap();
    fill(&store, &clock);
    let db = store.writer().unwrap();
    let bound = crate::model::NodeName { cluster: "c".into(), node: "n1".into() };
    let gate = tokens::add(&db, "g", &Grant::Role(Role::Gate), 0).unwrap();
    let operator = tokens::add(&db, "o", &Grant::Role(Role::Operator), 0).unwrap();
    let reader = tokens::add(&db, "r", &Grant::Role(Role::Reader), 0).unwrap();
    let node = tokens::add(&db, "n1", &Grant::Node(bound), 0).unwrap();
    let book = Arc::new(Book::parse(BOOK).unwrap());
    let committer = Committer::new(&store, clock.clone(), book, Arc::default(), Arc::default()).unwrap();
    let committer = Arc::new(Mutex::new(committer));
    let own = Arc::clone(&committer);
    let acts: Acts = Arc::new(move |act| {
        let (answer, mut answered) = oneshot::channel();
        let submission = Submission::Budget { act: Box::new(act), answer };
        own.lock().unwrap().commit_now(vec![submission]);
        Box::pin(async move { answered.try_recv().unwrap().ok() })
    });
    let alert_acts: AlertActs = Arc::new(move |act| {
        let (answer, mut answered) = oneshot::channel();
        committer.lock().unwrap().commit_now(vec![Submission::Alerts { act, answer }]);
        Box::pin(async move { answered.try_recv().unwrap().ok() })
    });
    let state = ApiState {
        clock: clock.clone(),
        ledger: crate::store::identity(&db).unwrap(),
        readers: store.readers(),
        authenticator: Arc::new(Authenticator::new(&store, clock, false)),
        prices: Prices::fixed(Arc::new(Book::parse(&Book::joined(BOOK, NODES)).unwrap())),
        live: Arc::default(),
        metrics: Arc::default(),
        orders: Arc::new(|_| Box::pin(async { Err(OrderError::Unavailable) })),
        acts,
        alert_acts,
        parties: Parties::default(),
        verify: Arc::new(|| Ok(VerifyAnswer::default())),
        health: Arc::new(|| Ok(())),
        ready: Arc::new(|| Err("the ledger is being opened".to_owned())),
    };
    Site { files: (folder, clock_file), router: router(state), reader, gate, operator, node }
}

/// 900 s at 4 an hour cost 1: a third held by a pod, a third idle, a third unobserved, 1 nano of rounding.
fn seed() -> String {
    let mut sql = format!(
        "INSERT INTO node (id, cluster, name, agent_version, accepted) VALUES (1, 'c', 'n1', '0.1.0', 7);
         INSERT INTO device VALUES (1, 'GPU-1', 'H100', 80, 0, '', '');
         INSERT INTO tenure (id, device, node, life, slices, claimed_ns, to_ns, covered_until_ns)
         VALUES (1, 1, 1, 'b', 1, 0, {SLOT_NS}, {SLOT_NS});
         INSERT INTO owner VALUES (1, 2, 'ml', 'train-0', 'u', '', '', '', '', '', '', '', '');"
    );
    for table in ["slot", "hour", "day"] {
        for (owner, kind, time_ns, cost) in [
            (1, 0, SLOT_NS / 3, 333_333_333),
            (0, 1, SLOT_NS / 3, 333_333_333),
            (0, 2, SLOT_NS / 3, 333_333_333),
            (0, 3, 0, 1),
        ] {
            sql += &format!(
                "INSERT INTO {table} VALUES (0, 1, 0, {owner}, {kind}, {time_ns}, 0, 0, 0, 1, {cost}, 0);"
            );
        }
    }
    sql
}

impl Site {
    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = String::from_utf8(to_bytes(body, 1 << 24).await.unwrap().to_vec()).unwrap();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    async fn get(&self, path: &str) -> Answer {
        let authorization = format!("Bearer {}", self.reader);
        let request = Request::get(path).header("authorization", authorization).body(Body::empty());
        self.send(request.unwrap()).await
    }
}

#[tokio::test]
async fn rows_of_a_cost_answer_sum_to_its_totals() {
    let site = site();
    for path in ["namespaces", "pods", "jobs", "users", "devices", "nodes"] {
        let answer: CostAnswer = site.get(&format!("/api/v1/cost/{path}?window=today")).await.json();
        assert_eq!(answer.totals.cost, "1.000000000", "{path}");
        let sum: i128 = answer.rows.iter().map(|row| to_nanos(&row.figures.cost).unwrap()).sum();
        assert_eq!(sum, 1_000_000_000, "{path}");
        assert_eq!((answer.coverage.as_str(), answer.data_age_seconds), ("0.666", Some(100)), "{path}");
        assert_eq!(answer.window.end, "1970-01-01T00:30:00Z");
    }
}

#[tokio::test]
async fn a_table_of_pods_names_what_nobody_held_and_how_figures_were_obtained() {
    let answer: CostAnswer = site().get("/api/v1/cost/pods?window=today").await.json();
    let pods: Vec<&str> = answer.rows.iter().map(|row| row.key["pod"].as_str()).collect();
    assert_eq!(pods, ["__idle__", "__unobserved__", "train-0", "__rounding__"]);
    assert_eq!(answer.rows[2].methods, ["held_cgroup"]);
    assert_eq!(answer.rows[2].figures.held_seconds, "300.000000000");
    // A third of 1 in the 1000 s that have passed, per hour.
    assert_eq!(answer.rows[2].figures.hourly_rate, "1.199999998");
}

#[tokio::test]
async fn with_an_owner_filter_an_answer_is_about_held_time_only() {
    let answer: CostAnswer =
        site().get("/api/v1/cost/pods?window=today&owner=train-0&namespace=ml").await.json();
    assert_eq!((answer.rows.len(), answer.totals.cost.as_str()), (1, "0.333333333"));
    assert_eq!((answer.totals.idle_seconds.as_str(), answer.coverage.as_str()), ("0.000000000", ""));
    let other: CostAnswer = site().get("/api/v1/cost/pods?window=today&owner=train").await.json();
    assert!(other.rows.is_empty());
}

#[tokio::test]
async fn a_filter_works_beside_the_single_ones_and_by_what_the_nodes_file_says() {
    let site = site();
    for (query, cost, coverage) in [
        ("filter=namespace:%22ml%22", "0.333333333", ""),
        ("filter=namespace!:%22ml%22", "0.666666667", ""),
        ("filter=instanceType:%22dgx%22%2Bnode%3C~:%22n%22", "1.000000000", "0.666"),
        ("filter=pod~%3E:%22-0%22%7Cpod:%22__idle__%22&idle=true", "0.666666666", ""),
        ("filter=provider:%22aws%22", "0.000000000", ""),
        ("filter=controllerKind!:%22job%22&owner=train-0", "0.333333333", ""),
    ] {
        let answer: CostAnswer = site.get(&format!("/api/v1/cost/pods?window=today&{query}")).await.json();
        assert_eq!((answer.totals.cost.as_str(), answer.coverage.as_str()), (cost, coverage), "{query}");
    }
    let by = "/api/v1/cost/pods?window=today&aggregate=instance_type,sharingMode";
    let answer: CostAnswer = site.get(by).await.json();
    assert_eq!(answer.aggregate, ["instance_type", "sharing_mode"]);
    let keys: Vec<_> = answer.rows.iter().map(|row| row.key["sharing_mode"].as_str()).collect();
    assert_eq!(keys, ["__idle__", "__unobserved__", "exclusive", "__rounding__"]);
    assert!(answer.rows.iter().all(|row| row.key["instance_type"] == "dgx"));
}

/// PostgreSQL has no text with it, and would fail.
#[tokio::test]
async fn a_name_with_a_zero_character_is_refused_before_any_database_is_asked() {
    let site = site();
    for (path, field) in [
        ("cost/pods?owner=a%00", "owner"),
        ("cost/pods?filter=pod:%22%00%22", "filter"),
        ("idle?node=%00", "node"),
        ("explain?pod=ml%00", "pod"),
        ("unobserved?device=GPU%00", "device"),
    ] {
        let (status, _, named, message) = site.get(&format!("/api/v1/{path}")).await.error();
        assert_eq!((status, named.as_deref()), (400, Some(field)), "{path}: {message}");
        assert!(message.contains("U+0000"), "{path}: {message}");
    }
    let request = Request::post("/api/v1/devices/GPU%00/retire");
    let request = request.header("authorization", format!("Bearer {}", site.reader));
    let (status, _, field, message) = site.send(request.body(Body::empty()).unwrap()).await.error();
    assert_eq!((status, field.as_deref()), (400, Some("uuid")), "{message}");
}

#[tokio::test]
async fn a_wrong_parameter_is_named() {
    let site = site();
    for (query, field, said) in [
        ("window=fortnight", Some("window"), "\"fortnight\" is not a window"),
        ("aggregate=label", Some("aggregate"), "\"label\" is not known: name a label of pods"),
        ("filter=namespace:ml", Some("filter"), "at character 11: found \"ml\", expected a value in double"),
        ("filter=annotation%5Ba%5D:%22b%22", Some("filter"), "annotations are not in the ledger"),
        ("idle=maybe", Some("idle"), "neither true nor false"),
        ("limit=0", Some("limit"), "from 1 to 10000"),
        ("node=a&node=b", Some("node"), "more than once"),
        ("node=", Some("node"), "leave it out"),
        ("colour=red", None, "\"colour\" is not a parameter"),
    ] {
        let (status, code, named, message) = site.get(&format!("/api/v1/cost/pods?{query}")).await.error();
        assert_eq!((status, code.as_str(), named.as_deref()), (400, "invalid_parameter", field), "{query}");
        assert!(message.contains(said), "{message}");
    }
    assert_eq!(site.get("/api/v1/nodes?x=1").await.error().0, 400);
}

#[tokio::test]
async fn only_who_may_read_reads() {
    let site = site();
    let ask = async |header: Option<String>| {
        let mut request = Request::get("/api/v1/nodes");
        if let Some(header) = header {
            request = request.header("authorization", header);
        }
        site.send(request.body(Body::empty()).unwrap()).await
    };
    let nobody = ask(None).await;
    assert_eq!(nobody.headers["www-authenticate"], "Bearer");
    assert_eq!(nobody.error().1, "unauthenticated");
    assert_eq!(ask(Some("Basic abc".into())).await.error().0, 401);
    assert_eq!(ask(Some(format!("Bearer {}", site.node))).await.error().1, "forbidden");
    assert_eq!(ask(Some(format!("Bearer {}", site.reader))).await.status, StatusCode::OK);
}

#[tokio::test]
async fn every_error_has_the_one_shape() {
    let site = site();
    assert_eq!(site.get("/api/v1/cost/teams").await.error().1, "not_found");
    assert_eq!(site.get("/").await.error().0, 404);
    let delete = Request::delete("/version").body(Body::empty()).unwrap();
    let answer = site.send(delete).await;
    assert_eq!(answer.headers["allow"], "GET,HEAD");
    assert_eq!(answer.error().1, "method_not_allowed");
    let not_ready = site.get("/readyz").await.error();
    assert_eq!((not_ready.0, not_ready.3.as_str()), (503, "the ledger is being opened"));
}

#[tokio::test]
async fn a_sane_request_id_is_kept_and_another_is_replaced() {
    let site = site();
    for (sent, kept) in [("abc-1.2_3", true), ("a b", false), ("", false), ("x;y", false)] {
        let request = Request::get("/version").header("x-request-id", sent).body(Body::empty()).unwrap();
        let answer = site.send(request).await;
        assert_eq!(answer.headers["x-request-id"] == sent, kept, "{sent:?}");
    }
}

#[tokio::test]
async fn a_price_book_is_checked_and_its_error_has_a_line() {
    let site = site();
    let check = async |body: String| {
        let request = Request::post("/api/v1/prices/check")
            .header("authorization", format!("Bearer {}", site.reader))
            .body(Body::from(body));
        site.send(request.unwrap()).await
    };
    let good: PricesAnswer = check(BOOK.to_owned()).await.json();
    assert_eq!(good.prices[0].price_per_gpu_hour, "4.000000000");
    let bad = check("currency = \"USD\"\n[[price]]\nprice = 1\nunit = \"h\"\n".to_owned()).await.error();
    assert_eq!((bad.0, bad.1.as_str()), (422, "invalid_price_book"));
    assert!(bad.3.starts_with("price book line 4: price.unit: \"h\" is not a unit"), "{}", bad.3);
    assert_eq!(check("#".repeat(BOOK_BYTES_MAX + 1)).await.error().1, "too_large");
    let current: PricesAnswer = site.get("/api/v1/prices").await.json();
    assert_eq!((current.prices.len(), current.error), (1, None));
}

#[tokio::test]
async fn nodes_and_devices_are_listed_with_their_state() {
    let site = site();
    let nodes: NodesAnswer = site.get("/api/v1/nodes").await.json();
    assert_eq!(
        (nodes.nodes[0].devices, nodes.nodes[0].batches_accepted, nodes.nodes[0].connected),
        (1, 7, false)
    );
    assert_eq!(nodes.nodes[0].facts.instance_type, "dgx", "by the nodes file");
    let devices: DevicesAnswer = site.get("/api/v1/devices").await.json();
    assert_eq!(devices.devices[0].price_per_hour.as_deref(), Some("4.000000000"));
    let live: Value = site.get("/api/v1/live").await.json();
    assert_eq!(live["rows"], Value::Array(Vec::new()));
}

#[tokio::test]
async fn an_idle_answer_has_three_lists_and_totals() {
    let site = site();
    // The pod holds by allocation and the driver says that it was never busy; a user is there, too.
    let db = Store::open(site.files.0.path()).unwrap().writer().unwrap();
    db.execute_batch(
        "UPDATE slot SET method = 18 WHERE kind = 0; UPDATE slot SET busy_ns = 5000000000 WHERE kind = 1;
         INSERT INTO owner VALUES (2, 5, '', '', '', '', '', '', '', '', 'eve', 'physics', 'gpu');
         INSERT INTO slot VALUES (0, 1, 0, 2, 4, 0, 9000000000, 0, 0, 16, 0, 0);",
    )
    .unwrap();
    roll_up(&db);
    let answer: IdleAnswer = site.get("/api/v1/idle?window=today").await.json();
    let row = &answer.held_idle[0];
    assert_eq!((row.owner.pod.as_str(), row.busy_known, row.holding_now), ("train-0", true, false));
    assert_eq!(row.idle_seconds.as_deref(), Some("300.000000000"));
    assert_eq!((row.idle_cost.as_deref(), row.idle_since.as_ref()), (Some("0.333333333"), None));
    let intruder = &answer.intruders[0];
    assert_eq!((intruder.owner.user.as_str(), intruder.owner.account.as_str()), ("eve", "physics"));
    assert_eq!(intruder.holder.as_ref().unwrap().pod, "train-0");
    assert_eq!(
        (intruder.busy_seconds.as_str(), intruder.first.as_str()),
        ("9.000000000", "1970-01-01T00:00:00Z")
    );
    assert_eq!(answer.unattributed[0].busy_unattributed_seconds, "5.000000000");
    assert_eq!(answer.totals.idle_cost, "0.333333333");
    let of_eve: IdleAnswer = site.get("/api/v1/idle?window=today&account=physics&limit=1").await.json();
    assert_eq!((of_eve.held_idle.len(), of_eve.intruders.len(), of_eve.unattributed.len()), (0, 1, 0));
    assert_eq!(site.get("/api/v1/idle?aggregate=pod").await.error().0, 400);
    let cost: CostAnswer =
        site.get("/api/v1/cost/users?window=today&aggregate=account,partition").await.json();
    let physics = cost.rows.iter().find(|row| row.key["account"] == "physics").unwrap();
    assert_eq!(physics.key["partition"], "gpu");
    assert_eq!(
        (physics.figures.cost.as_str(), physics.figures.busy_seconds.as_str()),
        ("0.000000000", "0.000000000")
    );
    assert_eq!(physics.figures.intruder_busy_seconds, "9.000000000");
}

#[tokio::test]
async fn metrics_show_the_ledgers_sums_and_head_works() {
    let site = site();
    let text = site.get("/metrics").await.body;
    for line in [
        "tonnage_gpu_cost_dollars{cluster=\"c\",kind=\"held\",namespace=\"ml\"} 0.333333333",
        "tonnage_gpu_cost_dollars{cluster=\"c\",kind=\"unobserved\",namespace=\"\"} 0.333333333",
        "tonnage_data_age_seconds 100",
        "tonnage_price_book_good 1",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    let head = Request::head("/healthz").body(Body::empty()).unwrap();
    let answer = site.send(head).await;
    assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, ""));
    let again = site.get("/metrics").await.body;
    assert!(again.contains("tonnage_http_requests_total{code=\"200\",route=\"/healthz\"} 1"), "{again}");
}

#[tokio::test]
async fn a_panic_is_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let state = ApiState {
        clock: Clock::system(),
        ledger: crate::store::identity(&store.writer().unwrap()).unwrap(),
        readers: store.readers(),
        authenticator: Arc::new(Authenticator::new(&store, Clock::system(), true)),
        prices: Prices::fixed(Arc::new(Book::empty())),
        live: Arc::default(),
        metrics: Arc::default(),
        orders: Arc::new(|_| Box::pin(async { Err(OrderError::Unavailable) })),
        acts: Arc::new(|_| Box::pin(async { None })),
        alert_acts: Arc::new(|_| Box::pin(async { None })),
        parties: Parties::default(),
        verify: Arc::new(|| Ok(VerifyAnswer::default())),
        health: Arc::new(|| panic!("broken")),
        ready: Arc::new(|| Ok(())),
    };
    let request = Request::get("/healthz").body(Body::empty()).unwrap();
    let response = router(state).oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let body = to_bytes(response.into_body(), 1 << 16).await.unwrap();
    assert_eq!(serde_json::from_slice::<ErrorAnswer>(&body).unwrap().error.code, "internal");
}
