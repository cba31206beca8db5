//! A week in which 500 pods come and go in every hour: what is shown and what is remembered stays small.

use axum::body::{Body, to_bytes};
use axum::http::Request;
use tower::ServiceExt as _;

use super::*;
use crate::api::auth::Authenticator;
use crate::api::{ApiState, router};
use crate::metrics::scrape::NAMESPACES_MAX;
use crate::prices::watch::Prices;

const NODES: [&str; 4] = ["n0", "n1", "n2", "n3"];
const GPUS: usize = 8;
const PODS_PER_HOUR: usize = 500;
const HOURS: i64 = 7 * 24;
const SLOT_S: i64 = SLOT_NS / S;
/// Of each family with a namespace: those that have labels, the others, and what nobody held.
const SERIES_MAX: usize = 3 * (NAMESPACES_MAX + 10) + 200;
const BYTES_MAX: usize = 400_000;

/// One node's hour: in each slot its GPUs are split among pods that were never there before.
fn hour(agent: &mut Agent, hour: i64) -> Sealed {
    let per_slot = PODS_PER_HOUR / NODES.len() / 4;
    let mut owners = Vec::new();
    let mut windows = Vec::new();
    for slot in 0..4 {
        let start_ns = BEGIN + (hour * 4 + slot) * SLOT_NS;
        let mut pods = vec![Vec::new(); GPUS];
        let last = if slot == 3 { PODS_PER_HOUR / NODES.len() - 3 * per_slot } else { per_slot };
        for at in 0..last {
            let number = usize::try_from(hour).unwrap() * PODS_PER_HOUR + owners.len();
            pods[at % GPUS].push(u32::try_from(owners.len()).unwrap());
            owners.push(pb::Owner {
                kind: pb::owner::Kind::Pod.into(),
                namespace: format!("team-{}", number % 3000),
                pod: format!("{}-{number}", agent.node),
                pod_uid: format!("{}-{number:036}", agent.node),
                ..pb::Owner::default()
            });
        }
        for (device, pods) in (0..).zip(pods) {
            let share = SLOT_NS.unsigned_abs() / pods.len() as u64;
            let usage = |owner| pb::Usage {
                owner,
                kind: pb::usage::Kind::Held.into(),
                held_ns: share,
                busy_ns: share / 2,
                method: 0b10010,
                ..pb::Usage::default()
            };
            windows.push(pb::Window {
                device,
                start_ns,
                duration_ns: SLOT_NS.unsigned_abs(),
                idle_ns: SLOT_NS.unsigned_abs() - share * pods.len() as u64,
                usages: pods.into_iter().map(usage).collect(),
                ..pb::Window::default()
            });
        }
    }
    agent.seq += 1;
    let device = |gpu| pb::Device {
        uuid: format!("GPU-{}-{gpu}", agent.node),
        model: "H100".into(),
        slices: 1,
        ..pb::Device::default()
    };
    agent.seal(pb::Batch { devices: (0..GPUS).map(device).collect(), owners, windows, ..agent.empty() })
}

fn api(ledger: &Ledger) -> axum::Router {
    let store = Store::open(ledger.dir.path()).unwrap();
    let clock = Clock::simulated(ledger.clock.path()).unwrap();
    router(ApiState {
        ledger: crate::store::identity(&store.writer().unwrap()).unwrap(),
        readers: store.readers(),
        authenticator: Arc::new(Authenticator::new(&store, clock.clone(), true)),
        clock,
        prices: Prices::fixed(Arc::new(Book::parse(BOOK).unwrap())),
        live: Arc::clone(&ledger.committer.live),
        metrics: Arc::clone(&ledger.committer.metrics),
        orders: Arc::new(|_| Box::pin(async { Err(OrderError::Unavailable) })),
        acts: Arc::new(|_| Box::pin(async { None })),
        alert_acts: Arc::new(|_| Box::pin(async { None })),
        parties: crate::export::Parties::default(),
        verify: Arc::new(|| Ok(tonnage_proto::rest::VerifyAnswer::default())),
        health: Arc::new(|| Ok(())),
        ready: Arc::new(|| Ok(())),
    })
}

async fn scrape(api: &axum::Router) -> String {
    let request = Request::get("/metrics").body(Body::empty()).unwrap();
    let body = api.clone().oneshot(request).await.unwrap().into_body();
    String::from_utf8(to_bytes(body, 1 << 24).await.unwrap().to_vec()).unwrap()
}

#[tokio::test]
async fn a_week_of_84_000_pods_leaves_metrics_and_memory_small() {
    let mut ledger = Ledger::new(BOOK, 0);
    let mut agents: Vec<Agent> = (0..).zip(NODES).map(|(epoch, node)| Agent::new(node, "a", epoch)).collect();
    for day in 0..HOURS / 24 {
        for at in day * 24..(day + 1) * 24 {
            ledger.at((at + 1) * 4 * SLOT_S);
            for agent in &mut agents {
                let sealed = hour(agent, at);
                assert_eq!(ledger.take(sealed), Outcome::Accepted);
            }
            ledger.tick();
        }
        let entries = ledger.committer.working.entries();
        let text = scrape(&api(&ledger)).await;
        let series = text.lines().filter(|line| !line.starts_with('#')).count();
        println!("day {day}: {entries} entries in use, {series} series, {} bytes", text.len());
        assert!(entries <= working::ENTRIES_SOFT_MAX + 2 * PODS_PER_HOUR * 8, "{entries} entries");
        assert!(series <= SERIES_MAX && text.len() <= BYTES_MAX, "{series} series, {} bytes", text.len());
        assert!(text.contains("__other__") && !text.contains("n0-1"), "{text}");
        let holdings = ledger.committer.live.holdings(BEGIN + (day + 1) * 96 * SLOT_NS);
        assert_eq!(holdings.len(), NODES.len() * GPUS);
        assert!(holdings.values().all(|holders| holders.len() <= 8));
    }
    let pods: i64 = ledger.db().query_row("SELECT COUNT(*) FROM owner", [], |row| row.get(0)).unwrap();
    assert_eq!(pods, HOURS * i64::try_from(PODS_PER_HOUR).unwrap());
}
