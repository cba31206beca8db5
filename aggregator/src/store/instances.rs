//! Instances of partitioned devices, and what is known of their memory.

use super::sql::{OptionalExtension, Row, params};
use super::write::sql_u64;
use super::{Connection, StoreError, sql};
use crate::model::{Instance, MemoryShare};

/// Columns of an instance `i` in the order in which [`read`] takes them.
pub(super) const COLUMNS: &str =
    "i.generation, i.gpu_instance, i.compute_instance, i.slices, i.uuid, i.profile, i.memory_bytes,
     i.memory_slices, i.gpu_instance_slices, i.gpu_memory_slices";

/// The store's number of an instance of a device.
pub fn number(db: &Connection, device: i64, instance: &Instance) -> Result<i64, StoreError> {
    let memory = instance.memory.map_or([0; 3], |of| [of.slices, of.compute_slices, of.of]);
    let values = params![
        device,
        instance.generation,
        instance.gpu_instance,
        instance.compute_instance,
        instance.slices,
        instance.uuid,
        instance.profile,
        sql_u64(instance.memory_bytes)?,
        memory[0],
        memory[1],
        memory[2]
    ];
    db.prepare_cached(
        "INSERT INTO instance (device, generation, gpu_instance, compute_instance, slices, uuid, profile, memory_bytes,
             memory_slices, gpu_instance_slices, gpu_memory_slices)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT DO NOTHING",
    )?
    .execute(values)?;
    Ok(db
        .prepare_cached(
            "SELECT id FROM instance WHERE device = ?1 AND generation = ?2 AND gpu_instance = ?3
             AND compute_instance = ?4 AND slices = ?5 AND uuid = ?6 AND profile = ?7 AND memory_bytes = ?8
             AND memory_slices = ?9 AND gpu_instance_slices = ?10 AND gpu_memory_slices = ?11",
        )?
        .query_row(values, |row| row.get(0))?)
}

/// An instance of a device whose [`COLUMNS`] begin at `first`.
pub(super) fn read(row: &Row<'_>, first: usize, device: &str) -> sql::Result<Instance> {
    let of: u32 = row.get(first + 9)?;
    let memory = MemoryShare { slices: row.get(first + 7)?, compute_slices: row.get(first + 8)?, of };
    Ok(Instance {
        device: device.to_owned(),
        generation: row.get(first)?,
        gpu_instance: row.get(first + 1)?,
        compute_instance: row.get(first + 2)?,
        slices: row.get(first + 3)?,
        uuid: row.get(first + 4)?,
        profile: row.get(first + 5)?,
        memory_bytes: row.get::<i64>(first + 6)?.unsigned_abs(),
        memory: (of > 0).then_some(memory),
    })
}

/// What an instance has of its GPU's memory, by the store's number; `None` where nobody said.
pub fn memory(db: &Connection, number: i64) -> Result<Option<MemoryShare>, StoreError> {
    let found = db
        .prepare_cached(
            "SELECT memory_slices, gpu_instance_slices, gpu_memory_slices FROM instance WHERE id = ?1",
        )?
        .query_row([number], |row| {
            Ok(MemoryShare { slices: row.get(0)?, compute_slices: row.get(1)?, of: row.get(2)? })
        })
        .optional()?;
    Ok(found.filter(|share| share.of > 0))
}
