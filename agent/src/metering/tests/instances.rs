//! Partitioned devices: each instance by itself, weighed by its slices.

use super::*;
use crate::model::{
    Claim, Instance, InstanceObservation, InstanceUtilisation, MemoryShare, Partition, SharedBy,
};

/// Of a GPU with seven slices.
fn instance(gpu_instance: u32, compute_instance: u32, generation: u32, slices: u32) -> Arc<Instance> {
    Arc::new(Instance {
        gpu_instance: Some(gpu_instance),
        compute_instance: Some(compute_instance),
        generation,
        uuid: format!("MIG-{gpu_instance}-{compute_instance}").into(),
        slices,
        slices_guessed: false,
        profile: format!("{slices}g.{slices}0gb"),
        memory_bytes: 0,
        memory: None,
    })
}

/// The same, with so many memory slices of eight, shared by the compute slices of its GPU instance.
fn with_memory(instance: &Arc<Instance>, slices: u32, compute_slices: u32) -> Arc<Instance> {
    let memory = Some(MemoryShare { slices, compute_slices, of: 8 });
    Arc::new(Instance { memory, ..Instance::clone(instance) })
}

fn on(instance: &Arc<Instance>, holders: &[Holder]) -> InstanceObservation {
    let (instance, holders, allocation) = (Arc::clone(instance), holders.to_vec(), Allocation::default());
    InstanceObservation { instance, holders, allocation, utilisation: None }
}

fn claimed(instance: &Arc<Instance>, claims: &[(&str, u64)], parts: u64) -> InstanceObservation {
    let claim = |(pod, parts): &(&str, u64)| Claim {
        owner: owner(pod),
        parts: *parts,
        from_ns: None,
        until_ns: None,
        inferred: false,
        shared_by: SharedBy::default(),
    };
    let allocation = Allocation { claims: claims.iter().map(claim).collect(), parts, mps: false };
    InstanceObservation { allocation, ..on(instance, &[]) }
}

fn used_permille(of: InstanceObservation, permille: u32) -> InstanceObservation {
    let slices = of.instance.slices;
    InstanceObservation { utilisation: Some(InstanceUtilisation { permille, slices }), ..of }
}

fn partitioned(instances: Vec<InstanceObservation>, stranded_slices: u32) -> Observation {
    let partition = Some(Partition { instances, stranded_slices });
    Observation { info: info(7), partition, ..reading(&[]) }
}

fn one_second(seen: &Observation) -> Window {
    let mut meter = started(seen.clone());
    meter.observe(at(T0 + S), vec![seen.clone()]);
    only(meter.finish())
}

fn on_instance(window: &Window, instance: &Arc<Instance>, pod_uid: &str) -> Usage {
    window.usages[&(Some(Arc::clone(instance)), owner(pod_uid))]
}

const SECOND: u64 = 1_000_000_000;

#[test]
fn an_instance_weighs_its_slices_and_what_is_in_none_is_idle_of_which_some_is_stranded() {
    let [three, two] = [instance(1, 0, 1, 3), instance(2, 0, 1, 2)];
    let seen = partitioned(vec![on(&three, &[holder(1, "a", T0)]), on(&two, &[])], 1);
    let window = one_second(&seen);
    let held = on_instance(&window, &three, "a");
    assert_eq!((held.held_ns, held.method), (3 * SECOND, method::HELD_CGROUP));
    assert_eq!((window.idle_ns, window.stranded_ns), (4 * SECOND, SECOND));
    assert_eq!(window.instance_idle_ns, BTreeMap::from([(two, 2 * SECOND)]));
}

#[test]
fn replicas_split_an_instance_and_leave_the_others_alone() {
    let [three, four] = [instance(1, 0, 1, 3), instance(2, 0, 1, 4)];
    let shared = claimed(&three, &[("a", 1), ("b", 1)], 4);
    let window = one_second(&partitioned(vec![shared, claimed(&four, &[("a", 1)], 1)], 0));
    let held = ["a", "b"].map(|pod| on_instance(&window, &three, pod).held_ns);
    assert_eq!(held, [750_000_000; 2]);
    assert_eq!(on_instance(&window, &four, "a").held_ns, 4 * SECOND);
    assert_eq!((window.idle_ns, window.stranded_ns), (1_500_000_000, 0));
}

#[test]
fn a_process_on_an_instance_that_another_has_is_an_intruder_there_alone() {
    let [three, four] = [instance(1, 0, 1, 3), instance(2, 0, 1, 4)];
    let mut on_three = claimed(&three, &[("a", 1)], 1);
    on_three.holders.push(holder(1, "b", T0));
    let window = one_second(&partitioned(vec![on_three, on(&four, &[holder(2, "b", T0)])], 0));
    assert!(window.intruders.contains_key(&(Some(Arc::clone(&three)), owner("b"))));
    assert_eq!(window.intruders.len(), 1);
    assert_eq!(on_instance(&window, &four, "b").held_ns, 4 * SECOND);
    assert_eq!(on_instance(&window, &three, "a").held_ns, 3 * SECOND);
}

#[test]
fn instances_that_come_and_go_cover_the_interval_whose_reading_shows_them() {
    let [old, new] = [instance(1, 0, 1, 3), instance(1, 0, 2, 7)];
    let before = partitioned(vec![on(&old, &[holder(1, "a", T0)])], 0);
    let after = partitioned(vec![on(&new, &[holder(2, "b", T0 + S)])], 0);
    let mut meter = started(before.clone());
    meter.observe(at(T0 + S), vec![before]);
    meter.observe(at(T0 + 2 * S), vec![after]);
    let window = only(meter.finish());
    assert_eq!(on_instance(&window, &old, "a").held_ns, 3 * SECOND);
    assert_eq!(on_instance(&window, &new, "b").held_ns, 7 * SECOND);
    assert_eq!(window.idle_ns, 4 * SECOND);
}

#[test]
fn a_mode_that_is_switched_begins_a_window_of_its_own() {
    let mut meter = started(reading(&[holder(1, "a", T0)]));
    meter.observe(at(T0 + S), vec![reading(&[holder(1, "a", T0)])]);
    let whole = instance(0, 0, 1, 7);
    let closed = meter.observe(at(T0 + 2 * S), vec![partitioned(vec![on(&whole, &[])], 0)]);
    let before = only(closed);
    assert_eq!((before.info.slices, usage(&before, "a").held_ns), (1, SECOND));
    let window = only(meter.finish());
    assert_eq!((window.info.slices, window.idle_ns), (7, 7 * SECOND));
}

#[test]
fn who_holds_what_is_in_no_instance_has_what_is_left_of_the_memory_and_idle_time_there_is_the_gpus() {
    let cut = [
        with_memory(&instance(1, 0, 1, 1), 4, 3),
        with_memory(&instance(1, 1, 1, 2), 4, 3),
        with_memory(&instance(2, 0, 1, 1), 2, 1),
    ];
    let mut seen = partitioned(cut.iter().map(|of| on(of, &[])).collect(), 1);
    seen.allocation = claimed(&cut[0], &[("a", 1)], 2).allocation;
    let window = one_second(&seen);
    let rest = only_rest(&window);
    assert_eq!((rest.uuid.as_ref(), rest.slices), (&*info(7).uuid, 3));
    assert_eq!(rest.memory, Some(MemoryShare { slices: 2, compute_slices: 3, of: 8 }));
    assert_eq!(on_instance(&window, &rest, "a").held_ns, 3 * SECOND / 2);
    let of_instances: u64 = window.instance_idle_ns.values().sum();
    assert_eq!((window.idle_ns, of_instances, window.stranded_ns), (11 * SECOND / 2, 4 * SECOND, SECOND));
    // Where the memory of one is not told, that of the rest is not either.
    let untold = partitioned(vec![on(&cut[0], &[]), on(&instance(3, 0, 1, 2), &[])], 0);
    let window = one_second(&Observation { allocation: seen.allocation.clone(), ..untold });
    assert_eq!(window.usages[&(None, owner("a"))].held_ns, 2 * SECOND);
    // Nor is there a rest where nobody holds it.
    let window = one_second(&Observation { allocation: Allocation::default(), ..seen });
    assert!(window.usages.is_empty());
}

/// The one thing that is held there.
fn only_rest(window: &Window) -> Arc<Instance> {
    let held: Vec<_> = window.usages.keys().filter_map(|(instance, _)| instance.clone()).collect();
    assert_eq!(held.len(), 1);
    Arc::clone(&held[0])
}

#[test]
fn use_of_an_instance_is_the_one_owners_who_has_processes_there() {
    let [three, two] = [instance(1, 0, 1, 3), instance(2, 0, 1, 2)];
    let mut one = claimed(&three, &[("a", 1), ("b", 1)], 2);
    one.holders.push(holder(1, "a", T0));
    let two_users = on(&two, &[holder(2, "c", T0), holder(3, "d", T0)]);
    let window = one_second(&partitioned(vec![used_permille(one, 400), used_permille(two_users, 500)], 0));
    let [a, b] = ["a", "b"].map(|pod| on_instance(&window, &three, pod));
    // 40 % of three slices is 1.2 s, and it holds 1.5.
    assert_eq!((a.busy_ns, b.busy_ns), (1_200_000_000, 0));
    assert!(a.method & b.method & method::BUSY_INSTANCE != 0);
    // Whose of the two it was nobody knows.
    let [c, d] = ["c", "d"].map(|pod| on_instance(&window, &two, pod));
    assert_eq!((c.method | d.method) & method::BUSY_INSTANCE, 0);
    assert_eq!(window.busy_unattributed_ns, SECOND);
}

#[test]
fn use_beyond_what_is_held_is_scaled_and_compute_instances_share_their_gpu_instances() {
    let [one, two] = [instance(1, 0, 1, 1), instance(1, 1, 1, 2)];
    let utilisation = Some(InstanceUtilisation { permille: 500, slices: 3 });
    let used = |of| InstanceObservation { utilisation, ..of };
    let both = vec![used(on(&one, &[holder(1, "a", T0)])), used(on(&two, &[]))];
    let window = one_second(&partitioned(both, 0));
    let a = on_instance(&window, &one, "a");
    assert_eq!((a.held_ns, a.busy_ns), (SECOND, SECOND));
    assert!(a.method & method::BUSY_SCALED != 0);
    assert_eq!((window.busy_unattributed_ns, window.instance_idle_ns[&two]), (0, 2 * SECOND));
}

#[test]
fn energy_goes_by_the_use_of_instances_and_else_by_what_is_held() {
    let [three, four] = [instance(1, 0, 1, 3), instance(2, 0, 1, 4)];
    let instances = vec![on(&three, &[holder(1, "a", T0)]), on(&four, &[])];
    let mut seen = partitioned(instances, 0);
    seen.energy_mj = Some(0);
    let mut meter = started(seen.clone());
    seen.energy_mj = Some(700);
    meter.observe(at(T0 + S), vec![seen]);
    let window = only(meter.finish());
    assert_eq!((on_instance(&window, &three, "a").energy_uj, window.energy_idle_uj), (300_000, 400_000));
}

#[test]
fn instances_that_say_they_are_more_than_their_gpu_never_weigh_more() {
    let [five, four] = [instance(1, 0, 1, 5), instance(2, 0, 1, 4)];
    let both = vec![on(&five, &[holder(1, "a", T0)]), on(&four, &[holder(2, "b", T0)])];
    let window = one_second(&partitioned(both, 3));
    assert_eq!(on_instance(&window, &five, "a").held_ns, 5 * SECOND);
    assert_eq!(on_instance(&window, &four, "b").held_ns, 2 * SECOND);
    assert_eq!((window.idle_ns, window.stranded_ns), (0, 0));
}

#[test]
fn more_owners_than_a_window_may_name_are_bounded_over_all_instances() {
    let instances: Vec<Arc<Instance>> = (0..7).map(|n| instance(n, 0, 1, 1)).collect();
    let crowd = |at: &Arc<Instance>| {
        let holders: Vec<Holder> = (0..200).map(|pid| holder(pid, &format!("{pid:03}"), T0)).collect();
        on(at, &holders)
    };
    let window = one_second(&partitioned(instances.iter().map(crowd).collect(), 0));
    assert!(window.usages.len() <= limits::USAGES_PER_WINDOW_MAX, "{}", window.usages.len());
    assert_eq!(window.idle_ns, 0);
}
