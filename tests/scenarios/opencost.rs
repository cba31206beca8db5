//! Clients of OpenCost, over whole processes: what they read sums to the bill, to the last digit printed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use harness::http::{Scrape, get, http};
use harness::kubelet::{self, Kubelet};
use harness::process::free_ports;
use harness::scenario;
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tonnage_proto::decimal::to_nanos;
use tonnage_proto::limits::{SILENCE_NS, slot_start};
use tonnage_proto::rest::CostAnswer;

const MINUTE_NS: i64 = 60_000_000_000;
/// So odd that every slot has something to round.
const BOOK: &str = "currency = \"USD\"\n\n[[price]]\nprice = \"1.234567891\"\nunit = \"gpu_hour\"\n";
const NODES: &str =
    "[[node]]\nname = \"n\"\ninstance_type = \"p5\"\nregion = \"eu\"\ncapacity_type = \"spot\"\n";
/// What the upstream says, whatever it is asked: of a namespace that has GPUs and of one that has none.
const UPSTREAM: &str = r#"{"code":200,"status":"success","data":[{
    "ml":{"name":"ml","cpuCost":1.5,"ramCost":0.25,"gpuCost":77,"gpuHours":9,"pvs":null},
    "web":{"name":"web","cpuCost":2},
    "bad":{"name":"bad","cpuCost":-2}}]}"#;

/// What it says of nodes and disks: of the node that has GPUs and of another.
const UPSTREAM_ASSETS: &str = r#"{"code":200,"status":"success","data":{
    "p/n":{"type":"Node","properties":{"cluster":"test","name":"n"},"cpuCores":96,"cpuCost":2,"ramCost":0.5,
        "gpuCost":77,"adjustment":-3,"discount":0.2},
    "p/web":{"type":"Node","properties":{"cluster":"test","name":"web"},"cpuCost":1},
    "p/disk":{"type":"Disk","properties":{"cluster":"test","name":"n"},"totalCost":0.75,"local":1},
    "p/bad":{"type":"Disk","totalCost":"free"},
    "p/lb":{"type":"LoadBalancer","totalCost":9}}}"#;

/// Numbers as they are printed.
type Raw<'a> = BTreeMap<String, &'a RawValue>;

#[derive(Deserialize)]
struct Allocations<'a> {
    code: u16,
    #[serde(borrow)]
    data: Vec<BTreeMap<String, Raw<'a>>>,
}

#[derive(Deserialize)]
struct Assets<'a> {
    #[serde(borrow)]
    data: BTreeMap<String, Raw<'a>>,
}

struct Site {
    world: World,
    url: String,
    _kubelet: Kubelet,
}

/// A pod holds one of two GPUs for a while; then nothing is heard of the node for an hour.
fn site(args: &[&str]) -> anyhow::Result<Site> {
    let mut world = World::new(1)?;
    world.add_node("n", scenario::node(2))?;
    std::fs::write(world.aggregator.prices(), BOOK)?;
    let nodes = world.dir().join("nodes.toml");
    std::fs::write(&nodes, NODES)?;
    let [port] = free_ports()?;
    let listen = format!("127.0.0.1:{port}");
    let own = ["--nodes-file", &nodes.to_string_lossy(), "--opencost-listen", &listen].map(str::to_owned);
    world.aggregator.extra_args = own.into_iter().chain(args.iter().map(|arg| (*arg).to_owned())).collect();
    let kubelet = Kubelet::start(&world.nodes[0].kubelet_socket())?;
    kubelet::begin_pod(world.nodes[0].dir(), "train-0", &scenario::pod_uid(1))?;
    kubelet.set_pods(vec![kubelet::pod("train-0", &[&scenario::uuid(0)])]);
    world.start()?;
    wait_until(DEADLINE, "the kubelet's first list", String::new, || {
        let up = world.nodes[0].metrics()?.sum("tonnage_agent_kubelet_up");
        Ok((up == Some(1.0)).then_some(()))
    })?;
    world.live(30)?;
    world.nodes[0].stop(DEADLINE)?;
    Ok(Site { world, url: format!("http://{listen}"), _kubelet: kubelet })
}

impl Site {
    fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        get(&http(), &format!("{}{path}", self.url), None)
    }

    fn page(&self, path: &str) -> anyhow::Result<String> {
        let (status, text) = self.get(path)?;
        anyhow::ensure!(status == 200, "{path}: {status} {text}");
        Ok(text)
    }

    /// The sum of `field` over all allocations of all sets, in billionths.
    fn sum(&self, path: &str, field: &str) -> anyhow::Result<i128> {
        let text = self.page(path)?;
        let answer: Allocations<'_> = serde_json::from_str(&text)?;
        anyhow::ensure!(answer.code == 200);
        Ok(answer.data.iter().flat_map(BTreeMap::values).map(|raw| to_nanos(raw[field].get()).unwrap()).sum())
    }

    fn assets(&self, path: &str) -> anyhow::Result<i128> {
        let text = self.page(path)?;
        let answer: Assets<'_> = serde_json::from_str(&text)?;
        let gpus = answer.data.values().filter_map(|raw| raw.get("gpuCost"));
        Ok(gpus.map(|raw| to_nanos(raw.get()).unwrap()).sum())
    }
}

/// An OpenCost that says one thing. Its threads end with the test's process.
fn upstream() -> anyhow::Result<String> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let url = format!("http://{}", listener.local_addr()?);
    let serve = |mut stream: TcpStream| -> std::io::Result<()> {
        let head = BufReader::new(stream.try_clone()?).lines();
        let head: Vec<_> = head.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
        let of_assets = head.first().is_some_and(|line| line.starts_with("GET /assets?window="));
        let said = if of_assets { UPSTREAM_ASSETS } else { UPSTREAM };
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{said}", said.len())
    };
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Whoever hangs up early is no failure of this.
            let _ = serve(stream);
        }
    });
    Ok(url)
}

#[test]
fn allocations_and_idle_sum_to_the_assets_and_both_to_the_ledger_to_the_last_digit() -> anyhow::Result<()> {
    let mut site = site(&["--opencost-metrics"])?;
    let Scrape { families } = Scrape::parse(&site.page("/metrics")?)?;
    let series = |name: &str| families[name][0].clone();
    let (labels, count) = series("node_gpu_count");
    assert_eq!((labels["node"].as_str(), labels["instance_type"].as_str()), ("n", "p5"));
    let spot = series("kubecost_node_is_spot").1;
    let (labels, held) = series("container_gpu_allocation");
    assert_eq!(labels["pod"], "train-0");
    let hourly = series("node_total_hourly_cost").1;
    for (is, right) in [(count, 2.0), (spot, 1.0), (held, 1.0), (hourly, 2.469_135_782)] {
        assert!((is - right).abs() < 1e-8, "{is} {right}");
    }
    // Nothing is heard: time that nobody observed costs, too.
    let heard_ns = site.world.now().wall_ns;
    (0..60).try_for_each(|_| site.world.move_clock(MINUTE_NS))?;
    let horizon_ns = slot_start(site.world.now().wall_ns - SILENCE_NS);
    wait_until(DEADLINE, "all silence in the ledger", String::new, || {
        let cost: CostAnswer = site.world.aggregator.answer("/api/v1/cost/nodes?window=today")?;
        let unobserved_ns = to_nanos(&cost.totals.unobserved_seconds);
        Ok((unobserved_ns >= Some(2 * i128::from(horizon_ns - heard_ns))).then_some(()))
    })?;

    let cost: CostAnswer = site.world.aggregator.answer("/api/v1/cost/pods?window=today")?;
    let bill = to_nanos(&cost.totals.cost).unwrap();
    assert!(to_nanos(&cost.totals.rounding_cost).unwrap() > 0 && bill > 1_000_000_000, "{:?}", cost.totals);
    assert_eq!(site.assets("/assets?window=today")?, bill);
    assert_eq!(site.assets("/model/assets?window=today")?, bill);
    for path in ["/allocation", "/allocation/compute", "/model/allocation"] {
        for by in
            ["", "&aggregate=namespace", "&aggregate=cluster,pod", "&aggregate=controller", "&aggregate=all"]
        {
            for idle in
                ["includeIdle=true", "idle=true", "includeIdle=true&idleByNode=true", "shareIdle=true"]
            {
                for step in ["", "&step=15m", "&step=1h&accumulate=true", "&accumulateBy=hour&resolution=1m"]
                {
                    let query = format!("{path}?window=today&{idle}{by}{step}");
                    assert_eq!(site.sum(&query, "gpuCost")?, bill, "{query}");
                }
            }
        }
    }
    let held = to_nanos(&cost.totals.held_cost).unwrap();
    assert_eq!(site.sum("/allocation?window=today", "gpuCost")?, held);

    let text = site.page("/allocation?window=today&aggregate=pod&includeIdle=true")?;
    let answer: Value = serde_json::from_str(&text)?;
    assert!(
        answer["warning"].as_str().unwrap().contains("CPU, RAM, storage and network are not known"),
        "{text}"
    );
    let (pod, idle) = (&answer["data"][0]["train-0"], &answer["data"][0]["__idle__"]);
    assert_eq!(pod["properties"]["namespace"], "ml");
    assert_eq!(pod["gpuAllocation"]["gpuUUID"], scenario::uuid(0));
    assert!(idle["tonnage"]["unobservedCost"].as_f64() > Some(1.0), "{idle}");
    let assets: Value = serde_json::from_str(&site.page("/assets?window=today")?)?;
    let node = assets["data"].as_object().unwrap().values().next().unwrap();
    assert_eq!((&node["type"], &node["nodeType"]), (&"Node".into(), &"p5".into()));
    assert_eq!((&node["gpuCount"], &node["preemptible"]), (&2.into(), &1.into()));
    assert!(node["GPUHours"].as_f64() > Some(1.0), "{node}");
    let summary: Value = serde_json::from_str(&site.page("/allocation/summary?window=today&aggregate=pod")?)?;
    assert_eq!(summary["data"]["sets"][0]["allocations"]["train-0"]["gpuCost"], pod["gpuCost"]);
    Ok(())
}

#[test]
fn an_upstream_says_what_processors_and_memory_cost_and_nothing_of_gpus() -> anyhow::Result<()> {
    let mut site = site(&["--opencost-upstream", &upstream()?])?;
    let path = "/allocation?window=today&aggregate=namespace";
    let text = site.page(path)?;
    let answer: Value = serde_json::from_str(&text)?;
    let set = &answer["data"][0];
    assert_eq!((&set["ml"]["cpuCost"], &set["web"]["cpuCost"]), (&1.5.into(), &2.0.into()), "{text}");
    assert!(set["ml"]["gpuCost"].as_f64() < Some(0.1) && set["bad"].is_null(), "{text}");
    let total = set["ml"]["totalCost"].as_f64().unwrap() - set["ml"]["gpuCost"].as_f64().unwrap();
    assert!((total - 1.75).abs() < 1e-8, "{text}");
    let warning = answer["warning"].as_str().unwrap();
    assert!(warning.contains("1 items") && warning.contains("\"bad\": cpuCost \"-2\" is negative"), "{text}");
    let cost: CostAnswer = site.world.aggregator.answer("/api/v1/cost/pods?window=today")?;
    assert_eq!(site.sum(path, "gpuCost")?, to_nanos(&cost.totals.held_cost).unwrap());

    // So it is with nodes; and what all GPUs cost is still what their allocations and idle time do, to the last digit.
    let text = site.page("/assets?window=today")?;
    let answer: Value = serde_json::from_str(&text)?;
    let found = &answer["data"];
    assert_eq!((&found["p/n"]["cpuCost"], &found["p/n"]["cpuCores"]), (&2.0.into(), &96.0.into()), "{text}");
    assert_eq!((&found["p/n"]["gpuCount"], &found["p/web"]["gpuCount"]), (&2.into(), &0.into()), "{text}");
    assert_eq!((&found["p/web"]["totalCost"], &found["p/disk"]["totalCost"]), (&1.0.into(), &0.75.into()));
    assert!(found["p/bad"].is_null() && found["p/lb"].is_null() && text.contains("1 items"), "{text}");
    let raw: Assets<'_> = serde_json::from_str(&text)?;
    let nanos = |field: &str| to_nanos(raw.data["p/n"][field].get()).unwrap();
    assert_eq!(nanos("totalCost"), nanos("gpuCost") + 2_000_000_000, "{text}");
    let with_idle = site.sum("/allocation?window=today&includeIdle=true", "gpuCost")?;
    assert_eq!(site.assets("/assets?window=today")?, with_idle);
    assert_eq!(with_idle, to_nanos(&cost.totals.cost).unwrap());

    // It is gone, and so are its figures; the GPUs' are not.
    site.world.aggregator.stop(DEADLINE)?;
    let [port] = free_ports()?;
    *site.world.aggregator.extra_args.last_mut().unwrap() = format!("http://127.0.0.1:{port}");
    site.world.aggregator.start(DEADLINE)?;
    let text = site.page(path)?;
    assert!(text.contains("gave no answer: the connection failed"), "{text}");
    assert_eq!(site.sum(path, "gpuCost")?, to_nanos(&cost.totals.held_cost).unwrap());
    assert_eq!(site.sum(path, "cpuCost")?, 0);
    let text = site.page("/assets?window=today")?;
    assert!(text.contains("gave no answer: the connection failed") && !text.contains("p/web"), "{text}");
    assert_eq!(site.assets("/assets?window=today")?, to_nanos(&cost.totals.cost).unwrap());
    Ok(())
}

#[test]
fn what_is_not_served_is_refused_by_its_name_in_opencosts_shape() -> anyhow::Result<()> {
    let site = site(&[])?;
    for (path, status, said) in [
        ("/allocation", 400, "window is missing"),
        ("/allocation?window=7d&filter=tenant:%22a%22", 400, "is not a field"),
        ("/allocation/summary?window=never", 400, "window \\\"never\\\" is not a window"),
        ("/assets?window=7d&aggregate=type", 400, "\\\"aggregate\\\" is not a parameter"),
        ("/cloudCost?window=7d", 404, "there are /allocation"),
        ("/metrics", 404, "there are /allocation"),
    ] {
        let (is, text) = site.get(path)?;
        let head = format!("{{\"code\":{status},\"message\":\"");
        assert!(is == status && text.starts_with(&head) && text.contains(said), "{path}: {is} {text}");
    }
    assert_eq!(site.get("/healthz")?.0, 200);
    assert_eq!(site.get("/model/healthz")?.0, 200);
    Ok(())
}

#[test]
fn beyond_loopback_a_readers_token_is_asked_for_unless_a_flag_says_otherwise() -> anyhow::Result<()> {
    let mut world = World::new(1)?;
    world.aggregator.insecure = false;
    let add = |world: &World, args: &[&str]| -> anyhow::Result<String> {
        Ok(world.aggregator.admin(&[&["token", "add"], args].concat())?.trim().to_owned())
    };
    let reader = add(&world, &["--name", "ann", "--role", "reader"])?;
    let node = add(&world, &["--name", "n", "--cluster", "c", "--node", "n"])?;
    let path = "/allocation?window=1h";
    for (address, flags, open) in
        [("0.0.0.0", &[][..], false), ("0.0.0.0", &["--opencost-anonymous"], true), ("127.0.0.1", &[], true)]
    {
        let [port] = free_ports()?;
        let args = ["--opencost-listen".to_owned(), format!("{address}:{port}")];
        world.aggregator.extra_args =
            args.into_iter().chain(flags.iter().map(|flag| (*flag).to_owned())).collect();
        world.aggregator.start(DEADLINE)?;
        let ask = |path: &str, token: Option<&str>| -> anyhow::Result<u16> {
            Ok(get(&http(), &format!("http://127.0.0.1:{port}{path}"), token)?.0)
        };
        let refused = if open { 200 } else { 401 };
        assert_eq!(ask(path, None)?, refused, "{address} {flags:?}");
        assert_eq!(ask("/assets?window=1h", None)?, refused, "{address} {flags:?}");
        assert_eq!(ask(path, Some(&node))?, if open { 200 } else { 403 }, "{address} {flags:?}");
        assert_eq!((ask(path, Some(&reader))?, ask("/healthz", None)?), (200, 200));
        assert_eq!(world.aggregator.get("/api/v1/nodes")?.0, 401, "REST asks as before");
        world.aggregator.stop(DEADLINE)?;
    }
    Ok(())
}
