//! Sends sealed batches to the ledger and takes its acks. The contract is `metering.proto`.
//!
//! A loop over streams: connect, Hello, Welcome, then every sealed batch from the ledger's cursor on, a few on the
//! way at a time. What is said on a stream is [`session`]'s; here are the network, the waits and the thread that
//! owns the spool. Any failure ends the stream, never the loop; waits between streams grow with jitter. Nothing is
//! kept in memory that the spool does not have: after a restart the loop starts the same way.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;
use tonnage_proto::limits::{BATCH_BYTES_MAX, IN_FLIGHT_MAX};
use tonnage_proto::metering::metering_client::MeteringClient;
use tonnage_proto::metering::{FromAgent, FromLedger, ack, refusal};
use tonnage_proto::token::PREFIX;
use tonnage_runtime::backoff::Backoff;
use tonnage_runtime::clock::Clock;
use tonnage_runtime::shutdown::Shutdown;
use tonnage_runtime::telemetry::chain;
use tonnage_runtime::tls::TlsError;

use crate::spool::{Keeper, SpoolError};

pub mod session;
pub mod tls;

use session::{News, Offer, Peer, Session, SessionError, Step};

/// Silence of the ledger, while an answer is due, after which the stream is given up.
const ACK_WITHIN: Duration = Duration::from_secs(30);
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
const BACKOFF_BASE: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// A node's clock that is further off than this is said in the log.
const SKEW_NS_MAX: i64 = 5_000_000_000;

/// Where to, and as whom.
#[derive(Debug, Clone)]
pub struct Target {
    pub endpoint: Endpoint,
    /// For an `https` endpoint; its files are read anew for each connection.
    pub tls: Option<tls::Settings>,
    /// File with the node's token, read anew for each stream, so that it can be replaced.
    pub token_file: Option<std::path::PathBuf>,
    pub peer: Peer,
}

/// What the uplink tells the rest of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    pub connected: bool,
    /// Version of the contract on the last stream that was welcomed.
    pub protocol: u32,
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
    #[error("uplink: the ledger closed the stream")]
    Closed,
    #[error("uplink: no answer within {} s", ACK_WITHIN.as_secs())]
    Silent,
    #[error("uplink")]
    Session(#[from] SessionError),
}

impl From<SpoolError> for UplinkError {
    fn from(error: SpoolError) -> Self {
        Self::Session(error.into())
    }
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
    session: Session,
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
        let mut offer = Offer::default();
        loop {
            let acked_before = self.state().acked;
            let error = match self.stream(offer, &shutdown).await {
                Ok(()) => return,
                Err(error) => error,
            };
            if self.state().acked > acked_before {
                backoff.reset();
            }
            let wait = wait(&error, &mut offer, backoff.next(&mut rand::rng()));
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

    async fn stream(&mut self, offer: Offer, shutdown: &Shutdown) -> Result<(), UplinkError> {
        let mut stream = self.open(offer).await?;
        loop {
            if stream.session.is_idle() && shutdown.is_set() {
                return Ok(());
            }
            let more = Arc::clone(&self.more);
            let waiting = !stream.session.is_idle();
            let message = tokio::select! {
                message = stream.incoming.message() => {
                    Some(message.map_err(status)?.ok_or(UplinkError::Closed)?)
                }
                () = more.notified() => None,
                () = shutdown.wait(), if !shutdown.is_set() => None,
                () = tokio::time::sleep(ACK_WITHIN), if waiting => return Err(UplinkError::Silent),
            };
            stream = self.step(stream, message).await?;
        }
    }

    /// Connects and says Hello; the Welcome is the stream's first message.
    async fn open(&mut self, offer: Offer) -> Result<Stream, UplinkError> {
        let endpoint = self.target.endpoint.clone().connect_timeout(CONNECT_WITHIN);
        let channel = tls::connect(&endpoint, self.target.tls.as_ref(), &self.clock).await?;
        let mut client = MeteringClient::new(channel).max_decoding_message_size(BATCH_BYTES_MAX);
        let (outgoing, messages) = mpsc::channel(IN_FLIGHT_MAX as usize + 1);
        let mut request = tonic::Request::new(ReceiverStream::new(messages));
        if let Some(token) = self.token()? {
            request.metadata_mut().insert("authorization", token);
        }
        let (peer, now_ns) = (self.target.peer.clone(), self.clock.wall_ns());
        let opening = move |spool: &mut _| Ok(Session::open(spool, &peer, offer, now_ns)?);
        let (session, hello) = self.spool.ask::<_, UplinkError>(opening).await?;
        outgoing.send(hello).await.map_err(|_| UplinkError::Closed)?;
        let opened = tokio::time::timeout(ACK_WITHIN, client.uplink(request)).await;
        let incoming = opened.map_err(|_| UplinkError::Silent)?.map_err(status)?.into_inner();
        Ok(Stream { outgoing, incoming, session })
    }

    /// One step of the session, on the spool's thread, and what it wants sent.
    async fn step(&self, stream: Stream, message: Option<FromLedger>) -> Result<Stream, UplinkError> {
        let Stream { outgoing, incoming, mut session } = stream;
        let now_ns = self.clock.wall_ns();
        let step = move |spool: &mut _| {
            let step = session.step(spool, now_ns, message)?;
            Ok::<_, UplinkError>((session, step))
        };
        let (session, Step { send, news }) = self.spool.ask(step).await?;
        if let Some(news) = news {
            self.note(news);
        }
        for message in send {
            outgoing.send(message).await.map_err(|_| UplinkError::Closed)?;
        }
        Ok(Stream { outgoing, incoming, session })
    }

    fn note(&self, news: News) {
        if let News::Welcomed { skew_ns, .. } = news
            && skew_ns.saturating_abs() > SKEW_NS_MAX
        {
            tracing::warn!(
                skew_ms = skew_ns / 1_000_000,
                "This node's clock and the ledger's are far apart; is time synchronised on both?"
            );
        }
        self.update(|state| match news {
            News::Welcomed { protocol, skew_ns } => {
                (state.connected, state.last_error) = (true, None);
                (state.protocol, state.skew_ns) = (protocol, Some(skew_ns));
            }
            News::Acked(outcome) => {
                state.acked += 1;
                state.refused += u64::from(outcome == ack::Outcome::Refused);
                state.quarantined += u64::from(outcome == ack::Outcome::Quarantined);
            }
        });
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

/// How long until the next stream, and which version it offers.
fn wait(error: &UplinkError, offer: &mut Offer, backoff: Duration) -> Duration {
    let UplinkError::Session(error) = error else {
        *offer = Offer::default();
        return backoff;
    };
    match error {
        SessionError::Refused { code: refusal::Code::Protocol, .. } if offer.refused() => Duration::ZERO,
        SessionError::Refused { retry_after_ms, .. } => {
            backoff.max(Duration::from_millis(u64::from(*retry_after_ms)))
        }
        SessionError::Restart(_) => backoff.min(BACKOFF_BASE),
        _ => backoff,
    }
}
