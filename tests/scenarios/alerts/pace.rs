//! How fast a limit is spent, found by whole processes and told over HTTP.

use anyhow::{Context, ensure};
use harness::forged::{Forged, seal, window};
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};
use serde_json::json;
use tonnage_proto::metering::ack::Outcome;
use tonnage_proto::metering::{Owner, owner};

use super::{Server, Site};

const S: i64 = 1_000_000_000;

#[test]
fn a_limit_that_burns_in_both_windows_is_told_and_is_over_with_the_short_one() -> anyhow::Result<()> {
    let (world, server) = (World::new(1)?, Server::start()?);
    let rules = format!(
        r#"
        [[channel]]
        name = "hook"
        kind = "webhook"
        url = "{}/hook"
        [[rule]]
        name = "too fast"
        kind = "burn_rate"
        times = 2.5
        long_hours = 2
        short_hours = 1
        accounts = "fast"
        channels = ["hook"]
        "#,
        server.url
    );
    let mut site = Site::start(world, server, &rules)?;
    site.server.answers(200);
    // January has 744 hours: a cent in each.
    let month = json!([{ "amount": 7.44, "period": { "kind": "calendar", "unit": "month" } }]);
    site.posted("/api/v1/accounts", &json!({ "slurm_account": "fast", "limits": month }), 201)?;
    site.world.advance(120 * S)?;

    let forged = Forged::new(&site.world.aggregator.uplink(), "c", "n")?;
    let (mut wire, _) = forged.open()?;
    let (now, ten) = (site.world.now().wall_ns, (10 * S).unsigned_abs());
    // A minute at 3.60 an hour is six cents: six times a cent in one hour, three times in two.
    let mut batch =
        forged.batch(1, (1..=6).rev().map(|cell| window(now - cell * 10 * S, ten, ten)).collect());
    batch.owners = vec![Owner {
        kind: owner::Kind::SlurmJob.into(),
        job_id: "7".into(),
        account: "fast".into(),
        ..Owner::default()
    }];
    let (outcome, detail) = wire.ack(seal(&batch))?;
    ensure!(outcome == Outcome::Accepted, "{detail}");
    // The slot is over, and time stands still until that was seen.
    site.world.advance(900 * S)?;
    let server = &site.server;
    wait_until(DEADLINE, "a burn rate", String::new, || Ok((!server.taken().is_empty()).then_some(())))?;
    let told = server.taken();
    ensure!(told.len() == 1, "{told:?}");
    let body = &told[0].body;
    ensure!(body["alert_type"] == "burn_rate" && body["budget_name"] == "fast", "{body}");
    ensure!(body["value"] == "3.0 times" && body["threshold"] == "2.5 times", "{body}");
    let message = body["message"].as_str().context("a message")?;
    ensure!(message.contains("0.060000000 USD in the last 2 h; 6.0 times in the last 1 h"), "{message}");

    // An hour later the short window has nothing, though the long one still burns.
    site.world.advance(3_600 * S)?;
    let told = site.until_taken(2)?;
    ensure!(told[1].body["event"] == "resolve" && told[1].body["id"] == body["id"], "{told:?}");
    Ok(())
}
