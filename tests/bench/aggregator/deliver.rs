//! The uplink's near end without an agent behind it: Hello, then batches as fast as acks allow.

use anyhow::{Context, bail};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;
use tonnage_proto::limits::{IN_FLIGHT_MAX, PROTOCOL};
use tonnage_proto::metering::metering_client::MeteringClient;
use tonnage_proto::metering::{
    FromAgent, FromLedger, Hello, Holdings, SealedBatch, ack::Outcome, from_agent, from_ledger,
};
use tonnage_runtime::clock::Clock;

use super::CLUSTER;
use super::batches::Node;

/// Both directions of a stream.
pub(super) type Opened = (mpsc::Sender<FromAgent>, Streaming<FromLedger>);

/// One agent's name and everything it has to say.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) node: Node,
    pub(super) batches: Vec<SealedBatch>,
}

/// Delivers everything at once, each sender on a stream of its own, and returns when all is acked as accepted.
pub(super) async fn all(uplink: String, senders: Vec<Sender>) -> anyhow::Result<()> {
    let mut running = JoinSet::new();
    for sender in senders {
        running.spawn(one(uplink.clone(), sender));
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    Ok(())
}

async fn one(uplink: String, sender: Sender) -> anyhow::Result<()> {
    let Sender { node, batches } = sender;
    let last = batches.last().map_or(0, |batch| batch.seq);
    let (outgoing, mut incoming) = open(uplink, node, last).await?;
    let mut batches = batches.into_iter();
    let mut sent = 0;
    for acked in 1..=last {
        while sent < last && sent + 1 < acked + u64::from(IN_FLIGHT_MAX) {
            let message = batches.next().map(from_agent::Message::Batch);
            outgoing.send(FromAgent { message }).await.context("the stream closed")?;
            sent += 1;
        }
        match incoming.message().await?.and_then(|message| message.message) {
            Some(from_ledger::Message::Ack(ack))
                if ack.seq == acked && ack.outcome() == Outcome::Accepted => {}
            other => bail!("{}: waited for the ack of {acked}, got {other:?}", node.name()),
        }
    }
    Ok(())
}

/// Connects, and is welcomed as one who has so many batches to send.
pub(super) async fn open(uplink: String, node: Node, sealed_seq: u64) -> anyhow::Result<Opened> {
    let mut client = MeteringClient::new(Endpoint::from_shared(uplink)?.connect().await?);
    let (outgoing, messages) = mpsc::channel(IN_FLIGHT_MAX as usize + 1);
    let hello = Hello {
        protocol: PROTOCOL,
        cluster: CLUSTER.to_owned(),
        node: node.name(),
        epoch: node.epoch().to_vec(),
        holdings: Some(Holdings { oldest_seq: 1, sealed_seq }),
        agent_version: "bench".to_owned(),
        sent_at_ns: Clock::system().wall_ns(),
        ..Hello::default()
    };
    outgoing.send(FromAgent { message: Some(from_agent::Message::Hello(hello)) }).await?;
    let mut incoming = client.uplink(ReceiverStream::new(messages)).await?.into_inner();
    match incoming.message().await?.and_then(|message| message.message) {
        Some(from_ledger::Message::Welcome(welcome)) if welcome.cursor_seq == 0 => Ok((outgoing, incoming)),
        other => bail!("{}: waited for a welcome, got {other:?}", node.name()),
    }
}
