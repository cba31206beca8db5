//! The cloud's metadata reaches the ledger, over real sockets; and a service that is broken, or hostile, stops nothing.

use harness::netns::Netns;
use harness::process::tail;
use harness::scenario;
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};
use tonnage_proto::metering as pb;

use super::imds::{ADDRESS, Imds, Mood};
use crate::books::Books;

/// A node that asks `provider`, in a ledger's world.
fn world(provider: &str) -> anyhow::Result<World> {
    let mut world = World::new(1)?;
    world.add_node("n", scenario::node(1))?;
    world.nodes[0].extra_args = vec!["--cloud-metadata".to_owned(), provider.to_owned()];
    world.start()?;
    Ok(world)
}

fn batches(world: &World) -> anyhow::Result<Vec<pb::Batch>> {
    let books = Books::read(&world.aggregator.data_dir())?;
    Ok(books.entries.into_iter().filter_map(|entry| entry.batch).collect())
}

/// Lets time pass until a batch in the ledger is as wanted.
fn live_until(world: &mut World, what: &str, is: impl Fn(&pb::Batch) -> bool) -> anyhow::Result<pb::Batch> {
    let log = world.nodes[0].log();
    wait_until(
        DEADLINE,
        what,
        || tail(&log),
        || {
            world.live(10)?;
            Ok(batches(world)?.into_iter().find(|batch| is(batch)))
        },
    )
}

/// Instance id, type, region, zone, capacity type.
fn told(batch: &pb::Batch) -> [String; 5] {
    let facts = batch.facts.clone().unwrap_or_default();
    [batch.instance_id.clone(), facts.instance_type, facts.region, facts.zone, facts.capacity_type]
}

const AWS: [&str; 5] = ["i-0123456789abcdef0", "p5.48xlarge", "eu-north-1", "eu-north-1b", "spot"];

#[test]
fn each_cloud_says_what_its_machines_are_and_every_batch_has_it() -> anyhow::Result<()> {
    for (mood, provider, expected) in [
        (Mood::Aws, "auto", AWS),
        (
            Mood::Gcp,
            "auto",
            ["4520031799277581759", "a3-highgpu-8g", "europe-west4", "europe-west4-b", "on-demand"],
        ),
        (
            Mood::Azure,
            "azure",
            [
                "02aab8a4-74ef-476e-8182-f6d2ba4166a6",
                "Standard_ND96isr_H100_v5",
                "westeurope",
                "westeurope-2",
                "on-demand",
            ],
        ),
    ] {
        let Some(netns) = Netns::with_address(&format!("{ADDRESS}/32")) else { return Ok(()) };
        netns.run(|| {
            Imds::start(&[mood])?;
            let mut world = world(provider)?;
            live_until(&mut world, "a batch", |_| true)?;
            world.nodes[0].stop(DEADLINE)?;
            // A run after that in the same boot is the same life, though nobody answers it any more.
            world.nodes[0].extra_args.clear();
            world.nodes[0].start(DEADLINE)?;
            world.live(11)?;
            world.nodes[0].stop(DEADLINE)?;
            let all = batches(&world)?;
            assert_eq!(told(&all[0]), expected);
            assert!(all.iter().all(|batch| batch.instance_id == expected[0]), "{all:?}");
            world.aggregator.admin(&["verify"])?;
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_try_that_fails_is_tried_again_and_leads_nowhere_else() -> anyhow::Result<()> {
    for mood in [
        Mood::Silent,
        Mood::Failing,
        Mood::Redirecting,
        Mood::HugeBody,
        Mood::HugeHead,
        Mood::Rubbish,
        Mood::Hostile,
    ] {
        let Some(netns) = Netns::with_address(&format!("{ADDRESS}/32")) else { return Ok(()) };
        netns.run(|| {
            let moods = match mood {
                // Its token is as good as any; the next answer is not.
                Mood::Hostile => vec![mood, mood, Mood::Aws],
                _ => vec![mood, Mood::Aws],
            };
            let imds = Imds::start(&moods)?;
            let mut world = world("aws")?;
            let batch = live_until(&mut world, "the cloud's facts", |batch| told(batch)[2] == AWS[2])?;
            assert_eq!(told(&batch)[1..], AWS[1..], "{mood:?}");
            let log = tail(&world.nodes[0].log());
            assert!(log.contains("The cloud's metadata cannot be had yet"), "{mood:?}: {log}");
            assert!(imds.requests().iter().all(|line| !line.contains("stolen")), "{mood:?}");
            anyhow::Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn facts_that_come_late_are_in_later_batches_and_the_life_stays_what_it_was() -> anyhow::Result<()> {
    let Some(netns) = Netns::with_address(&format!("{ADDRESS}/32")) else { return Ok(()) };
    netns.run(|| {
        let imds = Imds::start(&[Mood::Silent])?;
        let mut world = world("auto")?;
        let first = live_until(&mut world, "a batch that waited in vain", |_| true)?;
        assert_eq!(told(&first), ["", "", "", "", ""]);
        assert_eq!(world.nodes[0].get("/readyz")?.0, 200);
        imds.set(Mood::Aws);
        let late = live_until(&mut world, "the cloud's facts", |batch| told(batch)[2] == AWS[2])?;
        assert_eq!(told(&late), ["", AWS[1], AWS[2], AWS[3], AWS[4]]);
        let log = tail(&world.nodes[0].log());
        assert!(log.contains("came too late for this boot"), "{log}");
        // Nor does the next run change it in this boot, whom the cloud answers at once.
        let before = batches(&world)?.len();
        world.nodes[0].stop(DEADLINE)?;
        world.nodes[0].start(DEADLINE)?;
        world.live(11)?;
        world.nodes[0].stop(DEADLINE)?;
        let all = batches(&world)?;
        assert!(all.len() > before && all.iter().all(|batch| batch.instance_id.is_empty()), "{all:?}");
        world.aggregator.admin(&["verify"])?;
        Ok(())
    })
}

#[test]
fn nobody_is_asked_unless_told_and_settings_have_the_last_word() -> anyhow::Result<()> {
    let Some(netns) = Netns::with_address(&format!("{ADDRESS}/32")) else { return Ok(()) };
    netns.run(|| {
        let imds = Imds::start(&[Mood::Aws])?;
        let mut world = world("off")?;
        live_until(&mut world, "a batch", |_| true)?;
        world.nodes[0].stop(DEADLINE)?;
        assert_eq!(imds.requests(), [""; 0]);

        let args = ["--cloud-metadata", "aws", "--region", "my-region"];
        world.nodes[0].extra_args = args.map(str::to_owned).to_vec();
        world.nodes[0].start(DEADLINE)?;
        let batch = live_until(&mut world, "the cloud's facts", |batch| told(batch)[1] == AWS[1])?;
        assert_eq!(told(&batch)[2..], ["my-region", AWS[3], AWS[4]]);
        let check = world.nodes[0].command("check").output()?;
        let text = String::from_utf8_lossy(&check.stdout).into_owned();
        for line in [
            "aws answers at 169.254.169.254",
            "region: my-region, from settings",
            "instance type: p5.48xlarge, from the cloud's metadata",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        Ok(())
    })
}

#[test]
fn a_nitro_machine_is_known_by_its_firmware_alone() -> anyhow::Result<()> {
    let mut world = World::new(1)?;
    world.add_node("n", scenario::node(1))?;
    let dmi = world.nodes[0].dir().join("dmi");
    std::fs::create_dir_all(&dmi)?;
    for (name, text) in
        [("sys_vendor", "Amazon EC2"), ("product_name", "p5.48xlarge"), ("board_asset_tag", AWS[0])]
    {
        std::fs::write(dmi.join(name), format!("{text}\n"))?;
    }
    world.start()?;
    world.live(11)?;
    world.nodes[0].stop(DEADLINE)?;
    let all = batches(&world)?;
    assert!(!all.is_empty() && all.iter().all(|batch| told(batch)[..2] == AWS[..2]), "{all:?}");
    Ok(())
}
