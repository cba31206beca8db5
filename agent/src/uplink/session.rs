//! One stream as seen by the agent, without the stream: messages of the ledger go in, what to send comes out.
//!
//! ```text
//! open -> Hello ... Welcome -> batches from the cursor on, a few on the way at a time <- acks
//! ```
//!
//! Every step leaves the spool in line with what the ledger said, so that a session may end at any point and the
//! next one go on from there. No I/O of its own, no tasks, no clock: the loop in `uplink` drives it over the network,
//! a simulation drives the same code in one process.

use std::collections::VecDeque;

use tonnage_proto::limits::{IN_FLIGHT_MAX, PROTOCOL, PROTOCOL_OLDEST};
use tonnage_proto::metering::resync::Reason;
use tonnage_proto::metering::{
    Ack, FromAgent, FromLedger, Hello, Holdings, Refusal, Resync, SealedBatch, Welcome, ack, from_agent,
    from_ledger, refusal,
};

use crate::spool::{self, Spool, SpoolError};

/// Longest wait that a refusal can ask for, in milliseconds.
const RETRY_MS_MAX: u32 = 600_000;

/// Who sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub cluster: String,
    pub node: String,
    pub agent_version: String,
}

/// The version to offer next. Both ends speak two versions, so one step down meets a ledger that is one older.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer(u32);

impl Default for Offer {
    fn default() -> Self {
        Self(PROTOCOL)
    }
}

impl Offer {
    #[must_use]
    pub fn version(self) -> u32 {
        self.0
    }

    /// The ledger does not speak it. True if there is an older one to try at once; else it begins again at the top,
    /// since the ledger may be another by then.
    pub fn refused(&mut self) -> bool {
        let older = self.0 > PROTOCOL_OLDEST;
        self.0 = if older { self.0 - 1 } else { PROTOCOL };
        older
    }
}

/// Why a session is over.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("the ledger refused: {message}")]
    Refused { code: refusal::Code, message: String, retry_after_ms: u32 },
    #[error("the ledger broke the protocol: {0}")]
    Protocol(&'static str),
    #[error(
        "this is ledger {found}, the spool feeds {known}; point the agent at its own ledger, or move the spool aside"
    )]
    OtherLedger { found: String, known: String },
    #[error("the spool failed")]
    Spool(#[from] SpoolError),
    /// Nothing is wrong that a new stream would not settle.
    #[error("the stream starts over: {0}")]
    Restart(&'static str),
}

/// What one step comes to.
#[derive(Debug, Default)]
pub struct Step {
    /// To be sent in this order.
    pub send: Vec<FromAgent>,
    pub news: Option<News>,
}

/// What a message of the ledger said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    Welcomed {
        protocol: u32,
        /// The agent's clock minus the ledger's, give or take half the way there and back.
        skew_ns: i64,
    },
    Acked(ack::Outcome),
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    offered: u32,
    hello_ns: i64,
    epoch: [u8; 16],
    /// A Welcome came, and no other is awaited.
    welcomed: bool,
    /// Sent and not acked, in order.
    on_the_way: VecDeque<u64>,
    next_seq: u64,
    max_in_flight: usize,
}

impl Session {
    /// A session, and the Hello that opens it.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn open(
        spool: &Spool,
        peer: &Peer,
        offer: Offer,
        now_ns: i64,
    ) -> Result<(Self, FromAgent), SessionError> {
        let epoch = spool.epoch();
        let hello = Hello {
            protocol: offer.version(),
            cluster: peer.cluster.clone(),
            node: peer.node.clone(),
            epoch: epoch.to_vec(),
            holdings: Some(holdings(spool.holdings())),
            known_ledger_id: spool.ledger_id()?.unwrap_or_default(),
            agent_version: peer.agent_version.clone(),
            sent_at_ns: now_ns,
        };
        let session = Self {
            offered: offer.version(),
            hello_ns: now_ns,
            epoch,
            welcomed: false,
            on_the_way: VecDeque::new(),
            next_seq: 0,
            max_in_flight: 1,
        };
        Ok((session, FromAgent { message: Some(from_agent::Message::Hello(hello)) }))
    }

    /// Takes a message of the ledger, if there is one, and says what to send next: nothing before the Welcome, then
    /// what is sealed, as far as it may be on the way.
    ///
    /// # Errors
    /// If the session is over. The spool is good for the next one, unless it is the spool that failed.
    pub fn step(
        &mut self,
        spool: &mut Spool,
        now_ns: i64,
        message: Option<FromLedger>,
    ) -> Result<Step, SessionError> {
        // Whatever the ledger says is about the epoch of the Hello.
        if spool.epoch() != self.epoch {
            return Err(SessionError::Restart("the spool began a new epoch"));
        }
        let mut step = Step::default();
        if let Some(FromLedger { message }) = message {
            match message {
                Some(from_ledger::Message::Welcome(welcome)) => {
                    self.welcome(spool, now_ns, &welcome, &mut step)?;
                }
                Some(from_ledger::Message::Refusal(refusal)) => return Err(refused(refusal)),
                _ if !self.welcomed => {
                    return Err(SessionError::Protocol("it answers before it says Welcome"));
                }
                Some(from_ledger::Message::Ack(ack)) => {
                    step.news = Some(News::Acked(self.acked(spool, now_ns, &ack)?));
                }
                Some(from_ledger::Message::Resync(resync)) => return Err(resync_of(spool, resync)),
                None => return Err(SessionError::Protocol("a message of a kind that is not known here")),
            }
        }
        if self.welcomed {
            self.send_more(spool, now_ns, &mut step.send)?;
        }
        Ok(step)
    }

    /// Nothing is on the way, and no Welcome is awaited.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.welcomed && self.on_the_way.is_empty()
    }

    /// Brings the spool in line with the ledger's cursor.
    fn welcome(
        &mut self,
        spool: &mut Spool,
        now_ns: i64,
        welcome: &Welcome,
        step: &mut Step,
    ) -> Result<(), SessionError> {
        let protocol = welcome.protocol;
        if !(PROTOCOL_OLDEST..=self.offered).contains(&protocol) {
            return Err(SessionError::Protocol("its Welcome is of a version that was not offered"));
        }
        if welcome.ledger_id.len() != 16 || i64::try_from(welcome.cursor_seq).is_err() {
            return Err(SessionError::Protocol("its Welcome makes no sense"));
        }
        own_ledger(spool, welcome)?;
        if spool.recall(&welcome.ledger_id, welcome.incarnation)? {
            tracing::warn!("The ledger was restored: it is sent again whatever is still held.");
        }
        let first = !self.welcomed && self.next_seq == 0;
        if first {
            // Sent half a round trip before the ledger looked at its clock, as far as one can tell.
            let sent_ns = self.hello_ns + now_ns.saturating_sub(self.hello_ns) / 2;
            let skew_ns = sent_ns.saturating_sub(welcome.now_ns);
            step.news = Some(News::Welcomed { protocol, skew_ns });
        }
        let cursor_seq = welcome.cursor_seq;
        let held = spool.holdings();
        if cursor_seq > held.sealed_seq {
            tracing::warn!(
                cursor_seq,
                held.sealed_seq,
                "The ledger has more of this epoch than the spool sealed: a clone, or an old copy. A new epoch begins."
            );
            spool.new_epoch()?;
            return Err(SessionError::Restart("under a new epoch"));
        }
        self.on_the_way.clear();
        self.max_in_flight = usize::try_from(welcome.max_in_flight.clamp(1, IN_FLIGHT_MAX)).unwrap_or(1);
        if cursor_seq + 1 < held.oldest_seq {
            if !first {
                return Err(SessionError::Restart("the ledger asks for what is gone"));
            }
            tracing::error!(
                cursor_seq,
                held.oldest_seq,
                held.sealed_seq,
                "The ledger was set back further than batches are kept: those before the oldest are lost to it, and \
                 their time stays unobserved."
            );
            // It books the hole, and welcomes again.
            self.next_seq = held.oldest_seq;
            step.send.push(FromAgent { message: Some(from_agent::Message::Holdings(holdings(held))) });
            return Ok(());
        }
        if cursor_seq < held.acked_seq {
            tracing::warn!(
                cursor_seq,
                held.acked_seq,
                held.oldest_seq,
                held.sealed_seq,
                "The ledger was set back; it is sent again what it no longer has."
            );
            spool.rewind(cursor_seq)?;
        }
        // That the ledger has these numbers does not say that it has these bytes: a clone of this spool may have used
        // them first. So what was never acked is sent again, and the ledger calls it a duplicate or a conflict.
        let acked_seq = cursor_seq.min(held.acked_seq);
        spool.ack(acked_seq, welcome.backed_up_seq, now_ns)?;
        (self.welcomed, self.next_seq) = (true, acked_seq + 1);
        Ok(())
    }

    fn acked(&mut self, spool: &mut Spool, now_ns: i64, ack: &Ack) -> Result<ack::Outcome, SessionError> {
        if self.on_the_way.pop_front() != Some(ack.seq) {
            return Err(SessionError::Protocol("an ack for a batch that was not sent next"));
        }
        let outcome = ack.outcome();
        if matches!(outcome, ack::Outcome::Refused | ack::Outcome::Quarantined) {
            tracing::error!(ack.seq, ack.detail, "The ledger did not take a batch whole.");
        }
        spool.ack(ack.seq, ack.backed_up_seq, now_ns)?;
        Ok(outcome)
    }

    fn send_more(
        &mut self,
        spool: &mut Spool,
        now_ns: i64,
        send: &mut Vec<FromAgent>,
    ) -> Result<(), SessionError> {
        while self.on_the_way.len() < self.max_in_flight {
            spool.seal(now_ns)?;
            let seq = self.next_seq;
            if seq > spool.holdings().sealed_seq {
                return Ok(());
            }
            let Some(batch) = spool.batch(seq)? else {
                // Damaged on disk: what can still be read goes on under a new epoch.
                spool.new_epoch()?;
                return Err(SessionError::Restart("a batch could not be read"));
            };
            let sha256 = batch.sha256.to_vec();
            let sealed = SealedBatch { seq, payload: batch.payload, sha256, sent_at_ns: now_ns };
            send.push(FromAgent { message: Some(from_agent::Message::Batch(sealed)) });
            self.on_the_way.push_back(seq);
            self.next_seq += 1;
        }
        Ok(())
    }
}

/// Nothing goes to a ledger that is neither the known one nor says that it continues it.
fn own_ledger(spool: &mut Spool, welcome: &Welcome) -> Result<(), SessionError> {
    let known = spool.ledger_id()?;
    if known.as_ref() == Some(&welcome.ledger_id) {
        return Ok(());
    }
    if let Some(known) = known {
        if known != welcome.succeeds {
            return Err(SessionError::OtherLedger { found: hex(&welcome.ledger_id), known: hex(&known) });
        }
        tracing::warn!(
            ledger = hex(&welcome.ledger_id),
            known = hex(&known),
            "The ledger declares that it continues the known one; it is fed from here on."
        );
    }
    Ok(spool.set_ledger_id(&welcome.ledger_id)?)
}

fn resync_of(spool: &mut Spool, resync: Resync) -> SessionError {
    match resync.reason() {
        Reason::Conflict | Reason::Beyond => {
            tracing::warn!(
                resync.next_seq,
                "The ledger has other bytes under these numbers. A new epoch begins."
            );
            match spool.new_epoch() {
                Ok(()) => SessionError::Restart("the ledger has other bytes under these numbers"),
                Err(error) => error.into(),
            }
        }
        // A fresh Hello brings both ends to one cursor, holes included.
        Reason::Gap | Reason::Unspecified => SessionError::Restart("the ledger stands elsewhere"),
    }
}

fn refused(refusal: Refusal) -> SessionError {
    SessionError::Refused {
        code: refusal.code(),
        retry_after_ms: refusal.retry_after_ms.min(RETRY_MS_MAX),
        message: refusal.message,
    }
}

fn holdings(held: spool::Holdings) -> Holdings {
    Holdings { oldest_seq: held.oldest_seq, sealed_seq: held.sealed_seq }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
