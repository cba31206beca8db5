//! Wiring of `serve`: opens the store, starts the commit thread, the listeners and the price book's watcher, and
//! stops them in the order in which data flows: streams, commits, then the API. The only file that names every part.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tonic::transport::Server;
use tonnage_proto::limits::{BATCH_BYTES_MAX, slot_start};
use tonnage_proto::metering::metering_server::MeteringServer;
use tonnage_runtime::clock::{Clock, ClockError};
use tonnage_runtime::shutdown::Shutdown;
use tonnage_runtime::telemetry::chain;
use tonnage_runtime::tls::TlsError;

use crate::alerts;
use crate::alerts::rules::Rules;
use crate::alerts::view::view;
use crate::api::auth::{AuthError, Authenticator, Identity};
use crate::api::{self, Acts, AlertActs, ApiState, Check, Orders, Verify};
use crate::commit::{Committer, QUEUE_MAX, Retention, Submission};
use crate::config::{self, Config};
use crate::follow::follow;
use crate::ingest::accept::Acceptor;
use crate::ingest::tls::Tls;
use crate::ingest::{Authenticate, Credential, Ingest, NotTaken};
use crate::kubernetes;
use crate::live::Live;
use crate::metrics::{Metrics, Operation};
use crate::model::OrderError;
use crate::opencost::upstream::Upstream;
use crate::opencost::{self, OpenCost};
use crate::prices::Book;
use crate::prices::watch::{self, Files, LoadError, Prices, Watcher};
use crate::store::server::Presence;
use crate::store::{Location, Readers, Store, StoreError, write};
use crate::verify;

mod estimated;

/// What streams and requests get to end after a stop.
const DRAIN: Duration = Duration::from_secs(10);
/// Longest time between two ticks of the commit thread, and how often the clock is asked.
const TICK_NS: u64 = 60_000_000_000;
const TICK_POLL: Duration = Duration::from_millis(200);
/// A commit that takes this long while others wait is not a slow disk any more.
const STUCK_NS: i64 = 120_000_000_000;
/// How long a reader waits for a database, which gives up on queries before that.
const READ: Duration = Duration::from_secs(40);
/// Room for a message's frame around a batch.
const FRAME_BYTES: usize = 4096;

/// The aggregator could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{field}: {address}: cannot listen there")]
    Listen {
        field: &'static str,
        address: std::net::SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("prices, nodes_file: cannot be used, and the ledger has no earlier ones")]
    Prices(#[from] LoadError),
    #[error("alerts_file: cannot be used")]
    Alerts(#[from] alerts::LoadError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("simulated_clock cannot be used")]
    Clock(#[from] ClockError),
    #[error("the system refused a thread or a signal handler")]
    System(#[from] std::io::Error),
    #[error("the commit thread ended; this is a bug, and its message is above")]
    CommitEnded,
}

/// Runs the aggregator until a signal.
///
/// # Errors
/// If it cannot start.
pub async fn run(config: Config) -> Result<(), RunError> {
    let stop = Shutdown::new();
    stop.on_signals()?;
    let clock = clock(&config)?;
    let tls = config.tls.clone().map(|files| Tls::load(files, &clock)).transpose()?.map(Arc::new);
    let http = listen("listen_http", config.listen_http).await?;
    let grpc = listen("listen_grpc", config.listen_grpc).await?;
    let opencost = listen_opencost(config.opencost.clone()).await?;
    let (store, _alone) = open(&config.store)?;
    let readers = store.readers_within(Some(READ));
    let identity = store.identity()?;
    let (watcher, prices) = prices(&config, &store)?;
    let rules = rules(&config)?;
    let (live, metrics) = (Arc::new(Live::default()), Arc::new(Metrics::new()));
    let authenticator = Arc::new(Authenticator::new(&store, clock.clone(), config.insecure_loopback));

    let book = Arc::clone(&prices.books.borrow());
    let mut committer = Committer::new(&store, clock.clone(), book, Arc::clone(&live), Arc::clone(&metrics))?;
    committer.retention = retention(&config);
    let (alive_ns, incarnation) = (Arc::clone(&committer.alive_ns), Arc::clone(&committer.incarnation));
    let (queue, mut ended) = commit(committer)?;
    if let Some(watcher) = watcher {
        tokio::spawn(watcher.run(clock.clone(), stop.clone()));
        tokio::spawn(reprice(prices.clone(), queue.clone(), stop.clone()));
    }
    let ingest = Ingest {
        authenticate: authenticate(Arc::clone(&authenticator), Arc::clone(&metrics)),
        queue: queue.clone(),
        ledger_id: identity.ledger_id,
        incarnation,
        succeeds: identity.succeeds.clone(),
        metrics: Arc::clone(&metrics),
        live: Arc::clone(&live),
        streams: Arc::default(),
        stop: stop.clone(),
    };
    let healthy = healthy(queue.downgrade(), alive_ns, store.presence());
    let ready = ready(Arc::clone(&healthy), store.presence());
    look_after(&store, (&readers, &live, &metrics, &clock), &stop);
    let acceptor = Acceptor { tls, clock: clock.clone(), metrics: Arc::clone(&metrics) };
    let state = ApiState {
        clock,
        ledger: identity,
        readers,
        authenticator,
        prices,
        live,
        metrics,
        orders: orders(queue.downgrade(), Arc::clone(&ready)),
        acts: acts(queue.downgrade(), Arc::clone(&ready)),
        alert_acts: alert_acts(queue.downgrade(), Arc::clone(&ready)),
        verify: verified(store.clone()),
        parties: config.focus.clone(),
        health: Arc::clone(&healthy),
        ready,
    };
    let state = estimated::estimated(state, config.estimator);
    tokio::spawn(tick(state.clock.clone(), queue.clone(), stop.clone()));
    watch((config.kubernetes, rules), &state, &queue, &stop);
    tracing::info!(http = %config.listen_http, grpc = %config.listen_grpc, "Serving.");
    let uplinks = tokio::spawn(serve_grpc(grpc, acceptor, ingest, stop.clone()));
    let api_stop = Shutdown::new();
    serve_opencost(opencost, &state, &stop, &api_stop);
    let rest = tokio::spawn(serve_http(http, api::router(state), api_stop.clone()));
    tokio::spawn(config.supervisor.tend(|| true, move || healthy(), stop.clone()));

    let bug = tokio::select! {
        () = stop.wait() => false,
        // Better gone and started again than alive and deaf.
        _ = &mut ended => true,
    };
    stop.set();
    // Streams are cut, and lose nothing by it.
    let _ = tokio::time::timeout(Duration::from_secs(1), uplinks).await;
    drop(queue);
    if !bug && tokio::time::timeout(DRAIN, ended).await.is_err() {
        tracing::warn!("Stopped with commits under way; agents send them again.");
    }
    api_stop.set();
    let _ = tokio::time::timeout(Duration::from_secs(1), rest).await;
    if bug { Err(RunError::CommitEnded) } else { Ok(()) }
}

fn clock(config: &Config) -> Result<Clock, RunError> {
    config.simulated_clock.as_deref().map_or_else(|| Ok(Clock::system()), |path| Ok(Clock::simulated(path)?))
}

fn retention(config: &Config) -> Retention {
    Retention {
        detail_days: config.keep_detail_days,
        hours_days: config.keep_hours_days,
        days_days: config.keep_days_days,
    }
}

/// The ledger, and what keeps others off it.
fn open(place: &Location) -> Result<(Store, Option<std::fs::File>), StoreError> {
    if let Some(exposure) = place.exposure() {
        tracing::warn!("The connection to the database is not safe: {exposure}.");
    }
    Ok((place.open()?, place.lock()?))
}

/// What only a database needs: whether it is there, and what other aggregators take in.
fn look_after(
    store: &Store,
    (readers, live, metrics, clock): (&Readers, &Arc<Live>, &Arc<Metrics>, &Clock),
    stop: &Shutdown,
) {
    if store.presence().is_some() {
        tokio::spawn(store.clone().watch(stop.clone()));
        let (live, metrics) = (Arc::clone(live), Arc::clone(metrics));
        tokio::spawn(follow(readers.clone(), live, metrics, clock.clone(), stop.clone()));
    }
}

/// Has the ledger know the labels of clusters, and people know of the ledger.
fn watch(
    (clusters, rules): (Vec<kubernetes::Settings>, Option<(PathBuf, Rules)>),
    state: &ApiState,
    queue: &mpsc::Sender<Submission>,
    stop: &Shutdown,
) {
    for settings in clusters {
        let (clock, metrics, stop) = (state.clock.clone(), Arc::clone(&state.metrics), stop.clone());
        let queue = queue.downgrade();
        tokio::spawn(kubernetes::Watcher { settings, queue, clock, metrics, stop }.run());
    }
    watch_alerts(rules, state, queue, stop);
}

/// Who is told of what, if anybody is.
fn rules(config: &Config) -> Result<Option<(PathBuf, Rules)>, RunError> {
    let Some(path) = config.alerts_file.clone() else { return Ok(None) };
    let rules = alerts::load(&path)?;
    Ok(Some((path, rules)))
}

/// Looks after alerts, by the sums that the API and the metrics show.
fn watch_alerts(
    rules: Option<(PathBuf, Rules)>,
    state: &ApiState,
    queue: &mpsc::Sender<Submission>,
    stop: &Shutdown,
) {
    let Some((path, rules)) = rules else { return };
    let prices = state.prices.clone();
    let watcher = alerts::Watcher {
        path,
        rules,
        ledger_id: state.ledger.ledger_id.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into(),
        look: Arc::new(move |db, wanted, now_ns| {
            let currency = prices.books.borrow().currency().to_owned();
            view(db, api::balances(db, now_ns)?, currency, (wanted, now_ns))
        }),
        clock: state.clock.clone(),
        readers: state.readers.clone(),
        queue: queue.downgrade(),
        metrics: Arc::clone(&state.metrics),
        stop: stop.clone(),
    };
    tokio::spawn(watcher.run());
}

/// Starts the commit thread: its queue, and who hears when it has ended.
fn commit(committer: Committer) -> std::io::Result<(mpsc::Sender<Submission>, oneshot::Receiver<()>)> {
    let (queue, submissions) = mpsc::channel(QUEUE_MAX);
    let (running, ended) = oneshot::channel::<()>();
    std::thread::Builder::new().name("commit".to_owned()).spawn(move || {
        committer.run(submissions);
        // Dropped at its end, also by a panic.
        drop(running);
    })?;
    Ok((queue, ended))
}

/// Well as long as the commit thread takes what is submitted. There is a tick at least once a minute. While a database is
/// gone it can take nothing, and a restart would not help.
fn healthy(
    queue: mpsc::WeakSender<Submission>,
    alive_ns: Arc<AtomicI64>,
    database: Option<Arc<Presence>>,
) -> Check {
    let clock = Clock::system();
    alive_ns.store(clock.monotonic_ns(), Ordering::Relaxed);
    Arc::new(move || {
        let queue = queue.upgrade().filter(|queue| !queue.is_closed());
        let queue = queue.ok_or_else(|| "the commit thread ended".to_owned())?;
        let busy_ns = clock.monotonic_ns() - alive_ns.load(Ordering::Relaxed);
        let stuck = queue.capacity() < queue.max_capacity() && busy_ns > STUCK_NS;
        if stuck && database.as_ref().is_none_or(|database| database.check().is_ok()) {
            let seconds = busy_ns / 1_000_000_000;
            return Err(format!("nothing was taken up for commit for {seconds} s: the disk hangs"));
        }
        Ok(())
    })
}

/// Well, and with a database that can be written.
fn ready(healthy: Check, database: Option<Arc<Presence>>) -> Check {
    Arc::new(move || {
        healthy()?;
        database.as_ref().map_or(Ok(()), |database| database.ready())
    })
}

async fn listen(field: &'static str, address: std::net::SocketAddr) -> Result<TcpListener, RunError> {
    TcpListener::bind(address).await.map_err(|source| RunError::Listen { field, address, source })
}

/// Hands orders to the commit thread. Holds no place in its queue, so that the thread ends when streams have.
fn orders(queue: mpsc::WeakSender<Submission>, ready: Check) -> Orders {
    Arc::new(move |order| {
        let (queue, ready) = (queue.clone(), ready());
        Box::pin(async move {
            ready.map_err(|_| OrderError::Unavailable)?;
            let (answer, answered) = oneshot::channel();
            let queue = queue.upgrade().ok_or(OrderError::Unavailable)?;
            let submitted = queue.send(Submission::Order { order, answer }).await;
            submitted.map_err(|_| OrderError::Unavailable)?;
            drop(queue);
            answered.await.unwrap_or(Err(OrderError::Unavailable))
        })
    })
}

/// The same for accounts and holds.
fn acts(queue: mpsc::WeakSender<Submission>, ready: Check) -> Acts {
    Arc::new(move |act| {
        let (queue, ready) = (queue.clone(), ready());
        Box::pin(async move {
            ready.ok()?;
            let (answer, answered) = oneshot::channel();
            let queue = queue.upgrade()?;
            queue.send(Submission::Budget { act: Box::new(act), answer }).await.ok()?;
            drop(queue);
            answered.await.ok()?.ok()
        })
    })
}

/// The same for alerts.
fn alert_acts(queue: mpsc::WeakSender<Submission>, ready: Check) -> AlertActs {
    Arc::new(move |act| {
        let (queue, ready) = (queue.clone(), ready());
        Box::pin(async move {
            ready.ok()?;
            let (answer, answered) = oneshot::channel();
            let queue = queue.upgrade()?;
            queue.send(Submission::Alerts { act, answer }).await.ok()?;
            drop(queue);
            answered.await.ok()?.ok()
        })
    })
}

/// The book of the files; or the one that the ledger was priced by last, if one of them is bad.
fn prices(config: &Config, store: &Store) -> Result<(Option<Watcher>, Prices), RunError> {
    let files = Files {
        prices: config.prices.clone(),
        nodes: config.nodes_file.clone(),
        teams: config.teams_file.clone(),
    };
    if files.prices.is_none() {
        tracing::warn!("No price book is given: everything is unpriced.");
    }
    if files == Files::default() {
        return Ok((None, Prices::fixed(Arc::new(Book::empty()))));
    }
    let book = match watch::load(&files) {
        Ok(book) => book,
        Err(error) => {
            let last = store.readers().with(write::applied_book)?;
            let Some(last) = last.and_then(|text| Book::parse(&text).ok()) else { return Err(error.into()) };
            tracing::error!(
                error = chain(&error),
                "The price book cannot be used; the last good one is kept."
            );
            last
        }
    };
    // Told wrongly, teams are told as without a file: they decide no charge. The watcher says so.
    let teams = watch::load_teams(&files).unwrap_or_default();
    let (watcher, prices) = Watcher::new(files, Arc::new(book), teams);
    Ok((Some(watcher), prices))
}

/// Hands every new book to the commit thread.
async fn reprice(mut prices: Prices, queue: mpsc::Sender<Submission>, stop: Shutdown) {
    loop {
        tokio::select! {
            changed = prices.books.changed() => if changed.is_err() { return },
            () = stop.wait() => return,
        }
        let book = Arc::clone(&prices.books.borrow_and_update());
        if queue.send(Submission::Book(book)).await.is_err() {
            return;
        }
    }
}

/// Tells the commit thread that time has passed: at every slot's edge and at least once a minute, by whatever clock.
async fn tick(clock: Clock, queue: mpsc::Sender<Submission>, stop: Shutdown) {
    let mut last = None;
    loop {
        let now_ns = clock.wall_ns();
        let due = last.is_none_or(|last_ns: i64| {
            now_ns.abs_diff(last_ns) >= TICK_NS || slot_start(now_ns) != slot_start(last_ns)
        });
        if due && queue.send(Submission::Tick).await.is_ok() {
            last = Some(now_ns);
        }
        tokio::select! {
            () = tokio::time::sleep(TICK_POLL) => {}
            () = stop.wait() => return,
        }
    }
}

/// Ingest takes nodes' tokens alone; a person's token bills nobody.
fn authenticate(authenticator: Arc<Authenticator>, metrics: Arc<Metrics>) -> Authenticate {
    Arc::new(move |header| {
        let (authenticator, metrics) = (Arc::clone(&authenticator), Arc::clone(&metrics));
        Box::pin(async move {
            match authenticator.authenticate(header.as_deref()).await {
                Ok(Identity::Loopback) => Ok(Credential::Loopback),
                Ok(Identity::Node(node)) => Ok(Credential::Node(node)),
                Ok(Identity::Person { .. }) => {
                    let reason = "this is a person's token; an agent needs its node's".to_owned();
                    Err(NotTaken::Refused(reason))
                }
                Err(AuthError::Store(error)) => {
                    tracing::warn!(error = chain(&error), "A token could not be looked up.");
                    metrics.store_failed(Operation::Token);
                    Err(NotTaken::Unavailable("tokens cannot be looked up now".to_owned()))
                }
                Err(error) => Err(NotTaken::Refused(error.to_string())),
            }
        })
    })
}

async fn serve_grpc(listener: TcpListener, acceptor: Acceptor, ingest: Ingest, stop: Shutdown) {
    if let Some(tls) = &acceptor.tls {
        tokio::spawn(Arc::clone(tls).watch(stop.clone()));
    }
    let service = MeteringServer::new(ingest).max_decoding_message_size(BATCH_BYTES_MAX + FRAME_BYTES);
    let served = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .max_concurrent_streams(Some(16))
        .add_service(service)
        .serve_with_incoming_shutdown(
            acceptor.incoming(listener, stop.clone()),
            async move { stop.wait().await },
        )
        .await;
    if let Err(error) = served {
        tracing::error!(error = chain(&error), "Ingest ended.");
    }
}

/// Recomputes the ledger and compares.
fn verified(store: Store) -> Verify {
    Arc::new(move || Ok(verify::verify(&store.reader()?)?.answer()))
}

async fn listen_opencost(
    settings: Option<config::OpenCost>,
) -> Result<Option<(config::OpenCost, TcpListener)>, RunError> {
    let Some(settings) = settings else { return Ok(None) };
    let listener = listen("opencost_listen", settings.listen).await?;
    Ok(Some((settings, listener)))
}

/// Serves clients of OpenCost from what the REST API reads, if there is a listener for them; its upstream is looked after
/// until `stop`.
fn serve_opencost(
    listening: Option<(config::OpenCost, TcpListener)>,
    state: &ApiState,
    stop: &Shutdown,
    api_stop: &Shutdown,
) {
    let Some((settings, listener)) = listening else { return };
    let upstream = settings.upstream.map(|address| {
        let upstream = Arc::new(Upstream::new(address, state.clock.clone(), Arc::clone(&state.metrics)));
        tokio::spawn(Arc::clone(&upstream).tend(stop.clone()));
        upstream
    });
    tracing::info!(address = %settings.listen, "Serving clients of OpenCost.");
    let router = opencost::router(OpenCost {
        clock: state.clock.clone(),
        readers: state.readers.clone(),
        authenticator: (!settings.open).then(|| Arc::clone(&state.authenticator)),
        prices: state.prices.clone(),
        live: Arc::clone(&state.live),
        metrics: Arc::clone(&state.metrics),
        upstream,
        health: Arc::clone(&state.health),
        export: settings.metrics,
    });
    tokio::spawn(serve_http(listener, router, api_stop.clone()));
}

async fn serve_http(listener: TcpListener, router: Router, stop: Shutdown) {
    let served = axum::serve(listener, router).with_graceful_shutdown(async move { stop.wait().await }).await;
    if let Err(error) = served {
        tracing::error!(%error, "The API ended.");
    }
}
