//! The uplink's far end: one gRPC stream per agent, from credential to ack. The contract is `metering.proto`.
//!
//! Everything a stranger can make grow has a limit: streams in all and per node, message bytes, batches on the way,
//! waiting time for a Hello. A stream that breaks the contract is refused and closed; no other notices.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use tonnage_proto::limits::{BATCH_BYTES_MAX, IN_FLIGHT_MAX, PROTOCOL, PROTOCOL_OLDEST};
use tonnage_proto::metering::metering_server::Metering;
use tonnage_proto::metering::refusal::Code;
use tonnage_proto::metering::{
    Ack, FromAgent, FromLedger, Hello, Holdings, Refusal, Resync, SealedBatch, Welcome, from_agent,
    from_ledger,
};
use tonnage_runtime::shutdown::Shutdown;

use crate::commit::{HelloFacts, Position, Sealed, Submission, Unavailable, Verdict};
use crate::live::Live;
use crate::metrics::Metrics;
use crate::model::{Id, NodeName};
use crate::wire;

pub mod accept;
pub mod tls;

/// Streams at once; an idle one costs about 32 KiB.
const STREAMS_MAX: usize = 20_000;
/// Streams of one node at once: an agent has one, and a dead one may linger until its keep-alive fails.
const STREAMS_PER_NODE_MAX: usize = 4;
/// A stream that has not said Hello by then is closed.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// What an agent is told to wait where the ledger is at its limits.
const RETRY_AFTER_MS: u32 = 5_000;

/// Who a stream's credential stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// No credentials are asked for here: the Hello is believed.
    Loopback,
    Node(NodeName),
    /// By a client certificate, which outweighs any token.
    Certificate(NodeName),
}

/// What a stream's peer has shown of itself.
#[derive(Clone)]
enum Shown {
    Certificate(Arc<tls::Shown>),
    /// The `authorization` header.
    Header(Option<String>),
}

/// Why a credential is not taken, in plain words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotTaken {
    /// It stands for nobody, or no longer.
    Refused(String),
    /// It cannot be told now.
    Unavailable(String),
}

/// An [`Authenticate`]'s answer to come.
pub type Taken = Pin<Box<dyn Future<Output = Result<Credential, NotTaken>> + Send>>;
/// Decides by the value of the `authorization` header.
pub type Authenticate = Arc<dyn Fn(Option<String>) -> Taken + Send + Sync>;

/// What streams need; see the module.
#[derive(Clone)]
pub struct Ingest {
    pub authenticate: Authenticate,
    pub queue: mpsc::Sender<Submission>,
    pub ledger_id: Id,
    /// As the commit thread last saw it.
    pub incarnation: Arc<AtomicU64>,
    /// The ledger that this one declares to continue; empty if none.
    pub succeeds: Vec<u8>,
    pub metrics: Arc<Metrics>,
    pub live: Arc<Live>,
    pub streams: Arc<Streams>,
    pub stop: Shutdown,
}

/// How many streams each node has.
#[derive(Debug, Default)]
pub struct Streams(Mutex<HashMap<NodeName, usize>>);

/// A stream's place, free again when dropped.
struct Seat {
    streams: Arc<Streams>,
    node: NodeName,
}

impl Streams {
    fn take(self: &Arc<Self>, node: &NodeName) -> Result<Seat, String> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.values().sum::<usize>() >= STREAMS_MAX {
            return Err(format!("{STREAMS_MAX} streams are open, the limit"));
        }
        let own = taken.entry(node.clone()).or_default();
        if *own >= STREAMS_PER_NODE_MAX {
            return Err(format!("this node has {own} streams open, the limit"));
        }
        *own += 1;
        Ok(Seat { streams: Arc::clone(self), node: node.clone() })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.streams.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.node) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.node);
            }
        }
    }
}

#[tonic::async_trait]
impl Metering for Ingest {
    type UplinkStream = Pin<Box<dyn Stream<Item = Result<FromLedger, Status>> + Send>>;

    async fn uplink(
        &self,
        request: Request<Streaming<FromAgent>>,
    ) -> Result<Response<Self::UplinkStream>, Status> {
        let header = request.metadata().get("authorization").map(|value| value.to_str());
        let header = header
            .transpose()
            .map_err(|_| Status::unauthenticated("authorization: not text; use 'Bearer' and a node token"))?;
        let certificate = request.extensions().get().and_then(|peer: &accept::Peer| peer.certificate.clone());
        let shown = certificate.map_or_else(|| Shown::Header(header.map(str::to_owned)), Shown::Certificate);
        let credential = self.authenticate(shown.clone()).await.map_err(|error| match error {
            NotTaken::Refused(reason) => Status::unauthenticated(reason),
            NotTaken::Unavailable(reason) => Status::unavailable(reason),
        })?;
        let (answers, outgoing) = mpsc::channel(IN_FLIGHT_MAX as usize + 2);
        let ingest = self.clone();
        tokio::spawn(async move {
            if let Err(refusal) = ingest.serve((credential, shown), request.into_inner(), &answers).await {
                tracing::warn!(code = refusal.code, refusal.message, "A stream was refused.");
                ingest.metrics.refused_stream(refusal.code().as_str_name());
                send(&answers, from_ledger::Message::Refusal(refusal)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing).map(|message| Ok(*message)))))
    }
}

/// Boxed, since a channel has room for 32 at least, and each stream one.
type Answers = mpsc::Sender<Box<FromLedger>>;

impl Ingest {
    async fn serve(
        &self,
        (credential, shown): (Credential, Shown),
        mut incoming: Streaming<FromAgent>,
        answers: &Answers,
    ) -> Result<(), Refusal> {
        let hello = match tokio::time::timeout(HELLO_WITHIN, incoming.next()).await {
            Ok(Some(Ok(FromAgent { message: Some(from_agent::Message::Hello(hello)) }))) => hello,
            Ok(Some(Ok(_))) => return Err(malformed("the first message of a stream is Hello")),
            Ok(_) => return Ok(()),
            Err(_) => return Err(malformed("no Hello within 10 s")),
        };
        let (node, epoch) = check_hello(&credential, &hello)?;
        let seat = self.streams.take(&node).map_err(|reason| unavailable(&reason))?;
        let connected = self.live.connect(node.clone());
        self.welcome(&node, epoch, &hello, answers).await?;
        let incarnation = self.incarnation.load(Ordering::Relaxed);
        // Batches on the way to their commit; acks leave in the order of batches.
        let (waiting, verdicts) = mpsc::channel(IN_FLIGHT_MAX as usize);
        let responder = tokio::spawn(respond(verdicts, answers.clone()));
        loop {
            let message = tokio::select! {
                message = incoming.next() => message,
                () = self.stop.wait() => None,
                // A batch could not be committed: its agent hears so now, not with its next message.
                () = waiting.closed() => None,
            };
            let Some(message) = message else { break };
            // The peer went away, or its message was over the limit: tonic has told it.
            let Ok(message) = message else { break };
            if self.incarnation.load(Ordering::Relaxed) != incarnation {
                return Err(unavailable("the ledger was restored or set back: say Hello again"));
            }
            // Its token may have been removed since, its certificate may have expired.
            if credential != Credential::Loopback {
                match self.authenticate(shown.clone()).await {
                    Ok(now) if now == credential => {}
                    Err(NotTaken::Unavailable(reason)) => return Err(unavailable(&reason)),
                    _ => {
                        let reason = "the token or certificate of this stream is no longer good";
                        return Err(unauthenticated(reason));
                    }
                }
            }
            match message.message {
                Some(from_agent::Message::Batch(batch)) => {
                    let seq = batch.seq;
                    let verdict = self.submit_batch(&node, epoch, batch).await?;
                    if waiting.send((seq, verdict)).await.is_err() {
                        break;
                    }
                }
                Some(from_agent::Message::Holdings(holdings)) => {
                    check_holdings(holdings)?;
                    let hello = Hello { holdings: Some(holdings), ..hello.clone() };
                    self.welcome(&node, epoch, &hello, answers).await?;
                }
                Some(from_agent::Message::Hello(_)) => return Err(malformed("a second Hello")),
                None => return Err(malformed("a message of a kind that protocol 1 does not have")),
            }
        }
        drop(waiting);
        let last = responder.await;
        drop((seat, connected));
        last.unwrap_or_else(|_| Err(unavailable("the answering task ended")))
    }

    async fn authenticate(&self, shown: Shown) -> Result<Credential, NotTaken> {
        let credential = match shown {
            Shown::Certificate(certificate) => certificate
                .node()
                // No stranger's: its CA is ours, so whoever issued it should hear of it.
                .inspect_err(|reason| tracing::warn!(reason, "A certificate was refused."))
                .map(Credential::Certificate)
                .map_err(NotTaken::Refused),
            Shown::Header(header) => (self.authenticate)(header).await,
        };
        if let Err(NotTaken::Refused(_)) = &credential {
            self.metrics.unauthenticated("ingest");
        }
        credential
    }

    async fn welcome(
        &self,
        node: &NodeName,
        epoch: Id,
        hello: &Hello,
        answers: &Answers,
    ) -> Result<(), Refusal> {
        let ours = hello.known_ledger_id.is_empty()
            || hello.known_ledger_id == self.ledger_id
            || hello.known_ledger_id == self.succeeds;
        let facts = HelloFacts {
            node: node.clone(),
            epoch,
            // An agent of another ledger sends nothing here, so what it no longer holds is not lost to us.
            oldest_seq: match hello.holdings {
                Some(holdings) if ours => holdings.oldest_seq,
                _ => 1,
            },
            agent_version: wire::name("agent_version", &hello.agent_version).map_err(|e| malformed(&e))?,
            sent_at_ns: hello.sent_at_ns,
        };
        let (answer, answered) = oneshot::channel();
        self.submit(Submission::Hello { hello: facts, answer }).await?;
        let Ok(Ok(Position { cursor_seq, backed_up_seq, now_ns })) = answered.await else {
            return Err(unavailable("the ledger cannot write now"));
        };
        let welcome = Welcome {
            protocol: hello.protocol.min(PROTOCOL),
            ledger_id: self.ledger_id.to_vec(),
            succeeds: self.succeeds.clone(),
            incarnation: self.incarnation.load(Ordering::Relaxed),
            cursor_seq,
            backed_up_seq,
            now_ns,
            max_batch_bytes: u32::try_from(BATCH_BYTES_MAX).unwrap_or(u32::MAX),
            max_in_flight: IN_FLIGHT_MAX,
        };
        send(answers, from_ledger::Message::Welcome(welcome)).await;
        Ok(())
    }

    async fn submit_batch(&self, node: &NodeName, epoch: Id, batch: SealedBatch) -> Result<Waiting, Refusal> {
        let SealedBatch { seq, payload, sha256, sent_at_ns } = batch;
        let sha256: [u8; 32] =
            sha256.try_into().map_err(|_| malformed("SealedBatch.sha256: not 32 bytes"))?;
        if seq == 0 || i64::try_from(seq).is_err() {
            return Err(malformed(&format!("SealedBatch.seq: {seq} is not between 1 and 2^63 - 1")));
        }
        if payload.len() > BATCH_BYTES_MAX || wire::sha256(&payload) != sha256 {
            return Err(malformed("SealedBatch.payload: too large, or not what its sha256 says"));
        }
        let valid = wire::decode(&payload, node, &epoch, seq).map(Arc::new);
        let batch = Box::new(Sealed { node: node.clone(), epoch, seq, sent_at_ns, payload, sha256, valid });
        let (answer, answered) = oneshot::channel();
        self.submit(Submission::Batch { batch, answer }).await?;
        Ok(answered)
    }

    async fn submit(&self, submission: Submission) -> Result<(), Refusal> {
        self.queue.send(submission).await.map_err(|_| unavailable("the aggregator is stopping"))
    }
}

type Waiting = oneshot::Receiver<Result<Verdict, Unavailable>>;

/// Answers batches in their order until one could not be committed; the agent then starts over on a new stream.
async fn respond(mut verdicts: mpsc::Receiver<(u64, Waiting)>, answers: Answers) -> Result<(), Refusal> {
    while let Some((seq, verdict)) = verdicts.recv().await {
        let Ok(Ok(verdict)) = verdict.await else {
            return Err(unavailable("the ledger cannot write now"));
        };
        let message = match verdict {
            Verdict::Committed { outcome, detail, backed_up_seq, .. } => {
                from_ledger::Message::Ack(Ack { seq, outcome: outcome.into(), detail, backed_up_seq })
            }
            Verdict::Resync { next_seq, reason } => {
                from_ledger::Message::Resync(Resync { next_seq, reason: reason.into() })
            }
        };
        send(&answers, message).await;
    }
    Ok(())
}

/// A peer that no longer listens notices by itself that its stream ended.
async fn send(answers: &Answers, message: from_ledger::Message) {
    let _ = answers.send(Box::new(FromLedger { message: Some(message) })).await;
}

fn check_hello(credential: &Credential, hello: &Hello) -> Result<(NodeName, Id), Refusal> {
    // A newer agent speaks the version before its own too: they meet at ours.
    if !(PROTOCOL_OLDEST..=PROTOCOL + 1).contains(&hello.protocol) {
        let message = format!(
            "the agent speaks protocol {}, this ledger {PROTOCOL_OLDEST} to {PROTOCOL}; bring the older of the two \
             up to date",
            hello.protocol
        );
        return Err(Refusal { code: Code::Protocol.into(), message, retry_after_ms: 60_000 });
    }
    let said = NodeName {
        cluster: wire::required_name("Hello.cluster", &hello.cluster).map_err(|e| malformed(&e))?,
        node: wire::required_name("Hello.node", &hello.node).map_err(|e| malformed(&e))?,
    };
    let node = match credential {
        Credential::Loopback => said,
        Credential::Node(node) | Credential::Certificate(node) if *node == said => said,
        Credential::Node(node) | Credential::Certificate(node) => {
            let what = if matches!(credential, Credential::Node(_)) { "token" } else { "certificate" };
            let message = format!(
                "Hello names node {:?} of cluster {:?}; its {what} is of node {:?} of cluster {:?}",
                said.node, said.cluster, node.node, node.cluster
            );
            return Err(Refusal { code: Code::WrongNode.into(), message, retry_after_ms: 60_000 });
        }
    };
    let epoch = hello.epoch.as_slice().try_into().map_err(|_| malformed("Hello.epoch: not 16 bytes"))?;
    check_holdings(hello.holdings.unwrap_or_default())?;
    Ok((node, epoch))
}

fn check_holdings(holdings: Holdings) -> Result<(), Refusal> {
    if i64::try_from(holdings.sealed_seq).is_err() {
        return Err(malformed("Holdings.sealed_seq: over 2^63 - 1"));
    }
    if holdings.oldest_seq == 0 || holdings.oldest_seq > holdings.sealed_seq + 1 {
        return Err(malformed("Holdings.oldest_seq: is not between 1 and sealed_seq + 1"));
    }
    Ok(())
}

fn unauthenticated(message: &str) -> Refusal {
    Refusal {
        code: Code::Unauthenticated.into(),
        message: message.to_owned(),
        retry_after_ms: RETRY_AFTER_MS,
    }
}

fn malformed(message: &str) -> Refusal {
    Refusal { code: Code::Malformed.into(), message: message.to_owned(), retry_after_ms: RETRY_AFTER_MS }
}

fn unavailable(message: &str) -> Refusal {
    Refusal { code: Code::Unavailable.into(), message: message.to_owned(), retry_after_ms: RETRY_AFTER_MS }
}
