//! Where the ledger under measurement lies.

use harness::world::World;
use postgres_server::Server;

use crate::Which;
use crate::report::note;

/// A folder with a file of SQLite, or a database on a server of its own.
pub(super) enum Engine {
    Sqlite,
    Postgres(Server),
}

impl Engine {
    /// All that are installed, or `only` that one; of one that is not it is said.
    ///
    /// # Errors
    /// If a server does not start.
    pub(super) fn all(only: Option<Which>) -> anyhow::Result<Vec<Self>> {
        let mut engines = Vec::new();
        if only != Some(Which::Postgres) {
            engines.push(Self::Sqlite);
        }
        if only == Some(Which::Sqlite) {
            return Ok(engines);
        }
        if postgres_server::programs().is_some() {
            // Its defaults: every commit is on disk.
            engines.push(Self::Postgres(Server::start(&["shared_buffers=512MB", "max_wal_size=4GB"])?));
        } else {
            note("PostgreSQL is SKIPPED: it is not installed");
        }
        Ok(engines)
    }

    /// GPUs of a fleet whose ledger is written in a minute or so.
    pub(super) fn fleet_gpus(&self) -> i64 {
        match self {
            Self::Sqlite => 10_000,
            Self::Postgres(_) => 1_000,
        }
    }

    /// What stands before the names of its figures.
    pub(super) fn prefix(&self) -> &'static str {
        match self {
            Self::Sqlite => "",
            Self::Postgres(_) => "postgres_",
        }
    }

    /// A world whose aggregator has its ledger here, an empty one.
    ///
    /// # Errors
    /// If no folder or database can be made.
    pub(super) fn world(&self) -> anyhow::Result<World> {
        let mut world = World::in_real_time(0)?;
        if let Self::Postgres(server) = self {
            world.aggregator.database = Some(server.database()?);
        }
        Ok(world)
    }
}
