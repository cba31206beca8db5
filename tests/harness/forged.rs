//! An agent made by hand: says over the real wire whatever a test wants, in any order, right or wrong.
//!
//! Blocking on the outside, so that tests read from top to bottom. Non-goal: being a good agent.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use prost::Message as _;
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Request, Status, Streaming};
use tonnage_proto::limits::{BATCH_FORMAT, PROTOCOL};
use tonnage_proto::metering::metering_client::MeteringClient;
use tonnage_proto::metering::{
    Ack, Batch, Device, FromAgent, FromLedger, Hello, Holdings, Owner, Refusal, Resync, SealedBatch, Usage,
    Welcome, Window, ack, from_agent, from_ledger, owner, usage,
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who the agent says it is.
#[derive(Debug, Clone)]
pub struct Forged {
    runtime: Arc<Runtime>,
    uplink: String,
    pub token: Option<String>,
    pub cluster: String,
    pub node: String,
    pub epoch: [u8; 16],
    pub boot_id: String,
}

/// One stream of it.
#[derive(Debug)]
pub struct Wire {
    runtime: Arc<Runtime>,
    outgoing: mpsc::Sender<FromAgent>,
    incoming: Streaming<FromLedger>,
}

impl Forged {
    /// # Errors
    /// If the system refuses a runtime.
    pub fn new(uplink: &str, cluster: &str, node: &str) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Self {
            runtime: Arc::new(runtime),
            uplink: uplink.to_owned(),
            token: None,
            cluster: cluster.to_owned(),
            node: node.to_owned(),
            epoch: rand::random(),
            boot_id: "boot".to_owned(),
        })
    }

    /// Opens a stream and says nothing.
    ///
    /// # Errors
    /// The ledger's status if it does not let it in.
    pub fn connect(&self) -> Result<Wire, Status> {
        let (outgoing, messages) = mpsc::channel(64);
        let mut request = Request::new(ReceiverStream::new(messages));
        if let Some(token) = &self.token {
            let header = format!("Bearer {token}").parse();
            request
                .metadata_mut()
                .insert("authorization", header.map_err(|_| Status::invalid_argument("token"))?);
        }
        let incoming = self.runtime.block_on(async {
            let unavailable = |error: tonic::transport::Error| Status::unavailable(error.to_string());
            let endpoint = Endpoint::from_shared(self.uplink.clone()).map_err(unavailable)?;
            let mut client = MeteringClient::new(endpoint.connect().await.map_err(unavailable)?);
            Ok::<_, Status>(client.uplink(request).await?.into_inner())
        })?;
        Ok(Wire { runtime: Arc::clone(&self.runtime), outgoing, incoming })
    }

    /// Opens a stream, says Hello and takes the Welcome.
    ///
    /// # Errors
    /// If the ledger does not answer so.
    pub fn open(&self) -> anyhow::Result<(Wire, Welcome)> {
        let mut wire = self.connect()?;
        wire.hello(self.hello());
        let welcome = wire.welcome()?;
        Ok((wire, welcome))
    }

    /// A good Hello of a spool that holds nothing.
    #[must_use]
    pub fn hello(&self) -> Hello {
        Hello {
            protocol: PROTOCOL,
            cluster: self.cluster.clone(),
            node: self.node.clone(),
            epoch: self.epoch.to_vec(),
            holdings: Some(Holdings { oldest_seq: 1, sealed_seq: 0 }),
            known_ledger_id: Vec::new(),
            agent_version: "forged".to_owned(),
            sent_at_ns: 0,
        }
    }

    /// A good batch of these windows, over one device and one owner each named after the node.
    #[must_use]
    pub fn batch(&self, seq: u64, windows: Vec<Window>) -> Batch {
        let device = Device {
            uuid: format!("GPU-{}", self.node),
            model: "NVIDIA H100 80GB HBM3".to_owned(),
            memory_bytes: 80 << 30,
            slices: 1,
            minor: 0,
            ..Device::default()
        };
        let owner = Owner {
            kind: owner::Kind::SystemdUnit.into(),
            unit: format!("{}.service", self.node),
            ..Owner::default()
        };
        Batch {
            format: BATCH_FORMAT,
            cluster: self.cluster.clone(),
            node: self.node.clone(),
            epoch: self.epoch.to_vec(),
            seq,
            boot_id: self.boot_id.clone(),
            devices: vec![device],
            owners: vec![owner],
            windows,
            ..Batch::default()
        }
    }
}

/// A window of the first device from `start_ns`, held by the first owner for `held_ns` and idle for the rest.
#[must_use]
pub fn window(start_ns: i64, duration_ns: u64, held_ns: u64) -> Window {
    let usage =
        Usage { owner: 0, kind: usage::Kind::Held.into(), held_ns, busy_ns: held_ns / 2, ..Usage::default() };
    Window {
        device: 0,
        start_ns,
        duration_ns,
        idle_ns: duration_ns.saturating_sub(held_ns),
        usages: vec![usage],
        samples: 1,
        ..Window::default()
    }
}

/// Seals a batch as a good agent does.
#[must_use]
pub fn seal(batch: &Batch) -> SealedBatch {
    sealed(batch.seq, batch.encode_to_vec())
}

/// Seals any bytes.
#[must_use]
pub fn sealed(seq: u64, payload: Vec<u8>) -> SealedBatch {
    let sha256 = Sha256::digest(&payload).to_vec();
    SealedBatch { seq, payload, sha256, sent_at_ns: 0 }
}

impl Wire {
    /// Says Hello.
    pub fn hello(&self, hello: Hello) {
        self.say(Some(from_agent::Message::Hello(hello)));
    }

    /// Sends a batch.
    pub fn batch(&self, batch: SealedBatch) {
        self.say(Some(from_agent::Message::Batch(batch)));
    }

    /// Sends a message, or one of no kind. That the ledger has hung up shows in its answer.
    pub fn say(&self, message: Option<from_agent::Message>) {
        let _ = self.runtime.block_on(self.outgoing.send(FromAgent { message }));
    }

    /// The ledger's next message; `None` if it closed the stream.
    ///
    /// # Errors
    /// The status with which it broke the stream off, or that it says nothing.
    pub fn receive(&mut self) -> Result<Option<from_ledger::Message>, Status> {
        let message = self
            .runtime
            .block_on(async { tokio::time::timeout(PATIENCE, self.incoming.message()).await })
            .map_err(|_| Status::deadline_exceeded("the ledger says nothing"))??;
        Ok(message.and_then(|message| message.message))
    }

    /// # Errors
    /// If the next message is not a Welcome.
    pub fn welcome(&mut self) -> anyhow::Result<Welcome> {
        match self.receive()? {
            Some(from_ledger::Message::Welcome(welcome)) => Ok(welcome),
            other => bail!("no Welcome: {other:?}"),
        }
    }

    /// Sends a batch and takes its ack.
    ///
    /// # Errors
    /// If the next message is not an ack of it.
    pub fn ack(&mut self, batch: SealedBatch) -> anyhow::Result<(ack::Outcome, String)> {
        let seq = batch.seq;
        self.batch(batch);
        match self.receive()? {
            Some(from_ledger::Message::Ack(ack)) if ack.seq == seq => {
                let Ack { detail, .. } = ack.clone();
                Ok((ack.outcome(), detail))
            }
            other => bail!("no ack of {seq}: {other:?}"),
        }
    }

    /// # Errors
    /// If the next message is not a Resync.
    pub fn resync(&mut self) -> anyhow::Result<Resync> {
        match self.receive()? {
            Some(from_ledger::Message::Resync(resync)) => Ok(resync),
            other => bail!("no Resync: {other:?}"),
        }
    }

    /// Takes messages until the refusal, which ends the stream.
    ///
    /// # Errors
    /// If none comes, or the stream goes on after it.
    pub fn refusal(&mut self) -> anyhow::Result<Refusal> {
        loop {
            match self.receive()?.context("the stream ended without a refusal")? {
                from_ledger::Message::Refusal(refusal) => {
                    anyhow::ensure!(self.receive()?.is_none(), "the stream goes on after {refusal:?}");
                    return Ok(refusal);
                }
                from_ledger::Message::Welcome(_) | from_ledger::Message::Ack(_) => {}
                other @ from_ledger::Message::Resync(_) => bail!("no refusal: {other:?}"),
            }
        }
    }
}
