//! Sends sealed batches to the ledger and takes its acks. The contract is `metering.proto`.
//!
//! A loop over streams: connect, Hello, Welcome, then every sealed batch from the ledger's cursor on, a few on the
//! way at a time. Any failure ends the stream, never the loop; waits between streams grow with jitter. Nothing is
//! kept in memory that the spool does not have: after a restart the loop starts the same way.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;
use tonnage_proto::limits::{BATCH_BYTES_MAX, IN_FLIGHT_MAX, PROTOCOL};
use tonnage_proto::metering::metering_client::MeteringClient;
use tonnage_proto::metering::resync::Reason;
use tonnage_proto::metering::{
    Ack, FromAgent, FromLedger, Hello, Holdings, Resync, SealedBatch, Welcome, ack, from_agent, from_ledger,
};
use tonnage_proto::token::PREFIX;
use tonnage_runtime::backoff::Backoff;
use tonnage_runtime::clock::Clock;
use tonnage_runtime::shutdown::Shutdown;
use tonnage_runtime::telemetry::chain;
use tonnage_runtime::tls::TlsError;

use crate::spool::{Keeper, Spool, SpoolError};

pub mod tls;

/// Silence of the ledger, while a batch is on the way, after which the stream is given up.
const ACK_WITHIN: Duration = Duration::from_secs(30);
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
const BACKOFF_BASE: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Where to, and as whom.
#[derive(Debug, Clone)]
pub struct Target {
    pub endpoint: Endpoint,
    /// For an `https` endpoint; its files are read anew for each connection.
    pub tls: Option<tls::Settings>,
    /// File with the node's token, read anew for each stream, so that it can be replaced.
    pub token_file: Option<std::path::PathBuf>,
    pub cluster: String,
    pub node: String,
    pub agent_version: String,
}

/// What the uplink tells the rest of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    pub connected: bool,
    /// Since the agent started.
    pub acked: u64,
    pub refused: u64,
    pub quarantined: u64,
    pub failures: u64,
    /// Why the last stream ended, until one is connected again.
    pub last_error: Option<String>,
    /// Agent's clock minus the ledger's, by the last Welcome.
    pub skew_ns: Option<i64>,
}

/// A stream ended.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    #[error("uplink: cannot connect")]
    Connect(#[source] tonic::transport::Error),
    #[error("uplink: TLS")]
    Tls(#[from] TlsError),
    #[error("uplink: token file {path}: cannot be read, or holds no token")]
    Token {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("uplink: the ledger answered {code:?}: {message}")]
    Status { code: tonic::Code, message: String },
    #[error("uplink: the ledger refused: {message}")]
    Refused { message: String, retry_after: Duration },
    #[error("uplink: the ledger closed the stream")]
    Closed,
    #[error("uplink: no answer within {} s", ACK_WITHIN.as_secs())]
    Silent,
    #[error("uplink: the ledger broke the protocol: {0}")]
    Protocol(&'static str),
    #[error(
        "uplink: this is ledger {found}, the spool feeds {known}; point the agent at its own ledger, or move the spool aside"
    )]
    OtherLedger { found: String, known: String },
    #[error("uplink: the spool failed")]
    Spool(#[from] SpoolError),
    #[error("uplink: the stream starts over: {0}")]
    Restart(&'static str),
}

/// See the module.
pub struct Uplink {
    pub target: Target,
    pub spool: Keeper,
    /// Rung when there may be something new to send.
    pub more: Arc<Notify>,
    pub clock: Clock,
    pub state: Arc<Mutex<State>>,
}

struct Stream {
    outgoing: mpsc::Sender<FromAgent>,
    incoming: Streaming<FromLedger>,
    /// Sent and not acked, in order.
    on_the_way: VecDeque<u64>,
    next_seq: u64,
    epoch: [u8; 16],
    max_in_flight: usize,
}

impl Uplink {
    /// Runs until `shutdown` and until everything sealed is acked; the caller sets the deadline.
    pub async fn run(mut self, shutdown: Shutdown) {
        if tls::is_in_the_clear(&self.target.endpoint) {
            tracing::warn!(
                ledger = %self.target.endpoint.uri(),
                "Usage and token travel in the clear; use https:// with --tls-ca."
            );
        }
        let mut backoff = Backoff::new(BACKOFF_BASE, BACKOFF_MAX);
        loop {
            let acked_before = self.state().acked;
            let error = match self.stream(&shutdown).await {
                Ok(()) => return,
                Err(error) => error,
            };
            if self.state().acked > acked_before {
                backoff.reset();
            }
            let mut wait = backoff.next(&mut rand::rng());
            if let UplinkError::Refused { retry_after, .. } = &error {
                wait = wait.max(*retry_after);
            }
            if matches!(error, UplinkError::Restart(_)) {
                wait = wait.min(BACKOFF_BASE);
            }
            let text = chain(&error);
            tracing::warn!(error = text, wait_ms = wait.as_millis(), "The uplink ended; trying again.");
            self.update(|state| {
                state.connected = false;
                state.failures += 1;
                state.last_error = Some(text);
            });
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // One more try at once: there may be windows to deliver.
                () = shutdown.wait(), if !shutdown.is_set() => {}
            }
        }
    }

    async fn stream(&mut self, shutdown: &Shutdown) -> Result<(), UplinkError> {
        let mut stream = self.open().await?;
        self.update(|state| (state.connected, state.last_error) = (true, None));
        loop {
            self.send_more(&mut stream).await?;
            if stream.on_the_way.is_empty() && shutdown.is_set() {
                return Ok(());
            }
            let more = Arc::clone(&self.more);
            let waiting = !stream.on_the_way.is_empty();
            tokio::select! {
                message = stream.incoming.message() => self.take(&mut stream, message.map_err(status)?).await?,
                () = more.notified() => {}
                () = shutdown.wait(), if !shutdown.is_set() => {}
                () = tokio::time::sleep(ACK_WITHIN), if waiting => return Err(UplinkError::Silent),
            }
        }
    }

    /// Connects, and goes through Hello and Welcome.
    async fn open(&mut self) -> Result<Stream, UplinkError> {
        let endpoint = self.target.endpoint.clone().connect_timeout(CONNECT_WITHIN);
        let channel = tls::connect(&endpoint, self.target.tls.as_ref(), &self.clock).await?;
        let mut client = MeteringClient::new(channel).max_decoding_message_size(BATCH_BYTES_MAX);
        let (outgoing, messages) = mpsc::channel(IN_FLIGHT_MAX as usize + 1);
        let mut request = tonic::Request::new(ReceiverStream::new(messages));
        if let Some(token) = self.token()? {
            request.metadata_mut().insert("authorization", token);
        }
        let hello = self.hello().await?;
        let epoch = hello.epoch.as_slice().try_into().map_err(|_| UplinkError::Protocol("epoch"))?;
        let message = Some(from_agent::Message::Hello(hello));
        outgoing.send(FromAgent { message }).await.map_err(|_| UplinkError::Closed)?;
        let opened = tokio::time::timeout(ACK_WITHIN, client.uplink(request)).await;
        let mut incoming = opened.map_err(|_| UplinkError::Silent)?.map_err(status)?.into_inner();
        let first = tokio::time::timeout(ACK_WITHIN, incoming.message()).await;
        let welcome = match first.map_err(|_| UplinkError::Silent)?.map_err(status)?.and_then(|m| m.message) {
            Some(from_ledger::Message::Welcome(welcome)) => welcome,
            Some(from_ledger::Message::Refusal(refusal)) => return Err(refused(refusal)),
            Some(_) => return Err(UplinkError::Protocol("its first message is not a Welcome")),
            None => return Err(UplinkError::Closed),
        };
        let mut stream =
            Stream { outgoing, incoming, on_the_way: VecDeque::new(), next_seq: 0, epoch, max_in_flight: 1 };
        self.welcomed(&mut stream, welcome).await?;
        Ok(stream)
    }

    async fn hello(&self) -> Result<Hello, UplinkError> {
        let (epoch, holdings, ledger_id) =
            self.with_spool(|spool| Ok((spool.epoch(), spool.holdings(), spool.ledger_id()?))).await?;
        Ok(Hello {
            protocol: PROTOCOL,
            cluster: self.target.cluster.clone(),
            node: self.target.node.clone(),
            epoch: epoch.to_vec(),
            holdings: Some(Holdings { oldest_seq: holdings.oldest_seq, sealed_seq: holdings.sealed_seq }),
            known_ledger_id: ledger_id.unwrap_or_default(),
            agent_version: self.target.agent_version.clone(),
            sent_at_ns: self.clock.wall_ns(),
        })
    }

    /// Brings the spool in line with the ledger's cursor.
    async fn welcomed(&self, stream: &mut Stream, welcome: Welcome) -> Result<(), UplinkError> {
        let sane = i64::try_from(welcome.cursor_seq).is_ok();
        if welcome.protocol != PROTOCOL || welcome.ledger_id.len() != 16 || !sane {
            return Err(UplinkError::Protocol("its Welcome is of another protocol"));
        }
        let now_ns = self.clock.wall_ns();
        let skew_ns = now_ns.saturating_sub(welcome.now_ns);
        self.update(|state| state.skew_ns = Some(skew_ns));
        let cursor_seq = welcome.cursor_seq;
        let restart = self
            .with_spool(move |spool| {
                let known = spool.ledger_id()?;
                if let Some(known) = known.as_ref().filter(|known| **known != welcome.ledger_id)
                    && *known != welcome.succeeds
                {
                    return Err(UplinkError::OtherLedger {
                        found: hex(&welcome.ledger_id),
                        known: hex(known),
                    });
                }
                if known.as_ref() != Some(&welcome.ledger_id) {
                    spool.set_ledger_id(&welcome.ledger_id)?;
                }
                let holdings = spool.holdings();
                if cursor_seq > holdings.sealed_seq {
                    tracing::warn!(
                        cursor_seq,
                        holdings.sealed_seq,
                        "The ledger has more of this epoch than the spool sealed: a clone, or an old copy. \
                         A new epoch begins."
                    );
                    spool.new_epoch()?;
                    return Ok(true);
                }
                if cursor_seq < holdings.acked_seq {
                    tracing::warn!(cursor_seq, holdings.acked_seq, "The ledger was set back; sending again.");
                    spool.rewind(cursor_seq)?;
                } else if cursor_seq > holdings.acked_seq {
                    // Its ack was lost on the way.
                    spool.ack(cursor_seq, welcome.backed_up_seq, now_ns)?;
                }
                Ok(false)
            })
            .await?;
        if restart {
            return Err(UplinkError::Restart("under a new epoch"));
        }
        stream.next_seq = cursor_seq + 1;
        stream.max_in_flight = usize::try_from(welcome.max_in_flight.clamp(1, IN_FLIGHT_MAX)).unwrap_or(1);
        stream.on_the_way.clear();
        Ok(())
    }

    async fn send_more(&self, stream: &mut Stream) -> Result<(), UplinkError> {
        while stream.on_the_way.len() < stream.max_in_flight {
            let (seq, now_ns) = (stream.next_seq, self.clock.wall_ns());
            let (epoch, sealed_seq, batch) = self
                .with_spool(move |spool| {
                    spool.seal(now_ns)?;
                    Ok((spool.epoch(), spool.holdings().sealed_seq, spool.batch(seq)?))
                })
                .await?;
            if epoch != stream.epoch {
                return Err(UplinkError::Restart("the spool began a new epoch"));
            }
            if seq > sealed_seq {
                return Ok(());
            }
            let Some(batch) = batch else {
                // Damaged on disk: what can still be read goes on under a new epoch.
                self.with_spool(|spool| Ok(spool.new_epoch()?)).await?;
                return Err(UplinkError::Restart("a batch could not be read"));
            };
            let sealed = SealedBatch { seq, payload: batch.payload, sha256: batch.sha256.to_vec() };
            let message = Some(from_agent::Message::Batch(sealed));
            stream.outgoing.send(FromAgent { message }).await.map_err(|_| UplinkError::Closed)?;
            stream.on_the_way.push_back(seq);
            stream.next_seq += 1;
        }
        Ok(())
    }

    async fn take(&self, stream: &mut Stream, message: Option<FromLedger>) -> Result<(), UplinkError> {
        match message.ok_or(UplinkError::Closed)?.message {
            Some(from_ledger::Message::Ack(ack)) => self.acked(stream, ack).await,
            Some(from_ledger::Message::Resync(resync)) => self.resync(stream, resync).await,
            Some(from_ledger::Message::Refusal(refusal)) => Err(refused(refusal)),
            Some(from_ledger::Message::Welcome(welcome)) => self.welcomed(stream, welcome).await,
            None => Err(UplinkError::Protocol("a message of a kind that protocol 1 does not have")),
        }
    }

    async fn acked(&self, stream: &mut Stream, ack: Ack) -> Result<(), UplinkError> {
        if stream.on_the_way.pop_front() != Some(ack.seq) {
            return Err(UplinkError::Protocol("an ack for a batch that was not sent next"));
        }
        let outcome = ack.outcome();
        if matches!(outcome, ack::Outcome::Refused | ack::Outcome::Quarantined) {
            tracing::error!(ack.seq, ack.detail, "The ledger did not take a batch whole.");
        }
        let (seq, backed_up_seq, now_ns) = (ack.seq, ack.backed_up_seq, self.clock.wall_ns());
        self.with_spool(move |spool| Ok(spool.ack(seq, backed_up_seq, now_ns)?)).await?;
        self.update(|state| {
            state.acked += 1;
            state.refused += u64::from(outcome == ack::Outcome::Refused);
            state.quarantined += u64::from(outcome == ack::Outcome::Quarantined);
        });
        Ok(())
    }

    async fn resync(&self, stream: &mut Stream, resync: Resync) -> Result<(), UplinkError> {
        match resync.reason() {
            Reason::Conflict | Reason::Beyond => {
                self.with_spool(|spool| Ok(spool.new_epoch()?)).await?;
                Err(UplinkError::Restart("the ledger has other bytes under these numbers"))
            }
            // A fresh Hello brings both ends to one cursor, holes included.
            Reason::Gap | Reason::Unspecified => {
                stream.on_the_way.clear();
                Err(UplinkError::Restart("the ledger stands elsewhere"))
            }
        }
    }

    async fn with_spool<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Spool) -> Result<T, UplinkError> + Send + 'static,
    ) -> Result<T, UplinkError> {
        self.spool.ask(work).await
    }

    fn token(&self) -> Result<Option<MetadataValue<tonic::metadata::Ascii>>, UplinkError> {
        let Some(path) = &self.target.token_file else { return Ok(None) };
        let error = |source| UplinkError::Token { path: path.display().to_string(), source };
        let text = std::fs::read_to_string(path).map_err(error)?;
        let text = text.trim();
        let invalid = || std::io::Error::new(std::io::ErrorKind::InvalidData, "not a token");
        // What is no token is not sent anywhere: it may be another secret.
        if !text.starts_with(PREFIX) {
            return Err(error(invalid()));
        }
        let header = format!("Bearer {text}");
        let mut value: MetadataValue<_> = header.parse().map_err(|_| error(invalid()))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn status(status: tonic::Status) -> UplinkError {
    let mut message = status.message().to_owned();
    // A connection that broke: its reason, as a refused certificate, stands further down.
    if let Some(source) = std::error::Error::source(&status) {
        message = format!("{message}: {}", chain(source));
    }
    UplinkError::Status { code: status.code(), message }
}

fn refused(refusal: tonnage_proto::metering::Refusal) -> UplinkError {
    let retry_after = Duration::from_millis(u64::from(refusal.retry_after_ms.min(600_000)));
    UplinkError::Refused { message: refusal.message, retry_after }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
