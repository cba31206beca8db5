//! Is the database there? Asked every two seconds on a connection of its own, so that nobody else has to wait to find out:
//! who would read one that is known to be gone, or to hang, is told so at once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tonnage_runtime::clock::Clock;
use tonnage_runtime::shutdown::Shutdown;
use tonnage_runtime::telemetry::chain;

use super::Access;
use crate::store::{Connection, StoreError};

/// Between two questions.
const EVERY: Duration = Duration::from_secs(2);
/// How long one waits for its answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Each aggregator that runs on a database shares this lock; who has to be alone there tries to have it for itself.
const RUNNING_LOCK: i64 = 0x0074_6f6e_7275_6e73;
/// After so long without an answer it is not there, whatever has become of the question.
const SILENT_NS: i64 = 8_000_000_000;

/// What is known of it. Nothing at first: then it is taken to be there.
#[derive(Debug)]
pub struct Presence {
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    answered_ns: Option<i64>,
    /// Why the last question had no answer.
    away: Option<String>,
    /// It reads from another, and takes no writes.
    standby: bool,
}

impl Default for Presence {
    fn default() -> Self {
        Self { clock: Clock::system(), state: Mutex::default() }
    }
}

impl Presence {
    /// Can it be read?
    ///
    /// # Errors
    /// Why not, in plain words.
    pub fn check(&self) -> Result<(), String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reason) = &state.away {
            return Err(reason.clone());
        }
        let silent_ns = state.answered_ns.map_or(0, |at_ns| self.clock.monotonic_ns() - at_ns);
        if silent_ns > SILENT_NS {
            return Err(format!("the database has not answered for {} s", silent_ns / 1_000_000_000));
        }
        Ok(())
    }

    /// Can it be written?
    ///
    /// # Errors
    /// Why not, in plain words.
    pub fn ready(&self) -> Result<(), String> {
        self.check()?;
        if self.state.lock().unwrap_or_else(PoisonError::into_inner).standby {
            return Err("the database is a standby, and takes no writes".to_owned());
        }
        Ok(())
    }

    /// Asks until `stop`.
    pub(in crate::store) async fn watch(self: Arc<Self>, access: Arc<Access>, stop: Shutdown) {
        let mut connection = None;
        loop {
            let (access, kept) = (Arc::clone(&access), connection.take());
            let asked = tokio::task::spawn_blocking(move || ask(&access, kept)).await;
            let result = match asked {
                Ok((result, kept)) => {
                    connection = kept;
                    result.map_err(|error| chain(&error))
                }
                Err(error) => Err(error.to_string()),
            };
            self.note(result);
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = stop.wait() => return,
            }
        }
    }

    fn note(&self, result: Result<bool, String>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(standby) => {
                if state.away.take().is_some() {
                    tracing::info!("The database answers again.");
                }
                (state.answered_ns, state.standby) = (Some(self.clock.monotonic_ns()), standby);
            }
            Err(reason) => {
                if state.away.is_none() {
                    tracing::error!(reason, "The database does not answer.");
                }
                state.away = Some(reason);
            }
        }
    }
}

/// Is it a standby? With the connection, if it is still one.
fn ask(access: &Access, kept: Option<Connection>) -> (Result<bool, StoreError>, Option<Connection>) {
    let new = kept.is_none();
    let connection = match kept.map_or_else(|| Connection::connect(access.within(Some(PATIENCE))), Ok) {
        Ok(connection) => connection,
        Err(error) => return (Err(StoreError::Unreachable(error)), None),
    };
    connection.set_patience(PATIENCE);
    let asked = connection.begin_read().and_then(|db| {
        if new {
            // Held for as long as the connection lives. Who is alone there now does not stop us from asking.
            db.execute(&format!("SELECT pg_try_advisory_lock_shared({RUNNING_LOCK})"), [])?;
        }
        db.query_row("SELECT pg_is_in_recovery()", [], |row| row.get::<i64>(0))
    });
    match asked {
        Ok(standby) => (Ok(standby != 0), Some(connection)),
        Err(error) => (Err(StoreError::Unreachable(error)), None),
    }
}

/// Makes sure that no aggregator runs there, for as long as the connection lives.
///
/// # Errors
/// If one does, or the database cannot be asked.
pub(in crate::store) fn alone(access: &Access) -> Result<Connection, StoreError> {
    let connection = Connection::connect(access.clone()).map_err(StoreError::Unreachable)?;
    let lock = format!("SELECT pg_try_advisory_lock({RUNNING_LOCK})");
    if connection.query_row(&lock, [], |row| row.get::<i64>(0))? == 0 {
        return Err(StoreError::TakenServer);
    }
    Ok(connection)
}
