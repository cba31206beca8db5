//! A GPU that is shared through MPS: its server works for clients, and holds nothing.

use super::*;

const NAME: &str = "nvidia-cuda-mps";

/// A GPU with a server of MPS in a unit of root's, and a client in each of two pods.
fn shared() -> Scenario {
    use nvidia_ml::scenario::List;
    let mut scenario = scenario::node(1);
    let unit = scenario::unit("nvidia-mps.service");
    let mut server = scenario::process(90, &unit, &[0], 0.0);
    server.comm = NAME.to_owned();
    scenario.process.push(server);
    for (pid, pod) in [(7, 1), (8, 2)] {
        let mut client = scenario::process(pid, &in_pod(pod), &[0], 0.0);
        client.lists = vec![List::Mps];
        client.utilisation = vec![(0.0, 20)];
        scenario.process.push(client);
    }
    scenario
}

fn gauge(world: &World, name: &str) -> anyhow::Result<Option<f64>> {
    Ok(world.nodes[0].metrics()?.sum(name))
}

#[test]
fn clients_of_mps_hold_by_their_replicas_and_the_server_is_nobody() -> anyhow::Result<()> {
    let uuid = scenario::uuid(0);
    let ids: Vec<String> = (0..4).map(|n| format!("{uuid}::{n}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let resource = "nvidia.com/gpu.shared";
    let mut world = World::new(1)?;
    world.add_node("n", shared())?;
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
    assert_eq!(gauge(&world, "tonnage_mps_clients")?, Some(2.0));
    assert_eq!(held(&mut world, None)?, BTreeMap::from([(word(1), 10 * S), (word(2), 5 * S)]));
    let books = Books::read(&world.aggregator.data_dir())?;
    assert_eq!(books.time(RowKind::Idle, None).values().sum::<i128>(), 5 * S);
    let folded = books.folded()?;
    assert!(folded[&uuid].iter().all(|window| window.intruded_ns.is_empty()), "nobody intrudes");
    let by_mps = |bits| bits & method::SHARED_MPS != 0 && bits & method::SHARED_TIME_SLICING == 0;
    assert!(folded[&uuid].iter().all(|window| by_mps(window.method)), "{:?}", folded[&uuid]);
    world.aggregator.admin(&["verify"])?;
    Ok(())
}

#[test]
fn without_allocations_clients_hold_equally_and_the_server_does_not() -> anyhow::Result<()> {
    let mut world = World::new(1)?;
    world.add_node("n", shared())?;
    world.start()?;
    world.live(10)?;
    let client = |pod: u32| format!("pod:{}/{}", scenario::pod_uid(pod), scenario::container_id(pod));
    assert_eq!(held(&mut world, None)?, BTreeMap::from([(client(1), 5 * S), (client(2), 5 * S)]));
    Ok(())
}

#[test]
fn a_driver_that_lists_no_clients_leaves_their_server_which_is_nobody_by_name() -> anyhow::Result<()> {
    let mut scenario = shared();
    scenario.faults.function_not_found.push("nvmlDeviceGetMPSComputeRunningProcesses_v3".to_owned());
    let mut world = World::new(1)?;
    world.add_node("n", scenario)?;
    world.start()?;
    world.live(20)?;
    let scrape = world.nodes[0].metrics()?;
    let series = scrape.series("tonnage_gpu_held_seconds_total");
    let is_server = |labels: &BTreeMap<String, String>| {
        labels.get("unit").is_some_and(|unit| unit == "nvidia-cuda-mps-server")
            && labels.get("owner_kind").is_some_and(|kind| kind == "unowned")
    };
    assert!(!series.is_empty() && series.iter().all(|(labels, _)| is_server(labels)), "{series:?}");
    assert_eq!(held(&mut world, None)?, BTreeMap::from([("unowned".to_owned(), 20 * S)]));
    let books = Books::read(&world.aggregator.data_dir())?;
    let methods = books.folded()?[&scenario::uuid(0)].iter().map(|window| window.method).collect::<Vec<_>>();
    assert!(methods.iter().all(|bits| bits & method::HELD_INFERRED != 0), "{methods:?}");
    assert!(methods.iter().all(|bits| bits & method::HELD_CGROUP == 0), "{methods:?}");
    world.aggregator.admin(&["verify"])?;
    Ok(())
}
