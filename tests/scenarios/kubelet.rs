//! The agent beside a kubelet: pods hold what they were given, from their beginning to their end.

#![allow(clippy::float_cmp, reason = "counts and flags, which floats hold exactly")]

use std::collections::BTreeMap;
use std::time::Duration;

use harness::kubelet::{self, Kubelet, Manners};
use harness::scenario::{self, Whose};
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};
use nvidia_ml::scenario::Scenario;
use tonic::Code;
use tonnage_aggregator::model::RowKind;
use tonnage_proto::method;
use tonnage_proto::rest::IdleAnswer;

use crate::books::Books;
use crate::ledgers::orders::said;

mod mig;
mod mixed;
mod mps;

const S: i128 = 1_000_000_000;

/// A node with a kubelet, and an agent that has seen its list before it metered anything.
fn world(scenario: Scenario, pods: &[(&str, u32)], listed: Vec<Listed>) -> anyhow::Result<(World, Kubelet)> {
    world_priced(scenario, pods, listed, "")
}

/// With more of the price that is the last in the book.
fn world_priced(
    scenario: Scenario,
    pods: &[(&str, u32)],
    listed: Vec<Listed>,
    price: &str,
) -> anyhow::Result<(World, Kubelet)> {
    let mut world = World::new(1)?;
    let book = std::fs::read_to_string(world.aggregator.prices())?;
    std::fs::write(world.aggregator.prices(), format!("{book}{price}"))?;
    let at = world.add_node("n", scenario)?;
    let kubelet = Kubelet::start(&world.nodes[at].kubelet_socket())?;
    for (name, n) in pods {
        kubelet::begin_pod(world.nodes[at].dir(), name, &scenario::pod_uid(*n))?;
    }
    kubelet.set_pods(listed);
    start(&mut world)?;
    Ok((world, kubelet))
}

/// Starts all, and waits until the agent has kept its first list. No time passes: a second that it metered without one
/// would be nobody's.
fn start(world: &mut World) -> anyhow::Result<()> {
    world.start()?;
    wait_until(DEADLINE, "the kubelet's first list", String::new, || Ok(up(world)?.filter(|up| *up == 1.0)))?;
    Ok(())
}

/// Of a price in a book.
const BY_MEMORY: &str = "weight = \"memory\"\n";

type Listed = tonnage_proto::podresources::PodResources;

/// Waits until the agent has everything that the kubelet has to say. Time moves by whole seconds if need be.
fn wait_listed(world: &mut World, kubelet: &Kubelet) -> anyhow::Result<()> {
    let answers = "tonnage_agent_kubelet_answers_total";
    for _ in 0..8 {
        let patience = Duration::from_millis(500);
        let node = &world.nodes[0];
        let seen = wait_until(patience, "the kubelet's list", String::new, || {
            let scrape = node.metrics()?;
            let all = kubelet.answers_of_all();
            Ok(all.filter(|all| scrape.sum(answers) == Some(*all as f64)).map(|_| ()))
        });
        if seen.is_ok() {
            return Ok(());
        }
        world.live(1)?;
    }
    anyhow::bail!("the agent does not ask its kubelet")
}

/// Stops the agent, and reads the time of each owner on a device (or all) with the bits of how.
fn held(world: &mut World, device: Option<u32>) -> anyhow::Result<BTreeMap<String, i128>> {
    if world.nodes[0].process().is_some() {
        world.nodes[0].stop(DEADLINE)?;
    }
    let uuid = device.map(scenario::uuid);
    Ok(Books::read(&world.aggregator.data_dir())?.time(RowKind::Held, uuid.as_deref()))
}

fn word(pod: u32) -> String {
    format!("pod:{}/", scenario::pod_uid(pod))
}

fn in_pod(pod: u32) -> Whose {
    scenario::pod_systemd(&scenario::pod_uid(pod), &scenario::container_id(pod))
}

fn up(world: &World) -> anyhow::Result<Option<f64>> {
    Ok(world.nodes[0].metrics()?.sum("tonnage_agent_kubelet_up"))
}

fn wait_up(world: &mut World, value: f64) -> anyhow::Result<()> {
    for _ in 0..60 {
        world.live(1)?;
        if up(world)? == Some(value) {
            return Ok(());
        }
    }
    anyhow::bail!("tonnage_agent_kubelet_up is {:?}, not {value}", up(world)?)
}

#[test]
fn a_pod_holds_what_it_was_given_without_any_process_until_it_ends_whatever_the_list_says()
-> anyhow::Result<()> {
    let uuid = scenario::uuid(0);
    let (mut world, kubelet) =
        world(scenario::node(1), &[("train-0", 7)], vec![kubelet::pod("train-0", &[&uuid])])?;
    world.live(20)?;
    kubelet::end_pod(world.nodes[0].dir(), &scenario::pod_uid(7))?;
    world.live(10)?;
    assert!(kubelet.counts().list > 1, "it is listed again and again");
    assert_eq!(held(&mut world, None)?, BTreeMap::from([(word(7), 20 * S)]));
    let books = Books::read(&world.aggregator.data_dir())?;
    assert_eq!(books.time(RowKind::Idle, None).values().sum::<i128>(), 10 * S);
    let methods = books.folded()?[&uuid].iter().fold(0, |bits, window| bits | window.method);
    assert_eq!(methods, method::HELD_ALLOCATION | method::BUSY_PROCESS | method::ENERGY_BY_HELD);
    Ok(())
}

#[test]
fn replicas_split_a_gpu_by_what_each_pod_has_of_all_there_are() -> anyhow::Result<()> {
    let uuid = scenario::uuid(0);
    let ids: Vec<String> = (0..4).map(|n| format!("{uuid}::{n}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let resource = "nvidia.com/gpu.shared";
    let mut world = World::new(1)?;
    world.add_node("n", scenario::node(1))?;
    let kubelet = Kubelet::start(&world.nodes[0].kubelet_socket())?;
    kubelet.set_allocatable(vec![kubelet::devices(resource, &ids)]);
    kubelet.set_pods(vec![
        kubelet::pod_of("a", resource, &ids[..2]),
        kubelet::pod_of("b", resource, &ids[2..3]),
    ]);
    for (name, n) in [("a", 1), ("b", 2)] {
        kubelet::begin_pod(world.nodes[0].dir(), name, &scenario::pod_uid(n))?;
    }
    start(&mut world)?;
    world.live(20)?;
    assert_eq!(held(&mut world, None)?, BTreeMap::from([(word(1), 10 * S), (word(2), 5 * S)]));
    let idle = Books::read(&world.aggregator.data_dir())?.time(RowKind::Idle, None);
    assert_eq!(idle.values().sum::<i128>(), 5 * S);
    Ok(())
}

#[test]
fn every_way_of_naming_a_gpu_finds_the_same_gpu() -> anyhow::Result<()> {
    // Minors in another order than indices.
    let mut scenario = scenario::node(5);
    for (device, minor) in scenario.device.iter_mut().zip([4, 3, 2, 1, 0]) {
        device.minor = minor;
    }
    let listed = vec![
        kubelet::pod("by-uuid", &[&scenario::uuid(0)]),
        kubelet::pod("by-index", &["1"]),
        kubelet::pod_of("by-minor", "cloud.example/gpu", &["nvidia2"]),
        kubelet::pod_with_claim("by-claim", &["gpu-1"]),
        kubelet::pod_of("by-replica", "example.org/a100", &[&format!("{}::0", scenario::uuid(4))]),
        kubelet::pod("on-another-vendors", &["0000:03:00.0"]),
    ];
    let pods = [("by-uuid", 0), ("by-index", 1), ("by-minor", 2), ("by-claim", 3), ("by-replica", 4)];
    let (mut world, _kubelet) = world(scenario, &pods, listed)?;
    world.live(10)?;
    for n in 0..5 {
        assert_eq!(held(&mut world, Some(n))?, BTreeMap::from([(word(n), 10 * S)]), "GPU {n}");
    }
    Ok(())
}

#[test]
fn a_name_that_is_used_again_is_the_pod_that_lives() -> anyhow::Result<()> {
    let pods = [("train-0", 1), ("train-0", 2)];
    let listed = vec![kubelet::pod("train-0", &[&scenario::uuid(0)])];
    let mut world_and = world(scenario::node(1), &pods, listed)?;
    let world = &mut world_and.0;
    world.live(5)?;
    kubelet::end_pod(world.nodes[0].dir(), &scenario::pod_uid(1))?;
    world.live(10)?;
    // While both lived it was one of the two, and nobody could say which.
    assert_eq!(held(world, None)?, BTreeMap::from([("pod:/".into(), 5 * S), (word(2), 10 * S)]));
    Ok(())
}

#[test]
fn a_pod_that_begins_is_held_at_once_and_its_process_asks_for_it() -> anyhow::Result<()> {
    let mut scenario = scenario::node(2);
    scenario.process.push(scenario::process(7, &in_pod(2), &[1], 0.0));
    let (mut world, kubelet) = world(scenario, &[("there", 2)], Vec::new())?;
    kubelet.set_manners(Manners { lists_nothing: true, ..Manners::default() });
    kubelet.set_pods(vec![
        kubelet::pod("there", &[&scenario::uuid(1)]),
        kubelet::pod("new", &[&scenario::uuid(0)]),
    ]);
    // A list that was due anyway may have come before a call for the pod: then that is a minute later.
    for _ in 0..130 {
        world.live(1)?;
        if kubelet.counts().get > 0 {
            break;
        }
    }
    assert!(kubelet.counts().get > 0, "a call for the one pod");
    kubelet.set_manners(Manners::default());
    kubelet::begin_pod(world.nodes[0].dir(), "new", &scenario::pod_uid(1))?;
    wait_listed(&mut world, &kubelet)?;
    world.live(10)?;
    let new = held(&mut world, Some(0))?[&word(1)];
    assert!(new >= 10 * S, "{new}");
    let there = held(&mut world, Some(1))?;
    assert!(there[&word(2)] >= 10 * S, "{there:?}");
    // Before the kubelet's word it holds by its process, as the container that the process is in.
    let by_process = format!("pod:{}/{}", scenario::pod_uid(2), scenario::container_id(2));
    assert!(there.keys().all(|owner| *owner == word(2) || *owner == by_process), "{there:?}");
    Ok(())
}

#[test]
fn pods_that_use_a_gpu_without_having_been_given_one_are_not_asked_for_again_and_again() -> anyhow::Result<()>
{
    let names = ["nothing", "unlisted", "hami", "foreign"];
    let mut scenario = scenario::node(1);
    for n in 0..4 {
        scenario.process.push(scenario::process(7 + n, &in_pod(n), &[0], 0.0));
    }
    let hami = format!("{}-0", scenario::uuid(0));
    let listed = vec![
        kubelet::pod("nothing", &[]),
        kubelet::pod("hami", &[&hami]),
        kubelet::pod("foreign", &["0000:03:00.0"]),
    ];
    let pods: Vec<(&str, u32)> = names.into_iter().zip(0..).collect();
    let (mut world, kubelet) = world(scenario, &pods, listed)?;
    // What kubelets allow by default.
    kubelet.set_manners(Manners { limit_per_second: Some(100), ..Manners::default() });
    let before = kubelet.counts();
    for _ in 0..60 {
        world.live(1)?;
        assert_eq!(up(&world)?, Some(1.0));
    }
    let calls = kubelet.counts().calls - before.calls;
    // A list each five seconds, one that the pods' folders may ask for, what could be allocated, and two pods.
    assert!(calls <= 20, "{calls} calls in a minute");
    assert!(calls >= 8, "{calls} calls in a minute");
    Ok(())
}

#[test]
fn without_a_kubelets_word_processes_hold_and_it_is_said() -> anyhow::Result<()> {
    let uuid = scenario::uuid(0);
    let mut scenario = scenario::node(1);
    scenario.process.push(scenario::process(7, &in_pod(7), &[0], 0.0));
    let mut world = World::new(1)?;
    world.add_node("n", scenario)?;
    kubelet::begin_pod(world.nodes[0].dir(), "train-0", &scenario::pod_uid(7))?;
    world.start()?;
    assert_eq!(up(&world)?, None, "no socket, no kubelet");
    world.live(10)?;
    let mut kubelet = Kubelet::start(&world.nodes[0].kubelet_socket())?;
    kubelet.set_manners(Manners {
        refuse: Some((Code::ResourceExhausted, "rejected by rate limit".into())),
        ..Manners::default()
    });
    kubelet.set_pods(vec![kubelet::pod("train-0", &[&uuid])]);
    wait_up(&mut world, 0.0)?;
    kubelet.set_manners(Manners { old: true, ..Manners::default() });
    wait_up(&mut world, 1.0)?;
    // Slower than the agent waits, which is real time.
    kubelet.set_manners(Manners { old: true, slow: Some(Duration::from_secs(60)), ..Manners::default() });
    let mut wait_patiently = |value: f64| {
        wait_until(DEADLINE, "the agent's patience", String::new, || {
            world.live(1)?;
            Ok((up(&world)? == Some(value)).then_some(()))
        })
    };
    wait_patiently(0.0)?;
    kubelet.set_manners(Manners { old: true, ..Manners::default() });
    // A call that is on its way is waited for.
    wait_patiently(1.0)?;
    // A restart takes the socket away; the pod goes on, by the last list.
    kubelet.stop();
    wait_up(&mut world, 0.0)?;
    world.live(10)?;
    kubelet.resume()?;
    wait_up(&mut world, 1.0)?;
    let log = std::fs::read_to_string(world.nodes[0].log())?;
    let held = held(&mut world, None)?;
    let by_process = format!("pod:{}/{}", scenario::pod_uid(7), scenario::container_id(7));
    assert!(held[&by_process] >= 10 * S && held[&word(7)] >= 10 * S, "{held:?}");
    let books = Books::read(&world.aggregator.data_dir())?;
    assert_eq!(books.time(RowKind::Idle, None).values().sum::<i128>(), 0);
    assert!(log.contains("turns calls away because they are too many"), "{log}");
    assert!(log.contains("it does not answer within 10 s"), "{log}");
    assert!(log.contains("The kubelet says who has which devices."), "{log}");
    Ok(())
}

#[test]
fn a_kubelet_that_restarts_and_knows_no_pods_at_first_takes_nothing_from_them() -> anyhow::Result<()> {
    let uuids = [scenario::uuid(0), scenario::uuid(1)];
    let listed = vec![kubelet::pod("known-again", &[&uuids[0]]), kubelet::pod("forgotten", &[&uuids[1]])];
    let (mut world, mut kubelet) =
        world(scenario::node(2), &[("known-again", 1), ("forgotten", 2)], listed.clone())?;
    let begun_ns = world.now().wall_ns;
    world.live(5)?;
    kubelet.stop();
    kubelet.set_pods(Vec::new());
    let lists = kubelet.counts().list;
    kubelet.resume()?;
    for _ in 0..60 {
        world.live(1)?;
        if kubelet.counts().list > lists {
            break;
        }
    }
    assert!(kubelet.counts().list > lists, "it is listed again");
    world.live(30)?;
    kubelet.set_pods(listed[..1].to_vec());
    let is_held = |world: &World, held: f64| -> anyhow::Result<bool> {
        let scrape = world.nodes[0].metrics()?;
        let series = scrape.series("tonnage_agent_allocations");
        Ok(series.iter().any(|(labels, value)| {
            labels.get("state").is_some_and(|state| state == "held") && *value == held
        }))
    };
    assert!(is_held(&world, 2.0)?, "both are held while it settles");
    for _ in 0..60 {
        world.live(1)?;
        if is_held(&world, 1.0)? {
            break;
        }
    }
    assert!(is_held(&world, 1.0)?, "what it does not list after a minute is not held");
    let lived_ns = i128::from(world.now().wall_ns - begun_ns);
    assert_eq!(held(&mut world, Some(0))?, BTreeMap::from([(word(1), lived_ns)]));
    let forgotten = held(&mut world, Some(1))?[&word(2)];
    assert!(forgotten >= 60 * S && forgotten < lived_ns, "{forgotten}");
    Ok(())
}

#[test]
fn a_process_on_another_pods_gpu_intrudes_and_the_holder_is_idle_with_what_that_costs() -> anyhow::Result<()>
{
    let mut scenario = scenario::node(1);
    let mut process = scenario::process(7, &in_pod(2), &[0], 0.0);
    process.utilisation = vec![(0.0, 30)];
    scenario.process.push(process);
    let listed = vec![kubelet::pod("train-0", &[&scenario::uuid(0)])];
    let (mut world, _kubelet) = world(scenario, &[("train-0", 1), ("greedy", 2)], listed)?;
    world.live(60)?;
    let idle = || -> anyhow::Result<IdleAnswer> {
        Ok(serde_json::from_str(&said(&world, &["idle", "--last", "1h", "-o", "json"])?)?)
    };
    let answer = wait_until(DEADLINE, "a minute in the ledger", String::new, || {
        let answer = idle()?;
        Ok((answer.totals.held_seconds == "60.000000000").then_some(answer))
    })?;
    let row = &answer.held_idle[0];
    assert_eq!((row.owner.pod.as_str(), row.owner.container.as_str()), ("train-0", "main"));
    assert_eq!(row.idle_seconds.as_deref(), Some("60.000000000"));
    // At 3.60 an hour.
    assert_eq!(row.idle_cost.as_deref(), Some("0.060000000"));
    assert!(row.busy_known && row.holding_now && row.idle_since.is_some(), "{row:?}");
    let intruder = &answer.intruders[0];
    assert_eq!(intruder.owner.pod, "greedy");
    let busy: f64 = intruder.busy_seconds.parse()?;
    assert!((15.0..=18.0).contains(&busy), "{intruder:?}");
    let scrape = world.nodes[0].metrics()?;
    let of = |name: &str, pod: &str| -> f64 {
        let series =
            scrape.series(name).iter().filter(|(labels, _)| labels.get("pod").is_some_and(|p| p == pod));
        series.map(|(_, value)| value).sum()
    };
    assert!((of("tonnage_gpu_held_idle_seconds_total", "train-0") - 60.0).abs() < 1e-6);
    assert!((of("tonnage_gpu_intruder_busy_seconds_total", "greedy") - busy).abs() < 1e-6);
    assert_eq!(held(&mut world, None)?, BTreeMap::from([(word(1), 60 * S)]));
    Ok(())
}

#[test]
fn without_logs_a_pod_holds_until_its_gpu_is_given_to_the_next() -> anyhow::Result<()> {
    let mut world = World::new(1)?;
    world.add_node("n", scenario::node(1))?;
    let kubelet = Kubelet::start(&world.nodes[0].kubelet_socket())?;
    // Its kubelet keeps logs elsewhere.
    kubelet::begin_pod(world.nodes[0].dir(), "old", &scenario::pod_uid(1))?;
    std::fs::remove_dir_all(world.nodes[0].dir().join("pod-logs"))?;
    kubelet.set_pods(vec![kubelet::pod("old", &[&scenario::uuid(0)])]);
    world.start()?;
    wait_listed(&mut world, &kubelet)?;
    world.live(10)?;
    kubelet.set_pods(["old", "new"].map(|name| kubelet::pod(name, &[&scenario::uuid(0)])).to_vec());
    wait_listed(&mut world, &kubelet)?;
    world.live(10)?;
    let held = held(&mut world, None)?;
    // Which of the two has it now cannot be known, and neither has a process.
    assert!(held.len() == 1 && (10 * S..20 * S).contains(&held["pod:/"]), "{held:?}");
    let books = Books::read(&world.aggregator.data_dir())?;
    let methods = books.folded()?[&scenario::uuid(0)].iter().fold(0, |bits, window| bits | window.method);
    assert_ne!(methods & method::HELD_INFERRED, 0);
    Ok(())
}
