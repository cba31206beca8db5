//! An API server of Kubernetes that lists and watches metadata, with the objects that a test gives it.
//!
//! Speaks the real protocol: pages with `limit` and `continue`, watches as chunked JSON lines from a `resourceVersion`,
//! bookmarks, `410 Gone` as an event once versions are compacted. It gives `PartialObjectMetadata` alone, and refuses whoever asks for
//! whole objects. It can be away. Its threads end with it.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

/// How often a watch that has nothing to say gives a bookmark.
const BOOKMARK: Duration = Duration::from_millis(200);
/// Where each resource is.
const PATHS: [(&str, &str); 4] = [
    ("pods", "/api/v1/pods"),
    ("namespaces", "/api/v1/namespaces"),
    ("replicasets", "/apis/apps/v1/replicasets"),
    ("jobs", "/apis/batch/v1/jobs"),
];

#[derive(Debug, Default)]
struct State {
    version: u64,
    /// Watches from before this are told that it is gone.
    compacted: u64,
    /// Metadata by resource and UID.
    objects: BTreeMap<(String, String), Value>,
    /// Version, resource, what happened, and the object.
    events: Vec<(u64, String, &'static str, Value)>,
    away: bool,
    /// Connections from before this end.
    generation: u64,
    counts: Counts,
    ended: bool,
}

/// Requests that it answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub lists: u64,
    pub watches: u64,
    /// Watches that began before what is compacted.
    pub gone: u64,
    /// For whole objects.
    pub refused: u64,
}

/// See the module.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<(Mutex<State>, Condvar)>,
    address: SocketAddr,
}

impl ApiServer {
    /// # Errors
    /// If it cannot listen on loopback.
    pub fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new((Mutex::new(State { version: 1, ..State::default() }), Condvar::new()));
        let own = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if lock(&own).ended {
                    return;
                }
                let own = Arc::clone(&own);
                // Whoever hangs up early is no failure of this.
                thread::spawn(move || drop(serve(&own, stream)));
            }
        });
        Ok(Self { shared, address })
    }

    /// Writes a kubeconfig that leads here.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn kubeconfig(&self, path: &Path) -> std::io::Result<()> {
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters: [{{name: test, cluster: {{server: 'http://{}'}}}}]\n\
             contexts: [{{name: test, context: {{cluster: test, user: test}}}}]\n\
             users: [{{name: test, user: {{token: secret}}}}]\n",
            self.address
        );
        std::fs::write(path, text)
    }

    /// Makes an object, or changes it; its metadata has a `uid`.
    pub fn put(&self, resource: &str, mut metadata: Value) {
        let mut state = lock(&self.shared);
        state.version += 1;
        let version = state.version;
        metadata["resourceVersion"] = version.to_string().into();
        let uid = metadata["uid"].as_str().unwrap_or_default().to_owned();
        let before = state.objects.insert((resource.to_owned(), uid), metadata.clone());
        let event = if before.is_some() { "MODIFIED" } else { "ADDED" };
        state.events.push((version, resource.to_owned(), event, metadata));
        self.shared.1.notify_all();
    }

    pub fn delete(&self, resource: &str, uid: &str) {
        let mut state = lock(&self.shared);
        let Some(mut metadata) = state.objects.remove(&(resource.to_owned(), uid.to_owned())) else { return };
        state.version += 1;
        let version = state.version;
        metadata["resourceVersion"] = version.to_string().into();
        state.events.push((version, resource.to_owned(), "DELETED", metadata));
        self.shared.1.notify_all();
    }

    /// Cuts every connection, and all new ones until [`ApiServer::back`].
    pub fn away(&self) {
        let mut state = lock(&self.shared);
        (state.away, state.generation) = (true, state.generation + 1);
        self.shared.1.notify_all();
    }

    pub fn back(&self) {
        lock(&self.shared).away = false;
    }

    /// Forgets what happened, and cuts every connection: watches cannot go on from where they were.
    pub fn compact(&self) {
        let mut state = lock(&self.shared);
        state.version += 1;
        (state.compacted, state.generation) = (state.version, state.generation + 1);
        state.events.clear();
        self.shared.1.notify_all();
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        lock(&self.shared).counts
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        let mut state = lock(&self.shared);
        (state.ended, state.generation) = (true, state.generation + 1);
        self.shared.1.notify_all();
        drop(state);
        // Wakes the listener.
        drop(TcpStream::connect(self.address));
    }
}

fn lock(shared: &(Mutex<State>, Condvar)) -> MutexGuard<'_, State> {
    shared.0.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(shared: &(Mutex<State>, Condvar), mut stream: TcpStream) -> std::io::Result<()> {
    let head = BufReader::new(stream.try_clone()?).lines();
    let head: Vec<String> = head.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let target = head.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query: BTreeMap<&str, &str> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
    if lock(shared).away {
        return Ok(());
    }
    let Some((resource, _)) = PATHS.into_iter().find(|(_, of)| *of == path.trim_end_matches('/')) else {
        return answer(&mut stream, "404 Not Found", &json!({"kind": "Status", "code": 404}));
    };
    let accepts = |line: &&String| line.to_ascii_lowercase().starts_with("accept:");
    if !head.iter().find(accepts).is_some_and(|line| line.contains("PartialObjectMetadata")) {
        lock(shared).counts.refused += 1;
        return answer(&mut stream, "406 Not Acceptable", &json!({"kind": "Status", "code": 406}));
    }
    if query.contains_key("watch") {
        return watch(shared, stream, resource, &query);
    }
    list(shared, &mut stream, resource, &query)
}

fn object(metadata: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
}

fn list(
    shared: &(Mutex<State>, Condvar),
    stream: &mut TcpStream,
    resource: &str,
    query: &BTreeMap<&str, &str>,
) -> std::io::Result<()> {
    let number = |name: &str| query.get(name).and_then(|text| text.parse::<usize>().ok());
    let (from, limit) = (number("continue").unwrap_or(0), number("limit").unwrap_or(usize::MAX));
    let mut state = lock(shared);
    state.counts.lists += 1;
    let all: Vec<&Value> =
        state.objects.iter().filter(|((of, _), _)| of == resource).map(|(_, metadata)| metadata).collect();
    let to = from.saturating_add(limit).min(all.len());
    let items: Vec<Value> = all.get(from..to).unwrap_or_default().iter().map(|of| object(of)).collect();
    let more = if to < all.len() { to.to_string() } else { String::new() };
    let body = json!({
        "kind": "PartialObjectMetadataList",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": state.version.to_string(), "continue": more},
        "items": items,
    });
    drop(state);
    answer(stream, "200 OK", &body)
}

fn answer(stream: &mut TcpStream, status: &str, body: &Value) -> std::io::Result<()> {
    let body = body.to_string();
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn watch(
    shared: &(Mutex<State>, Condvar),
    mut stream: TcpStream,
    resource: &str,
    query: &BTreeMap<&str, &str>,
) -> std::io::Result<()> {
    let mut version = query.get("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0);
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json;stream=watch\r\ntransfer-encoding: chunked\r\n\r\n"
    )?;
    let mut state = lock(shared);
    let generation = state.generation;
    state.counts.watches += 1;
    if version < state.compacted {
        state.counts.gone += 1;
        drop(state);
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired",
            "message": "too old resource version", "code": 410});
        chunk(&mut stream, &json!({"type": "ERROR", "object": status}))?;
        return write!(stream, "0\r\n\r\n");
    }
    loop {
        if state.generation != generation {
            return Ok(());
        }
        let news: Vec<Value> = state
            .events
            .iter()
            .filter(|(at, of, ..)| *at > version && of == resource)
            .map(|(_, _, event, metadata)| json!({"type": event, "object": object(metadata)}))
            .collect();
        version = state.version;
        drop(state);
        for event in &news {
            chunk(&mut stream, event)?;
        }
        let metadata = json!({"resourceVersion": version.to_string()});
        chunk(&mut stream, &json!({"type": "BOOKMARK", "object": object(&metadata)}))?;
        let waiting = lock(shared);
        state = if waiting.version == version && waiting.generation == generation {
            shared.1.wait_timeout(waiting, BOOKMARK).unwrap_or_else(PoisonError::into_inner).0
        } else {
            waiting
        };
    }
}

fn chunk(stream: &mut TcpStream, line: &Value) -> std::io::Result<()> {
    let line = format!("{line}\n");
    write!(stream, "{:x}\r\n{line}\r\n", line.len())
}

/// Metadata of a pod of namespace `ml` with a controller, as `("Job", UID)`.
#[must_use]
pub fn pod(name: &str, uid: &str, controller: Option<(&str, &str)>, labels: &[(&str, &str)]) -> Value {
    let mut metadata = named(name, uid, labels);
    metadata["namespace"] = "ml".into();
    if let Some((kind, uid)) = controller {
        let owner = json!({"apiVersion": "v1", "kind": kind, "name": format!("{kind}-{uid}").to_lowercase(),
            "uid": uid, "controller": true});
        metadata["ownerReferences"] = json!([owner]);
    }
    metadata
}

/// Metadata of anything without a namespace.
#[must_use]
pub fn named(name: &str, uid: &str, labels: &[(&str, &str)]) -> Value {
    let labels: BTreeMap<&str, &str> = labels.iter().copied().collect();
    json!({"name": name, "uid": uid, "labels": labels, "creationTimestamp": "2020-01-01T00:00:00Z"})
}
