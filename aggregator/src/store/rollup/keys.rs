//! The store's numbers of what roll-ups tell apart.

use std::collections::HashMap;

use crate::ledger::rows::Key;
use crate::store::StoreError;
use crate::store::sql::{Connection, OptionalExtension, params};

/// What a row of an instance and an owner (`?5`, `?6`) is of.
const OF_ROW: &str = "COALESCE((SELECT profile FROM instance WHERE id = ?5), ''),
     COALESCE((SELECT kind FROM owner WHERE id = ?6), 0), COALESCE((SELECT namespace FROM owner WHERE id = ?6), ''),
     COALESCE((SELECT \"user\" FROM owner WHERE id = ?6), ''), COALESCE((SELECT account FROM owner WHERE id = ?6), ''),
     COALESCE((SELECT partition FROM owner WHERE id = ?6), '')";
const COLUMNS: &str =
    "cluster, model, slices, kind, profile, owner_kind, namespace, \"user\", account, partition";

/// The cluster, the model and the slices of a tenure.
type Place = (String, String, u32);

/// A cache of numbers, and where new ones are made. Whoever has it bounds it.
#[derive(Debug, Default)]
pub struct Keys {
    places: Vec<Place>,
    /// By tenure: its position in `places`.
    tenures: HashMap<i64, usize>,
    known: HashMap<(usize, Key), i64>,
    /// Those that were not asked for since the last [`Keys::age`].
    old: HashMap<(usize, Key), i64>,
}

impl Keys {
    /// The number that rows of this tenure and key are summed under, made on first use.
    ///
    /// # Errors
    /// If SQL fails.
    pub fn number(&mut self, db: &Connection, tenure: i64, key: Key) -> Result<i64, StoreError> {
        let place = match self.tenures.get(&tenure) {
            Some(place) => *place,
            None => self.place(db, tenure)?,
        };
        if let Some(number) = self.known.get(&(place, key)) {
            return Ok(*number);
        }
        let number = match self.old.remove(&(place, key)) {
            Some(number) => number,
            None => number(db, &self.places[place], key)?,
        };
        self.known.insert((place, key), number);
        Ok(number)
    }

    /// How many are known.
    #[must_use]
    pub fn count(&self) -> usize {
        self.known.len() + self.old.len() + self.tenures.len()
    }

    /// Forgets what was not asked for lately, once so many were.
    pub fn age(&mut self, lately: usize) {
        if self.known.len() >= lately {
            self.old = std::mem::take(&mut self.known);
        }
    }

    fn place(&mut self, db: &Connection, tenure: i64) -> Result<usize, StoreError> {
        let place: Place = db
            .prepare_cached(
                "SELECT n.cluster, d.model, t.slices FROM tenure t JOIN node n ON n.id = t.node
                 JOIN device d ON d.id = t.device WHERE t.id = ?1",
            )?
            .query_row([tenure], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let known = self.places.iter().position(|known| *known == place);
        let at = known.unwrap_or_else(|| {
            self.places.push(place);
            self.places.len() - 1
        });
        self.tenures.insert(tenure, at);
        Ok(at)
    }
}

fn number(
    db: &Connection,
    (cluster, model, slices): &Place,
    (instance, owner, kind): Key,
) -> Result<i64, StoreError> {
    let values = params![cluster, model, slices, kind as u8, instance, owner];
    let find = format!(
        "SELECT id FROM rollup_key WHERE ({COLUMNS}) = (CAST(?1 AS TEXT), CAST(?2 AS TEXT), CAST(?3 AS BIGINT),
         CAST(?4 AS BIGINT), {OF_ROW})"
    );
    if let Some(known) = db.prepare_cached(&find)?.query_row(values, |row| row.get(0)).optional()? {
        return Ok(known);
    }
    let insert = format!(
        "INSERT INTO rollup_key ({COLUMNS}) SELECT CAST(?1 AS TEXT), CAST(?2 AS TEXT), CAST(?3 AS BIGINT),
         CAST(?4 AS BIGINT), {OF_ROW} RETURNING id"
    );
    Ok(db.prepare_cached(&insert)?.query_row(values, |row| row.get(0))?)
}
