//! Messages that break the contract, batches that do not add up, windows that cannot be: each harms its sender alone.

use harness::forged::{Forged, Wire, seal, sealed, window};
use harness::sim_clock::BEGIN_NS;
use harness::world::{DEADLINE, World};
use tonnage_aggregator::model::RowKind;
use tonnage_proto::limits::{BATCH_BYTES_MAX, PROTOCOL};
use tonnage_proto::metering::ack::Outcome;
use tonnage_proto::metering::refusal::Code;
use tonnage_proto::metering::{Batch, Hello, Holdings, Instance, Usage, from_agent, from_ledger};

use crate::books::Books;

const CELL: u64 = 10_000_000_000;
const CELL_NS: i64 = 10_000_000_000;

/// An agent that minds its business: after everything that others do, its next batch is accepted.
struct Good {
    agent: Forged,
    wire: Wire,
    seq: u64,
}

impl Good {
    fn new(world: &World) -> anyhow::Result<Self> {
        let agent = Forged::new(&world.aggregator.uplink(), "test", "good")?;
        let (wire, _) = agent.open()?;
        Ok(Self { agent, wire, seq: 0 })
    }

    /// Goes on, on the stream that it had all the time.
    fn is_unharmed(&mut self) -> anyhow::Result<()> {
        let start_ns = BEGIN_NS - 3_600 * 1_000_000_000 + i64::try_from(self.seq)? * CELL_NS;
        self.seq += 1;
        let batch = self.agent.batch(self.seq, vec![window(start_ns, CELL, CELL / 2)]);
        let (outcome, detail) = self.wire.ack(seal(&batch))?;
        anyhow::ensure!(outcome == Outcome::Accepted, "the good agent got {outcome:?}: {detail}");
        Ok(())
    }
}

fn world() -> anyhow::Result<(World, Good, Forged)> {
    let mut world = World::new(1)?;
    world.start()?;
    let good = Good::new(&world)?;
    let bad = Forged::new(&world.aggregator.uplink(), "test", "bad")?;
    Ok((world, good, bad))
}

/// The ledger holds the good agent's time and this much of the bad one's, and adds up.
fn ledger_holds(mut world: World, good: &Good, bad_ns: i128) -> anyhow::Result<()> {
    world.aggregator.stop(DEADLINE)?;
    let books = Books::read(&world.aggregator.data_dir())?;
    let held = books.time(RowKind::Held, None);
    let of = |unit: &str| held.get(unit).copied().unwrap_or(0);
    let good_ns = i128::from(good.seq) * i128::from(CELL / 2);
    assert_eq!((of("unit:good.service"), of("unit:bad.service")), (good_ns, bad_ns));
    let verified = world.aggregator.admin(&["verify"])?;
    assert!(verified.contains("\nconserved:"), "{verified}");
    Ok(())
}

#[test]
fn a_first_message_that_is_no_good_hello_is_refused_by_name() -> anyhow::Result<()> {
    let (world, mut good, bad) = world()?;
    let hello = bad.hello();
    let changed = |change: &dyn Fn(&mut Hello)| {
        let mut hello = hello.clone();
        change(&mut hello);
        Some(from_agent::Message::Hello(hello))
    };
    let batch = seal(&bad.batch(1, vec![window(BEGIN_NS, CELL, 0)]));
    let holdings = |oldest_seq, sealed_seq| Some(Holdings { oldest_seq, sealed_seq });
    for (message, code, says) in [
        (changed(&|hello| hello.protocol = PROTOCOL + 6), Code::Protocol, "protocol 9, this ledger 2 to 3"),
        (changed(&|hello| hello.protocol = 0), Code::Protocol, "protocol 0"),
        (changed(&|hello| hello.epoch = vec![7; 5]), Code::Malformed, "epoch"),
        (changed(&|hello| hello.node = String::new()), Code::Malformed, "node: is empty"),
        (changed(&|hello| hello.cluster = "a\u{7}b".to_owned()), Code::Malformed, "control characters"),
        (changed(&|hello| hello.node = "x".repeat(300)), Code::Malformed, "over the limit"),
        (changed(&|hello| hello.agent_version = "1\n2".to_owned()), Code::Malformed, "agent_version"),
        (changed(&|hello| hello.holdings = None), Code::Malformed, "Holdings"),
        (changed(&|hello| hello.holdings = holdings(9, 3)), Code::Malformed, "Holdings"),
        (changed(&|hello| hello.holdings = holdings(1, u64::MAX)), Code::Malformed, "Holdings"),
        (Some(from_agent::Message::Batch(batch)), Code::Malformed, "Hello"),
        (holdings(1, 0).map(from_agent::Message::Holdings), Code::Malformed, "Hello"),
        (None, Code::Malformed, "Hello"),
    ] {
        let mut wire = bad.connect()?;
        wire.say(message.clone());
        let refusal = wire.refusal()?;
        assert_eq!(refusal.code(), code, "{message:?}: {refusal:?}");
        assert!(refusal.message.contains(says) && refusal.retry_after_ms > 0, "{message:?}: {refusal:?}");
        good.is_unharmed()?;
    }
    ledger_holds(world, &good, 0)
}

#[test]
fn a_message_out_of_order_or_malformed_ends_its_own_stream_only() -> anyhow::Result<()> {
    let (world, mut good, bad) = world()?;
    let right = seal(&bad.batch(1, vec![window(BEGIN_NS, CELL, CELL)]));
    let batch = |payload: Vec<u8>| sealed(1, payload);
    let holdings =
        |oldest_seq, sealed_seq| from_agent::Message::Holdings(Holdings { oldest_seq, sealed_seq });
    let mut other_hash = right.clone();
    other_hash.sha256[7] ^= 1;
    let mut short_hash = right.clone();
    short_hash.sha256.truncate(31);
    let (mut zero, mut huge) = (right.clone(), right);
    (zero.seq, huge.seq) = (0, u64::MAX);
    for (message, says) in [
        (Some(from_agent::Message::Hello(bad.hello())), "a second Hello"),
        (Some(from_agent::Message::Batch(other_hash)), "sha256"),
        (Some(from_agent::Message::Batch(short_hash)), "not 32 bytes"),
        (Some(from_agent::Message::Batch(zero)), "seq: 0"),
        (Some(from_agent::Message::Batch(huge)), "seq: 18446744073709551615"),
        (Some(from_agent::Message::Batch(batch(vec![0; BATCH_BYTES_MAX + 1]))), "too large"),
        (Some(holdings(0, 0)), "Holdings"),
        (Some(holdings(u64::MAX, u64::MAX)), "Holdings"),
        (None, "a kind that protocol 1 does not have"),
    ] {
        let (mut wire, _) = bad.open()?;
        let shown = format!("{message:?}").chars().take(200).collect::<String>();
        wire.say(message);
        let refusal = wire.refusal()?;
        assert_eq!(refusal.code(), Code::Malformed, "{shown}: {refusal:?}");
        assert!(refusal.message.contains(says), "{shown}: {refusal:?}");
        good.is_unharmed()?;
    }
    ledger_holds(world, &good, 0)
}

#[test]
fn a_message_far_over_the_limit_is_not_even_read() -> anyhow::Result<()> {
    let (world, mut good, bad) = world()?;
    let (mut wire, _) = bad.open()?;
    wire.batch(sealed(1, vec![0; 16 * BATCH_BYTES_MAX]));
    let ended = wire.receive();
    assert!(matches!(ended, Err(_) | Ok(None)), "{ended:?}");
    good.is_unharmed()?;
    // The sender may come back and behave.
    let (mut wire, welcome) = bad.open()?;
    assert_eq!(welcome.cursor_seq, 0);
    let (outcome, _) = wire.ack(seal(&bad.batch(1, vec![window(BEGIN_NS, CELL, CELL)])))?;
    assert_eq!(outcome, Outcome::Accepted);
    ledger_holds(world, &good, i128::from(CELL))
}

type Spoil = Box<dyn Fn(&mut Batch)>;

/// An instance of the batch's one device.
fn part(slices: u32) -> Instance {
    Instance { slices, uuid: "MIG-1".to_owned(), ..Instance::default() }
}

/// What can be wrong with a batch of one window, and the word by which the ledger says so.
fn spoilt() -> Vec<(&'static str, Spoil)> {
    fn usage(change: impl Fn(&mut Usage) + 'static) -> Spoil {
        Box::new(move |batch| change(&mut batch.windows[0].usages[0]))
    }
    vec![
        ("idle_ns", Box::new(|batch| batch.windows[0].idle_ns += 1)),
        ("idle_ns", Box::new(|batch| batch.windows[0].idle_ns = u64::MAX)),
        ("held_ns", usage(|usage| usage.held_ns = u64::MAX)),
        ("busy_ns", usage(|usage| usage.busy_ns = usage.held_ns + 1)),
        ("instance: 1 is not one of 0", usage(|usage| usage.instance = 1)),
        ("stands twice in one batch", Box::new(|batch| batch.instances = vec![part(1); 2])),
        ("slices: 2 is not between 1 and the 1", Box::new(|batch| batch.instances = vec![part(2)])),
        ("held_ns: 1 is not 0", usage(|usage| (usage.kind, usage.held_ns) = (2, 1))),
        ("kind", usage(|usage| usage.kind = 0)),
        ("busy_ns", usage(|usage| (usage.kind, usage.held_ns, usage.busy_ns) = (2, 0, u64::MAX))),
        (
            "instance: 1 is not one of 0",
            usage(|usage| (usage.kind, usage.held_ns, usage.instance) = (2, 0, 1)),
        ),
        (
            "usages[2].owner: 0 stands twice",
            Box::new(|batch| {
                let intruder = Usage { kind: 2, held_ns: 0, ..batch.windows[0].usages[0] };
                batch.windows[0].usages.extend([intruder, intruder]);
            }),
        ),
        ("kind", usage(|usage| usage.kind = 77)),
        ("owner", usage(|usage| usage.owner = 1)),
        ("energy_uj", usage(|usage| usage.energy_uj = u64::MAX)),
        ("memory_byte_seconds", usage(|usage| usage.memory_byte_seconds = u64::MAX)),
        ("device", Box::new(|batch| batch.windows[0].device = 9)),
        ("duration_ns", Box::new(|batch| batch.windows[0].duration_ns = 0)),
        ("duration_ns", Box::new(|batch| batch.windows[0].duration_ns = u64::MAX)),
        ("duration_ns", Box::new(|batch| batch.windows[0].start_ns += CELL_NS + 1)),
        ("duration_ns", Box::new(|batch| batch.windows[0].start_ns = i64::MAX - 5)),
        ("duration_ns", Box::new(|batch| batch.windows[0].start_ns = -CELL_NS)),
        (
            "twice",
            Box::new(|batch| {
                let window = &mut batch.windows[0];
                let usage = window.usages[0];
                window.usages[0].held_ns -= 1;
                window.usages[0].busy_ns = 0;
                window.usages.push(Usage { held_ns: 1, busy_ns: 0, ..usage });
            }),
        ),
        ("slices", Box::new(|batch| batch.devices[0].slices = 0)),
        ("slices", Box::new(|batch| batch.devices[0].slices = 33)),
        ("uuid", Box::new(|batch| batch.devices[0].uuid = String::new())),
        ("control characters", Box::new(|batch| batch.devices[0].model = "H100\u{1b}[31m".to_owned())),
        ("control characters", Box::new(|batch| batch.owners[0].unit = "a\nb".to_owned())),
        ("over the limit", Box::new(|batch| batch.owners[0].pod = "p".repeat(257))),
        ("kind", Box::new(|batch| batch.owners[0].kind = 99)),
        ("boot_id", Box::new(|batch| batch.boot_id = "\0".to_owned())),
        ("format", Box::new(|batch| batch.format = 2)),
        ("node", Box::new(|batch| batch.node = "good".to_owned())),
        ("cluster", Box::new(|batch| batch.cluster = "other".to_owned())),
        ("epoch", Box::new(|batch| batch.epoch = vec![0; 16])),
    ]
}

#[test]
fn a_bad_batch_is_refused_and_acked_and_does_not_block_the_next() -> anyhow::Result<()> {
    let (world, mut good, bad) = world()?;
    let (mut wire, _) = bad.open()?;
    let mut seq = 1;
    let rubbish = [vec![0xff; 300], b"\n\x03abc".to_vec(), Vec::new()];
    for payload in rubbish {
        let (outcome, detail) = wire.ack(sealed(seq, payload))?;
        assert_eq!(outcome, Outcome::Refused, "{detail}");
        seq += 1;
    }
    for (says, spoil) in spoilt() {
        let mut batch = bad.batch(seq, vec![window(BEGIN_NS - 2 * CELL_NS, CELL, CELL)]);
        spoil(&mut batch);
        let (outcome, detail) = wire.ack(seal(&batch))?;
        assert_eq!(outcome, Outcome::Refused, "{says}: {detail}");
        assert!(detail.contains(says), "{detail:?} does not say {says}");
        seq += 1;
    }
    let mut wrong_seq = bad.batch(seq + 1, vec![window(BEGIN_NS, CELL, CELL)]);
    wrong_seq.seq = seq + 7;
    let (outcome, detail) = wire.ack(sealed(seq, prost::Message::encode_to_vec(&wrong_seq)))?;
    assert!(outcome == Outcome::Refused && detail.contains("seq"), "{detail}");
    let (outcome, detail) = wire.ack(seal(&bad.batch(seq + 1, vec![window(BEGIN_NS, CELL, CELL)])))?;
    assert_eq!(outcome, Outcome::Accepted, "{detail}");
    good.is_unharmed()?;
    // A cell at its very edge is whole.
    let edge = vec![window(BEGIN_NS + CELL_NS, CELL, 1)];
    assert_eq!(wire.ack(seal(&bad.batch(seq + 2, edge)))?.0, Outcome::Accepted);
    ledger_holds(world, &good, i128::from(CELL) + 1)
}

#[test]
fn a_window_that_cannot_be_is_quarantined_and_never_added() -> anyhow::Result<()> {
    const YEAR_NS: i64 = 365 * 86_400 * 1_000_000_000;
    let (world, mut good, bad) = world()?;
    let (mut wire, _) = bad.open()?;
    let held = |start_ns| window(start_ns, CELL, CELL);
    let ack = |wire: &mut Wire, agent: &Forged, seq, windows| wire.ack(seal(&agent.batch(seq, windows)));
    assert_eq!(ack(&mut wire, &bad, 1, vec![held(BEGIN_NS)])?.0, Outcome::Accepted);
    for (seq, start_ns, says) in [
        (2, BEGIN_NS + YEAR_NS, "after the ledger's now"),
        // 70 s ahead is too far, up to 60 s is not.
        (3, BEGIN_NS + 6 * CELL_NS, "after the ledger's now"),
        (4, BEGIN_NS - 2 * YEAR_NS, "400 days"),
        (5, BEGIN_NS, "has the device from"),
    ] {
        let (outcome, detail) = ack(&mut wire, &bad, seq, vec![held(start_ns)])?;
        assert!(outcome == Outcome::Quarantined && detail.contains(says), "{seq}: {outcome:?} {detail}");
        good.is_unharmed()?;
    }
    // A part of a covered stretch is enough, and harms no other window of its batch.
    let part = window(BEGIN_NS + 5_000_000_000, 1_000_000_000, 1_000_000_000);
    let (outcome, detail) = ack(&mut wire, &bad, 6, vec![part, held(BEGIN_NS + CELL_NS)])?;
    assert!(outcome == Outcome::Quarantined && detail.contains("1 of 2 windows"), "{outcome:?} {detail}");
    good.is_unharmed()?;
    ledger_holds(world, &good, 2 * i128::from(CELL))
}

#[test]
fn a_node_that_backdates_its_usage_takes_no_gpu_from_another() -> anyhow::Result<()> {
    const DAY_NS: i64 = 86_400 * 1_000_000_000;
    let (mut world, mut good, _) = world()?;
    good.is_unharmed()?;
    world.advance(2 * DAY_NS)?;
    good.is_unharmed()?;
    let thief = Forged::new(&world.aggregator.uplink(), "test", "thief")?;
    let mut batch = thief.batch(1, vec![window(BEGIN_NS - 10 * DAY_NS, CELL, CELL)]);
    batch.devices[0].uuid = "GPU-good".to_owned();
    let (mut wire, _) = thief.open()?;
    // Nobody had it then. That makes the thief no senior of who has had it for two days.
    assert_eq!(wire.ack(seal(&batch))?.0, Outcome::Accepted);
    let mut batch = thief.batch(2, vec![window(BEGIN_NS - 3_600 * 1_000_000_000, CELL, CELL)]);
    batch.devices[0].uuid = "GPU-good".to_owned();
    let (outcome, detail) = wire.ack(seal(&batch))?;
    assert!(outcome == Outcome::Quarantined && detail.contains("node \"good\""), "{outcome:?} {detail}");
    good.is_unharmed()?;
    ledger_holds(world, &good, 0)
}

#[test]
fn streams_of_one_node_are_limited_and_share_one_cursor() -> anyhow::Result<()> {
    let (world, mut good, bad) = world()?;
    let (mut one, mut two) = (bad.open()?.0, bad.open()?.0);
    let batch = |seq: u64| {
        let at_ns = BEGIN_NS - 100 * CELL_NS + i64::try_from(seq).unwrap_or(0) * CELL_NS;
        seal(&bad.batch(seq, vec![window(at_ns, CELL, CELL)]))
    };
    assert_eq!(one.ack(batch(1))?.0, Outcome::Accepted);
    assert_eq!(two.ack(batch(1))?.0, Outcome::Duplicate);
    assert_eq!(two.ack(batch(2))?.0, Outcome::Accepted);
    assert_eq!(one.ack(batch(2))?.0, Outcome::Duplicate);
    // Both at once, over and over: each number enters once.
    for seq in 3..20 {
        one.batch(batch(seq));
        two.batch(batch(seq));
        let mut accepted = 0;
        for wire in [&mut one, &mut two] {
            match wire.receive()? {
                Some(from_ledger::Message::Ack(ack)) => {
                    accepted += i32::from(ack.outcome() == Outcome::Accepted);
                }
                other => anyhow::bail!("{other:?}"),
            }
        }
        assert_eq!(accepted, 1, "seq {seq}");
    }
    let _more = (bad.open()?, bad.open()?);
    let mut fifth = bad.connect()?;
    fifth.hello(bad.hello());
    let refusal = fifth.refusal()?;
    assert_eq!(refusal.code(), Code::Unavailable, "{refusal:?}");
    good.is_unharmed()?;
    drop((one, two));
    ledger_holds(world, &good, 19 * i128::from(CELL))
}

#[test]
fn hundreds_of_strangers_that_say_nothing_are_in_nobodys_way() -> anyhow::Result<()> {
    let (world, mut good, bad) = world()?;
    let silent: Vec<Wire> = (0..200).map(|_| bad.connect()).collect::<Result<_, _>>()?;
    good.is_unharmed()?;
    drop(silent);
    good.is_unharmed()?;
    ledger_holds(world, &good, 0)
}
