use std::sync::atomic::AtomicU32;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use tonnage_runtime::clock::write_simulated;

use super::*;
use crate::driver::{Driver, DriverError};
use crate::kubelet;

const S: i64 = 1_000_000_000;
/// Far longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(30);

/// A driver whose every call waits to be let through.
struct Gated {
    gate: Receiver<()>,
    calls: Arc<AtomicU32>,
}

impl Driver for Gated {
    fn describe(&self) -> DriverInfo {
        DriverInfo::default()
    }

    fn read(&mut self) -> Result<Vec<DeviceReading>, DriverError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        // Nobody is there to open it any more: the test has ended.
        let _ = self.gate.recv();
        Ok(Vec::new())
    }
}

/// A sampler at work, in a time that the test moves.
struct Bench {
    file: tempfile::NamedTempFile,
    now_ns: i64,
    gate: SyncSender<()>,
    calls: Arc<AtomicU32>,
    metrics: Arc<Metrics>,
    samples: Receiver<Sampled>,
    shutdown: Shutdown,
    thread: Option<JoinHandle<()>>,
}

impl Bench {
    fn start() -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        write_simulated(file.as_file(), reading(0)).unwrap();
        let clock = Clock::simulated(file.path()).unwrap();
        let (gate, gated) = sync_channel(4);
        let calls = Arc::new(AtomicU32::new(0));
        let driver = Gated { gate: gated, calls: Arc::clone(&calls) };
        let metrics = Arc::new(Metrics::new("0", "n".to_owned(), Arc::default(), kubelet::View::default()));
        let sampler = Sampler {
            reader: Reader::start(Box::new(driver)).unwrap(),
            release: Release::default(),
            clock,
            period_ns: S,
            metrics: Arc::clone(&metrics),
            alive_ns: Arc::default(),
            taken_ns: Arc::default(),
            last_wait: Duration::from_millis(100),
        };
        let (sender, samples) = sync_channel(QUEUE_MAX);
        let shutdown = Shutdown::new();
        let stop = shutdown.clone();
        let thread = std::thread::spawn(move || sampler.run(&sender, &stop));
        Self { file, now_ns: 0, gate, calls, metrics, samples, shutdown, thread: Some(thread) }
    }

    fn pass(&mut self, ns: i64) {
        self.now_ns += ns;
        write_simulated(self.file.as_file(), reading(self.now_ns)).unwrap();
    }

    /// When the next sample is of, and whether it is a good one.
    fn next(&self) -> (i64, bool) {
        match self.samples.recv_timeout(DEADLINE).unwrap() {
            Sampled::Reading { at, .. } => (at.monotonic_ns, true),
            Sampled::Failed { at, reason } => {
                assert!(reason.contains("hangs"), "{reason}");
                (at.monotonic_ns, false)
            }
            Sampled::Released { at } => panic!("released at {at:?}"),
        }
    }

    fn wait_for_call(&self, number: u32) {
        while self.calls.load(Ordering::SeqCst) < number {
            std::thread::yield_now();
        }
    }

    fn own(&self) -> (u64, i64) {
        let mut seen = (0, 0);
        self.metrics.own(|own| seen = (own.samples_abandoned, own.driver_hung_ns));
        seen
    }
}

fn reading(ns: i64) -> Reading {
    Reading { wall_ns: ns, monotonic_ns: ns, boot_ns: ns }
}

#[test]
fn a_call_that_hangs_is_given_up_on_and_what_it_brings_late_is_dropped() {
    let mut bench = Bench::start();
    bench.gate.send(()).unwrap();
    assert_eq!(bench.next(), (0, true));
    bench.pass(S);
    bench.wait_for_call(2);
    // Within the bound it is waited for, and nothing is said.
    bench.pass(4 * S);
    assert!(bench.samples.recv_timeout(Duration::from_millis(300)).is_err());
    assert_eq!(bench.own(), (0, 0));
    bench.pass(S);
    assert_eq!(bench.next(), (6 * S, false));
    assert_eq!(bench.own(), (1, 5 * S));
    // One moment after the other is told as not read, and no second call is made.
    for _ in 0..3 {
        bench.pass(S);
        while bench.next().0 < bench.now_ns {}
    }
    assert_eq!(bench.own(), (1, 8 * S));
    assert_eq!(bench.calls.load(Ordering::SeqCst), 2);
    // It returns: what it brings is of nobody knows when. The next reading counts.
    bench.gate.send(()).unwrap();
    bench.gate.send(()).unwrap();
    let good_ns = loop {
        bench.pass(S);
        if let (at_ns, true) = bench.next() {
            break at_ns;
        }
    };
    assert!(good_ns > 9 * S, "{good_ns}");
    assert_eq!((bench.calls.load(Ordering::SeqCst), bench.own()), (3, (1, 0)));
}

#[test]
fn a_stop_does_not_wait_for_a_call_that_hangs_and_calls_nothing_more() {
    let mut bench = Bench::start();
    bench.wait_for_call(1);
    bench.shutdown.set();
    bench.thread.take().unwrap().join().unwrap();
    assert!(!bench.next().1);
    assert_eq!(bench.calls.load(Ordering::SeqCst), 1);
}

#[test]
fn a_bound_that_passed_while_the_process_was_stopped_finds_the_answer_that_is_there() {
    let mut bench = Bench::start();
    bench.wait_for_call(1);
    // As after SIGCONT: the clock is far ahead, and the answer comes a moment later.
    bench.pass(100 * S);
    bench.gate.send(()).unwrap();
    assert_eq!(bench.next(), (0, true));
}
