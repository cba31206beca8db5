//! From a listening socket to connections that have shown that they speak HTTP/2, over TLS where it is on.
//!
//! Strangers reach this code, so everything has a limit: each handshake (and whoever connects and says nothing) has
//! `HANDSHAKE_WITHIN`, on a task of its own; of more than `HANDSHAKES_MAX` at once the oldest is cut, so that
//! those who stall keep nobody out; over `CONNECTIONS_MAX` connections the newest is closed. Who speaks the wrong
//! protocol is told so where it can be, and the log says it at most once a second.
//!
//! Not here: who may open a stream, and how many.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tonnage_runtime::clock::Clock;
use tonnage_runtime::shutdown::Shutdown;
use tonnage_runtime::tls::PeerCertificate;

use super::tls::{Shown, Tls};
use crate::metrics::Metrics;

const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// Some hundred kilobytes of memory each at most, and well below what a process may have open by default (1,024).
const HANDSHAKES_MAX: usize = 512;
const CONNECTIONS_MAX: usize = 20_512;
/// Connections that wait for the server to take them.
const READY_MAX: usize = 16;
/// After the system refused a connection (no file descriptors are left, mostly).
const REFUSED_PAUSE: Duration = Duration::from_millis(100);
const COMPLAINT_EVERY_NS: i64 = 1_000_000_000;
/// What is read of a peer that is turned away, so that closing does not cut off what it is told.
const LINGER_BYTES_MAX: u64 = 64 << 10;
const LINGER: Duration = Duration::from_secs(1);

/// What every HTTP/2 client says first (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The first byte of every TLS handshake.
const TLS_HANDSHAKE: u8 = 0x16;
/// Hung up by itself, as health checks do.
const GONE: &str = "GONE";
const TLS_ONLY: &[u8; 45] = b"this port speaks TLS: use an https:// address";

/// A connection, ready for HTTP/2.
pub struct Connection {
    io: Box<dyn Io>,
    /// What was read to see what is spoken; read again from here.
    first: [u8; PREFACE.len()],
    given: usize,
    peer: Peer,
    _place: OwnedSemaphorePermit,
}

/// Who is at the other end, as far as the connection tells: an extension of its requests.
#[derive(Clone, Default)]
pub struct Peer {
    pub certificate: Option<Arc<Shown>>,
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// What accepting needs; see the module.
pub struct Acceptor {
    pub tls: Option<Arc<Tls>>,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
}

impl Acceptor {
    /// Accepts until `stop`.
    pub fn incoming(
        self,
        listener: TcpListener,
        stop: Shutdown,
    ) -> impl tokio_stream::Stream<Item = io::Result<Connection>> {
        let (ready, connections) = mpsc::channel(READY_MAX);
        tokio::spawn(self.accept(listener, ready, stop));
        ReceiverStream::new(connections)
    }

    async fn accept(self, listener: TcpListener, ready: Ready, stop: Shutdown) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let complaints = Arc::new(Complaints::new(self.clock, self.metrics));
        let mut handshakes: VecDeque<AbortHandle> = VecDeque::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.wait() => return,
            };
            let (tcp, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    complaints.add("REFUSED", &format!("the system refused a connection: {error}"));
                    tokio::time::sleep(REFUSED_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                complaints.add("CONNECTIONS", &format!("{address}: {CONNECTIONS_MAX} connections are open"));
                continue;
            };
            handshakes.retain(|handshake| !handshake.is_finished());
            if handshakes.len() >= HANDSHAKES_MAX
                && let Some(oldest) = handshakes.pop_front()
            {
                oldest.abort();
                complaints
                    .add("CROWDED", &format!("{HANDSHAKES_MAX} handshakes are under way; cut the oldest"));
            }
            let (tls, ready, complaints) = (self.tls.clone(), ready.clone(), Arc::clone(&complaints));
            let handshake = tokio::spawn(async move {
                match tokio::time::timeout(HANDSHAKE_WITHIN, greet(tcp, tls, place)).await {
                    Ok(Ok(connection)) => drop(ready.send(Ok(connection)).await),
                    Ok(Err((reason, text))) => complaints.add(reason, &format!("{address}: {text}")),
                    Err(_) => complaints.add("SILENT", &format!("{address}: no handshake within 10 s")),
                }
            });
            handshakes.push_back(handshake.abort_handle());
        }
    }
}

type Ready = mpsc::Sender<io::Result<Connection>>;
/// Why a connection came to nothing: one of few words, and a sentence.
type Failure = (&'static str, String);

async fn greet(
    tcp: TcpStream,
    tls: Option<Arc<Tls>>,
    place: OwnedSemaphorePermit,
) -> Result<Connection, Failure> {
    let gone = |error: io::Error| (GONE, error.to_string());
    // Without it acks wait for the peer's next packet.
    tcp.set_nodelay(true).map_err(gone)?;
    let (mut io, peer): (Box<dyn Io>, Peer) = match tls {
        None => (Box::new(tcp), Peer::default()),
        Some(tls) => {
            let mut begins = [0];
            if tcp.peek(&mut begins).await.map_err(gone)? == 0 {
                return Err((GONE, "hung up before it said anything".to_owned()));
            }
            if begins[0] != TLS_HANDSHAKE {
                turn_away(tcp, &go_away()).await;
                return Err((
                    "NOT_TLS",
                    "does not speak TLS, which this port wants: use https://".to_owned(),
                ));
            }
            match tls.server().accept(tcp).await {
                Ok(stream) => {
                    let shown = PeerCertificate::of(&stream).map(|peer| Arc::new(Shown::new(peer, tls)));
                    (Box::new(stream), Peer { certificate: shown })
                }
                Err((error, tcp)) => {
                    // The alert that says why is on its way.
                    turn_away(tcp, &[]).await;
                    return Err(("TLS", error.to_string()));
                }
            }
        }
    };
    let mut first = [0; PREFACE.len()];
    io.read_exact(&mut first).await.map_err(gone)?;
    if first[0] == TLS_HANDSHAKE {
        return Err((
            "NOT_PLAIN",
            "speaks TLS, which is off here: see --tls-cert, or use http://".to_owned(),
        ));
    }
    if first != *PREFACE {
        return Err((
            "NOT_HTTP2",
            "does not speak HTTP/2; agents belong here, REST is on the other port".to_owned(),
        ));
    }
    Ok(Connection { io, first, given: 0, peer, _place: place })
}

/// Closes so that the peer reads `last` before it learns of the end.
async fn turn_away(mut tcp: TcpStream, last: &[u8]) {
    let told = async {
        tcp.write_all(last).await?;
        tcp.shutdown().await?;
        tokio::io::copy(&mut tcp.take(LINGER_BYTES_MAX), &mut tokio::io::sink()).await
    };
    let _ = tokio::time::timeout(LINGER, told).await;
}

/// An HTTP/2 server's first words and last: empty SETTINGS, and GOAWAY for want of security, with the reason.
fn go_away() -> Vec<u8> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const INADEQUATE_SECURITY: u8 = 0xc;
    let bytes = u8::try_from(8 + TLS_ONLY.len()).unwrap_or(u8::MAX);
    let header = [0, 0, bytes, 7, 0, 0, 0, 0, 0];
    [&SETTINGS[..], &header, &[0; 7], &[INADEQUATE_SECURITY], TLS_ONLY].concat()
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.given < self.first.len() {
            let some = (self.first.len() - self.given).min(buffer.remaining());
            buffer.put_slice(&self.first[self.given..self.given + some]);
            self.given += some;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

/// Counts all, and logs one a second: a stranger must not fill the disk.
struct Complaints {
    clock: Clock,
    metrics: Arc<Metrics>,
    /// When the next may be logged, and how many were not since the last.
    next: Mutex<(i64, u64)>,
}

impl Complaints {
    fn new(clock: Clock, metrics: Arc<Metrics>) -> Self {
        Self { clock, metrics, next: Mutex::new((i64::MIN, 0)) }
    }

    fn add(&self, reason: &'static str, text: &str) {
        self.metrics.refused_stream(reason);
        if reason == GONE {
            return tracing::debug!(text, "A connection ended before it began.");
        }
        let now_ns = self.clock.monotonic_ns();
        let left_out = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            if now_ns < next.0 {
                next.1 += 1;
                return;
            }
            let left_out = next.1;
            *next = (now_ns.saturating_add(COMPLAINT_EVERY_NS), 0);
            left_out
        };
        tracing::warn!(reason, text, left_out, "A connection came to nothing.");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_plain_client_is_told_are_two_whole_frames() {
        let bytes = go_away();
        let (settings, rest) = bytes.split_at(9);
        assert_eq!(settings[3], 4);
        assert_eq!((usize::from(rest[2]), rest[3]), (rest.len() - 9, 7));
        assert!(rest.ends_with(b"use an https:// address"));
    }
}
