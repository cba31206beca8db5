//! The ledger under test, without its process: a store on disk, and the thread that writes it.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use harness::wait::wait_until;
use harness::world::DEADLINE;
use tempfile::{NamedTempFile, TempDir};
use tokio::sync::{mpsc, oneshot};
use tonnage_aggregator::commit::{Committer, Sealed, Submission, Verdict};
use tonnage_aggregator::live::Live;
use tonnage_aggregator::metrics::Metrics;
use tonnage_aggregator::model::NodeName;
use tonnage_aggregator::prices::Book;
use tonnage_aggregator::store::{Store, write};
use tonnage_aggregator::wire;
use tonnage_runtime::clock::{Clock, Reading, write_simulated};

/// The aggregator's part: a store on disk, and the thread that writes it.
pub(super) struct Ledger {
    dir: TempDir,
    clock: NamedTempFile,
    book: Arc<Book>,
    queue: Option<mpsc::Sender<Submission>>,
    thread: Option<JoinHandle<()>>,
}

impl Ledger {
    pub(super) fn new(book: &str, now_ns: i64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = NamedTempFile::new().unwrap();
        let book = Arc::new(Book::parse(book).unwrap());
        let mut ledger = Self { dir, clock, book, queue: None, thread: None };
        ledger.set_clock(now_ns);
        ledger.start();
        ledger
    }

    pub(super) fn set_clock(&self, now_ns: i64) {
        let reading = Reading { wall_ns: now_ns, monotonic_ns: now_ns, boot_ns: now_ns };
        write_simulated(self.clock.as_file(), reading).unwrap();
    }

    pub(super) fn data(&self) -> &Path {
        self.dir.path()
    }

    fn store(&self) -> Store {
        Store::open(self.dir.path()).unwrap()
    }

    pub(super) fn start(&mut self) {
        let clock = Clock::simulated(self.clock.path()).unwrap();
        let (live, metrics) = (Arc::new(Live::default()), Arc::new(Metrics::new()));
        let committer = Committer::new(&self.store(), clock, Arc::clone(&self.book), live, metrics).unwrap();
        let (queue, submissions) = mpsc::channel(8);
        self.queue = Some(queue);
        self.thread = Some(std::thread::spawn(move || committer.run(submissions)));
    }

    pub(super) fn stop(&mut self) {
        self.queue = None;
        self.thread.take().unwrap().join().unwrap();
    }

    pub(super) fn submit(&self, epoch: [u8; 16], seq: u64, payload: Vec<u8>) -> Verdict {
        let node = NodeName { cluster: "c".to_owned(), node: "n".to_owned() };
        let valid = wire::decode(&payload, &node, &epoch, seq).map(Arc::new);
        assert!(valid.is_ok(), "{valid:?}");
        let sha256 = wire::sha256(&payload);
        let batch = Box::new(Sealed { node, epoch, seq, sent_at_ns: 0, payload, sha256, valid });
        let (answer, answered) = oneshot::channel();
        self.queue.as_ref().unwrap().blocking_send(Submission::Batch { batch, answer }).unwrap();
        answered.blocking_recv().unwrap().unwrap()
    }

    /// Prices everything by another book, and waits until all is priced by it.
    pub(super) fn reprice(&mut self, text: &str) {
        self.book = Arc::new(Book::parse(text).unwrap());
        let book = Submission::Book(Arc::clone(&self.book));
        self.queue.as_ref().unwrap().blocking_send(book).unwrap();
        let readers = self.store().readers();
        let priced = || Ok((readers.with(write::applied_book)?.as_deref() == Some(text)).then_some(()));
        wait_until(DEADLINE, "slots priced again", String::new, priced).unwrap();
    }
}
