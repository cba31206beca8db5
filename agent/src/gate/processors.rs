//! CPUs and memory that a job without GPUs asks for, by Slurm's ways of asking <https://slurm.schedmd.com/sbatch.html>. Pure.
//!
//! What a job does not say it asks for nothing of: how much memory a partition gives by default, and how many CPUs a whole node
//! has, nobody knows here. The hold is for what was asked; the job is charged for what it was given.

use super::need::{nodes, task_count};
use super::request::{AskError, Fields, wrong};

/// As much the aggregator prices at once.
const CPUS_MAX: u64 = 100_000_000;
const MEMORY_BYTES_MAX: u64 = 1 << 60;
const MIB: u64 = 1 << 20;

/// CPUs and bytes of memory of a job, all tasks of an array together.
///
/// # Errors
/// If a field cannot be read, or is more than can be priced.
pub fn of(fields: &Fields, tasks_of_array: u64) -> Result<(u64, u64), AskError> {
    let on_nodes = nodes(fields)?;
    let of_tasks =
        task_count(fields, on_nodes)?.unwrap_or(1).checked_mul(fields.count("cpus_per_task")?.unwrap_or(1));
    let too_many = |field: &str| wrong(field, fields.text(field), "that is more than can be priced at once");
    let least = fields.count("min_cpus")?.unwrap_or(1).max(on_nodes);
    let cpus = of_tasks.map(|cpus| cpus.max(least)).ok_or_else(|| too_many("cpus_per_task"))?;
    let memory_mib = match (fields.count("min_mem_per_cpu")?, fields.count("min_mem_per_node")?) {
        (Some(of_cpu), _) => of_cpu.checked_mul(cpus).ok_or_else(|| too_many("min_mem_per_cpu"))?,
        (None, Some(of_node)) => of_node.checked_mul(on_nodes).ok_or_else(|| too_many("min_mem_per_node"))?,
        (None, None) => 0,
    };
    let cpus = cpus.checked_mul(tasks_of_array).filter(|cpus| *cpus <= CPUS_MAX);
    let memory = memory_mib.checked_mul(MIB).and_then(|bytes| bytes.checked_mul(tasks_of_array));
    let memory = memory.filter(|bytes| *bytes <= MEMORY_BYTES_MAX);
    Ok((cpus.ok_or_else(|| too_many("num_tasks"))?, memory.ok_or_else(|| too_many("min_mem_per_node"))?))
}

/// `4 CPUs, 8 GB`, as people read it.
#[must_use]
pub fn said(cpus: u64, memory_bytes: u64) -> String {
    let plural = if cpus == 1 { "" } else { "s" };
    let memory = match memory_bytes / MIB {
        0 => String::new(),
        mib if mib.is_multiple_of(1024) => format!(", {} GB", mib / 1024),
        mib => format!(", {mib} MB"),
    };
    format!("{cpus} CPU{plural}{memory}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_of_asking_for_cpus_and_memory_is_counted() {
        for (pairs, tasks, cpus, memory_mib) in [
            (&[][..], 1, 1, 0),
            (&[("min_cpus", "6")], 1, 6, 0),
            (&[("num_tasks", "4"), ("cpus_per_task", "2")], 1, 8, 0),
            (&[("num_tasks", "4"), ("cpus_per_task", "65534"), ("min_cpus", "4294967294")], 1, 4, 0),
            (&[("ntasks_per_node", "4"), ("min_nodes", "3"), ("cpus_per_task", "2")], 1, 24, 0),
            (&[("min_nodes", "3")], 1, 3, 0),
            (&[("num_tasks", "4"), ("min_mem_per_cpu", "1500")], 1, 4, 6000),
            (&[("num_tasks", "4"), ("min_nodes", "2"), ("min_mem_per_node", "1024")], 1, 4, 2048),
            (&[("min_mem_per_node", "0")], 1, 1, 0),
            (&[("min_mem_per_node", "18446744073709551614")], 1, 1, 0),
            (&[("num_tasks", "2"), ("min_mem_per_node", "100")], 10, 20, 1000),
        ] {
            assert_eq!(of(&Fields::of(pairs), tasks), Ok((cpus, memory_mib * MIB)), "{pairs:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_or_priced_is_an_error() {
        for pairs in [
            &[("num_tasks", "two")][..],
            &[("num_tasks", "100000000"), ("cpus_per_task", "2")],
            &[("min_mem_per_node", "9000000000000000000")],
            &[("min_mem_per_cpu", "9000000000000"), ("num_tasks", "4")],
        ] {
            assert!(of(&Fields::of(pairs), 1).is_err(), "{pairs:?}");
        }
    }

    #[test]
    fn people_read_whole_gigabytes_where_it_is_some() {
        assert_eq!(said(1, 0), "1 CPU");
        assert_eq!(said(4, 8 << 30), "4 CPUs, 8 GB");
        assert_eq!(said(2, 1500 << 20), "2 CPUs, 1500 MB");
    }
}
