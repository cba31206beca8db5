//! A database that is gone, or that hangs: who asks is told so and waits for nothing, and all goes on when it is back.

use harness::process::tail;
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};
use postgres_server::Server;

/// An aggregator that asks for tokens, over a database.
fn world() -> anyhow::Result<Option<(World, Server)>> {
    let Some((mut world, server)) = super::world()? else { return Ok(None) };
    world.aggregator.insecure = false;
    let token = world.aggregator.admin(&["token", "add", "--name", "r", "--role", "reader"])?;
    world.aggregator.token = Some(token.trim().to_owned());
    world.aggregator.start(DEADLINE)?;
    ready(&world, 200)?;
    Ok(Some((world, server)))
}

/// Waits until `/readyz` says so, and gives what it says.
fn ready(world: &World, status: u16) -> anyhow::Result<String> {
    let aggregator = &world.aggregator;
    wait_until(
        DEADLINE,
        &format!("/readyz to be {status}"),
        || tail(&aggregator.log()),
        || {
            let (found, text) = aggregator.get("/readyz")?;
            Ok((found == status).then_some(text))
        },
    )
}

/// Each request that needs the database is refused, whoever asks; the client gives up on one that is kept waiting.
fn refuses(world: &mut World) -> anyhow::Result<()> {
    let good = world.aggregator.token.clone();
    for token in [good.clone(), Some(format!("tng_{}", "a".repeat(64)))] {
        world.aggregator.token = token;
        let (status, text) = world.aggregator.get("/api/v1/nodes")?;
        anyhow::ensure!(status == 503, "{status} {text}");
    }
    world.aggregator.token = good;
    assert_eq!(world.aggregator.get("/healthz")?.0, 200, "a restart would not help");
    let url = format!("{}/readyz", world.aggregator.url());
    let answer = harness::http::http().get(&url).call()?;
    assert_eq!(answer.status().as_u16(), 503);
    assert_eq!(answer.headers().get("retry-after").map(|value| value.as_bytes()), Some(&b"5"[..]));
    Ok(())
}

#[test]
fn while_it_hangs_the_aggregator_is_not_ready_and_answers() -> anyhow::Result<()> {
    let Some((mut world, server)) = world()? else { return Ok(()) };
    server.freeze()?;
    let reason = ready(&world, 503)?;
    anyhow::ensure!(reason.contains("has not answered for"), "{reason}");
    refuses(&mut world)?;
    server.thaw()?;
    ready(&world, 200)?;
    assert_eq!(world.aggregator.get("/api/v1/nodes")?.0, 200);
    Ok(())
}

#[test]
fn while_it_is_gone_the_aggregator_is_not_ready_and_is_again_when_it_is_back() -> anyhow::Result<()> {
    let Some((mut world, server)) = world()? else { return Ok(()) };
    server.kill9()?;
    let reason = ready(&world, 503)?;
    anyhow::ensure!(reason.contains("cannot be reached"), "{reason}");
    refuses(&mut world)?;
    server.run()?;
    ready(&world, 200)?;
    assert_eq!(world.aggregator.get("/api/v1/nodes")?.0, 200);
    Ok(())
}

#[test]
fn a_request_that_waits_when_it_begins_to_hang_ends() -> anyhow::Result<()> {
    let Some((world, server)) = world()? else { return Ok(()) };
    server.freeze()?;
    // Nobody knows yet that it hangs: a token that is not remembered is looked up in vain.
    let unknown = format!("tng_{}", "b".repeat(64));
    let http = harness::http::http();
    let url = format!("{}/api/v1/nodes", world.aggregator.url());
    let (status, text) = harness::http::get(&http, &url, Some(&unknown))?;
    anyhow::ensure!(status == 503, "{status} {text}");
    server.thaw()?;
    wait_until(DEADLINE, "an answer", String::new, || {
        let (status, _) = harness::http::get(&http, &url, Some(&unknown))?;
        Ok((status == 401).then_some(()))
    })
}
