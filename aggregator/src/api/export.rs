//! `GET /api/v1/export/focus`: what was posted in a window, as a file that is streamed (docs/focus.md).
//!
//! A thread reads an hour at a time, each in a transaction of its own, and stops when nobody takes what it writes; an hour is
//! cut where labels of a pod or a namespace changed. Whatever
//! goes wrong on the way breaks the body off: it never ends as a whole one does. Limits: [`EXPORTS_MAX`] at once,
//! [`CHUNKS_MAX`] chunks on the way, [`STALLED`] without anybody reading.

use std::cell::RefCell;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Uri, header};
use axum::response::Response;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{self, Sender, error::TrySendError};
use tokio_stream::wrappers::ReceiverStream;
use tonnage_proto::limits::{DAY_NS, HOUR_NS};
use tonnage_proto::rest::CLOSED_UNTIL;
use tonnage_runtime::telemetry::chain;

use super::error::{ApiError, quoted};
use super::inventory::time;
use super::params::Params;
use super::{Api, window};
use crate::export::{Bill, Export, Format, Version, month};
use crate::metrics::Operation;
use crate::model::{NodeFacts, Owner, Teams};
use crate::prices::Book;
use crate::store::existence::TenureRecord;
use crate::store::query::posted::{self, Charge, Snapshot};
use crate::store::query::{self, Described, QueryError, kept};
use crate::store::{Connection, Readers, StoreError};

pub(super) const PARAMETERS: [&str; 3] = ["version", "format", "window"];
/// What it answers with.
pub(super) const MEDIA: [&str; 2] = [Format::Csv.content_type(), Format::Parquet.content_type()];
/// Exports at once; one more is answered `unavailable`.
pub(super) const EXPORTS_MAX: usize = 2;
const CHUNK_BYTES: usize = 64 << 10;
const CHUNKS_MAX: usize = 4;
/// A client that takes nothing for so long is given up.
const STALLED: Duration = Duration::from_secs(60);

type Chunk = Result<Vec<u8>, io::Error>;
/// Start and end, and what was posted of it.
type Hour = ((i64, i64), Vec<Charge>);

/// Why a body breaks off.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("nobody takes what is written")]
    Output(#[from] io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("what was posted before {0} was purged meanwhile")]
    Purged(String),
}

pub(super) async fn focus(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, ApiError> {
    let mut params = Params::read(&uri, &PARAMETERS)?;
    let version = params.take("version").unwrap_or_else(|| "1.2".to_owned());
    let version = Version::from_name(&version).ok_or_else(|| {
        let message = format!("version {:?} is none of 1.2 and 1.3", quoted(&version));
        ApiError::invalid("version", message)
    })?;
    let format = params.take("format").unwrap_or_else(|| "csv".to_owned());
    let format = Format::from_name(&format).ok_or_else(|| {
        let message = format!("format {:?} is none of csv and parquet", quoted(&format));
        ApiError::invalid("format", message)
    })?;
    let text = params.take("window").unwrap_or_else(|| "lastmonth".to_owned());
    let (start_ns, end_ns) = window::parse(&text, api.state.clock.wall_ns())
        .map_err(|message| ApiError::invalid("window", message))?;
    let permit = Arc::clone(&api.exporting).try_acquire_owned().map_err(|_| {
        ApiError::unavailable(format!("{EXPORTS_MAX} exports run already; try again when one has ended"))
    })?;
    let (snapshot, kept) = api.queries.run(|db, _| Ok((posted::snapshot(db)?, kept(db)?))).await?;
    if start_ns < kept.slots_from_ns {
        let horizon = time(kept.slots_from_ns);
        let message = format!(
            "window starts before {horizon}, behind which what was posted is purged; let it start there or later"
        );
        return Err(ApiError::invalid("window", message));
    }
    let book = Book::kept(&snapshot.book).map_err(|error| {
        tracing::error!(%error, "The price book in the ledger cannot be read.");
        ApiError::internal()
    })?;
    let closed_until = time(snapshot.closed_until_ns);
    let bill = Bill {
        parties: api.state.parties.clone(),
        account_id: api.state.ledger.ledger_id.iter().map(|byte| format!("{byte:02x}")).collect(),
        currency: book.currency().to_owned(),
    };
    let (sender, chunks) = mpsc::channel(CHUNKS_MAX);
    let source = Source {
        readers: api.state.readers.clone(),
        book,
        teams: Arc::clone(&api.state.prices.teams.borrow()),
        end_ns: end_ns.min(snapshot.closed_until_ns),
        snapshot,
        described: RefCell::default(),
    };
    let out = Chunks { sender: sender.clone(), runtime: Handle::current(), buffer: Vec::new() };
    let written = tokio::task::spawn_blocking(move || {
        // Kept until the thread ends, whoever is still there.
        let _permit = permit;
        source.write(start_ns, Export::new(version, format, bill, out)?)
    });
    let metrics = Arc::clone(&api.state.metrics);
    // Its sender keeps the body open until it is known how the thread ended, be it by a panic.
    tokio::spawn(async move {
        let broken = match written.await {
            Ok(Ok(())) => return,
            Ok(Err(Broken::Output(error))) => {
                tracing::debug!(error = chain(&error), "An export ended before its end.");
                error
            }
            Ok(Err(error)) => {
                tracing::error!(error = chain(&error), "An export broke off.");
                if matches!(error, Broken::Store(_)) {
                    metrics.store_failed(Operation::Export);
                }
                io::Error::other(error)
            }
            Err(error) => {
                tracing::error!(%error, "An export ended without an end.");
                io::Error::other(error)
            }
        };
        // Fails if the client is gone.
        let _ = sender.send(Err(broken)).await;
    });
    answer(version, format, &closed_until, Body::from_stream(ReceiverStream::new(chunks)))
}

fn answer(version: Version, format: Format, closed_until: &str, body: Body) -> Result<Response, ApiError> {
    let name = format!("attachment; filename=\"tonnage-focus-{}.{}\"", version.name(), format.name());
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    for (key, value) in [
        (header::CONTENT_DISPOSITION, name.as_str()),
        (header::HeaderName::from_static(CLOSED_UNTIL), closed_until),
    ] {
        headers.insert(key, HeaderValue::from_str(value).map_err(|_| ApiError::internal())?);
    }
    Ok(response)
}

/// What is exported.
struct Source {
    readers: Readers,
    book: Book,
    teams: Arc<Teams>,
    snapshot: Snapshot,
    end_ns: i64,
    /// A day, and what is said of its pods and namespaces.
    described: RefCell<(i64, Option<Described>)>,
}

impl Source {
    fn write<W: Write + Send>(&self, start_ns: i64, mut export: Export<W>) -> Result<(), Broken> {
        let mut at_ns = start_ns;
        while let Some((period, charges)) = self.hour(at_ns)? {
            export.hour(period, &charges)?;
            at_ns = period.1;
        }
        Ok(export.finish()?)
    }

    /// The first hour at or behind `at_ns` of which anything was posted, as far as it is in the window.
    fn hour(&self, at_ns: i64) -> Result<Option<Hour>, Broken> {
        let mut purged = None;
        let found = self.readers.with(|db| {
            let horizon_ns = kept(db)?.slots_from_ns;
            if at_ns < horizon_ns {
                purged = Some(Broken::Purged(time(horizon_ns)));
                return Ok(None);
            }
            self.read(db, at_ns)
        })?;
        purged.map_or(Ok(found), Err)
    }

    fn read(&self, db: &Connection, at_ns: i64) -> Result<Option<Hour>, StoreError> {
        let kept = kept(db)?;
        let Some(first_ns) = posted::first_posted(db, at_ns, self.end_ns)? else { return Ok(None) };
        let hour_ns = first_ns - first_ns.rem_euclid(HOUR_NS);
        let period = (hour_ns.max(at_ns), (hour_ns + HOUR_NS).min(self.end_ns));
        let facts = |tenure: &TenureRecord, said: NodeFacts| {
            self.book.facts(&tenure.node.cluster, &tenure.node.node, &said).into_owned()
        };
        let described = self.described(db, hour_ns)?;
        let pieces = described.pieces(period, &[], &kept);
        let period = pieces.into_iter().find(|(_, end_ns)| *end_ns > first_ns).unwrap_or(period);
        let told = |cluster: &str, owner: &Owner| described.told(cluster, owner, period.1 - 1);
        let charges = posted::charges(db, &self.snapshot, period, month(hour_ns).1, &facts, &told)?;
        Ok(Some((period, charges)))
    }

    /// What is said of pods and namespaces on the day of `at_ns`: read once a day.
    fn described(&self, db: &Connection, at_ns: i64) -> Result<Described, StoreError> {
        let day_ns = at_ns - at_ns.rem_euclid(DAY_NS);
        let mut known = self.described.borrow_mut();
        if let (same_ns, Some(described)) = &*known
            && *same_ns == day_ns
        {
            return Ok(described.clone());
        }
        let found = query::described(db, (day_ns, day_ns + DAY_NS), &self.teams, || false);
        let found = found.map_err(|error| match error {
            QueryError::Store(error) => error,
            QueryError::Expired | QueryError::TooManyGroups => StoreError::Interrupted,
        })?;
        *known = (day_ns, Some(found.clone()));
        Ok(found)
    }
}

/// Takes bytes on a thread, and hands them over in chunks.
struct Chunks {
    sender: Sender<Chunk>,
    runtime: Handle,
    buffer: Vec<u8>,
}

impl Chunks {
    fn send(&mut self) -> io::Result<()> {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        match self.sender.try_send(Ok(std::mem::take(&mut self.buffer))) {
            Ok(()) => Ok(()),
            Err(TrySendError::Closed(_)) => Err(gone()),
            Err(TrySendError::Full(chunk)) => {
                let sent = async { tokio::time::timeout(STALLED, self.sender.send(chunk)).await };
                let sent =
                    self.runtime.block_on(sent).map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
                sent.map_err(|_| gone())
            }
        }
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = bytes.get(..CHUNK_BYTES).unwrap_or(bytes);
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK_BYTES {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() { Ok(()) } else { self.send() }
    }
}
