//! A month as FOCUS has it: what the command line fetches is what the ledger bills, and conforms by FOCUS's own validator.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use harness::kubelet::{self, Kubelet};
use harness::scenario;
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};
use nvidia_ml::scenario::MigDevice;
use tonnage_proto::decimal::{from_nanos, to_nanos};
use tonnage_proto::rest::CostAnswer;

use super::orders::{refused, said};

const S: i64 = 1_000_000_000;
const DAY: i64 = 86_400 * S;
/// The simulated world begins in January 2027.
const JANUARY: &str = "2027-01-01T00:00:00Z,2027-02-01T00:00:00Z";

/// What the validator is told of us: we have resources, regions and tags; no commitments, price list or sub accounts.
const APPLIES: &str = "ACCOUNT_NAMING_SUPPORTED,AVAILABILITY_ZONE_SUPPORTED,USAGE_MEASUREMENT_SUPPORTED,\
    BILLING_BASED_ON_PROVISIONED_RESOURCES_SUPPORTED,RESOURCE_TYPE_ASSIGNMENT_SUPPORTED,REGION_SUPPORTED,TAGGING_SUPPORTED";

/// A GPU with a MIG instance that a pod holds for 20 s, and one that nobody has; then an hour in which nobody sees them. Both
/// are retired, and the prices doubled twice: in January, and once it is over.
fn billed() -> anyhow::Result<(World, Kubelet)> {
    let uuid = "MIG-00000001-42e4-5de3-91c7-45d71c87eb3f";
    let mut scenario = scenario::node(2);
    let part =
        MigDevice { uuid: uuid.to_owned(), profile_slices: 3, gpu_instance: 1, ..MigDevice::default() };
    scenario.device[0].mig = Some(vec![part]);
    let mut world = World::new(1)?;
    world.add_node("n", scenario)?;
    let kubelet = Kubelet::start(&world.nodes[0].kubelet_socket())?;
    kubelet::begin_pod(world.nodes[0].dir(), "train-0", &scenario::pod_uid(1))?;
    kubelet.set_pods(vec![kubelet::pod("train-0", &[uuid])]);
    world.start()?;
    wait_until(DEADLINE, "the kubelet's first list", String::new, || {
        let up = world.nodes[0].metrics()?.sum("tonnage_agent_kubelet_up");
        Ok((up == Some(1.0)).then_some(()))
    })?;
    world.live(20)?;
    world.nodes[0].stop(DEADLINE)?;
    world.move_clock(3_600 * S)?;
    for device in 0..2 {
        said(&world, &["devices", "retire", &scenario::uuid(device)])?;
    }
    world.move_clock(2 * 3_600 * S)?;
    posted(&mut world, None)?;
    for (price, days) in [("7.20", 31), ("14.40", 0)] {
        let before = cost(&world)?;
        let book = std::fs::read_to_string(world.aggregator.prices())?;
        let (head, _) = book.split_once("price = ").context("a price")?;
        let doubled = format!("{head}price = \"{price}\"\nunit = \"gpu_hour\"\n");
        std::fs::write(world.aggregator.prices(), doubled)?;
        posted(&mut world, Some(before))?;
        world.move_clock(days * DAY)?;
    }
    Ok((world, kubelet))
}

/// Waits until the slots of January so far are posted, at another cost than before.
fn posted(world: &mut World, before: Option<i128>) -> anyhow::Result<()> {
    let found = Cell::new((0, 0));
    let context = || format!("exported and billed: {:?}", found.get());
    wait_until(DEADLINE, "entries of all closed slots", context, || {
        // The price book is looked at every two seconds of the world's time.
        world.move_clock(3 * S)?;
        let exported = sum(&rows(world, "1.2", &world.dir().join("so-far.csv"))?)?;
        let whole =
            exported == cost(world)? && exported != 0 && before.is_none_or(|before| before != exported);
        Ok(whole.then_some(()))
    })
}

fn cost(world: &World) -> anyhow::Result<i128> {
    let answer: CostAnswer = world.aggregator.answer(&format!("/api/v1/cost/devices?window={JANUARY}"))?;
    to_nanos(&answer.totals.cost).context("a cost")
}

fn export(world: &World, version: &str, format: &str, file: &Path) -> anyhow::Result<()> {
    let file = file.to_str().context("a path")?;
    let options = ["--version", version, "--format", format, "--window", JANUARY, "--file", file];
    said(world, &[&["export", "focus"][..], &options].concat()).map(|_| ())
}

type Row = BTreeMap<String, String>;

fn rows(world: &World, version: &str, file: &Path) -> anyhow::Result<Vec<Row>> {
    export(world, version, "csv", file)?;
    let mut reader = csv::Reader::from_path(file)?;
    Ok(reader.deserialize().collect::<Result<_, _>>()?)
}

fn sum(rows: &[Row]) -> anyhow::Result<i128> {
    rows.iter().map(|row| to_nanos(&row["BilledCost"]).context("BilledCost")).sum()
}

/// Path of the validator's program; `None`, said aloud, where it cannot be had.
#[allow(clippy::print_stderr, reason = "a skipped test has to say so")]
fn validator() -> anyhow::Result<Option<PathBuf>> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = tests.join("install-focus-validator");
    let output = Command::new(script).arg(tests.with_file_name("target")).output()?;
    if output.status.success() {
        return Ok(Some(PathBuf::from(String::from_utf8(output.stdout)?.trim())));
    }
    let reason = String::from_utf8_lossy(&output.stderr).into_owned();
    anyhow::ensure!(output.status.code() == Some(77), "{reason}");
    eprintln!("SKIPPED: FOCUS's validator: {reason}");
    Ok(None)
}

/// One of two alternatives: null without an invoice, which holds, or not null with one.
const ALTERNATIVE: &str = "InvoiceId-C-005-C";

/// Validates a file; fails with what the validator says of it.
fn validate(program: &Path, version: &str, file: &Path) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    command.arg("--data-file").arg(file).args(["--validate-version", version, "--block-download"]);
    command.args(["--focus-dataset", "CostAndUsage", "--applicability-criteria", APPLIES]);
    // It looks for its list of currencies from there.
    let output = command.current_dir(program.with_file_name("../lib/python3.12/site-packages")).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let failed: Vec<&str> =
        text.lines().filter(|line| line.contains(": FAIL ") && !line.contains(ALTERNATIVE)).collect();
    let whole = output.status.success() && failed.is_empty();
    anyhow::ensure!(whole, "{}: {failed:#?}\n{errors}\n{text}", file.display());
    let passed = |rule: &str| text.lines().any(|line| line.contains(rule) && line.contains(": PASS"));
    let looked = ["BilledCost-C-000-M", "ChargeClass-C-000-M", "Tags-C-000-C"].into_iter().all(passed);
    anyhow::ensure!(looked, "it did not look: {text}{errors}");
    Ok(())
}

#[test]
fn an_exported_month_is_what_the_ledger_bills_and_conforms() -> anyhow::Result<()> {
    let (world, _kubelet) = billed()?;
    let billed = cost(&world)?;
    let folder = world.dir().to_owned();
    for version in ["1.2", "1.3"] {
        let rows = rows(&world, version, &folder.join(format!("{version}.csv")))?;
        assert_eq!(from_nanos(sum(&rows)?), from_nanos(billed), "{version}");
        let has = |column: &str, value: &str| rows.iter().any(|row| row[column] == value);
        for kind in ["held", "idle", "unobserved"] {
            assert!(has("x_Kind", kind), "{version}: no row is {kind}");
        }
        assert!(has("ResourceType", "MIG Instance") && has("ResourceType", "GPU"));
        assert!(
            has("ChargeClass", "Correction") && has("x_Posting", "correction") && has("x_Pod", "train-0")
        );
        export(&world, version, "parquet", &folder.join(format!("{version}.parquet")))?;
    }
    let error = refused(&world, &["export", "focus", "--window", "fortnight", "--file", "-"])?;
    assert!(error.contains("fortnight"), "{error}");
    let Some(program) = validator()? else { return Ok(()) };
    // It has no rules for 1.3 with it: those columns are tested beside the API.
    for format in ["csv", "parquet"] {
        validate(&program, "1.2", &folder.join(format!("1.2.{format}")))?;
    }
    Ok(())
}
