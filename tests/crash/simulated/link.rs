//! A stream between an agent and the ledger as two queues of messages, and what a bad network does to them.

use std::collections::VecDeque;

use rand::RngExt;
use rand::rngs::StdRng;
use tonnage_proto::metering::{FromAgent, FromLedger, from_agent, from_ledger};

/// Messages of one direction; an agent has at most a few batches on the way.
#[derive(Debug, Default)]
pub(super) struct Link {
    pub(super) number: u64,
    up: VecDeque<FromAgent>,
    down: VecDeque<FromLedger>,
}

/// What happened to messages, over all links.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Harm {
    pub(crate) dropped: u64,
    pub(crate) doubled: u64,
    pub(crate) reordered: u64,
    pub(crate) cut: u64,
}

impl Link {
    pub(super) fn new(number: u64) -> Self {
        Self { number, ..Self::default() }
    }

    pub(super) fn send_up(&mut self, messages: Vec<FromAgent>) {
        self.up.extend(messages);
    }

    pub(super) fn send_down(&mut self, message: FromLedger) {
        self.down.push_back(message);
    }

    /// The next message for the ledger, if it gets there now.
    pub(super) fn next_up(&mut self, weather: Option<&mut (StdRng, Harm)>) -> Option<FromAgent> {
        next(&mut self.up, weather, |message| matches!(message.message, Some(from_agent::Message::Batch(_))))
    }

    /// The next message for the agent, if it gets there now.
    pub(super) fn next_down(&mut self, weather: Option<&mut (StdRng, Harm)>) -> Option<FromLedger> {
        next(&mut self.down, weather, |message| {
            !matches!(message.message, Some(from_ledger::Message::Welcome(_)))
        })
    }
}

/// Takes a message from the front, or harms the queue; without weather it is a good network.
fn next<T: Clone>(
    queue: &mut VecDeque<T>,
    weather: Option<&mut (StdRng, Harm)>,
    may_be_harmed: impl Fn(&T) -> bool,
) -> Option<T> {
    let Some((rng, harm)) = weather else { return queue.pop_front() };
    if !may_be_harmed(queue.front()?) {
        return queue.pop_front();
    }
    match rng.random_range(0..40) {
        0 => {
            harm.dropped += 1;
            queue.pop_front();
            None
        }
        1 => {
            harm.doubled += 1;
            queue.front().cloned()
        }
        2 if queue.len() > 1 => {
            harm.reordered += 1;
            queue.swap(0, 1);
            queue.pop_front()
        }
        // Late.
        3..6 => None,
        _ => queue.pop_front(),
    }
}
