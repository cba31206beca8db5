//! A call into the driver that returns late, or never.

use nvidia_ml::scenario::{Hang, Xid};

use super::*;

fn hang(calls: &[&str], to_s: Option<f64>) -> Faults {
    let calls = calls.iter().map(|call| (*call).to_owned()).collect();
    Faults { hang: vec![Hang { calls, from_s: 20.0, to_s }], ..Faults::default() }
}

#[test]
fn a_hang_is_told_while_it_lasts_and_sampling_goes_on_when_it_is_over() -> anyhow::Result<()> {
    for calls in [&[][..], &["nvmlDeviceGetTotalEnergyConsumption"]] {
        let mut world = world(hang(calls, Some(5_000.0)))?;
        world.start()?;
        world.live(19)?;
        pass_until(&mut world, HUNG, 35.0)?;
        for page in ["/readyz", "/healthz"] {
            let (status, text) = world.nodes[0].get(page)?;
            assert!(status == 503 && text.contains("driver hangs"), "{page}: {status} {text}");
        }
        // The ledger hears of it now, not afterwards.
        let log = world.nodes[0].log();
        wait_until(
            DEADLINE,
            "gaps",
            || harness::process::tail(&log),
            || {
                world.move_clock(S)?;
                Ok(told(&world)?.last().filter(|gap| gap.3 >= 40).map(|_| ()))
            },
        )?;
        assert_eq!(world.nodes[0].process().map(|process| process.exited()).transpose()?.flatten(), None);
        let now_s = (world.now().wall_ns - BEGIN_NS) / S;
        world.move_clock((5_001 - now_s) * S)?;
        let ready = |world: &mut World| Ok((world.nodes[0].get("/readyz")?.0 == 200).then_some(()));
        wait_until(
            DEADLINE,
            "the driver to be read",
            || harness::process::tail(&log),
            || {
                world.move_clock(S)?;
                ready(&mut world)
            },
        )?;
        world.live(12)?;
        assert_eq!(
            (metric(&world, HUNG)?, metric(&world, "tonnage_agent_samples_abandoned_total")?),
            (0.0, 1.0)
        );
        let until_s = (world.now().wall_ns - BEGIN_NS) / S;
        world.nodes[0].stop(DEADLINE)?;
        let told = conserved(&world, until_s)?;
        assert!(told.iter().all(|gap| gap.0.is_none() && gap.1 == Reason::NotRead), "{told:?}");
        assert!(told[0].2 == 19 && told[0].3 >= 5_000, "{told:?}");
    }
    Ok(())
}

#[test]
fn a_stop_while_the_driver_hangs_delivers_what_was_measured() -> anyhow::Result<()> {
    let mut world = world(hang(&[], None))?;
    world.start()?;
    world.live(19)?;
    pass_until(&mut world, HUNG, 0.0)?;
    world.settle()?;
    // It cannot be let go of either, and says so.
    let output = world.nodes[0].control(&["release"]).output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && text.contains("a call into it hangs"), "{text}");
    world.nodes[0].stop(DEADLINE)?;
    let until_s = (world.now().wall_ns - BEGIN_NS) / S;
    assert_eq!(conserved(&world, until_s)?, [(None, Reason::NotRead, 19, until_s)]);
    Ok(())
}

#[test]
fn an_error_told_to_a_reading_that_is_given_up_on_is_counted_all_the_same() -> anyhow::Result<()> {
    let mut scenario = node(hang(&["nvmlDeviceGetTotalEnergyConsumption"], Some(5_000.0)));
    scenario.device[0].xid = [10.5, 19.5].map(|at_s| Xid { at_s, code: 79, instance: None }).into();
    let mut world = World::new(1)?;
    world.add_node("n", scenario)?;
    world.start()?;
    world.live(19)?;
    pass_until(&mut world, HUNG, 0.0)?;
    let now_s = (world.now().wall_ns - BEGIN_NS) / S;
    world.move_clock((5_001 - now_s) * S)?;
    let log = world.nodes[0].log();
    wait_until(
        DEADLINE,
        "both errors",
        || harness::process::tail(&log),
        || {
            world.move_clock(S)?;
            Ok((world.nodes[0].metrics()?.sum("tonnage_gpu_xid_errors_total") == Some(2.0)).then_some(()))
        },
    )
}
