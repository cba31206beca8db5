//! A host of virtual machines: each guest holds its part of a GPU for as long as the driver names its virtual GPU, and is
//! busy for as much as the driver says.

use std::collections::BTreeMap;

use harness::scenario;
use harness::world::{DEADLINE, World};
use nvidia_ml::Refusal;
use nvidia_ml::scenario::{Refuse, Scenario, Vgpu};
use tonnage_aggregator::model::RowKind;
use tonnage_proto::rest::CostAnswer;

use crate::books::Books;

const S: i128 = 1_000_000_000;
const GIB: u64 = 1 << 30;

/// Of a kind of which the GPU has room for four.
fn vgpu(n: u32, from_s: f64, to_s: Option<f64>, percent: u32) -> Vgpu {
    Vgpu {
        uuid: format!("vgpu-{n}"),
        vm: format!("vm-{n}"),
        kind: "NVIDIA A100-10C".to_owned(),
        memory_bytes: n.into(),
        max_instances: Some(4),
        utilisation: vec![(0.0, percent)],
        from_s: Some(from_s),
        to_s,
    }
}

/// With what works for the guests on the host, as the driver lists it: root's, and by this name.
fn host(vgpus: Vec<Vgpu>) -> Scenario {
    let mut scenario = scenario::node(1);
    scenario.device[0].vgpu = Some(vgpus);
    let manager = scenario::unit("nvidia-vgpu-mgr.service");
    let mut process = scenario::process(90, &manager, &[0], 0.0);
    process.comm = "vgpu".to_owned();
    process.memory_bytes = GIB;
    scenario.process.push(process);
    scenario
}

fn lived(scenario: Scenario) -> anyhow::Result<World> {
    let mut world = World::new(1)?;
    world.add_node("n", scenario)?;
    world.start()?;
    world.live(40)?;
    Ok(world)
}

fn held(world: &World) -> anyhow::Result<BTreeMap<String, i128>> {
    Ok(Books::read(&world.aggregator.data_dir())?.time(RowKind::Held, None))
}

fn vm(n: u32) -> String {
    format!("vm:vm-{n}")
}

#[test]
fn guests_hold_their_parts_while_they_are_there_and_are_busy_for_what_the_driver_says() -> anyhow::Result<()>
{
    let mut world = lived(host(vec![vgpu(1, 0.0, None, 20), vgpu(2, 10.0, Some(30.0), 0)]))?;
    let answer: CostAnswer = world.aggregator.answer("/api/v1/cost/pods?aggregate=kind,unit&window=today")?;
    let busy = |unit: &str| {
        let row = answer.rows.iter().find(|row| row.key.get("unit").is_some_and(|known| known == unit));
        row.map(|row| (row.key["kind"].clone(), row.figures.busy_seconds.clone()))
    };
    assert_eq!(busy("vm-2"), Some(("virtual_machine".to_owned(), "0.000000000".to_owned())));
    assert!(busy("vm-1").is_some_and(|(_, seconds)| !seconds.starts_with("0.")), "{:?}", busy("vm-1"));
    world.nodes[0].stop(DEADLINE)?;
    assert_eq!(held(&world)?, BTreeMap::from([(vm(1), 10 * S), (vm(2), 5 * S)]));
    let books = Books::read(&world.aggregator.data_dir())?;
    assert_eq!(books.time(RowKind::Idle, None).values().sum::<i128>(), 25 * S);
    let folded = books.folded()?;
    let windows = &folded[&scenario::uuid(0)];
    assert!(
        windows.iter().all(|window| window.intruded_ns.is_empty()),
        "who works for guests intrudes on nobody"
    );
    world.aggregator.admin(&["verify"])?;
    Ok(())
}

#[test]
fn guests_of_a_kind_whose_number_the_driver_does_not_say_share_the_gpu() -> anyhow::Result<()> {
    let both = [1, 2].map(|n| Vgpu { max_instances: None, ..vgpu(n, 0.0, None, 0) });
    let mut world = lived(host(both.to_vec()))?;
    world.nodes[0].stop(DEADLINE)?;
    assert_eq!(held(&world)?, BTreeMap::from([(vm(1), 20 * S), (vm(2), 20 * S)]));
    Ok(())
}

#[test]
fn while_the_driver_does_not_say_who_the_guests_are_nobody_holds_the_gpu_and_it_is_unobserved()
-> anyhow::Result<()> {
    let mut scenario = host(vec![vgpu(1, 0.0, None, 0)]);
    scenario.faults.refuse.push(Refuse {
        calls: vec!["nvmlDeviceGetActiveVgpus".to_owned()],
        devices: Vec::new(),
        from_s: 9.5,
        to_s: Some(19.5),
        with: Refusal::Unknown,
    });
    let mut world = lived(scenario)?;
    world.nodes[0].stop(DEADLINE)?;
    let held = held(&world)?;
    assert_eq!(held, BTreeMap::from([(vm(1), 30 * S / 4)]));
    world.aggregator.admin(&["verify"])?;
    Ok(())
}
