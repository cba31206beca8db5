//! Which node a client's certificate stands for, and the listener's files, read again when they change.
//!
//! The rule: the certificate has exactly one URI among its alternative names, `spiffe://ANY-DOMAIN/tonnage/CLUSTER/NODE`.
//! Any other certificate names nobody and is refused, also where it comes with a good token: who means to be known by
//! a certificate must not be taken for someone else because it is the wrong one.

use std::sync::{Arc, PoisonError, RwLock};

use tonnage_runtime::clock::Clock;
use tonnage_runtime::shutdown::Shutdown;
use tonnage_runtime::telemetry::chain;
use tonnage_runtime::tls::{PeerCertificate, Server, ServerBytes, ServerFiles, TlsError};

use crate::model::NodeName;

const PERIOD_NS: i64 = 2_000_000_000;
/// What the path of a node's name begins with.
const PATH: &str = "tonnage";

/// The listener's certificates. Connections that are open keep those that they began with.
pub struct Tls {
    files: ServerFiles,
    clock: Clock,
    server: RwLock<Server>,
    /// What was taken, or tried in vain, last.
    seen: RwLock<ServerBytes>,
}

impl Tls {
    /// # Errors
    /// The first file that is wrong.
    pub fn load(files: ServerFiles, clock: &Clock) -> Result<Self, TlsError> {
        let bytes = files.read()?;
        let server = Server::new(&files, &bytes, clock)?;
        if let Err(reason) = server.is_valid() {
            // Started all the same: what is in the ledger can be read, and the file may be replaced.
            tracing::error!(cert = %files.identity.cert.display(), reason, "No agent will take this certificate.");
        }
        Ok(Self { files, clock: clock.clone(), server: RwLock::new(server), seen: RwLock::new(bytes) })
    }

    /// The certificates in force.
    #[must_use]
    pub fn server(&self) -> Server {
        self.server.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at the files every two seconds until `stop`. Bad ones are logged once, and the last good ones kept.
    pub async fn watch(self: Arc<Self>, stop: Shutdown) {
        loop {
            tokio::select! {
                () = self.clock.sleep_until_async(self.clock.monotonic_ns().saturating_add(PERIOD_NS)) => {}
                () = stop.wait() => return,
            }
            // A file on a network may hang; that must not hold up a thread that serves others.
            let tls = Arc::clone(&self);
            if tokio::task::spawn_blocking(move || tls.look()).await.is_err() {
                tracing::error!("The watcher of the TLS files ended; they are no longer read again.");
                return;
            }
        }
    }

    fn look(&self) {
        let bytes = match self.files.read() {
            Ok(bytes) => bytes,
            // Replaced just now, maybe: the next look tells.
            Err(error) => return tracing::debug!(error = chain(&error), "The TLS files cannot be read now."),
        };
        if *self.seen.read().unwrap_or_else(PoisonError::into_inner) == bytes {
            return;
        }
        let cert = self.files.identity.cert.display();
        let loaded = Server::new(&self.files, &bytes, &self.clock).map_err(|error| chain(&error));
        match loaded.and_then(|server| server.is_valid().map(|()| server)) {
            Ok(server) => {
                *self.server.write().unwrap_or_else(PoisonError::into_inner) = server;
                tracing::info!(%cert, "Took new TLS files; connections from now on use them.");
            }
            Err(reason) => tracing::warn!(%cert, reason, "Kept the last good TLS files."),
        }
        *self.seen.write().unwrap_or_else(PoisonError::into_inner) = bytes;
    }
}

/// A client's certificate, and the listener that took it.
pub struct Shown {
    peer: PeerCertificate,
    tls: Arc<Tls>,
}

impl Shown {
    #[must_use]
    pub fn new(peer: PeerCertificate, tls: Arc<Tls>) -> Self {
        Self { peer, tls }
    }

    /// Whom it stands for, if it is still good: the CA may have been replaced since the handshake, and time passes.
    ///
    /// # Errors
    /// Why it stands for nobody.
    pub fn node(&self) -> Result<NodeName, String> {
        self.tls
            .server()
            .trusts(&self.peer)
            .map_err(|reason| format!("the client's certificate: {reason}"))?;
        node(&self.peer.uris())
    }
}

/// The node that a certificate with these URIs names.
fn node(uris: &[String]) -> Result<NodeName, String> {
    const RIGHT: &str = "a node's has exactly one URI, spiffe://DOMAIN/tonnage/CLUSTER/NODE";
    let wrong = |what: &str| format!("the client's certificate {what}; {RIGHT}");
    let uri = match uris {
        [] => return Err(wrong("has no URI among its alternative names")),
        [uri] => uri,
        many => {
            let shown: Vec<_> = many.iter().take(4).map(|uri| shortened(uri)).collect();
            return Err(wrong(&format!("names more than one: {shown:?}")));
        }
    };
    let parts: Vec<&str> = uri.strip_prefix("spiffe://").unwrap_or_default().split('/').collect();
    match parts[..] {
        [domain, PATH, cluster, node] if !domain.is_empty() && is_segment(cluster) && is_segment(node) => {
            Ok(NodeName { cluster: cluster.to_owned(), node: node.to_owned() })
        }
        _ => Err(wrong(&format!("names {:?}", shortened(uri)))),
    }
}

/// A segment of a SPIFFE ID's path: letters, digits and `.-_`, not `.` or `..`, so that each name has one spelling.
fn is_segment(text: &str) -> bool {
    let good = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
    (1..=253).contains(&text.len()) && text.bytes().all(good) && !matches!(text, "." | "..")
}

fn shortened(uri: &str) -> String {
    uri.chars().take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(uris: &[&str]) -> Result<NodeName, String> {
        node(&uris.iter().map(|uri| (*uri).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn one_uri_of_the_form_names_a_node_and_nothing_else_does() {
        let node = NodeName { cluster: "prod".into(), node: "gpu-7.example.org".into() };
        assert_eq!(named(&["spiffe://example.org/tonnage/prod/gpu-7.example.org"]), Ok(node));
        for uri in [
            "spiffe://example.org/prod/gpu-7",
            "spiffe://example.org/tonnage/prod",
            "spiffe://example.org/tonnage/prod/gpu-7/",
            "spiffe://example.org/tonnage/prod/a/gpu-7",
            "spiffe://example.org/tonnage//gpu-7",
            "spiffe://example.org/tonnage/prod/..",
            "spiffe://example.org/tonnage/prod/gpu%2d7",
            "spiffe://example.org/tonnage/prod/g\u{e9}",
            "spiffe:///tonnage/prod/gpu-7",
            "spiffe://example.org/ns/tonnage/sa/agent",
            "https://example.org/tonnage/prod/gpu-7",
            "SPIFFE://example.org/tonnage/prod/gpu-7",
            "",
        ] {
            let error = named(&[uri]).unwrap_err();
            assert!(error.contains(uri) && error.contains("CLUSTER/NODE"), "{error}");
        }
        let two = ["spiffe://x/tonnage/c/a", "spiffe://x/tonnage/c/b"];
        let error = named(&two).unwrap_err();
        assert!(two.iter().all(|uri| error.contains(uri)), "{error}");
        assert!(named(&[]).unwrap_err().contains("no URI"));
    }
}
