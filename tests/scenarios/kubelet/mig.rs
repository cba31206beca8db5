//! Pods that were given MIG devices: each holds its slices of the seven of its GPU, by whatever name the device has.

use std::collections::BTreeMap;

use harness::kubelet::{self, Kubelet};
use harness::scenario;
use harness::world::World;
use nvidia_ml::Refusal;
use nvidia_ml::scenario::{MigDevice, Refuse, Scenario};
use tonnage_aggregator::model::RowKind;
use tonnage_proto::method;

use super::{BY_MEMORY, Listed, S, held, in_pod, start, word, world, world_priced};
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

/// What each has of a second of so many slices, by largest remainder, the first of equals before the others.
fn of_a_second(slices: i128, weights: &[i128]) -> Vec<i128> {
    let sum: i128 = weights.iter().sum();
    let mut parts: Vec<i128> = weights.iter().map(|weight| slices * S * weight / sum).collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|&at| -(slices * S * weights[at] % sum));
    let left = usize::try_from(slices * S - parts.iter().sum::<i128>()).unwrap_or_default();
    order[..left].iter().for_each(|&at| parts[at] += 1);
    parts
}

/// What nobody held of a GPU, and of that what is stranded.
fn idle(books: &Books, gpu: &str) -> [i128; 2] {
    let of = |kind| books.time(kind, Some(gpu)).into_values().sum::<i128>();
    let stranded = of(RowKind::Stranded);
    [of(RowKind::Idle) + stranded, stranded]
}

#[test]
fn by_every_name_of_a_mig_device_a_pod_holds_its_slices_and_the_rest_is_idle() -> anyhow::Result<()> {
    let gpu = scenario::uuid;
    let cut_into =
        vec![vec![mig(1, 3), mig(2, 1)], vec![mig(3, 2)], vec![mig(4, 2)], vec![mig(5, 3)], vec![mig(9, 1)]];
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
            "concrete":{{"parentUUID":"{}","migUUID":"{}","giId":10,"ciId":0}},
            "device":{{"deviceName":"gpu-0-mig-1g10gb-19-0"}}}}}}]}}]}}}}}}}}"#,
        gpu(4),
        mig_uuid(9)
    );
    std::fs::write(world.nodes[0].dir().join("dra-checkpoint.json"), checkpoint)?;
    let kubelet = Kubelet::start(&world.nodes[0].kubelet_socket())?;
    for (pod, n) in listed.iter().zip(1..) {
        kubelet::begin_pod(world.nodes[0].dir(), &pod.name, &scenario::pod_uid(n))?;
    }
    kubelet.set_pods(listed);
    start(&mut world)?;
    world.live(20)?;
    let thirds = of_a_second(2, &[1, 2]);
    // By GPU: pods with what they hold of a second, in slices' time.
    let expected: [&[(u32, i128)]; 5] =
        [&[(1, 3 * S), (2, S)], &[(3, thirds[0]), (4, thirds[1])], &[(5, 2 * S)], &[(6, 3 * S)], &[(7, S)]];
    for (pods, n) in expected.into_iter().zip(0..) {
        let of_pods: BTreeMap<String, i128> =
            pods.iter().map(|(pod, part)| (word(*pod), 20 * part)).collect();
        let held_ns: i128 = of_pods.values().sum();
        assert_eq!(held(&mut world, Some(n))?, of_pods, "GPU {n}");
        let idle = idle(&Books::read(&world.aggregator.data_dir())?, &gpu(n));
        assert_eq!(idle[0], 20 * 7 * S - held_ns, "GPU {n}");
    }
    Ok(())
}

/// What each pod, and nobody, was charged on a GPU, in nano-dollars; rounding is nobody's.
fn charges(books: &Books, gpu: &str) -> BTreeMap<String, i128> {
    let mut sums = BTreeMap::new();
    for ((.., owner), bucket) in books.slots.iter().filter(|((_, device, ..), _)| device == gpu) {
        *sums.entry(owner.clone()).or_default() += bucket.cost_nanos;
    }
    sums.retain(|_, nanos| *nanos != 0);
    sums
}

/// An H100 with a 3g.40gb and a 1g.20gb; one with a 3g.40gb in two parts; one with seven 1g; one that a pod was given as a whole
/// though it is cut into a 1g.20gb and a 1g.
fn with_memory() -> (Scenario, Vec<Listed>) {
    let part = |n, profile: &str, gpu_instance, compute_instance| MigDevice {
        uuid: mig_uuid(n),
        profile: Some(profile.to_owned()),
        gpu_instance,
        compute_instance,
        ..MigDevice::default()
    };
    let scenario = cut(vec![
        vec![part(1, "3g.40gb", 1, 0), part(2, "1g.20gb", 2, 0)],
        vec![part(3, "1c.3g.40gb", 1, 0), part(4, "2c.3g.40gb", 1, 1)],
        (10..17).map(|n| part(n, "1g.10gb", n, 0)).collect(),
        vec![part(5, "1g.20gb", 1, 0), part(6, "1g.10gb", 2, 0)],
    ]);
    let half = format!("{}::0", mig_uuid(2));
    let other_half = format!("{}::1", mig_uuid(2));
    let listed = vec![
        kubelet::pod("three", &[&mig_uuid(1)]),
        kubelet::pod("half", &[&half]),
        kubelet::pod("other-half", &[&other_half]),
        kubelet::pod("two-parts", &[&mig_uuid(4)]),
        kubelet::pod("one", &[&mig_uuid(10)]),
        kubelet::pod("whole", &[&scenario::uuid(3)]),
    ];
    (scenario, listed)
}

const NAMED: [(&str, u32); 6] =
    [("three", 1), ("half", 2), ("other-half", 3), ("two-parts", 4), ("one", 5), ("whole", 6)];

#[test]
fn by_a_price_by_memory_a_pod_pays_for_the_memory_slices_that_the_driver_gave_it() -> anyhow::Result<()> {
    let (scenario, listed) = with_memory();
    let (mut world, _kubelet) = world_priced(scenario, &NAMED, listed, BY_MEMORY)?;
    world.live(20)?;
    held(&mut world, None)?;
    let books = Books::read(&world.aggregator.data_dir())?;
    // 20 s of an H100 are 20000000 nano-dollars; by GPU what pods have of its 48 parts.
    let expected: [&[(u32, i128)]; 4] = [&[(1, 24), (2, 6), (3, 6)], &[(4, 16)], &[(5, 6)], &[(6, 48)]];
    for (pods, n) in expected.into_iter().zip(0..) {
        let mut of: BTreeMap<String, i128> =
            pods.iter().map(|(pod, part)| (word(*pod), 20_000_000 * part / 48)).collect();
        let left = 20_000_000 - of.values().sum::<i128>();
        of.extend((left > 0).then(|| (String::new(), left)));
        assert_eq!(charges(&books, &scenario::uuid(n)), of, "GPU {n}");
    }
    let verified = world.aggregator.admin(&["verify"])?;
    assert!(verified.contains("conserved: "), "{verified}");
    Ok(())
}

#[test]
fn memory_slices_that_cannot_be_read_for_a_while_are_weighed_from_when_they_can() -> anyhow::Result<()> {
    let (mut scenario, listed) = with_memory();
    scenario.faults.refuse = vec![Refuse {
        calls: vec!["nvmlGpuInstanceGetInfo".to_owned()],
        devices: Vec::new(),
        from_s: 0.0,
        to_s: Some(9.5),
        with: Refusal::Unknown,
    }];
    let (mut world, _kubelet) = world_priced(scenario, &NAMED, listed, BY_MEMORY)?;
    world.live(20)?;
    held(&mut world, None)?;
    let books = Books::read(&world.aggregator.data_dir())?;
    // Three of seven compute slices for 9 s, then four of eight memory slices.
    let expected = 9_000_000 * 3 / 7 + 11_000_000 * 4 / 8;
    assert_eq!(charges(&books, &scenario::uuid(0))[&word(1)], expected);
    let verified = world.aggregator.admin(&["verify"])?;
    assert!(verified.contains("conserved: "), "{verified}");
    Ok(())
}

#[test]
fn where_the_driver_does_not_tell_memory_slices_a_pod_pays_by_compute_slices_and_it_is_marked()
-> anyhow::Result<()> {
    let (mut scenario, listed) = with_memory();
    scenario.faults.no_permission = vec!["nvmlDeviceGetGpuInstanceById".to_owned()];
    let (mut world, _kubelet) = world_priced(scenario, &NAMED, listed, BY_MEMORY)?;
    world.live(20)?;
    held(&mut world, None)?;
    let log = std::fs::read_to_string(world.nodes[0].log())?;
    assert!(log.contains("memory slices of MIG devices"), "{log}");
    let books = Books::read(&world.aggregator.data_dir())?;
    assert_eq!(charges(&books, &scenario::uuid(0))[&word(1)], 20_000_000 * 3 / 7);
    assert_eq!(
        charges(&books, &scenario::uuid(3))[&word(6)] / 10,
        20_000_000 / 10 - 1,
        "all of it, but for rounding"
    );
    let at = world.now().wall_ns / 1_000_000_000 - 10;
    let path = format!("/api/v1/explain?device={}&at={at}", scenario::uuid(0));
    let (_, explained) = world.aggregator.get(&path)?;
    assert!(explained.contains("charge: weighed by compute slices"), "{explained}");
    Ok(())
}

#[test]
fn a_gpu_that_is_cut_anew_is_held_by_its_new_mig_devices_from_when_they_are_known() -> anyhow::Result<()> {
    let old = MigDevice { to_s: Some(12.0), ..mig(1, 3) };
    let new = MigDevice { from_s: Some(12.0), ..mig(2, 2) };
    let listed = vec![kubelet::pod("old", &[&mig_uuid(1)]), kubelet::pod("new", &[&mig_uuid(2)])];
    let (mut world, _kubelet) = world(cut(vec![vec![old, new]]), &[("old", 1), ("new", 2)], listed)?;
    world.live(30)?;
    // The driver tells that it is cut anew, and the next reading shows it.
    let expected = [(word(1), 11 * 3 * S), (word(2), 19 * 2 * S)];
    assert_eq!(held(&mut world, None)?, BTreeMap::from(expected));
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
    let idle = idle(&Books::read(&world.aggregator.data_dir())?, &scenario::uuid(0));
    assert_eq!(idle, [10 * 7 * S, 0]);
    assert!(log.contains("the GPU is read as a whole: "), "{log}");
    Ok(())
}

#[test]
fn while_it_is_not_known_how_a_gpu_is_cut_its_time_is_unobserved_and_nobody_is_charged() -> anyhow::Result<()>
{
    let mut scenario = cut(vec![vec![mig(1, 1)]]);
    scenario.device[0].mig_from_s = Some(5.5);
    scenario.faults.refuse = vec![Refuse {
        calls: vec!["nvmlDeviceGetMigDeviceHandleByIndex".to_owned()],
        devices: Vec::new(),
        from_s: 5.0,
        to_s: Some(10.5),
        with: Refusal::Unknown,
    }];
    // Without a claim: the one process would else hold all that the GPU is.
    let mut process = scenario::process(77, &in_pod(2), &[0], 5.75);
    process.instance = Some(mig_uuid(1));
    scenario.process = vec![process];
    let (mut world, _kubelet) = world(scenario, &[("train", 2)], Vec::new())?;
    world.live(20)?;
    let held: i128 = held(&mut world, None)?.into_values().sum();
    assert_eq!(held, 10 * S, "one slice of seven, from the reading that lists it");
    let books = Books::read(&world.aggregator.data_dir())?;
    let unobserved: i128 = books.time(RowKind::Unobserved, None).into_values().sum();
    assert_eq!(unobserved, 5 * S, "of the GPU as it was last seen, whole");
    Ok(())
}
