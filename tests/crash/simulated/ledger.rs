//! The ledger's end: its own commit path on a store in a folder, one group at a time, without threads or sockets.
//!
//! It can die before a commit or between a commit and its answers, be backed up, and be set back to a backup. That a
//! commit is whole or not at all is SQLite's promise; it is tested where disks are torn, not here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use tokio::sync::oneshot;
use tonnage_aggregator::commit::{Committer, HelloFacts, Sealed, Submission, Unavailable, Verdict};
use tonnage_aggregator::live::Live;
use tonnage_aggregator::metrics::Metrics;
use tonnage_aggregator::model::NodeName;
use tonnage_aggregator::prices::Book;
use tonnage_aggregator::store::{self, Store, backup};
use tonnage_aggregator::{verify, wire};
use tonnage_proto::limits::{BATCH_BYTES_MAX, IN_FLIGHT_MAX};
use tonnage_proto::metering::{
    Ack, FromAgent, FromLedger, Hello, Resync, SealedBatch, Welcome, from_agent, from_ledger,
};
use tonnage_runtime::clock::Clock;

/// Where a ledger dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Death {
    None,
    BeforeCommit,
    BeforeAnswers,
}

/// Who speaks on a stream, since its Hello.
#[derive(Debug, Clone)]
struct Speaker {
    node: NodeName,
    hello: Hello,
    protocol: u32,
}

pub(super) struct Ledger {
    folder: PathBuf,
    clock: Clock,
    book: Arc<Book>,
    committer: Option<Committer>,
    identity: store::Identity,
    streams: BTreeMap<u64, Speaker>,
}

/// A message that waits for the commit: its stream and its answer.
enum Asked {
    Hello(u64, oneshot::Receiver<Result<tonnage_aggregator::commit::Position, Unavailable>>),
    Batch(u64, u64, oneshot::Receiver<Result<Verdict, Unavailable>>),
}

impl Ledger {
    pub(super) fn open(folder: &Path, clock: Clock, book: Arc<Book>) -> anyhow::Result<Self> {
        let identity = Store::open(folder)?.readers().with(store::identity)?;
        let mut ledger = Self {
            folder: folder.to_owned(),
            clock,
            book,
            committer: None,
            identity,
            streams: BTreeMap::new(),
        };
        ledger.start()?;
        Ok(ledger)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn is_up(&self) -> bool {
        self.committer.is_some()
    }

    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        let store = Store::open(&self.folder)?;
        self.identity = store.readers().with(store::identity)?;
        let (clock, book) = (self.clock.clone(), Arc::clone(&self.book));
        let mut committer = Committer::new(
            &store,
            clock,
            Arc::clone(&book),
            Arc::new(Live::default()),
            Arc::new(Metrics::new()),
        )?;
        committer.commit_now(vec![Submission::Book(book)]);
        self.committer = Some(committer);
        Ok(())
    }

    /// Ends it, with every stream.
    pub(super) fn stop(&mut self) {
        self.committer = None;
        self.streams.clear();
    }

    pub(super) fn forget(&mut self, stream: u64) {
        self.streams.remove(&stream);
    }

    /// Takes messages that came by several streams, and gives the answers in their order; none if it died.
    pub(super) fn take(
        &mut self,
        messages: Vec<(u64, FromAgent)>,
        death: Death,
    ) -> anyhow::Result<Vec<(u64, FromLedger)>> {
        let mut group = vec![Submission::Tick];
        let mut asked = Vec::new();
        for (stream, message) in messages {
            match message.message {
                Some(from_agent::Message::Hello(hello)) => {
                    let node = NodeName { cluster: hello.cluster.clone(), node: hello.node.clone() };
                    let speaker = Speaker { node, protocol: hello.protocol, hello };
                    group.push(greet(stream, &speaker, &mut asked));
                    self.streams.insert(stream, speaker);
                }
                Some(from_agent::Message::Holdings(holdings)) => {
                    let Some(speaker) = self.streams.get_mut(&stream) else { continue };
                    speaker.hello.holdings = Some(holdings);
                    group.push(greet(stream, speaker, &mut asked));
                }
                Some(from_agent::Message::Batch(batch)) => {
                    let Some(speaker) = self.streams.get(&stream) else { continue };
                    group.push(submit(stream, speaker, batch, &mut asked)?);
                }
                None => anyhow::bail!("an agent sent nothing"),
            }
        }
        if death == Death::BeforeCommit {
            self.stop();
            return Ok(Vec::new());
        }
        let committer = self.committer.as_mut().context("the ledger does not run")?;
        committer.commit_now(group);
        if death == Death::BeforeAnswers {
            self.stop();
            return Ok(Vec::new());
        }
        asked.into_iter().map(|asked| self.answer(asked)).collect()
    }

    fn answer(&self, asked: Asked) -> anyhow::Result<(u64, FromLedger)> {
        let (stream, message) = match asked {
            Asked::Hello(stream, mut answer) => {
                let position = answer.try_recv()?.map_err(|_| anyhow::anyhow!("a Hello found no ledger"))?;
                let protocol = self.streams.get(&stream).map_or(0, |speaker| speaker.protocol);
                let welcome = Welcome {
                    protocol,
                    ledger_id: self.identity.ledger_id.to_vec(),
                    incarnation: self.identity.incarnation,
                    cursor_seq: position.cursor_seq,
                    backed_up_seq: position.backed_up_seq,
                    now_ns: position.now_ns,
                    max_batch_bytes: u32::try_from(BATCH_BYTES_MAX)?,
                    max_in_flight: IN_FLIGHT_MAX,
                    ..Welcome::default()
                };
                (stream, from_ledger::Message::Welcome(welcome))
            }
            Asked::Batch(stream, seq, mut answer) => {
                match answer.try_recv()?.map_err(|_| anyhow::anyhow!("batch {seq} could not be committed"))? {
                    Verdict::Committed { outcome, detail, backed_up_seq, .. } => {
                        let ack = Ack { seq, outcome: outcome.into(), detail, backed_up_seq };
                        (stream, from_ledger::Message::Ack(ack))
                    }
                    Verdict::Resync { next_seq, reason } => {
                        let resync = Resync { next_seq, reason: reason.into() };
                        (stream, from_ledger::Message::Resync(resync))
                    }
                }
            }
        };
        Ok((stream, FromLedger { message: Some(message) }))
    }

    /// Copies the ledger as its command does, beside the one that writes.
    pub(super) fn back_up(&mut self) -> anyhow::Result<()> {
        let _ = std::fs::remove_file(self.backup());
        backup::backup(&Store::open(&self.folder)?, &self.backup())?;
        Ok(())
    }

    /// Takes the last backup for its file, if there is one. Its streams end.
    pub(super) fn restore(&mut self) -> anyhow::Result<bool> {
        if !self.backup().exists() {
            return Ok(false);
        }
        self.stop();
        let done = backup::restore(&self.backup(), &self.folder, true, self.clock.wall_ns())?;
        if let Some(aside) = done.aside {
            std::fs::remove_dir_all(aside)?;
        }
        self.start()?;
        Ok(true)
    }

    pub(super) fn verify(&self) -> anyhow::Result<()> {
        let report = verify::verify(&Store::open(&self.folder)?.writer()?)?;
        anyhow::ensure!(report.conserved(), "verify: {report}");
        Ok(())
    }

    fn backup(&self) -> PathBuf {
        self.folder.join("backup.sqlite")
    }
}

fn greet(stream: u64, speaker: &Speaker, asked: &mut Vec<Asked>) -> Submission {
    let hello = HelloFacts {
        node: speaker.node.clone(),
        epoch: speaker.hello.epoch.as_slice().try_into().unwrap_or_default(),
        oldest_seq: speaker.hello.holdings.unwrap_or_default().oldest_seq,
        agent_version: speaker.hello.agent_version.clone(),
        sent_at_ns: speaker.hello.sent_at_ns,
    };
    let (answer, answered) = oneshot::channel();
    asked.push(Asked::Hello(stream, answered));
    Submission::Hello { hello, answer }
}

fn submit(
    stream: u64,
    speaker: &Speaker,
    batch: SealedBatch,
    asked: &mut Vec<Asked>,
) -> anyhow::Result<Submission> {
    let SealedBatch { seq, payload, sha256, sent_at_ns } = batch;
    let epoch = speaker.hello.epoch.as_slice().try_into()?;
    let sha256: [u8; 32] = sha256.as_slice().try_into()?;
    anyhow::ensure!(wire::sha256(&payload) == sha256, "batch {seq} is not what its hash says");
    let valid = wire::decode(&payload, &speaker.node, &epoch, seq).map(Arc::new);
    let node = speaker.node.clone();
    let batch = Box::new(Sealed { node, epoch, seq, sent_at_ns, payload, sha256, valid });
    let (answer, answered) = oneshot::channel();
    asked.push(Asked::Batch(stream, seq, answered));
    Ok(Submission::Batch { batch, answer })
}
