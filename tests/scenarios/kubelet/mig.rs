//! Pods that were given MIG devices: each holds its slices of the seven of its GPU, by whatever name the device has.

use std::collections::BTreeMap;

use harness::kubelet::{self, Kubelet};
use harness::scenario;
use harness::world::World;
use nvidia_ml::scenario::{MigDevice, Scenario};
use tonnage_aggregator::model::RowKind;
use tonnage_proto::method;

use super::{S, held, start, wait_listed, word, world};
use crate::books::Books;

fn mig_uuid(n: u32) -> String {
    format!("MIG-{n:08x}-42e4-5de3-91c7-45d71c87eb3f")
}

fn mig(n: u32, profile_slices: u32) -> MigDevice {
    MigDevice { uuid: mig_uuid(n), profile_slices, gpu_instance: 1 + n, ..MigDevice::default() }
}

/// A node of GPUs that are cut into these.
fn cut(gpus: Vec<Vec<MigDevice>>) -> Scenario {
    let mut scenario = scenario::node(u32::try_from(gpus.len()).unwrap_or(u32::MAX));
    for (device, parts) in scenario.device.iter_mut().zip(gpus) {
        device.mig = Some(parts);
    }
    scenario
}

/// What each has of one second of so many slices, by largest remainder, the first of equals before the others.
fn of_a_second(slices: i128, weights: &[i128]) -> Vec<i128> {
    let (whole, sum): (i128, i128) = (slices * S, weights.iter().sum());
    let mut parts: Vec<i128> = weights.iter().map(|weight| whole * weight / sum).collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|&at| -(whole * weights[at] % sum));
    let left = usize::try_from(whole - parts.iter().sum::<i128>()).unwrap_or_default();
    order[..left].iter().for_each(|&at| parts[at] += 1);
    parts
}

#[test]
fn by_every_name_of_a_mig_device_a_pod_holds_its_slices_and_the_rest_is_idle() -> anyhow::Result<()> {
    let gpu = scenario::uuid;
    let cut_into =
        vec![vec![mig(1, 3), mig(2, 1)], vec![mig(3, 2)], vec![mig(4, 2)], vec![mig(5, 3)], vec![]];
    let replicas: Vec<String> = (0..3).map(|n| format!("{}::{n}", mig_uuid(3))).collect();
    let legacy = format!("MIG-{}/5/0", gpu(2));
    let listed = vec![
        kubelet::pod("by-driver", &[&mig_uuid(1)]),
        kubelet::pod_of("by-resource", "nvidia.com/mig-1g.5gb", &[&mig_uuid(2)]),
        kubelet::pod("one-replica", &[&replicas[0]]),
        kubelet::pod("two-replicas", &[&replicas[1], &replicas[2]]),
        kubelet::pod_of("by-instance", "nvidia.com/mig-2g.10gb", &[&legacy]),
        kubelet::pod("by-minor", &["nvidia3/gi6"]),
        kubelet::pod_with_claim("by-claim", &["gpu-0-mig-1g10gb-19-0"]),
    ];
    let mut world = World::new(1)?;
    world.add_node("n", cut(cut_into))?;
    // Minors move when MIG is switched: the driver of the claim knows better than the name that it gave.
    let checkpoint = format!(
        r#"{{"v2":{{"preparedClaims":{{"c":{{"preparedDevices":[{{"devices":[{{"mig":{{
            "concrete":{{"parentUUID":"{}","migUUID":"MIG-9","giId":9,"ciId":0}},
            "device":{{"deviceName":"gpu-0-mig-1g10gb-19-0"}}}}}}]}}]}}}}}}}}"#,
        gpu(4)
    );
    std::fs::write(world.nodes[0].dir().join("dra-checkpoint.json"), checkpoint)?;
    let kubelet = Kubelet::start(&world.nodes[0].kubelet_socket())?;
    for (pod, n) in listed.iter().zip(1..) {
        kubelet::begin_pod(world.nodes[0].dir(), &pod.name, &scenario::pod_uid(n))?;
    }
    kubelet.set_pods(listed);
    start(&mut world)?;
    world.live(20)?;
    // By GPU and instance: its slices, and pods with their parts of it.
    type Held<'a> = &'a [(i128, &'a [(u32, i128)])];
    let expected: [Held<'_>; 4] =
        [&[(3, &[(1, 1)]), (1, &[(2, 1)])], &[(2, &[(3, 1), (4, 2)])], &[(2, &[(5, 1)])], &[(3, &[(6, 1)])]];
    for (instances, n) in expected.iter().zip(0..) {
        let mut of_pods = BTreeMap::new();
        for (slices, pods) in *instances {
            let weights: Vec<i128> = pods.iter().map(|(_, parts)| *parts).collect();
            let parts = of_a_second(*slices, &weights).into_iter().map(|part| 20 * part);
            of_pods.extend(pods.iter().map(|(pod, _)| word(*pod)).zip(parts));
        }
        let held_slices: i128 = instances.iter().map(|(slices, _)| slices).sum();
        assert_eq!(held(&mut world, Some(n))?, of_pods, "GPU {n}");
        let idle = Books::read(&world.aggregator.data_dir())?.time(RowKind::Idle, Some(&gpu(n)));
        assert_eq!(idle.into_values().sum::<i128>(), 20 * (7 - held_slices) * S, "GPU {n}");
    }
    // What the driver does not show, nobody holds.
    assert_eq!(held(&mut world, Some(4))?, BTreeMap::new());
    Ok(())
}

#[test]
fn a_gpu_that_is_cut_anew_is_held_by_its_new_mig_devices_from_when_they_are_known() -> anyhow::Result<()> {
    let old = MigDevice { to_s: Some(12.0), ..mig(1, 3) };
    let new = MigDevice { from_s: Some(12.0), ..mig(2, 2) };
    let listed = vec![kubelet::pod("old", &[&mig_uuid(1)])];
    let (mut world, kubelet) = world(cut(vec![vec![old, new]]), &[("old", 1)], listed.clone())?;
    world.live(12)?;
    kubelet::begin_pod(world.nodes[0].dir(), "new", &scenario::pod_uid(2))?;
    kubelet.set_pods([listed, vec![kubelet::pod("new", &[&mig_uuid(2)])]].concat());
    let lived_from_ns = world.now().wall_ns;
    wait_listed(&mut world, &kubelet)?;
    while world.now().wall_ns < lived_from_ns + 18_000_000_000 {
        world.live(1)?;
    }
    // The driver tells of the cut: with the reading at second 12 the old one is gone. The new one is held from when the
    // kubelet's list was heard, some whole seconds later.
    let held = held(&mut world, None)?;
    assert_eq!(held[&word(1)], 11 * 3 * S, "{held:?}");
    let new = held[&word(2)];
    assert!(new % (2 * S) == 0 && (10 * 2 * S..=19 * 2 * S).contains(&new), "{held:?}");
    Ok(())
}

#[test]
fn an_instance_whose_size_nobody_says_is_held_as_one_slice_and_it_is_marked_as_inferred() -> anyhow::Result<()>
{
    let mut scenario = cut(vec![vec![mig(1, 3)]]);
    scenario.faults.no_permission = vec!["nvmlDeviceGetAttributes_v2".to_owned()];
    let (mut world, _kubelet) =
        world(scenario, &[("guessed", 1)], vec![kubelet::pod("guessed", &["nvidia0/gi2"])])?;
    world.live(10)?;
    let log = std::fs::read_to_string(world.nodes[0].log())?;
    assert_eq!(held(&mut world, None)?, BTreeMap::from([(word(1), 10 * S)]));
    let folded = Books::read(&world.aggregator.data_dir())?.folded()?;
    let methods = folded[&scenario::uuid(0)].iter().fold(0, |bits, window| bits | window.method);
    assert_ne!(methods & method::HELD_INFERRED, 0);
    assert!(log.contains("compute slices of MIG devices"), "{log}");
    Ok(())
}

#[test]
fn mig_devices_that_may_not_be_seen_are_said_to_be_unknown_and_their_gpu_is_read_on() -> anyhow::Result<()> {
    let mut scenario = cut(vec![vec![mig(1, 3)]]);
    scenario.faults.no_permission = vec!["nvmlDeviceGetMigDeviceHandleByIndex".to_owned()];
    let (mut world, _kubelet) =
        world(scenario, &[("hidden", 1)], vec![kubelet::pod("hidden", &[&mig_uuid(1)])])?;
    world.live(10)?;
    let log = std::fs::read_to_string(world.nodes[0].log())?;
    assert_eq!(held(&mut world, None)?, BTreeMap::new());
    let idle = Books::read(&world.aggregator.data_dir())?.time(RowKind::Idle, None);
    assert_eq!(idle.into_values().sum::<i128>(), 10 * 7 * S);
    assert!(log.contains("no MIG instances: the GPU is read as a whole: "), "{log}");
    Ok(())
}
