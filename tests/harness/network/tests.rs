use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use super::*;
use crate::wait::wait_until;

/// A peer that sends back what it gets, for as many connections as come.
fn echo() -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let (mut from, mut to) = (stream.try_clone().unwrap(), stream);
                let _ = std::io::copy(&mut from, &mut to);
            });
        }
    });
    format!("http://{address}")
}

fn connect(way: &str) -> TcpStream {
    TcpStream::connect(way.strip_prefix("http://").unwrap()).unwrap()
}

/// Sends so much and gives what came back, and how it ended.
fn talk(stream: TcpStream, bytes: usize) -> (usize, Option<ErrorKind>) {
    let mut to = stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        let _ = to.write_all(&vec![7; bytes]);
    });
    let (mut from, mut buffer, mut got) = (stream, vec![0; 4096], 0);
    let end = loop {
        match from.read(&mut buffer) {
            Ok(0) => break None,
            Ok(read) => got += read,
            Err(error) => break Some(error.kind()),
        }
        if got == bytes {
            break None;
        }
    };
    sender.join().unwrap();
    (got, end)
}

/// The first connection of some node with this weather.
fn node_with(seed: u64, mut is: impl FnMut(Weather) -> bool) -> u64 {
    (0..10_000).find(|node| is(weather(seed, *node, 0))).expect("some node has this weather")
}

#[test]
fn a_seed_decides_what_befalls_each_connection_and_all_kinds_come_up() {
    let all = |seed| (0..300).map(|connection| weather(seed, 1, connection)).collect::<Vec<_>>();
    assert_eq!(all(3), all(3));
    assert_ne!(all(3), all(4));
    let kinds: BTreeSet<_> = all(3)
        .iter()
        .map(|weather| (format!("{:.4}", format!("{:?}", weather.fate)), weather.relayed))
        .collect();
    assert_eq!(kinds.len(), 12, "{kinds:?}");
}

#[test]
fn a_cut_comes_after_so_many_bytes_and_is_what_it_was_to_be() {
    let uplink = echo();
    let network = Network::new(5).unwrap();
    for reset in [true, false] {
        let mut cut_bytes = 0;
        let node = node_with(5, |weather| match weather.fate {
            Fate::Cut { after_bytes, towards_ledger: false, reset: is }
                if is == reset && !weather.relayed =>
            {
                cut_bytes = after_bytes;
                true
            }
            _ => false,
        });
        let (got, end) = talk(connect(&network.way(node, &uplink).unwrap()), 1 << 20);
        // A reset may overtake what was sent before it.
        let right = if reset { got as u64 <= cut_bytes } else { got as u64 == cut_bytes };
        assert!(right, "{got} of {cut_bytes} bytes");
        assert!(!reset || end == Some(ErrorKind::ConnectionReset), "{end:?}");
    }
    assert_eq!(network.counts().cuts(), 2);
}

#[test]
fn after_it_is_healed_everything_comes_through_and_who_waited_is_let_go() {
    let uplink = echo();
    let network = Network::new(6).unwrap();
    let swallows = node_with(6, |weather| matches!(weather.fate, Fate::Swallowed { .. }));
    let way = network.way(swallows, &uplink).unwrap();
    let stuck = connect(&way);
    let waiting = std::thread::spawn(move || talk(stuck, 10));
    let swallowed = || Ok((network.counts().swallowed.load(Ordering::Relaxed) == 1).then_some(()));
    wait_until(Duration::from_secs(30), "the connection", String::new, swallowed).unwrap();
    network.heal();
    assert_eq!(waiting.join().unwrap().0, 0);
    for node in 0..20 {
        assert_eq!(talk(connect(&network.way(node, &uplink).unwrap()), 100_000), (100_000, None));
    }
}
