//! Letting go of the driver on an operator's word, and taking it up again.

use nvidia_ml::served::{INIT, SHUTDOWN};

use super::*;

const RELEASED: &str = "tonnage_agent_driver_released";

fn order(world: &World, args: &[&str]) -> anyhow::Result<String> {
    let output = world.nodes[0].control(args).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    anyhow::ensure!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(said)
}

/// The last of the driver's life that it logged.
fn last_call(world: &mut World) -> anyhow::Result<String> {
    Ok(world.nodes[0].served()?.last().context("nothing was served")?.call.clone())
}

#[test]
fn a_driver_that_is_let_go_of_is_called_by_nobody_until_it_is_taken_up_again() -> anyhow::Result<()> {
    let mut world = world(Faults::default())?;
    world.start()?;
    world.live(19)?;
    assert!(order(&world, &["release", "--for", "1h"])?.contains("3600 s"));
    assert_eq!(last_call(&mut world)?, SHUTDOWN, "it was let go of before the command ended");
    pass(&mut world, 10)?;
    assert_eq!(last_call(&mut world)?, SHUTDOWN);
    assert!(metric(&world, RELEASED)? > 0.5);
    let (status, text) = world.nodes[0].get("/healthz")?;
    assert!(status == 200 && text.contains("released, for 3590 s"), "{status} {text}");
    let (status, text) = world.nodes[0].get("/readyz")?;
    assert!(status == 503 && text.contains("tonnage-agent resume"), "{status} {text}");

    order(&world, &["resume"])?;
    world.live(21)?;
    assert!(metric(&world, RELEASED)? < 0.5 && world.nodes[0].get("/readyz")?.0 == 200);
    // Forgotten, it comes back by itself.
    order(&world, &["release", "--for", "5s"])?;
    pass(&mut world, 4)?;
    assert_eq!(last_call(&mut world)?, SHUTDOWN);
    world.live(6)?;
    world.nodes[0].stop(DEADLINE)?;
    let lives = world.nodes[0].served()?.iter().filter(|record| record.call == INIT).count();
    assert_eq!(lives, 3);
    assert_eq!(conserved(&world, 60)?, [(None, Reason::NotRead, 19, 29), (None, Reason::NotRead, 50, 54)]);
    Ok(())
}

#[test]
fn an_order_to_nobody_or_for_no_time_says_what_is_wrong() -> anyhow::Result<()> {
    let world = world(Faults::default())?;
    for (args, code, says) in
        [(&["resume"][..], 1, "no agent answers"), (&["release", "--for", "2d"], 64, "from 1s to 24h")]
    {
        let output = world.nodes[0].control(args).output()?;
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(code) && text.contains(says), "{args:?}: {text}");
    }
    Ok(())
}
