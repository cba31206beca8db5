//! Errors that a driver gives for a while: unloaded, replaced, out of step with its library, a GPU that is reset.

use nvidia_ml::Refusal;
use nvidia_ml::scenario::Refuse;
use tonnage_proto::method;

use super::*;

/// From 20 s to 35 s.
fn refuse(calls: &[&str], devices: &[String], with: Refusal) -> Refuse {
    let calls = calls.iter().map(|call| (*call).to_owned()).collect();
    Refuse { calls, devices: devices.to_vec(), from_s: 20.0, to_s: Some(35.0), with }
}

#[test]
fn a_driver_that_is_unloaded_or_replaced_is_read_again_when_it_is_back() -> anyhow::Result<()> {
    for (init, others, says) in [
        (Refusal::DriverNotLoaded, Refusal::Uninitialized, "modprobe"),
        (Refusal::DriverNotLoaded, Refusal::Unknown, "modprobe"),
        (Refusal::LibRmVersionMismatch, Refusal::Unknown, "upgraded"),
        (Refusal::Unknown, Refusal::Unknown, "restart the container"),
    ] {
        let faults = Faults {
            refuse: vec![refuse(&["nvmlInit_v2"], &[], init), refuse(&[], &[], others)],
            driver_version: vec![(35.0, "590.44.01".to_owned())],
            ..Faults::default()
        };
        let (said, told) = minute(faults)?;
        assert!(said.contains(says), "{init:?}: {said}");
        assert_eq!(told, [(None, Reason::NotRead, 19, 34)], "{init:?}");
    }
    Ok(())
}

#[test]
fn a_gpu_that_is_lost_or_reset_costs_the_other_nothing() -> anyhow::Result<()> {
    for with in [Refusal::GpuIsLost, Refusal::ResetRequired] {
        let lost = scenario::uuid(1);
        let faults =
            Faults { refuse: vec![refuse(&[], std::slice::from_ref(&lost), with)], ..Faults::default() };
        let (_, told) = minute(faults)?;
        let [(Some(device), Reason::NotRead, 19, until_s)] = told.as_slice() else { panic!("{told:?}") };
        // It is looked for every ten readings.
        assert!(*device == lost && (34..=45).contains(until_s), "{told:?}");
    }
    Ok(())
}

#[test]
fn a_container_that_lost_its_gpus_says_so_until_it_is_restarted() -> anyhow::Result<()> {
    let for_good = Refuse { to_s: None, ..refuse(&[], &[], Refusal::Unknown) };
    let mut world = world(Faults { refuse: vec![for_good], ..Faults::default() })?;
    world.start()?;
    world.live(19)?;
    pass(&mut world, 41)?;
    let (status, said) = world.nodes[0].get("/readyz")?;
    assert!(status == 503 && said.contains("restart the container"), "{said}");
    world.nodes[0].stop(DEADLINE)?;
    // A new container has its devices again.
    let healed = Scenario { epoch_ns: Some(BEGIN_NS), ..node(Faults::default()) };
    std::fs::write(world.nodes[0].dir().join("scenario.toml"), toml::to_string(&healed)?)?;
    world.start()?;
    world.live(20)?;
    world.nodes[0].stop(DEADLINE)?;
    assert_eq!(conserved(&world, 80)?, [(None, Reason::NotRead, 19, 60)]);
    Ok(())
}

#[test]
fn a_library_that_really_lacks_functions_is_read_without_them() -> anyhow::Result<()> {
    let mut world = world(Faults::default())?;
    let lacks = [
        "nvmlDeviceGetProcessUtilization",
        "nvmlDeviceGetGraphicsRunningProcesses_v3",
        "nvmlDeviceGetMPSComputeRunningProcesses_v3",
    ];
    world.nodes[0].nvml = library_without(&world, &lacks)?;
    world.start()?;
    world.live(30)?;
    assert_eq!(world.nodes[0].get("/readyz")?.0, 200);
    world.nodes[0].stop(DEADLINE)?;
    assert_eq!(conserved(&world, 30)?, []);
    let books = Books::read(&world.aggregator.data_dir())?;
    let bits = books.folded()?.values().flatten().fold(0, |bits, window| bits | window.method);
    assert!(bits & method::BUSY_PROCESS == 0 && bits & method::HELD_CGROUP != 0, "{bits:b}");
    Ok(())
}
