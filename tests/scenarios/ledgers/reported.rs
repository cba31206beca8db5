//! Filters, steps, pages and reports through whole processes: over the wire in, by the command line out.

use harness::forged::{Forged, seal, window};
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};
use tonnage_proto::decimal::to_nanos;
use tonnage_proto::metering::ack::Outcome;
use tonnage_proto::metering::{Batch, Owner, Usage, owner};
use tonnage_proto::method::HELD_ALLOCATION;
use tonnage_proto::rest::CostAnswer;

use super::orders::{refused, said};

const S: i64 = 1_000_000_000;
const PODS: u32 = 3;

/// A minute of a GPU that pods of two namespaces share, and that nobody holds for a fourth of the time.
fn batch(forged: &Forged, now: i64) -> Batch {
    let ten = (10 * S).unsigned_abs();
    let windows = (1..=6).rev().map(|cell| {
        let mut window = window(now - cell * 10 * S, ten, ten / 4);
        let like = Usage { busy_ns: 0, method: HELD_ALLOCATION, ..window.usages[0] };
        window.usages = (0..PODS).map(|owner| Usage { owner, ..like }).collect();
        window.idle_ns = ten - 3 * (ten / 4);
        window
    });
    let mut batch = forged.batch(1, windows.collect());
    let pod = |namespace: &str, pod: &str| Owner {
        kind: owner::Kind::Pod.into(),
        namespace: namespace.into(),
        pod: pod.into(),
        pod_uid: format!("uid-{pod}"),
        ..Owner::default()
    };
    batch.owners = vec![pod("ml", "train-0"), pod("ml", "train-1"), pod("web", "serve-0")];
    batch
}

#[test]
fn filters_steps_pages_and_reports_are_told_by_the_command_line_and_sum_up() -> anyhow::Result<()> {
    let mut world = World::new(1)?;
    world.aggregator.start(DEADLINE)?;
    let now = world.now().wall_ns;
    let forged = Forged::new(&world.aggregator.uplink(), "c", "n1")?;
    let (mut wire, _) = forged.open()?;
    let (outcome, detail) = wire.ack(seal(&batch(&forged, now)))?;
    anyhow::ensure!(outcome == Outcome::Accepted, "{detail}");
    let ask = |args: &[&str]| -> anyhow::Result<CostAnswer> {
        Ok(serde_json::from_str(&said(&world, &[args, &["-o", "json"]].concat())?)?)
    };

    // A minute at 3.60 an hour: a fourth of it for each pod.
    let ml = ask(&["cost", "pods", "--filter", "namespace:\"ml\"+pod!~>:\"-1\""])?;
    anyhow::ensure!(ml.rows.len() == 1 && ml.totals.cost == "0.015000000", "{ml:?}");
    let shared = ask(&["cost", "--by", "sharing_mode,region"])?;
    let idle = shared.rows.iter().find(|row| row.key["sharing_mode"] == "__idle__");
    anyhow::ensure!(idle.is_some_and(|row| row.key["region"] == "__unknown__"), "{shared:?}");

    let stepped = ask(&["cost", "pods", "--step", "1h", "--top", "1", "--order", "name"])?;
    let steps: Option<i128> = stepped.series.iter().map(|step| to_nanos(&step.totals.cost)).sum();
    anyhow::ensure!(steps == to_nanos(&stepped.totals.cost) && steps > Some(0), "{stepped:?}");
    let first = ask(&["cost", "pods", "--top", "1"])?;
    let page = first.next_page.unwrap_or_default();
    let second = ask(&["cost", "pods", "--top", "1", "--page", &page])?;
    let pods: Vec<_> = second.rows.iter().map(|row| row.key["pod"].as_str()).collect();
    anyhow::ensure!(pods.contains(&"train-0") || pods.contains(&"train-1"), "{pods:?}");

    let this_month = ask(&["cost", "--window", "month"])?.window.start;
    let month = this_month.get(..7).unwrap_or_default();
    let report = ask(&["report", "chargeback", "--month", month])?;
    let owed: Option<i128> = report.rows.iter().map(|row| to_nanos(&row.figures.cost)).sum();
    anyhow::ensure!(owed == to_nanos(&report.totals.cost) && owed >= Some(60_000_000), "{report:?}");
    let table = said(&world, &["report", "chargeback", "--month", month, "--by", "namespace"])?;
    anyhow::ensure!(table.contains("__idle__") && table.contains("to the nano"), "{table}");
    let shared = said(&world, &["report", "chargeback", "--month", month, "--idle", "share", "-o", "json"])?;
    let shared: serde_json::Value = serde_json::from_str(&shared)?;
    let rows = shared["rows"].as_array().into_iter().flatten();
    let owed: Option<i128> = rows.clone().map(|row| to_nanos(row["charge"].as_str()?)).sum();
    anyhow::ensure!(owed == to_nanos(&report.totals.cost), "{shared}");
    anyhow::ensure!(rows.clone().all(|row| row["key"]["cluster"] == "c"), "{shared}");
    anyhow::ensure!(rows.clone().all(|row| row["key"]["namespace"] != "__idle__"), "{shared}");
    // The book's word goes for whoever gives none.
    let mut book = std::fs::read_to_string(world.aggregator.prices())?;
    book.insert_str(0, "idle = \"platform\"\n");
    std::fs::write(world.aggregator.prices(), book)?;
    world.live(5)?;
    wait_until(DEADLINE, "the book's word", String::new, || {
        let table = said(&world, &["report", "chargeback", "--month", month])?;
        Ok(table.contains("__platform__").then_some(()))
    })?;
    let filtered = ["report", "chargeback", "--month", month, "--filter", "namespace:\"ml\""];
    let error = refused(&world, &filtered)?;
    anyhow::ensure!(error.contains("--idle report"), "{error}");
    let months = said(&world, &["report", "monthly", "--months", "1", "-o", "csv"])?;
    anyhow::ensure!(months.contains(&format!("{month},")) && months.contains(",2,3,"), "{months}");

    for (args, why) in [
        (&["cost", "--filter", "annotation[a]:\"a\""][..], "annotations are not in the ledger"),
        (&["cost", "--by", "annotation:app"], "annotation"),
        (&["report", "chargeback", "--month", "2026-13"], "\"2026-13\" is not a window"),
    ] {
        let error = refused(&world, args)?;
        anyhow::ensure!(error.contains(why), "{args:?}: {error}");
    }
    Ok(())
}
