//! Harm to messages: a ledger's end towards the agent, an agent's end towards the ledger, and between them a hand that
//! drops, doubles, reorders, delays, or hangs up. Hello and Welcome come through unless the stream is cut: without them
//! there is no stream to harm.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use tonnage_proto::limits::BATCH_BYTES_MAX;
use tonnage_proto::metering::metering_client::MeteringClient;
use tonnage_proto::metering::metering_server::{Metering, MeteringServer};
use tonnage_proto::metering::{FromAgent, FromLedger, from_agent, from_ledger};

use super::{Path, count};

/// Messages of one direction that wait for their peer; then the other direction waits too.
const QUEUE_MAX: usize = 64;
/// A message that was held back to come second comes alone if no other follows by then.
const HELD: Duration = Duration::from_millis(40);
const FRAME_BYTES: usize = 4_096;

/// What one stream has to suffer: the chance of each per message.
#[derive(Debug, Clone, Copy)]
struct Harm {
    drop: f64,
    double: f64,
    reorder: f64,
    delay: f64,
    /// The ack of what was committed does not come, and the stream ends.
    cut_before_ack: f64,
    /// The ack does not come, and all goes on.
    swallow_ack: f64,
}

#[derive(Debug, Clone)]
struct Relay {
    path: Path,
    streams: Arc<AtomicU64>,
}

/// Serves streams until the runtime ends.
pub(super) async fn serve(listener: TcpListener, path: Path) {
    let relay = Relay { path, streams: Arc::default() };
    let service = MeteringServer::new(relay).max_decoding_message_size(BATCH_BYTES_MAX + FRAME_BYTES);
    let _ =
        Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)).await;
}

#[tonic::async_trait]
impl Metering for Relay {
    type UplinkStream = Pin<Box<dyn Stream<Item = Result<FromLedger, Status>> + Send>>;

    async fn uplink(
        &self,
        request: Request<Streaming<FromAgent>>,
    ) -> Result<Response<Self::UplinkStream>, Status> {
        let mut rng = self.path.rng(self.streams.fetch_add(1, Ordering::Relaxed));
        let endpoint = Endpoint::from_shared(format!("http://{}", self.path.ledger));
        let endpoint = endpoint.map_err(|error| Status::internal(error.to_string()))?;
        let channel = endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let (to_ledger, up) = mpsc::channel(QUEUE_MAX);
        let mut upwards = Request::new(ReceiverStream::new(up));
        if let Some(token) = request.metadata().get("authorization") {
            upwards.metadata_mut().insert("authorization", token.clone());
        }
        let mut client = MeteringClient::new(channel).max_decoding_message_size(BATCH_BYTES_MAX);
        let from_ledger = client.uplink(upwards).await?.into_inner();
        let (to_agent, down) = mpsc::channel(QUEUE_MAX);
        let harm = harm(&mut rng);
        let hand = Hand { path: self.path.clone(), harm, rng, to_ledger, to_agent, up: None, down: None };
        tokio::spawn(hand.carry(request.into_inner(), from_ledger));
        Ok(Response::new(Box::pin(ReceiverStream::new(down))))
    }
}

fn harm(rng: &mut StdRng) -> Harm {
    let mut some = |most: f64| if rng.random_bool(0.5) { rng.random_range(0.0..most) } else { 0.0 };
    Harm {
        drop: some(0.2),
        double: some(0.3),
        reorder: some(0.3),
        delay: some(0.5),
        cut_before_ack: some(0.3),
        swallow_ack: some(0.2),
    }
}

/// Carries one stream.
struct Hand {
    path: Path,
    harm: Harm,
    rng: StdRng,
    to_ledger: mpsc::Sender<FromAgent>,
    to_agent: mpsc::Sender<Result<FromLedger, Status>>,
    /// Held back, to come after the next one.
    up: Option<FromAgent>,
    down: Option<FromLedger>,
}

/// The stream is over.
struct Over;

impl Hand {
    /// Until either side ends, or this one does. What is dropped here closes both sides.
    async fn carry(mut self, mut from_agent: Streaming<FromAgent>, mut from_ledger: Streaming<FromLedger>) {
        loop {
            let held = self.up.is_some() || self.down.is_some();
            let carried = tokio::select! {
                message = from_agent.message() => match message {
                    Ok(Some(message)) => self.upwards(message).await,
                    _ => return,
                },
                message = from_ledger.message() => match message {
                    Ok(Some(message)) => self.downwards(message).await,
                    Ok(None) => return,
                    Err(status) => {
                        let _ = self.to_agent.send(Err(status)).await;
                        return;
                    }
                },
                () = tokio::time::sleep(HELD), if held => self.release().await,
            };
            if carried.is_err() {
                return;
            }
        }
    }

    fn chance(&mut self, of: f64) -> bool {
        !self.path.is_healed() && self.rng.random_bool(of)
    }

    async fn pause(&mut self) {
        if self.chance(self.harm.delay) {
            count(&self.path.counts.messages_delayed);
            let length = Duration::from_millis(self.rng.random_range(1..30));
            tokio::time::sleep(length).await;
        }
    }

    async fn upwards(&mut self, message: FromAgent) -> Result<(), Over> {
        self.pause().await;
        if matches!(message.message, Some(from_agent::Message::Batch(_))) {
            if self.chance(self.harm.drop) {
                count(&self.path.counts.messages_dropped);
                return Ok(());
            }
            if self.up.is_none() && self.chance(self.harm.reorder) {
                count(&self.path.counts.messages_reordered);
                self.up = Some(message);
                return Ok(());
            }
            if self.chance(self.harm.double) {
                count(&self.path.counts.messages_doubled);
                self.to_ledger.send(message.clone()).await.map_err(|_| Over)?;
            }
        }
        self.to_ledger.send(message).await.map_err(|_| Over)?;
        self.release_up().await
    }

    async fn downwards(&mut self, message: FromLedger) -> Result<(), Over> {
        self.pause().await;
        if matches!(message.message, Some(from_ledger::Message::Ack(_))) {
            if self.chance(self.harm.cut_before_ack) {
                count(&self.path.counts.streams_cut);
                let _ = self.to_agent.send(Err(Status::unavailable("cut"))).await;
                return Err(Over);
            }
            if self.chance(self.harm.swallow_ack) {
                count(&self.path.counts.acks_swallowed);
                // An agent waits long for an ack; what follows this one tells it sooner that one is missing.
                self.harm.cut_before_ack = 0.5;
                return Ok(());
            }
            if self.down.is_none() && self.chance(self.harm.reorder) {
                count(&self.path.counts.messages_reordered);
                self.down = Some(message);
                return Ok(());
            }
            if self.chance(self.harm.double) {
                count(&self.path.counts.messages_doubled);
                self.to_agent.send(Ok(message.clone())).await.map_err(|_| Over)?;
            }
        }
        self.to_agent.send(Ok(message)).await.map_err(|_| Over)?;
        self.release_down().await
    }

    async fn release(&mut self) -> Result<(), Over> {
        self.release_up().await?;
        self.release_down().await
    }

    async fn release_up(&mut self) -> Result<(), Over> {
        match self.up.take() {
            Some(message) => self.to_ledger.send(message).await.map_err(|_| Over),
            None => Ok(()),
        }
    }

    async fn release_down(&mut self) -> Result<(), Over> {
        match self.down.take() {
            Some(message) => self.to_agent.send(Ok(message)).await.map_err(|_| Over),
            None => Ok(()),
        }
    }
}
