//! Tries to tell channels that are under way. A channel that hangs has a few of them for as long as each may take, and others go on.
//!
//! Limits: so many at once, of all channels and of one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinSet};
use tokio::time::timeout;

use super::rules::channel::Channel;
use super::send;
use crate::model::{Delivery, Sent};

const TRIES_MAX: usize = 32;
const OF_CHANNEL_MAX: usize = 8;
/// So long tries are waited for together: most have ended by then.
const PATIENCE: Duration = Duration::from_secs(1);

/// A try that has ended; the channel's name, if the alerts file has it.
pub(super) struct Ended {
    pub(super) delivery: Delivery,
    pub(super) channel: Option<String>,
    pub(super) sent: Sent,
}

#[derive(Default)]
pub(super) struct Tries {
    running: JoinSet<Ended>,
    /// Which delivery of which channel each is.
    of: HashMap<Id, (i64, String)>,
}

impl Tries {
    /// Begins those that there is room for.
    pub(super) fn begin(&mut self, due: Vec<Delivery>, channels: &[Channel], ledger: &Arc<str>) {
        for delivery in due {
            let of_channel = self.of.values().filter(|(_, channel)| *channel == delivery.channel).count();
            let is_under_way = self.of.values().any(|(id, _)| *id == delivery.id);
            if is_under_way || of_channel >= OF_CHANNEL_MAX || self.of.len() >= TRIES_MAX {
                continue;
            }
            let of = (delivery.id, delivery.channel.clone());
            let channel = channels.iter().find(|channel| channel.name == delivery.channel).cloned();
            let ledger = Arc::clone(ledger);
            let task = self.running.spawn(async move {
                let sent = match &channel {
                    Some(channel) => send::send(channel, &delivery, &ledger).await,
                    None => Sent::Refused("the alerts file has no such channel".to_owned()),
                };
                Ended { delivery, channel: channel.map(|channel| channel.name), sent }
            });
            self.of.insert(task.id(), of);
        }
    }

    /// Those that have ended, after all have, or soon. One that panicked is due again.
    pub(super) async fn ended(&mut self) -> Vec<Ended> {
        let mut ended = Vec::new();
        let all = async {
            while let Some(done) = self.running.join_next_with_id().await {
                let id = done.as_ref().map_or_else(tokio::task::JoinError::id, |(id, _)| *id);
                self.of.remove(&id);
                ended.extend(done.ok().map(|(_, one)| one));
            }
        };
        // Whether all of them have ended says nothing here.
        let _ = timeout(PATIENCE, all).await;
        ended
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;
    use crate::alerts::message::tests::delivery;
    use crate::alerts::rules::Rules;
    use crate::model::Event;

    #[tokio::test]
    async fn a_channel_that_hangs_has_a_few_tries_and_another_is_told_meanwhile() {
        // It takes connections and says nothing.
        let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
        let good = TcpListener::bind("127.0.0.1:0").unwrap();
        let urls = [&hangs, &good].map(|listener| listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for mut stream in good.incoming().flatten() {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(b"HTTP/1.1 200 x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            }
        });
        let [hang, ok] = urls.map(|url| format!("kind = \"slack\"\nurl = \"http://{url}/\"\n"));
        let file = format!("[[channel]]\nname = \"hang\"\n{hang}[[channel]]\nname = \"ok\"\n{ok}");
        let channels = Rules::parse(&file).unwrap().channels;
        let due = |channel: &str, ids: std::ops::Range<i64>| -> Vec<Delivery> {
            let one = |id| Delivery { id, channel: channel.to_owned(), ..delivery(Event::Trigger, "m") };
            ids.map(one).collect()
        };
        let ledger = Arc::from("l");
        let mut tries = Tries::default();
        for _ in 0..2 {
            tries.begin(due("hang", 100..103), &channels, &ledger);
            assert_eq!(tries.of.len(), 3, "none twice");
        }
        for ids in [0..3, 3..6] {
            tries.begin(due("hang", 100..200), &channels, &ledger);
            tries.begin(due("ok", ids.clone()), &channels, &ledger);
            assert_eq!(tries.of.len(), OF_CHANNEL_MAX + 3, "no more of one");
            let ended = tries.ended().await;
            let mut told: Vec<i64> = ended.iter().map(|one| one.delivery.id).collect();
            told.sort_unstable();
            assert_eq!(told, ids.collect::<Vec<_>>());
            assert!(ended.iter().all(|one| one.sent == Sent::Told));
        }
        drop(hangs);
    }
}
