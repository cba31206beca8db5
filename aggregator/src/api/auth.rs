//! Who asks: bearer tokens, for the API and for ingest.
//!
//! A token that was found is remembered for a minute, so that a node's streams do not each read the store; after
//! that at the latest a removed token stops working. Tokens are never logged, repeated or kept: the memory is by
//! their hash. Not here: making tokens (`store::tokens`).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tonnage_runtime::clock::Clock;
use tonnage_runtime::telemetry::chain;

use super::Api;
use super::error::ApiError;
use crate::metrics::{Metrics, Operation};
use crate::model::NodeName;
use crate::store::tokens::{self, Grant, PREFIX, Role};
use crate::store::{Readers, Store, StoreError};

/// How long a look at a token waits for a database.
const PATIENCE: Duration = Duration::from_secs(3);
const REMEMBERED_NS: i64 = 60_000_000_000;
/// Tokens remembered at once; with more than these in use, all are forgotten and looked up anew.
const REMEMBERED_MAX: usize = 20_000;
const TOKEN_BYTES: usize = PREFIX.len() + 64;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Anybody, since only this machine can reach the listeners: may do everything.
    Loopback,
    Person {
        name: String,
        role: Role,
    },
    /// Good for ingest of this node's usage alone.
    Node(NodeName),
}

impl Identity {
    /// May they do what `role` may?
    #[must_use]
    pub fn may(&self, role: Role) -> bool {
        match self {
            Self::Loopback => true,
            Self::Person { role: own, .. } => *own >= role,
            Self::Node(_) => false,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback => f.write_str("anybody on this machine"),
            Self::Person { name, role } => write!(f, "token {name:?} ({})", role.name()),
            Self::Node(node) => write!(f, "node {:?} of cluster {:?}", node.node, node.cluster),
        }
    }
}

/// Nobody that we know.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    #[error("no token; send the header \"authorization: Bearer {PREFIX}...\"")]
    Missing,
    #[error("the authorization header is not \"Bearer {PREFIX}...\" with 64 hex digits")]
    Malformed,
    #[error("this token is not known here; it may have been removed")]
    Unknown,
    /// Ours to mend, not the caller's.
    #[error("tokens cannot be looked up")]
    Store(#[source] StoreError),
}

/// Looks tokens up. Share it by `Arc`.
#[derive(Debug)]
pub struct Authenticator {
    clock: Clock,
    /// Not the API's connections: a slow query must not hold up a look at a token.
    readers: Readers,
    insecure_loopback: bool,
    remembered: Mutex<HashMap<[u8; 32], (Identity, i64)>>,
}

impl Authenticator {
    /// With `insecure_loopback`, everybody is [`Identity::Loopback`]; the caller makes sure that no listener can be
    /// reached from elsewhere.
    #[must_use]
    pub fn new(store: &Store, clock: Clock, insecure_loopback: bool) -> Self {
        let readers = store.readers_within(Some(PATIENCE));
        Self { clock, readers, insecure_loopback, remembered: Mutex::default() }
    }

    /// Who sent this `authorization` header. What is not remembered is looked up off the async threads.
    ///
    /// # Errors
    /// If there is no header, it has no token, the token is not known, or the store fails.
    pub async fn authenticate(self: &Arc<Self>, authorization: Option<&str>) -> Result<Identity, AuthError> {
        if self.insecure_loopback {
            return Ok(Identity::Loopback);
        }
        let token = token(authorization.ok_or(AuthError::Missing)?).ok_or(AuthError::Malformed)?;
        let hash = tokens::hash(token);
        let now_ns = self.clock.monotonic_ns();
        if let Some(identity) = self.recall(&hash, now_ns) {
            return Ok(identity);
        }
        let authenticator = Arc::clone(self);
        let looked_up = tokio::task::spawn_blocking(move || authenticator.look_up(hash, now_ns)).await;
        looked_up.unwrap_or_else(|e| Err(AuthError::Store(StoreError::Away(e.to_string()))))
    }

    /// Reads one row of the store.
    fn look_up(&self, hash: [u8; 32], now_ns: i64) -> Result<Identity, AuthError> {
        let found = self.readers.with(|connection| tokens::find(connection, &hash));
        let found = found.map_err(AuthError::Store)?.ok_or(AuthError::Unknown)?;
        let identity = match found.grant {
            Grant::Role(role) => Identity::Person { name: found.name, role },
            Grant::Node(node) => Identity::Node(node),
        };
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(hash, (identity.clone(), now_ns.saturating_add(REMEMBERED_NS)));
        Ok(identity)
    }

    fn recall(&self, hash: &[u8; 32], now_ns: i64) -> Option<Identity> {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        match remembered.get(hash) {
            Some((identity, until_ns)) if now_ns < *until_ns => Some(identity.clone()),
            Some(_) => {
                remembered.remove(hash);
                None
            }
            None => None,
        }
    }
}

fn token(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    let digits = token.strip_prefix(PREFIX)?;
    let good = scheme.eq_ignore_ascii_case("bearer")
        && token.len() == TOKEN_BYTES
        && digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'));
    good.then_some(token)
}

/// Lets requests through that may read.
pub(super) async fn require_reader(
    State(api): State<Arc<Api>>,
    mut request: Request,
    next: Next,
) -> Response {
    match reader(&api.state.authenticator, &api.state.metrics, "api", request.headers()).await {
        Ok(identity) => {
            request.extensions_mut().insert(identity);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

/// Who sent a request with these headers, if they may read. `surface` is what they asked, for the metrics.
///
/// # Errors
/// If they may not, or it cannot be told.
pub async fn reader(
    authenticator: &Arc<Authenticator>,
    metrics: &Metrics,
    surface: &'static str,
    headers: &HeaderMap,
) -> Result<Identity, ApiError> {
    let header = headers.get(header::AUTHORIZATION);
    // A header that is no text is no token either.
    let authorization = header.map(|value| value.to_str().unwrap_or_default());
    match authenticator.authenticate(authorization).await {
        Ok(identity) if identity.may(Role::Reader) => Ok(identity),
        Ok(identity) => {
            Err(ApiError::forbidden(format!("{identity} may not read; use a token with the role reader")))
        }
        Err(error @ AuthError::Store(_)) => {
            tracing::error!(error = chain(&error), "Could not authenticate a request.");
            metrics.store_failed(Operation::Token);
            Err(ApiError::unavailable(error.to_string()))
        }
        Err(error) => {
            metrics.unauthenticated(surface);
            Err(ApiError::unauthenticated(error.to_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonnage_runtime::clock::{Reading, write_simulated};

    #[tokio::test]
    async fn a_token_is_good_for_what_it_was_made_for_and_stops_within_a_minute_of_its_removal() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let clock_file = tempfile::NamedTempFile::new().unwrap();
        let set = |s: i64| {
            let ns = s * 1_000_000_000;
            write_simulated(clock_file.as_file(), Reading { wall_ns: ns, monotonic_ns: ns, boot_ns: ns })
                .unwrap();
        };
        set(0);
        let clock = Clock::simulated(clock_file.path()).unwrap();
        let authenticator = Arc::new(Authenticator::new(&store, clock, false));
        let writer = store.writer().unwrap();
        let token = tokens::add(&writer, "ops", &Grant::Role(Role::Operator), 0).unwrap();
        let header = format!("Bearer {token}");
        let ops = Identity::Person { name: "ops".into(), role: Role::Operator };
        assert_eq!(authenticator.authenticate(Some(&header)).await.unwrap(), ops);
        assert!(ops.may(Role::Reader) && ops.may(Role::Operator) && !ops.may(Role::Admin));

        tokens::remove(&writer, "ops").unwrap();
        set(59);
        assert!(authenticator.authenticate(Some(&header)).await.is_ok());
        set(60);
        assert!(matches!(authenticator.authenticate(Some(&header)).await, Err(AuthError::Unknown)));
    }

    #[tokio::test]
    async fn a_nodes_token_binds_the_node_and_reads_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let node = NodeName { cluster: "c".into(), node: "n1".into() };
        let token = tokens::add(&store.writer().unwrap(), "n1", &Grant::Node(node.clone()), 0).unwrap();
        let authenticator = Arc::new(Authenticator::new(&store, Clock::system(), false));
        let identity = authenticator.authenticate(Some(&format!("bearer {token}"))).await.unwrap();
        assert_eq!(identity, Identity::Node(node));
        assert!(!identity.may(Role::Reader));
    }

    #[tokio::test]
    async fn a_header_that_holds_no_token_is_refused_without_repeating_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let authenticator = Arc::new(Authenticator::new(&store, Clock::system(), false));
        assert!(matches!(authenticator.authenticate(None).await, Err(AuthError::Missing)));
        let long = format!("Bearer tng_{}", "a".repeat(100_000));
        let upper = format!("Bearer tng_{}", "A".repeat(64));
        for header in ["", "secret", "Basic c2VjcmV0", "Bearer secret", "Bearer  tng_", &long, &upper] {
            let error = authenticator.authenticate(Some(header)).await.unwrap_err();
            assert!(matches!(error, AuthError::Malformed));
            assert!(!error.to_string().contains("secret"));
        }
        let unknown = format!("Bearer tng_{}", "a".repeat(64));
        assert!(matches!(authenticator.authenticate(Some(&unknown)).await, Err(AuthError::Unknown)));
        assert!(Arc::new(Authenticator::new(&store, Clock::system(), true)).authenticate(None).await.is_ok());
    }
}
