//! Keeps the price book in step with its file and the nodes file: looks every two seconds, reads them again when either
//! changed, and keeps the last good book where one of them is wrong. A wrong file stops nothing; it is logged, and shown
//! by the API and the metrics. The two are one [`Book`], so a change of either is journalled, and prices all slots again.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;
use tonnage_runtime::clock::Clock;
use tonnage_runtime::shutdown::Shutdown;
use tonnage_runtime::telemetry::chain;

use super::Nodes;
use super::book::{BOOK_BYTES_MAX, Book, BookError};
use super::teams::{self, TeamsError};
use crate::model::Teams;

const PERIOD_NS: i64 = 2_000_000_000;

/// Where prices, what nodes are, and how teams are told is written. Without prices everything is unpriced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    pub prices: Option<PathBuf>,
    pub nodes: Option<PathBuf>,
    pub teams: Option<PathBuf>,
}

/// A book's file, or the nodes file, cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("{what} {path}: cannot be read")]
    Read {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} {path}: is wrong", .source.file)]
    Wrong {
        path: PathBuf,
        #[source]
        source: BookError,
    },
    #[error("teams file {path}: is wrong")]
    Teams {
        path: PathBuf,
        #[source]
        source: TeamsError,
    },
}

/// Reads the book. Without a file of prices it has none, but may say what nodes are.
///
/// # Errors
/// If a file cannot be read, or is not what it should be.
pub fn load(files: &Files) -> Result<Book, LoadError> {
    const WITHOUT_PRICES: &str = "currency = \"USD\"\n";
    let wrong = |path: &Option<PathBuf>| {
        let path = path.clone().unwrap_or_default();
        move |source| LoadError::Wrong { path, source }
    };
    let mut text = match &files.prices {
        Some(path) => read("price book", path)?,
        None => WITHOUT_PRICES.to_owned(),
    };
    if let Some(path) = &files.nodes {
        let said = read("nodes file", path)?;
        Nodes::parse(&said).map_err(wrong(&files.nodes))?;
        text = Book::joined(&text, &said);
    }
    Book::parse(&text).map_err(wrong(&files.prices))
}

/// Reads how teams are told. Without a file, as [`Teams::default`] says.
///
/// # Errors
/// If it cannot be read, or is not what it should be.
pub fn load_teams(files: &Files) -> Result<Teams, LoadError> {
    let Some(path) = &files.teams else { return Ok(Teams::default()) };
    teams::parse(&read("teams file", path)?).map_err(|source| LoadError::Teams { path: path.clone(), source })
}

fn read(what: &'static str, path: &Path) -> Result<String, LoadError> {
    let read = || {
        let mut text = String::new();
        // One byte more than allowed, so that a larger file is refused by its size and not cut.
        let limit = u64::try_from(BOOK_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
        std::fs::File::open(path)?.take(limit).read_to_string(&mut text)?;
        Ok(text)
    };
    read().map_err(|source| LoadError::Read { what, path: path.to_owned(), source })
}

/// The book in force, and why its files are not, if so. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Prices {
    pub books: watch::Receiver<Arc<Book>>,
    pub teams: watch::Receiver<Arc<Teams>>,
    /// Why the files' newest content was not taken; `None` = it was.
    pub error: watch::Receiver<Option<String>>,
}

impl Prices {
    /// A book that never changes.
    #[must_use]
    pub fn fixed(book: Arc<Book>) -> Self {
        Self {
            books: watch::channel(book).1,
            teams: watch::channel(Arc::default()).1,
            error: watch::channel(None).1,
        }
    }

    /// What queries look nodes and teams up in.
    #[must_use]
    pub fn says(&self) -> (Arc<Book>, Arc<Teams>) {
        (Arc::clone(&self.books.borrow()), Arc::clone(&self.teams.borrow()))
    }
}

/// Looks after the files.
#[derive(Debug)]
pub struct Watcher {
    files: Files,
    seen: Option<Vec<Stamp>>,
    books: watch::Sender<Arc<Book>>,
    teams: watch::Sender<Arc<Teams>>,
    error: watch::Sender<Option<String>>,
}

/// Tells one version of a file from another; inode too, since ConfigMaps are swapped by a link.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

impl Watcher {
    /// A watcher that starts from `book` and `teams`; the files are first read by [`Watcher::run`].
    #[must_use]
    pub fn new(files: Files, book: Arc<Book>, teams: Teams) -> (Self, Prices) {
        let (books, books_seen) = watch::channel(book);
        let (teams, teams_seen) = watch::channel(Arc::new(teams));
        let (error, error_seen) = watch::channel(None);
        let prices = Prices { books: books_seen, teams: teams_seen, error: error_seen };
        (Self { files, seen: None, books, teams, error }, prices)
    }

    /// Looks every two seconds until `shutdown`.
    pub async fn run(mut self, clock: Clock, shutdown: Shutdown) {
        loop {
            // A file on a network may hang; that must not hold up a thread that serves others.
            self = match tokio::task::spawn_blocking(move || {
                self.look();
                self
            })
            .await
            {
                Ok(watcher) => watcher,
                Err(error) => {
                    tracing::error!(%error, "The price book's watcher ended; prices no longer change.");
                    return;
                }
            };
            tokio::select! {
                () = clock.sleep_until_async(clock.monotonic_ns().saturating_add(PERIOD_NS)) => {}
                () = shutdown.wait() => return,
            }
        }
    }

    /// Reads the files if one changed since the last look.
    fn look(&mut self) {
        let stamp = |path: &PathBuf| {
            let meta = std::fs::metadata(path).ok()?;
            Some(Stamp { modified: meta.modified().ok(), bytes: meta.len(), inode: meta.ino() })
        };
        let paths = self.files.prices.iter().chain(&self.files.nodes).chain(&self.files.teams);
        let stamp: Option<Vec<Stamp>> = paths.map(stamp).collect();
        // A file that cannot be looked at is tried each time: it may come back with the same stamp.
        if stamp.is_some() && stamp == self.seen {
            return;
        }
        self.seen = stamp;
        let (book, teams) = (load(&self.files), load_teams(&self.files));
        let wrong = [book.as_ref().err(), teams.as_ref().err()].into_iter().flatten().map(|e| chain(e));
        let wrong = wrong.collect::<Vec<_>>().join("; ");
        if let Ok(book) = book
            && book.text() != self.books.borrow().text()
        {
            let (prices, nodes) = (book.row_count(), book.nodes().count());
            tracing::info!(prices, nodes, "Took the price book.");
            self.books.send_replace(Arc::new(book));
        }
        if let Ok(teams) = teams
            && teams != **self.teams.borrow()
        {
            tracing::info!("Took the teams file.");
            self.teams.send_replace(Arc::new(teams));
        }
        let wrong = (!wrong.is_empty()).then_some(wrong);
        if wrong.is_some() && *self.error.borrow() != wrong {
            tracing::warn!(error = wrong, "Kept what was good last.");
        }
        self.error.send_replace(wrong);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NodeFacts;

    fn files(prices: &Path) -> Files {
        Files { prices: Some(prices.to_owned()), ..Files::default() }
    }

    #[test]
    fn the_nodes_file_is_taken_with_the_book_and_a_wrong_one_leaves_the_last_good() {
        let folder = tempfile::tempdir().unwrap();
        let [prices, nodes] = ["prices.toml", "nodes.toml"].map(|name| folder.path().join(name));
        std::fs::write(&prices, GOOD).unwrap();
        std::fs::write(&nodes, "[[node]]\nname = \"n\"\nregion = \"eu\"\n").unwrap();
        let both = Files { prices: Some(prices), nodes: Some(nodes.clone()), teams: None };
        let (mut watcher, seen) = Watcher::new(both.clone(), Arc::new(Book::empty()), Teams::default());
        watcher.look();
        let said = NodeFacts::default();
        assert_eq!(seen.books.borrow().facts("c", "n", &said).region, "eu");
        assert_eq!(seen.books.borrow().row_count(), 1);

        std::fs::write(&nodes, "[[node]]\nname = \"n\"\nregon = \"us\"\n").unwrap();
        watcher.look();
        let error = seen.error.borrow().clone().unwrap();
        assert!(error.contains("nodes.toml") && error.contains("line 3: node: \"regon\""), "{error}");
        assert_eq!(seen.books.borrow().facts("c", "n", &said).region, "eu");

        std::fs::write(&nodes, "[[node]]\nname = \"n\"\nregion = \"us-east\"\n").unwrap();
        watcher.look();
        assert_eq!(seen.books.borrow().facts("c", "n", &said).region, "us-east");
        let again = Book::parse(seen.books.borrow().text()).unwrap();
        assert_eq!(again.facts("c", "n", &said).region, "us-east", "the journal's text says it all");

        let alone = load(&Files { prices: None, ..both }).unwrap();
        assert_eq!((alone.row_count(), alone.nodes().count()), (0, 1));
    }

    #[test]
    fn a_changed_teams_file_is_taken_without_another_book_and_a_wrong_one_leaves_the_last_good() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let files = Files { teams: Some(file.path().to_owned()), ..Files::default() };
        std::fs::write(file.path(), "[namespaces]\nml = \"research\"\n").unwrap();
        let teams = load_teams(&files).unwrap();
        let (mut watcher, seen) = Watcher::new(files, Arc::new(load(&Files::default()).unwrap()), teams);
        watcher.look();
        assert_eq!(seen.teams.borrow().namespaces["ml"], "research");
        std::fs::write(file.path(), "[namespaces]\nml = \"inference\"\n").unwrap();
        watcher.look();
        assert_eq!(seen.teams.borrow().namespaces["ml"], "inference");
        std::fs::write(file.path(), "[namespace]\nml = \"x\"\n").unwrap();
        watcher.look();
        assert!(seen.error.borrow().as_deref().unwrap().contains("unknown field `namespace`"));
        assert_eq!(seen.teams.borrow().namespaces["ml"], "inference");
        assert!(!seen.books.has_changed().unwrap(), "nothing is priced again");
    }

    const GOOD: &str = "currency = \"USD\"\n[[price]]\nprice = 1\nunit = \"gpu_hour\"\n";

    #[test]
    fn a_changed_file_is_taken_and_a_wrong_one_leaves_the_last_good_book() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prices.toml");
        let (mut watcher, prices) = Watcher::new(files(&path), Arc::new(Book::empty()), Teams::default());
        watcher.look();
        assert!(prices.error.borrow().as_deref().unwrap().contains("cannot be read"));

        std::fs::write(&path, GOOD).unwrap();
        watcher.look();
        assert_eq!(*prices.error.borrow(), None);
        assert_eq!(prices.books.borrow().text(), GOOD);

        std::fs::write(&path, "currency = \"USD\"\nprize = 1\n").unwrap();
        watcher.look();
        assert!(prices.error.borrow().as_deref().unwrap().contains("line 2"));
        assert_eq!(prices.books.borrow().text(), GOOD);

        std::fs::write(&path, format!("{GOOD}# again\n")).unwrap();
        watcher.look();
        assert_eq!(*prices.error.borrow(), None);
        assert!(prices.books.borrow().text().ends_with("# again\n"));
    }

    #[test]
    fn a_file_that_did_not_change_is_not_announced_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), GOOD).unwrap();
        let (mut watcher, mut prices) =
            Watcher::new(files(file.path()), Arc::new(Book::empty()), Teams::default());
        watcher.look();
        assert!(prices.books.has_changed().unwrap());
        prices.books.mark_unchanged();
        watcher.look();
        assert!(!prices.books.has_changed().unwrap());
    }

    #[test]
    fn a_file_larger_than_a_book_is_refused_by_its_size() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "#".repeat(BOOK_BYTES_MAX + 9)).unwrap();
        let error = chain(&load(&files(file.path())).unwrap_err());
        assert!(error.contains("at most 1048576"), "{error}");
    }

    #[tokio::test]
    async fn the_watcher_takes_the_file_at_once_and_stops_when_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), GOOD).unwrap();
        let (watcher, mut prices) =
            Watcher::new(files(file.path()), Arc::new(Book::empty()), Teams::default());
        let shutdown = Shutdown::new();
        let task = tokio::spawn(watcher.run(Clock::system(), shutdown.clone()));
        prices.books.changed().await.unwrap();
        assert_eq!(prices.books.borrow().text(), GOOD);
        shutdown.set();
        task.await.unwrap();
    }
}
