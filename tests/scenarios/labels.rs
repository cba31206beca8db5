//! Labels and controllers of pods, from an API server to the bill, over whole processes.

use std::collections::BTreeMap;

use harness::http::{self, Scrape};
use harness::kubelet::{self, Kubelet};
use harness::kubernetes::{self, ApiServer};
use harness::process::free_ports;
use harness::scenario;
use harness::sim_clock::BEGIN_NS;
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};
use tonnage_proto::decimal::to_nanos;
use tonnage_proto::limits::SLOT_NS;
use tonnage_proto::rest::{CostAnswer, CostRow};

use crate::ledgers::orders::{refused, said};

const JOB: &str = "0b5f3f0e-0000-4000-8000-000000000001";

struct Site {
    world: World,
    api: ApiServer,
    /// Of OpenCost's API.
    opencost: String,
    _kubelet: Kubelet,
}

/// A pod of a CronJob's Job holds one of two GPUs; its cluster is watched.
fn site() -> anyhow::Result<Site> {
    let mut world = World::new(1)?;
    world.add_node("n", scenario::node(2))?;
    let api = ApiServer::start()?;
    api.put("namespaces", kubernetes::named("ml", "ns-1", &[("team", "of-namespace"), ("tier", "gold")]));
    let nightly = kubernetes::pod("nightly-1", JOB, Some(("CronJob", "nightly")), &[]);
    api.put("jobs", nightly);
    api.put("pods", train("a"));
    let config = world.dir().join("kubeconfig");
    api.kubeconfig(&config)?;
    let [port] = free_ports()?;
    let listen = format!("127.0.0.1:{port}");
    let config = config.to_string_lossy();
    let own = ["--kubernetes-cluster", "test", "--kubernetes-config", &config, "--opencost-listen", &listen];
    world.aggregator.extra_args = own.map(str::to_owned).to_vec();
    let kubelet = Kubelet::start(&world.nodes[0].kubelet_socket())?;
    kubelet::begin_pod(world.nodes[0].dir(), "train-0", &scenario::pod_uid(1))?;
    kubelet.set_pods(vec![kubelet::pod("train-0", &[&scenario::uuid(0)])]);
    world.start()?;
    wait_until(DEADLINE, "the kubelet's first list", String::new, || {
        let up = world.nodes[0].metrics()?.sum("tonnage_agent_kubelet_up");
        Ok((up == Some(1.0)).then_some(()))
    })?;
    Ok(Site { world, api, opencost: format!("http://{listen}"), _kubelet: kubelet })
}

fn train(team: &str) -> serde_json::Value {
    kubernetes::pod("train-0", &scenario::pod_uid(1), Some(("Job", JOB)), &[("team", team)])
}

impl Site {
    /// The pod's label is `a` for 20 seconds of the first slot, and `b` for 30 of the next; then the agent ends.
    fn relabelled(&mut self) -> anyhow::Result<()> {
        self.world.live(20)?;
        let edge_ns = BEGIN_NS + SLOT_NS;
        let now_ns = self.world.now().wall_ns;
        self.world.advance(edge_ns - now_ns)?;
        self.api.put("pods", train("b"));
        self.wait_versions(3)?;
        self.world.live(30)?;
        self.world.nodes[0].stop(DEADLINE)
    }

    fn metric(&self, name: &str) -> anyhow::Result<Option<f64>> {
        Ok(Scrape::parse(&self.world.aggregator.get("/metrics")?.1)?.sum(name))
    }

    /// Held seconds by a grouping over all time.
    fn held(&self, aggregate: &str) -> anyhow::Result<BTreeMap<String, i128>> {
        let path = format!("/api/v1/cost/namespaces?aggregate={aggregate}&idle=false&window=24h");
        let answer: CostAnswer = self.world.aggregator.answer(&path)?;
        let sum: i128 = answer.rows.iter().map(|row| to_nanos(&row.figures.cost).unwrap()).sum();
        let whole = to_nanos(&answer.totals.held_cost).unwrap();
        anyhow::ensure!(sum == whole, "{aggregate}: rows sum to {sum}, totals are {whole}");
        let seconds = |row: &CostRow| {
            (row.key[aggregate].clone(), to_nanos(&row.figures.held_seconds).unwrap() / 1_000_000_000)
        };
        Ok(answer.rows.iter().map(seconds).collect())
    }

    /// Waits until the ledger has heard of so many versions of pods and namespaces.
    fn wait_versions(&self, count: i64) -> anyhow::Result<()> {
        let store = self.world.aggregator.store()?;
        let found = || {
            store
                .readers()
                .with(|db| Ok(db.query_row("SELECT COUNT(*) FROM described", [], |row| row.get::<i64>(0))?))
        };
        let there = || format!("{count} versions; there are {:?}", found());
        wait_until(DEADLINE, "what Kubernetes said in the ledger", there, || {
            Ok((found()? == count).then_some(()))
        })
    }

    fn verify(&self) -> anyhow::Result<()> {
        let said = self.world.aggregator.admin(&["verify"])?;
        anyhow::ensure!(said.contains("\nconserved: "), "{said}");
        Ok(())
    }
}

fn one(name: &str, seconds: i128) -> BTreeMap<String, i128> {
    [(name.to_owned(), seconds)].into()
}

#[test]
fn a_label_that_changes_at_a_slots_edge_bills_each_slot_by_its_own() -> anyhow::Result<()> {
    let mut site = site()?;
    site.wait_versions(2)?;
    site.relabelled()?;
    let teams = site.held("team")?;
    assert_eq!(teams.keys().map(String::as_str).collect::<Vec<_>>(), ["a", "b"]);
    assert!(teams["a"] >= 19 && teams["b"] >= 29, "{teams:?}");
    let all: i128 = teams.values().sum();
    assert_eq!(site.held("label:team")?, teams);
    assert_eq!(site.held("controller")?, one("cronjob-nightly", all));
    assert_eq!(site.held("controller_kind")?, one("CronJob", all));
    assert_eq!(site.held("namespace_label:tier")?, one("gold", all));
    assert_eq!(site.held("label:none")?, one("__unallocated__", all));
    assert_eq!(site.api.counts().refused, 0, "metadata alone was asked for");
    let properties = |query: &str| -> anyhow::Result<serde_json::Value> {
        let url = format!("{}/allocation?window=24h{query}", site.opencost);
        let (status, text) = http::get(&http::http(), &url, None)?;
        let answer: serde_json::Value = serde_json::from_str(&text)?;
        let mut sets = answer["data"].as_array().into_iter().flatten().filter_map(|set| set.as_object());
        let found = sets.find_map(|set| set.values().next());
        Ok(found.ok_or_else(|| anyhow::anyhow!("{status} {text}"))?["properties"].clone())
    };
    let of_pod = properties("")?;
    assert_eq!(of_pod["labels"], serde_json::json!({ "team": "b" }), "{of_pod}");
    assert_eq!(of_pod["namespaceLabels"], serde_json::json!({ "team": "of-namespace", "tier": "gold" }));
    assert_eq!(
        (&of_pod["controllerKind"], &of_pod["controller"]),
        (&"CronJob".into(), &"cronjob-nightly".into())
    );
    let of_team = properties("&aggregate=label:team&filter=label%5Bteam%5D:%22a%22")?;
    assert_eq!((&of_team["pod"], &of_team["labels"]), (&"train-0".into(), &serde_json::Value::Null));
    site.verify()
}

#[test]
fn a_budget_that_is_bound_by_a_label_pays_for_the_slots_that_had_it() -> anyhow::Result<()> {
    let mut site = site()?;
    site.wait_versions(2)?;
    let bind = |name: &str, bound: &str| {
        said(&site.world, &["account", "create", name, "--limit", "100", "--bind", bound])
    };
    bind("first", "label:team=a")?;
    let shown = said(&site.world, &["account", "show", "first"])?;
    anyhow::ensure!(shown.contains("label:team a"), "{shown}");
    bind("second", "label:team=b")?;
    // One pod could have both.
    let both = ["account", "create", "third", "--limit", "1", "--bind", "label:app=x"];
    let conflict = refused(&site.world, &both)?;
    anyhow::ensure!(conflict.contains("label:app \"x\"") && conflict.contains("\"first\""), "{conflict}");
    site.relabelled()?;
    let (teams, budgets) = (site.held("label:team")?, site.held("budget")?);
    assert_eq!((budgets["first"], budgets["second"]), (teams["a"], teams["b"]));
    assert_eq!((budgets.len(), teams["a"] >= 19, teams["b"] >= 29), (2, true, true));
    let (_, accounts) = site.world.aggregator.get("/api/v1/accounts")?;
    let accounts: serde_json::Value = serde_json::from_str(&accounts)?;
    for (at, team) in ["a", "b"].into_iter().enumerate() {
        // A GPU costs a nano-dollar for each of so many nanoseconds: the same sums by another way.
        let used = to_nanos(accounts[at]["exact"]["budget_used"].as_str().unwrap_or_default());
        let answer: CostAnswer = site.world.aggregator.answer(&format!(
            "/api/v1/cost/namespaces?aggregate=label:team&idle=false&window=24h&filter=label%5Bteam%5D:%22{team}%22"
        ))?;
        assert_eq!(used, to_nanos(&answer.totals.held_cost), "{team}");
    }
    let check = ["budget", "check", "--label", "team=a", "--gpus", "1", "--time", "1:00:00", "-o", "json"];
    let held: serde_json::Value = serde_json::from_str(&said(&site.world, &check)?)?;
    let id = held["transaction_id"].as_str().unwrap_or_default();
    let hold = said(&site.world, &["hold", "show", id])?;
    anyhow::ensure!(hold.contains("account_id: 1\n"), "{hold}");
    site.verify()
}

#[test]
fn while_the_api_server_is_away_only_labels_are_not_known_and_it_is_told() -> anyhow::Result<()> {
    let mut site = site()?;
    site.wait_versions(2)?;
    wait_until(DEADLINE, "the API server up", String::new, || {
        Ok((site.metric("tonnage_kubernetes_up")? == Some(1.0)).then_some(()))
    })?;
    site.api.away();
    wait_until(DEADLINE, "the API server away", String::new, || {
        Ok((site.metric("tonnage_kubernetes_up")? == Some(0.0)).then_some(()))
    })?;
    assert!(site.metric("tonnage_kubernetes_errors_total")? > Some(0.0));
    assert_eq!(site.world.aggregator.get("/readyz")?.0, 200);
    site.world.live(10)?;
    site.api.put("pods", train("b"));
    // What happened is forgotten meanwhile: all has to be listed again.
    site.api.compact();
    site.api.put("pods", kubernetes::pod("other", "uid-other", None, &[]));
    site.api.back();
    site.wait_versions(4)?;
    wait_until(DEADLINE, "the API server back", String::new, || {
        Ok((site.metric("tonnage_kubernetes_up")? == Some(1.0)).then_some(()))
    })?;
    site.world.live(10)?;
    site.world.nodes[0].stop(DEADLINE)?;
    let teams = site.held("team")?;
    assert_eq!(
        teams.keys().map(String::as_str).collect::<Vec<_>>(),
        ["b"],
        "in the slot in which it was seen"
    );
    assert!(site.api.counts().gone > 0, "{:?}", site.api.counts());
    site.verify()
}

#[test]
fn each_of_several_clusters_is_watched_by_itself() -> anyhow::Result<()> {
    let mut world = World::new(1)?;
    let apis = [ApiServer::start()?, ApiServer::start()?];
    for (api, cluster) in apis.iter().zip(["east", "west"]) {
        api.put("pods", kubernetes::pod("train-0", "same-uid", None, &[("team", cluster)]));
        let config = world.dir().join(cluster);
        api.kubeconfig(&config)?;
        let named = format!("{cluster}={}", config.display());
        world.aggregator.extra_args.extend(["--kubernetes-cluster".to_owned(), named]);
    }
    world.aggregator.start(DEADLINE)?;
    let aggregator = &world.aggregator;
    let up = || -> anyhow::Result<BTreeMap<String, f64>> {
        let scrape = Scrape::parse(&aggregator.get("/metrics")?.1)?;
        let series = scrape.series("tonnage_kubernetes_up");
        Ok(series.iter().map(|(labels, value)| (labels["cluster"].clone(), *value)).collect())
    };
    let is = |east: f64, west: f64| BTreeMap::from([("east".to_owned(), east), ("west".to_owned(), west)]);
    let shown = || format!("{:?}", up());
    wait_until(DEADLINE, "both up", shown, || Ok((up()? == is(1.0, 1.0)).then_some(())))?;
    let known = "SELECT s.cluster || ' ' || d.json FROM subject s JOIN described v ON v.subject = s.id
        JOIN description d ON d.id = v.description ORDER BY s.cluster";
    let store = aggregator.store()?;
    let told = || {
        store.readers().with(|db| {
            let mut statement = db.prepare_cached(known)?;
            let mut rows = statement.query([])?;
            let mut told = Vec::new();
            while let Some(row) = rows.next()? {
                told.push(row.get::<String>(0)?);
            }
            Ok(told)
        })
    };
    wait_until(
        DEADLINE,
        "what both said",
        || format!("{:?}", told()),
        || {
            let told = told()?;
            let both = told.len() == 2 && told.iter().all(|said| said.matches(&said[..4]).count() == 2);
            Ok(both.then_some(()))
        },
    )?;
    apis[0].away();
    wait_until(DEADLINE, "one away", shown, || Ok((up()? == is(0.0, 1.0)).then_some(())))
}

#[test]
fn thousands_of_pods_are_known_and_told_once() -> anyhow::Result<()> {
    let site = site()?;
    for at in 0..3_000 {
        let controller = Some(("Job", JOB));
        site.api.put(
            "pods",
            kubernetes::pod(&format!("p{at}"), &format!("uid-{at}"), controller, &[("team", "a")]),
        );
    }
    site.wait_versions(3_002)?;
    let entries = || -> anyhow::Result<i64> {
        let count = "SELECT COUNT(*) FROM journal WHERE kind = 9";
        Ok(site
            .world
            .aggregator
            .store()?
            .readers()
            .with(|db| Ok(db.query_row(count, [], |row| row.get(0))?))?)
    };
    let before = entries()?;
    // Everything is listed again, and nothing of it is new.
    let lists = site.api.counts().lists;
    site.api.compact();
    wait_until(DEADLINE, "all lists again", String::new, || {
        Ok((site.api.counts().lists >= lists + 10).then_some(()))
    })?;
    site.api.put("pods", kubernetes::pod("last", "uid-last", None, &[]));
    site.wait_versions(3_003)?;
    assert_eq!(entries()?, before + 1);
    site.verify()
}
