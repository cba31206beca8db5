use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message;
use tonnage_proto::metering::Batch;

use super::*;
use crate::model::{DeviceInfo, Window};
use crate::seal::{NodeState, draft};
use crate::spool::memory::{Fault, Memory};
use crate::spool::{Identity, Limits};

const LIMITS: Limits = Limits { bytes: 1 << 20, kept_bytes: 1 << 20 };
const OWN: [u8; 16] = [1; 16];

fn open(disk: &Memory, limits: Limits) -> Result<Spool, SpoolError> {
    let identity = Identity { cluster: "c".into(), node: "n".into() };
    let mut minted = 0;
    let seed = u8::try_from(disk.writes() % 251).unwrap();
    let mint = move || {
        minted += 1;
        Ok([seed, minted, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7])
    };
    Spool::open_on(Box::new(disk.clone()), Box::new(mint), identity, limits, 0)
}

/// A draft with one window, at this second.
fn second(n: i64) -> Vec<u8> {
    let info = DeviceInfo {
        uuid: "GPU-1".into(),
        model: "H100".into(),
        memory_bytes: 1,
        slices: 1,
        minor: None,
        pci_bus_id: String::new(),
    };
    let window = Window {
        info: Arc::new(info),
        start_ns: n * 1_000_000_000,
        duration_ns: 1_000_000_000,
        idle_ns: 1_000_000_000,
        usages: BTreeMap::new(),
        intruders: BTreeMap::new(),
        instance_idle_ns: BTreeMap::new(),
        stranded_ns: 0,
        busy_unattributed_ns: 0,
        energy_idle_uj: 0,
        energy_unobserved_uj: 0,
        samples: 1,
    };
    draft(&[window], &NodeState { boot_id: n.to_string(), ..NodeState::default() }, 0)
}

/// A spool with drafts for seconds 0 to `n - 1`, each of a boot of its own so that each becomes a batch.
fn filled(n: i64, limits: Limits) -> (Memory, Spool) {
    let disk = Memory::default();
    let mut spool = open(&disk, limits).unwrap();
    (0..n).for_each(|at| spool.append(&second(at), at).unwrap());
    (disk, spool)
}

fn hello(spool: &Spool) -> (Session, Hello) {
    let peer = Peer { cluster: "c".into(), node: "n".into(), agent_version: "0".into() };
    let (session, hello) = Session::open(spool, &peer, Offer::default(), 0).unwrap();
    match hello.message {
        Some(from_agent::Message::Hello(hello)) => (session, hello),
        other => panic!("{other:?}"),
    }
}

fn welcome(cursor_seq: u64) -> Welcome {
    Welcome {
        protocol: PROTOCOL,
        ledger_id: OWN.to_vec(),
        cursor_seq,
        max_in_flight: 2,
        max_batch_bytes: 1 << 20,
        ..Welcome::default()
    }
}

fn says(message: from_ledger::Message) -> Option<FromLedger> {
    Some(FromLedger { message: Some(message) })
}

fn ack(seq: u64) -> Option<FromLedger> {
    says(from_ledger::Message::Ack(Ack { seq, outcome: ack::Outcome::Accepted.into(), ..Ack::default() }))
}

fn welcomed(spool: &mut Spool, welcome: Welcome) -> Result<(Session, Vec<u64>), SessionError> {
    let (mut session, _) = hello(spool);
    let step = session.step(spool, 0, says(from_ledger::Message::Welcome(welcome)))?;
    Ok((session, seqs(&step)))
}

fn seqs(step: &Step) -> Vec<u64> {
    let batches = step.send.iter().filter_map(|message| match &message.message {
        Some(from_agent::Message::Batch(batch)) => Some(batch.seq),
        _ => None,
    });
    batches.collect()
}

#[test]
fn no_more_is_on_the_way_than_the_ledger_allows_and_each_ack_makes_room() {
    let (_, mut spool) = filled(5, LIMITS);
    let (mut session, sent) = welcomed(&mut spool, welcome(0)).unwrap();
    assert_eq!(sent, [1, 2]);
    assert!(session.step(&mut spool, 0, None).unwrap().send.is_empty());
    for seq in 1..=5 {
        let step = session.step(&mut spool, 0, ack(seq)).unwrap();
        assert_eq!(step.news, Some(News::Acked(ack::Outcome::Accepted)));
        assert_eq!(seqs(&step), if seq <= 3 { vec![seq + 2] } else { vec![] });
    }
    assert!(session.is_idle());
    assert_eq!(spool.holdings().acked_seq, 5);
}

#[test]
fn nothing_is_sent_before_the_welcome_and_nothing_else_is_taken() {
    let (_, mut spool) = filled(1, LIMITS);
    let (mut session, _) = hello(&spool);
    assert!(session.step(&mut spool, 0, None).unwrap().send.is_empty());
    assert!(!session.is_idle());
    assert!(matches!(session.step(&mut spool, 0, ack(1)), Err(SessionError::Protocol(_))));
}

#[test]
fn what_the_ledger_says_of_the_epoch_before_acks_nothing_of_the_new_one() {
    let (_, mut spool) = filled(3, LIMITS);
    let (mut greeting, _) = hello(&spool);
    let (mut session, _) = welcomed(&mut spool, welcome(0)).unwrap();
    spool.new_epoch().unwrap();
    spool.seal(0).unwrap();
    let epoch = spool.epoch();
    let error = session.step(&mut spool, 0, ack(1)).unwrap_err();
    assert!(matches!(error, SessionError::Restart(_)), "{error}");
    // Nor does a cursor, whether it lies within what is sealed by now or beyond.
    for cursor_seq in [2, 9] {
        let answer = says(from_ledger::Message::Welcome(welcome(cursor_seq)));
        let error = greeting.step(&mut spool, 0, answer).unwrap_err();
        assert!(matches!(error, SessionError::Restart(_)), "{error}");
    }
    assert_eq!((spool.holdings().acked_seq, spool.epoch()), (0, epoch));
}

#[test]
fn a_ledger_that_was_set_back_is_sent_again_what_is_kept() {
    let (_, mut spool) = filled(4, LIMITS);
    spool.seal(0).unwrap();
    spool.ack(4, 1, 0).unwrap();
    let (mut session, sent) = welcomed(&mut spool, welcome(1)).unwrap();
    assert_eq!(sent, [2, 3]);
    assert_eq!(seqs(&session.step(&mut spool, 0, ack(2)).unwrap()), [4]);
}

#[test]
fn a_ledger_that_was_set_back_too_far_is_told_what_is_left_and_goes_on_from_there() {
    let (_, mut spool) = filled(4, LIMITS);
    spool.seal(0).unwrap();
    spool.ack(4, 2, 0).unwrap();
    let (mut session, _) = hello(&spool);
    let step = session.step(&mut spool, 0, says(from_ledger::Message::Welcome(welcome(0)))).unwrap();
    let told = step.send.into_iter().map(|message| message.message);
    let expected = Holdings { oldest_seq: 3, sealed_seq: 4 };
    assert_eq!(told.collect::<Vec<_>>(), [Some(from_agent::Message::Holdings(expected))]);
    // The ledger has booked the hole.
    let step = session.step(&mut spool, 0, says(from_ledger::Message::Welcome(welcome(2)))).unwrap();
    assert_eq!(seqs(&step), [3, 4]);
    // One that asks on and on for what is gone is left.
    let (mut session, _) = hello(&spool);
    session.step(&mut spool, 0, says(from_ledger::Message::Welcome(welcome(0)))).unwrap();
    let again = session.step(&mut spool, 0, says(from_ledger::Message::Welcome(welcome(0))));
    assert!(matches!(again, Err(SessionError::Restart(_))));
}

#[test]
fn a_cursor_beyond_what_was_sealed_and_other_bytes_under_a_number_begin_a_new_epoch() {
    let (_, mut spool) = filled(3, LIMITS);
    let before = spool.epoch();
    assert!(matches!(welcomed(&mut spool, welcome(9)), Err(SessionError::Restart(_))));
    assert_ne!(spool.epoch(), before);
    for (reason, renews) in [(Reason::Conflict, true), (Reason::Beyond, true), (Reason::Gap, false)] {
        let before = spool.epoch();
        let (mut session, sent) = welcomed(&mut spool, welcome(0)).unwrap();
        assert_eq!(sent, [1, 2]);
        let resync = Resync { next_seq: 1, reason: reason.into() };
        let over = session.step(&mut spool, 0, says(from_ledger::Message::Resync(resync)));
        assert!(matches!(over, Err(SessionError::Restart(_))));
        assert_eq!(spool.epoch() != before, renews, "{reason:?}");
    }
}

#[test]
fn a_stranger_is_sent_nothing_and_a_successor_is_fed() {
    let (_, mut spool) = filled(1, LIMITS);
    welcomed(&mut spool, welcome(0)).unwrap();
    let other = Welcome { ledger_id: vec![2; 16], ..welcome(0) };
    let error = welcomed(&mut spool, other.clone()).unwrap_err();
    assert!(matches!(error, SessionError::OtherLedger { .. }), "{error}");
    assert_eq!(hello(&spool).1.known_ledger_id, OWN);
    let successor = Welcome { succeeds: OWN.to_vec(), ..other };
    assert_eq!(welcomed(&mut spool, successor).unwrap().1, [1]);
    assert_eq!(hello(&spool).1.known_ledger_id, [2; 16]);
}

#[test]
fn one_version_down_is_met_and_no_other() {
    let (_, mut spool) = filled(1, LIMITS);
    for (protocol, good) in [(0, false), (PROTOCOL_OLDEST, true), (PROTOCOL, true), (PROTOCOL + 1, false)] {
        let met = welcomed(&mut spool, Welcome { protocol, ..welcome(0) });
        assert_eq!(met.is_ok(), good, "{protocol}");
    }
    let mut offer = Offer::default();
    assert!(offer.refused());
    assert_eq!(offer.version(), PROTOCOL - 1);
    // What was not offered is not taken.
    let peer = Peer { cluster: "c".into(), node: "n".into(), agent_version: "0".into() };
    let (mut session, _) = Session::open(&spool, &peer, offer, 0).unwrap();
    let newer = session.step(&mut spool, 0, says(from_ledger::Message::Welcome(welcome(0))));
    assert!(matches!(newer, Err(SessionError::Protocol(_))));
    assert!(!offer.refused(), "there is nothing older");
    assert_eq!(offer, Offer::default());
}

#[test]
fn skew_is_measured_from_the_middle_of_the_round_trip() {
    let (_, mut spool) = filled(1, LIMITS);
    let peer = Peer { cluster: "c".into(), node: "n".into(), agent_version: "0".into() };
    let (mut session, _) = Session::open(&spool, &peer, Offer::default(), 1_000).unwrap();
    let answer = says(from_ledger::Message::Welcome(Welcome { now_ns: 700, ..welcome(0) }));
    let step = session.step(&mut spool, 1_400, answer).unwrap();
    assert_eq!(step.news, Some(News::Welcomed { protocol: PROTOCOL, skew_ns: 500 }));
}

/// The simplest ledger that keeps the contract: what it has by epoch, and every window once.
#[derive(Default)]
struct Ledger {
    has: BTreeMap<Vec<u8>, u64>,
    starts: Vec<i64>,
}

impl Ledger {
    fn answer(&mut self, epoch: &[u8], message: FromAgent) -> Option<FromLedger> {
        let cursor = self.has.entry(epoch.to_vec()).or_default();
        match message.message? {
            from_agent::Message::Hello(_) | from_agent::Message::Holdings(_) => {
                says(from_ledger::Message::Welcome(welcome(*cursor)))
            }
            from_agent::Message::Batch(batch) => {
                if batch.seq == *cursor + 1 {
                    *cursor += 1;
                    let batch = Batch::decode(batch.payload.as_slice()).unwrap();
                    self.starts.extend(batch.windows.iter().map(|window| window.start_ns / 1_000_000_000));
                }
                ack(batch.seq)
            }
        }
    }
}

/// Appends and delivers `n` seconds over a disk on which one write fails; gives what the ledger has, and the writes.
fn deliver_through(n: i64, fault: Option<(u64, Fault)>) -> (Vec<i64>, u64) {
    let disk = Memory::default();
    if let Some((write, fault)) = fault {
        disk.fail_at(write, fault);
    }
    let mut ledger = Ledger::default();
    let reopen = || {
        disk.crash();
        let opened = open(&disk, LIMITS);
        opened.or_else(|_| {
            disk.crash();
            open(&disk, LIMITS)
        })
    };
    let mut spool = reopen().unwrap();
    let mut next = 0;
    while next < n {
        if spool.append(&second(next), next).is_err() {
            spool = reopen().unwrap();
            // The disk may have it all the same.
            next += i64::from(spool.last_window_end_ns().unwrap() == Some(next));
            continue;
        }
        next += 1;
        if next % 3 == 0 && stream(&mut spool, &mut ledger).is_err() {
            spool = reopen().unwrap();
        }
    }
    while stream(&mut spool, &mut ledger).is_err() {
        spool = reopen().unwrap();
    }
    (ledger.starts, disk.writes())
}

/// One stream, up to the end of what there is.
fn stream(spool: &mut Spool, ledger: &mut Ledger) -> Result<(), SessionError> {
    let (mut session, hello) = hello(spool);
    let epoch = hello.epoch.clone();
    let mut to_ledger = vec![FromAgent { message: Some(from_agent::Message::Hello(hello)) }];
    while !to_ledger.is_empty() {
        for message in std::mem::take(&mut to_ledger) {
            let answer = ledger.answer(&epoch, message);
            to_ledger.extend(session.step(spool, 0, answer)?.send);
        }
    }
    Ok(())
}

#[test]
fn whichever_write_fails_and_however_every_second_reaches_the_ledger_once_and_in_order() {
    let all: Vec<i64> = (0..10).collect();
    let (delivered, writes) = deliver_through(10, None);
    assert_eq!(delivered, all);
    assert!(writes > 20, "{writes}");
    for write in 0..writes {
        for fault in [Fault::Refused, Fault::Lost, Fault::Kept] {
            assert_eq!(deliver_through(10, Some((write, fault))).0, all, "write {write} {fault:?}");
        }
    }
}

#[test]
fn what_was_never_acked_is_sent_again_whatever_the_cursor_says_for_a_clone_may_have_moved_it() {
    let (_, mut spool) = filled(3, LIMITS);
    spool.seal(0).unwrap();
    let epoch = spool.epoch();
    // Its acks were lost: they are duplicates.
    let (mut session, sent) = welcomed(&mut spool, welcome(2)).unwrap();
    assert_eq!(sent, [1, 2]);
    assert_eq!(seqs(&session.step(&mut spool, 0, ack(1)).unwrap()), [3]);
    // Or others are under these numbers.
    let conflict = Resync { next_seq: 3, reason: Reason::Conflict.into() };
    let error = session.step(&mut spool, 0, says(from_ledger::Message::Resync(conflict))).unwrap_err();
    assert!(matches!(error, SessionError::Restart(_)), "{error}");
    assert_ne!(spool.epoch(), epoch);
    let (_, sent) = welcomed(&mut spool, welcome(0)).unwrap();
    assert_eq!(sent, [1, 2], "seconds 1 and 2, under numbers of their own");
}
