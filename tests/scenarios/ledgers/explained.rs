//! A slot line by line, by the command line: every number is that of the cost answers, and can be worked out again.

use harness::kubelet::{self, Kubelet};
use harness::scenario;
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};
use nvidia_ml::scenario::MigDevice;
use tonnage_proto::decimal::to_nanos;
use tonnage_proto::rest::CostAnswer;
use tonnage_proto::rest::explain::ExplainAnswer;

use super::orders::{refused, said};

const UUID: &str = "MIG-00000001-42e4-5de3-91c7-45d71c87eb3f";
const S: i64 = 1_000_000_000;

/// A pod that holds an instance with three of seven slices for 20 s.
fn world() -> anyhow::Result<(World, Kubelet)> {
    let mut scenario = scenario::node(1);
    let part =
        MigDevice { uuid: UUID.to_owned(), profile_slices: 3, gpu_instance: 1, ..MigDevice::default() };
    scenario.device[0].mig = Some(vec![part]);
    let mut world = World::new(1)?;
    world.add_node("n", scenario)?;
    let kubelet = Kubelet::start(&world.nodes[0].kubelet_socket())?;
    kubelet::begin_pod(world.nodes[0].dir(), "train-0", &scenario::pod_uid(1))?;
    kubelet.set_pods(vec![kubelet::pod("train-0", &[UUID])]);
    world.start()?;
    wait_until(DEADLINE, "the kubelet's first list", String::new, || {
        let up = world.nodes[0].metrics()?.sum("tonnage_agent_kubelet_up");
        Ok((up == Some(1.0)).then_some(()))
    })?;
    world.live(20)?;
    world.nodes[0].stop(DEADLINE)?;
    Ok((world, kubelet))
}

#[test]
fn a_slot_explained_is_the_cost_answers_to_the_nano_with_its_evidence() -> anyhow::Result<()> {
    let (world, _kubelet) = world()?;
    let cost: CostAnswer = world.aggregator.answer("/api/v1/cost/pods")?;
    let pod = cost.rows.iter().find(|row| row.key.values().any(|value| value == "train-0")).unwrap();
    let explained = said(&world, &["explain", "train-0", "-o", "json"])?;
    let answer: ExplainAnswer = serde_json::from_str(&explained)?;
    assert_eq!(Some(i128::from(answer.asked_cost_nanos)), to_nanos(&pod.figures.cost), "{explained}");
    assert_eq!(answer.asked_gpu_seconds, pod.figures.held_seconds);
    let [device] = &answer.devices[..] else { panic!("{explained}") };
    let row = device.rows.iter().find(|row| row.asked).unwrap();
    assert_eq!((row.instance.as_str(), row.profile.as_str(), row.time_ns), (UUID, "3g.40gb", 60 * S));
    assert!(row.methods.iter().any(|method| method.contains("allocation")), "{:?}", row.methods);
    // The price, worked out again from what is shown.
    let price = device.price.as_ref().unwrap();
    let (num, den): (i128, i128) = (price.num.parse()?, price.den.parse()?);
    assert_eq!(i128::from(row.cost_nanos), i128::from(row.time_ns) * num / den);
    assert_eq!((device.rows_ns, device.rows_cost_nanos), (device.existence_ns, price.price_nanos));
    // And the windows that it rests on.
    let held: u64 = device.evidence.iter().flat_map(|window| &window.usages).map(|usage| usage.held_ns).sum();
    assert_eq!(held, row.time_ns.unsigned_abs());
    assert!(device.evidence.iter().all(|window| window.sha256.len() == 64));

    for subject in [UUID, &scenario::uuid(0), &format!("default/{}", "train-0")] {
        let said = said(&world, &["explain", subject]);
        let text = said.as_deref().unwrap_or_default();
        assert!(text.contains(UUID) || subject.contains('/'), "{subject}: {said:?}");
    }
    let error = refused(&world, &["explain", "nobody-0"])?;
    assert!(error.contains("nobody-0"), "{error}");
    let error = refused(&world, &["explain", "train-0", "--at", "1999-12-31T00:00:00Z"])?;
    assert!(error.contains("92 days around"), "it says how far it looked: {error}");
    Ok(())
}
