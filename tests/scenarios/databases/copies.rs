//! A database that is replaced by an older copy of itself: what agents still hold comes again and counts once, what nobody
//! has any more is unobserved and said.

use harness::books::Books;
use harness::process::tail;
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};
use postgres_server::Server;
use tonnage_aggregator::model::RowKind;
use tonnage_proto::rest::PricesAnswer;

const S: i64 = 1_000_000_000;

/// A node with a job of a minute in a database, and a copy of that database.
fn copied(more: &[&str]) -> anyhow::Result<Option<(World, Server)>> {
    let Some((mut world, server)) = super::world()? else { return Ok(None) };
    world.nodes[0].extra_args = more.iter().map(|arg| (*arg).to_owned()).collect();
    world.start()?;
    world.live(61)?;
    deliver(&mut world, 60)?;
    server.stop()?;
    server.keep("copy")?;
    server.run()?;
    Ok(Some((world, server)))
}

fn seconds(world: &World, kind: RowKind) -> anyhow::Result<i128> {
    let books = Books::of(&world.aggregator.store()?)?;
    Ok(books.time(kind, None).values().sum::<i128>() / i128::from(S))
}

fn deliver(world: &mut World, held_s: i128) -> anyhow::Result<()> {
    let log = world.aggregator.log();
    let done = || Ok((seconds(world, RowKind::Held)? >= held_s).then_some(()));
    wait_until(DEADLINE, &format!("{held_s} s in the ledger"), || tail(&log), done)
}

/// The copy takes the database's place.
fn set_back(server: &Server) -> anyhow::Result<()> {
    server.stop()?;
    server.go_back("copy")?;
    server.run()
}

/// Another 20 s, and what the ledger has then: held and unobserved seconds.
fn in_the_end(world: &mut World) -> anyhow::Result<(i128, i128)> {
    world.start()?;
    world.live(20)?;
    world.nodes[0].stop(DEADLINE)?;
    let verified = world.aggregator.admin(&["verify"])?;
    anyhow::ensure!(verified.contains("\nconserved:"), "{verified}");
    Ok((seconds(world, RowKind::Held)?, seconds(world, RowKind::Unobserved)?))
}

/// What the ledger answers, once it has noticed that its database is there.
fn answer(world: &World, path: &str) -> anyhow::Result<String> {
    let asked = || Ok(Some(world.aggregator.get(path)?).filter(|(status, _)| *status == 200));
    let log = world.aggregator.log();
    wait_until(DEADLINE, path, || tail(&log), asked).map(|(_, body)| body)
}

/// Of the ledger's log.
fn said(world: &World, text: &str) -> anyhow::Result<bool> {
    Ok(std::fs::read_to_string(world.aggregator.log())?.contains(text))
}

#[test]
fn under_a_running_aggregator_all_comes_again_once_and_the_book_too() -> anyhow::Result<()> {
    let Some((mut world, server)) = copied(&[])? else { return Ok(()) };
    // In the journal that is about to be lost.
    let book = std::fs::read_to_string(world.aggregator.prices())?.replace("3.60", "7.20");
    std::fs::write(world.aggregator.prices(), book)?;
    world.live(60)?;
    deliver(&mut world, 120)?;
    let aggregator = &world.aggregator;
    let dear = || {
        let prices: PricesAnswer = serde_json::from_str(&answer(&world, "/api/v1/prices")?)?;
        let text = answer(&world, "/api/v1/audit/log")?;
        let journalled = text.matches("price_book").count() == 2;
        Ok((journalled && prices.prices.iter().any(|row| row.price.starts_with("7.2"))).then_some(()))
    };
    wait_until(DEADLINE, "the new book", || tail(&aggregator.log()), dear)?;
    set_back(&server)?;
    assert_eq!(in_the_end(&mut world)?, (141, 0));
    anyhow::ensure!(said(&world, "The ledger may have been set back")?);
    let journal = answer(&world, "/api/v1/audit/log")?;
    anyhow::ensure!(
        journal.contains("\"restore\"") && journal.contains("this aggregator has seen"),
        "{journal}"
    );
    anyhow::ensure!(journal.matches("price_book").count() == 2, "{journal}");
    let books = Books::of(&world.aggregator.store()?)?;
    let cost: i128 = books.slots.values().map(|bucket| bucket.cost_nanos).sum();
    assert_eq!(cost, 141 * 2_000_000, "by the newer book");
    Ok(())
}

#[test]
fn under_an_aggregator_that_was_down_all_comes_again_once() -> anyhow::Result<()> {
    let Some((mut world, server)) = copied(&[])? else { return Ok(()) };
    world.live(60)?;
    deliver(&mut world, 120)?;
    world.aggregator.kill9()?;
    set_back(&server)?;
    // Nothing tells such a copy from the original but the agents' own memory.
    assert_eq!(in_the_end(&mut world)?, (141, 0));
    let log = std::fs::read_to_string(world.nodes[0].log())?;
    anyhow::ensure!(log.contains("The ledger was set back"), "{log}");
    Ok(())
}

#[test]
fn a_dump_in_another_database_is_known_as_a_copy() -> anyhow::Result<()> {
    let Some((mut world, server)) = copied(&[])? else { return Ok(()) };
    let url = world.aggregator.database.clone().unwrap();
    let copy = server.dumped(&url)?;
    world.live(60)?;
    deliver(&mut world, 120)?;
    world.aggregator.kill9()?;
    world.aggregator.database = Some(copy);
    assert_eq!(in_the_end(&mut world)?, (141, 0));
    anyhow::ensure!(said(&world, "cluster, timeline, database")?);
    Ok(())
}

#[test]
fn what_no_agent_has_any_more_is_unobserved_and_said() -> anyhow::Result<()> {
    let Some((mut world, server)) = copied(&["--spool-kept-bytes", "0"])? else { return Ok(()) };
    world.live(60)?;
    deliver(&mut world, 120)?;
    set_back(&server)?;
    assert_eq!(in_the_end(&mut world)?, (81, 60));
    anyhow::ensure!(said(&world, "the agent no longer has")?);
    Ok(())
}

#[test]
fn a_database_that_only_went_away_is_no_copy() -> anyhow::Result<()> {
    let Some((mut world, server)) = copied(&[])? else { return Ok(()) };
    world.live(30)?;
    server.kill9()?;
    server.run()?;
    assert_eq!(in_the_end(&mut world)?, (111, 0));
    anyhow::ensure!(!said(&world, "set back")?);
    Ok(())
}
