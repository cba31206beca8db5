//! Harm to bytes: one listener per node, one task per connection.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Fate, Path, Weather, count, weather};

const BUFFER_BYTES: usize = 16 * 1024;
/// What both peers get to notice a FIN.
const FINISH_WITHIN: Duration = Duration::from_millis(500);

/// How the copying of one direction went.
enum End {
    /// The peer closed, or broke off.
    Peer,
    /// So many bytes were through: the connection is to be cut.
    Due,
}

/// Takes connections until the runtime ends.
pub(super) async fn serve(listener: TcpListener, relay: SocketAddr, path: Path) {
    for connection in 0.. {
        let Ok((agent, _)) = listener.accept().await else { return };
        count(&path.counts.connections);
        let weather = weather(path.seed, path.node, connection);
        tokio::spawn(carry(agent, relay, path.clone(), weather));
    }
}

async fn carry(mut agent: TcpStream, relay: SocketAddr, path: Path, Weather { fate, relayed }: Weather) {
    let (fate, relayed) = if path.is_healed() { (Fate::Pass, false) } else { (fate, relayed) };
    match fate {
        Fate::Refused => {
            count(&path.counts.refused);
            return reset(&agent);
        }
        Fate::Swallowed { after } => {
            count(&path.counts.swallowed);
            tokio::select! {
                () = swallow(&mut agent) => {}
                () = tokio::time::sleep(after) => {}
                () = path.until_healed() => {}
            }
            return reset(&agent);
        }
        _ => {}
    }
    if relayed {
        count(&path.counts.relayed);
    }
    // A ledger that is down refuses: so does this.
    let Ok(mut ledger) = TcpStream::connect(if relayed { relay } else { path.ledger }).await else {
        return reset(&agent);
    };
    let _ = (agent.set_nodelay(true), ledger.set_nodelay(true));
    let (up, down) = match fate {
        Fate::Cut { towards_ledger: true, .. } => (fate, Fate::Pass),
        Fate::Cut { .. } => (Fate::Pass, fate),
        _ => (fate, fate),
    };
    let end = {
        let (mut from_agent, mut to_agent) = agent.split();
        let (mut from_ledger, mut to_ledger) = ledger.split();
        tokio::select! {
            end = copy(&mut from_agent, &mut to_ledger, up, &path) => end,
            end = copy(&mut from_ledger, &mut to_agent, down, &path) => end,
            () = path.until_healed(), if fate != Fate::Pass || relayed => End::Due,
        }
    };
    if matches!(end, End::Peer) {
        return;
    }
    if let Fate::Cut { reset: false, .. } = fate {
        count(&path.counts.finished);
        let _ = (agent.shutdown().await, ledger.shutdown().await);
        // Closed with bytes unread, it would be a RST after all.
        let drained = async { tokio::join!(swallow(&mut agent), swallow(&mut ledger)) };
        let _ = tokio::time::timeout(FINISH_WITHIN, drained).await;
        return;
    }
    count(&path.counts.reset);
    reset(&agent);
    reset(&ledger);
}

/// Closing it from now on is a RST, not a FIN.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

async fn swallow(stream: &mut TcpStream) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
}

async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    fate: Fate,
    path: &Path,
) -> End {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut through: u64 = 0;
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return End::Peer };
        let mut bytes = &buffer[..read];
        match fate {
            Fate::Cut { after_bytes, .. } => {
                let left = usize::try_from(after_bytes - through).unwrap_or(usize::MAX);
                bytes = &bytes[..read.min(left)];
            }
            Fate::Stalled { after_bytes, length }
                if (through..through + read as u64).contains(&after_bytes) =>
            {
                count(&path.counts.stalled);
                tokio::time::sleep(length).await;
            }
            Fate::Slow { each } => tokio::time::sleep(each).await,
            _ => {}
        }
        if to.write_all(bytes).await.is_err() {
            return End::Peer;
        }
        through += bytes.len() as u64;
        if matches!(fate, Fate::Cut { after_bytes, .. } if through >= after_bytes) {
            return End::Due;
        }
    }
}
