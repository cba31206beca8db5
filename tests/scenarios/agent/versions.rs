//! Ledgers that speak another version of the uplink's contract than the agent.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use harness::process::tail;
use harness::scenario;
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use tonnage_proto::limits::{BATCH_BYTES_MAX, IN_FLIGHT_MAX, PROTOCOL};
use tonnage_proto::metering::metering_server::{Metering, MeteringServer};
use tonnage_proto::metering::{
    Ack, FromAgent, FromLedger, Refusal, Welcome, ack, from_agent, from_ledger, refusal,
};

/// What a ledger made by hand was told.
#[derive(Debug, Clone, Default)]
struct Heard {
    /// Versions that were offered, in order.
    offers: Vec<u32>,
    seqs: Vec<u64>,
}

/// A ledger that speaks one version, keeps nothing, and acks everything.
#[derive(Clone)]
struct Ledger {
    speaks: u32,
    heard: Arc<Mutex<Heard>>,
}

impl Ledger {
    fn answer(&self, message: FromAgent) -> Option<from_ledger::Message> {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        match message.message? {
            from_agent::Message::Hello(hello) => {
                heard.offers.push(hello.protocol);
                if hello.protocol != self.speaks {
                    let message = format!("this ledger speaks {}", self.speaks);
                    let code = refusal::Code::Protocol.into();
                    return Some(from_ledger::Message::Refusal(Refusal { code, message, retry_after_ms: 0 }));
                }
                Some(from_ledger::Message::Welcome(Welcome {
                    protocol: self.speaks,
                    ledger_id: vec![9; 16],
                    cursor_seq: heard.seqs.last().copied().unwrap_or(0),
                    max_batch_bytes: u32::try_from(BATCH_BYTES_MAX).unwrap_or(u32::MAX),
                    max_in_flight: IN_FLIGHT_MAX,
                    ..Welcome::default()
                }))
            }
            from_agent::Message::Batch(batch) => {
                heard.seqs.push(batch.seq);
                let outcome = ack::Outcome::Accepted.into();
                Some(from_ledger::Message::Ack(Ack { seq: batch.seq, outcome, ..Ack::default() }))
            }
            from_agent::Message::Holdings(_) => None,
        }
    }
}

#[tonic::async_trait]
impl Metering for Ledger {
    type UplinkStream = Pin<Box<dyn Stream<Item = Result<FromLedger, Status>> + Send>>;

    async fn uplink(
        &self,
        request: Request<Streaming<FromAgent>>,
    ) -> Result<Response<Self::UplinkStream>, Status> {
        let (answers, outgoing) = mpsc::channel(8);
        let (ledger, mut incoming) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            while let Some(Ok(message)) = incoming.next().await {
                let message = ledger.answer(message);
                let over = matches!(message, Some(from_ledger::Message::Refusal(_)));
                let sent = answers.send(Ok(FromLedger { message })).await;
                if over || sent.is_err() {
                    break;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}

/// Runs an agent for a while against a ledger that speaks this version, until `done`.
fn meet(speaks: u32, done: impl Fn(&Heard) -> bool) -> anyhow::Result<(Heard, String)> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let ledger = Ledger { speaks, heard: Arc::default() };
    let heard = Arc::clone(&ledger.heard);
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    let incoming = TcpListenerStream::new(listener);
    runtime.spawn(Server::builder().add_service(MeteringServer::new(ledger)).serve_with_incoming(incoming));

    let mut world = World::new(1)?;
    world.add_node("n", scenario::node(1))?;
    world.nodes[0].spec.uplink = format!("http://{address}");
    world.nodes[0].start(DEADLINE)?;
    world.live(35)?;
    let now = || heard.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let log = world.nodes[0].log();
    wait_until(DEADLINE, "the ledger to hear enough", || tail(&log), || Ok(done(&now()).then_some(())))?;
    Ok((now(), std::fs::read_to_string(&log)?))
}

#[test]
fn a_ledger_that_is_one_version_older_is_met_at_the_second_try() -> anyhow::Result<()> {
    let (heard, _) = meet(PROTOCOL - 1, |heard| heard.seqs.len() >= 3)?;
    assert_eq!(heard.offers, [PROTOCOL, PROTOCOL - 1]);
    assert_eq!(heard.seqs[..3], [1, 2, 3]);
    Ok(())
}

#[test]
fn a_ledger_of_this_version_is_met_at_once() -> anyhow::Result<()> {
    let (heard, _) = meet(PROTOCOL, |heard| heard.seqs.len() >= 3)?;
    assert_eq!(heard.offers, [PROTOCOL]);
    Ok(())
}

#[test]
fn a_ledger_that_is_too_far_away_is_sent_nothing_and_asked_again_from_the_top() -> anyhow::Result<()> {
    let (heard, log) = meet(PROTOCOL + 1, |heard| heard.offers.len() >= 4)?;
    assert_eq!(heard.offers[..4], [PROTOCOL, PROTOCOL - 1, PROTOCOL, PROTOCOL - 1]);
    assert!(heard.seqs.is_empty());
    assert!(log.contains(&format!("this ledger speaks {}", PROTOCOL + 1)), "{log}");
    Ok(())
}
