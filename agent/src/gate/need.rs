//! What a job needs: GPUs and of which model, or without any its CPUs and memory, and for how long at most, by all of Slurm's ways of
//! asking <https://slurm.schedmd.com/sbatch.html>. Pure.
//!
//! An ask that cannot be read is an error and never no GPUs. Where Slurm may give more or fewer, the most that was asked for counts: a
//! hold reserves, and what the job really held is what it costs.

use super::processors;
use super::request::{AskError, Fields, Number, wrong};
use super::tres::{self, Gres};

/// As many the aggregator prices at once.
pub const GPUS_MAX: u64 = 100_000;
/// 400 days, the longest that it prices.
pub const SECONDS_MAX: u64 = 400 * 86_400;
const TASKS_MAX: u64 = 4_000_000;

/// What sites have that no job says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Site {
    /// Shards that one GPU is cut into; 1 counts each as a GPU.
    pub shards_per_gpu: u64,
    /// Jobs without GPUs need CPUs and memory; else they need nothing.
    pub cpu_jobs: bool,
}

/// GPUs of a model, or CPUs and memory, for a time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Need {
    /// All of the job, of all tasks of an array; 0: none.
    pub gpus: u64,
    /// Slurm's type; empty if it may be any, or several are asked for.
    pub model: String,
    /// The longest that each of them may be held.
    pub seconds: u64,
    /// Without GPUs, all of the job, of all tasks of an array; 0: none.
    pub cpus: u64,
    pub memory_bytes: u64,
}

impl Need {
    /// What the fields of a job ask for.
    ///
    /// # Errors
    /// At the first field that cannot be read, or has no end.
    pub fn of(fields: &Fields, site: Site) -> Result<Self, AskError> {
        let gres = gpus(fields, site)?;
        if gres.count == 0 && !site.cpu_jobs {
            return Ok(Self::default());
        }
        let tasks = tasks(fields.text("array_inx"))?;
        let seconds = minutes(fields)?.checked_mul(60).filter(|seconds| *seconds <= SECONDS_MAX);
        let seconds = seconds.ok_or_else(|| {
            wrong("time_limit", fields.text("time_limit"), "use at most 400 days, so that it has a price")
        })?;
        if gres.count == 0 {
            let (cpus, memory_bytes) = processors::of(fields, tasks)?;
            return Ok(Self { seconds, cpus, memory_bytes, ..Self::default() });
        }
        let too_many = || wrong("gpus", &gres.count.to_string(), "that is more than can be priced at once");
        let all = gres.count.checked_mul(tasks).ok_or_else(too_many)?;
        if all <= GPUS_MAX {
            return Ok(Self { gpus: all, model: gres.model, seconds, ..Self::default() });
        }
        // The tasks of a large array one after the other cost the same.
        let seconds =
            seconds.checked_mul(tasks).filter(|seconds| *seconds <= SECONDS_MAX && gres.count <= GPUS_MAX);
        let seconds = seconds.ok_or_else(too_many)?;
        Ok(Self { gpus: gres.count, model: gres.model, seconds, ..Self::default() })
    }

    /// It needs nothing that has a price.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.gpus == 0 && self.cpus == 0 && self.memory_bytes == 0
    }

    /// What it needs more than `before`, for a time; `None` if it is not more.
    #[must_use]
    pub fn beyond(&self, before: &Self) -> Option<Self> {
        if self.gpus == 0 {
            return self.processors_beyond(before);
        }
        let work = |need: &Self| u128::from(need.gpus) * u128::from(need.seconds);
        let before = if self.model == before.model { work(before) } else { 0 };
        let more = work(self).checked_sub(before).filter(|more| *more > 0)?;
        let seconds = u64::try_from(more.div_ceil(u128::from(self.gpus.max(1)))).ok()?;
        Some(Self { seconds, ..self.clone() })
    }

    /// What more of CPUs and of memory, each as much of it for all of the time.
    fn processors_beyond(&self, before: &Self) -> Option<Self> {
        let more = |after: u64, was: u64| {
            let work = |amount: u64, need: &Self| u128::from(amount) * u128::from(need.seconds);
            let more = work(after, self).saturating_sub(work(was, before));
            u64::try_from(more.div_ceil(u128::from(self.seconds.max(1)))).ok()
        };
        let (cpus, memory_bytes) =
            (more(self.cpus, before.cpus)?, more(self.memory_bytes, before.memory_bytes)?);
        (cpus > 0 || memory_bytes > 0).then(|| Self { cpus, memory_bytes, ..self.clone() })
    }
}

/// GPUs of one task of an array, or of a job that is none.
fn gpus(fields: &Fields, site: Site) -> Result<Gres, AskError> {
    let of = |key: &str| tres::gpus(key, fields.text(key), site.shards_per_gpu);
    // How many in all: that goes before how they are spread.
    let all = of("tres_per_job")?;
    let (node, socket, task) = (of("tres_per_node")?, of("tres_per_socket")?, of("tres_per_task")?);
    let nodes = nodes(fields)?;
    let spread = [
        (node, Some(nodes), ""),
        (socket, sockets(fields, nodes)?, "--sockets-per-node"),
        (task, task_count(fields, nodes)?, "--ntasks"),
    ];
    let mut most = Gres::default();
    for (gres, times, missing) in spread {
        if gres.count == 0 {
            continue;
        }
        let Some(times) = times else {
            if all.count > 0 {
                continue;
            }
            return Err(wrong("gpus", &gres.count.to_string(), format!("say of how many, with {missing}")));
        };
        let count = gres.count.checked_mul(times).filter(|count| *count <= GPUS_MAX);
        let count = count.ok_or_else(|| {
            wrong("gpus", &gres.count.to_string(), "is too many for this many nodes, sockets or tasks")
        })?;
        let model = if most.count > 0 && most.model != gres.model { String::new() } else { gres.model };
        most = Gres { count: most.count.max(count), model };
    }
    if all.count > 0 {
        let model = if all.model.is_empty() { most.model } else { all.model };
        return Ok(Gres { count: all.count, model });
    }
    // With --ntasks-per-gpu alone their number follows from the tasks.
    if let (0, Some(tasks), Some(on_each)) =
        (most.count, fields.count("num_tasks")?, fields.count("ntasks_per_tres")?)
    {
        return Ok(Gres { count: tasks.div_ceil(on_each), model: String::new() });
    }
    Ok(most)
}

/// Nodes that it may get. Without a number Slurm takes as many as the tasks need, which nobody knows here: one at least.
pub(super) fn nodes(fields: &Fields) -> Result<u64, AskError> {
    if let Some(nodes) = fields.count("max_nodes")?.max(fields.count("min_nodes")?) {
        return Ok(nodes);
    }
    let (tasks, on_each) = (fields.count("num_tasks")?, fields.count("ntasks_per_node")?);
    Ok(tasks.zip(on_each).map_or(1, |(tasks, on_each)| tasks.div_ceil(on_each)))
}

fn sockets(fields: &Fields, nodes: u64) -> Result<Option<u64>, AskError> {
    Ok(fields.count("sockets_per_node")?.and_then(|sockets| sockets.checked_mul(nodes)))
}

pub(super) fn task_count(fields: &Fields, nodes: u64) -> Result<Option<u64>, AskError> {
    if let Some(tasks) = fields.count("num_tasks")? {
        return Ok(Some(tasks));
    }
    Ok(fields.count("ntasks_per_node")?.unwrap_or(1).checked_mul(nodes))
}

/// The time limit, else the partition's default, else its longest.
fn minutes(fields: &Fields) -> Result<u64, AskError> {
    for key in ["time_limit", "partition_default_time", "partition_max_time"] {
        match fields.number(key)? {
            Some(Number::Is(0)) | None => {}
            Some(Number::Is(minutes)) => return Ok(minutes),
            // A partition's longest time is shorter than none.
            Some(Number::NoEnd)
                if key == "time_limit"
                    && fields.count("partition_max_time").is_ok_and(|max| max.is_some()) => {}
            Some(Number::NoEnd) => break,
        }
    }
    Err(wrong(
        "time_limit",
        fields.text("time_limit"),
        "give one with --time: without an end nobody knows what the job may cost, and its partition has no default",
    ))
}

/// Tasks of an array, as `0-9%2`, `1,3,7` or `0-15:4`; 1 of what is none.
fn tasks(text: &str) -> Result<u64, AskError> {
    if text.is_empty() {
        return Ok(1);
    }
    let bad = || wrong("array_inx", text, "use indices such as 0-9, 1,3,7 or 0-15:4");
    let number = |text: &str| {
        text.parse::<u64>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit())).ok_or_else(bad)
    };
    let indices = text.split('%').next().unwrap_or_default();
    let mut count = 0_u64;
    for part in indices.split(',') {
        let (range, step) = part.split_once(':').map_or((part, Ok(1)), |(range, step)| (range, number(step)));
        let step = step?;
        count += match range.split_once('-') {
            None => number(range).map(|_| 1)?,
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                last.checked_sub(first).filter(|_| step > 0).ok_or_else(bad)? / step + 1
            }
        };
        if count > TASKS_MAX {
            return Err(wrong("array_inx", text, format!("has over {TASKS_MAX} tasks")));
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: Site = Site { shards_per_gpu: 4, cpu_jobs: false };

    fn need(pairs: &[(&str, &str)]) -> Result<(u64, String, u64), AskError> {
        let with_time = Fields::of(pairs).over(&Fields::of(&[("partition_default_time", "60")]));
        Need::of(&with_time, SITE).map(|need| (need.gpus, need.model, need.seconds))
    }

    #[test]
    fn every_way_of_asking_for_gpus_is_counted() {
        for (pairs, gpus, model) in [
            (&[("tres_per_node", "gres:gpu:a100:4")][..], 4, "a100"),
            (&[("tres_per_node", "gres:gpu:4"), ("min_nodes", "3")], 12, ""),
            (&[("tres_per_node", "gres:gpu:a100:4"), ("min_nodes", "2"), ("max_nodes", "3")], 12, "a100"),
            (&[("tres_per_node", "gres:gpu"), ("max_nodes", "4294967294"), ("min_nodes", "2")], 2, ""),
            (&[("tres_per_node", "gres:gpu:1"), ("num_tasks", "8"), ("ntasks_per_node", "3")], 3, ""),
            (&[("tres_per_node", "gres:gpu:1"), ("num_tasks", "8")], 1, ""),
            (&[("tres_per_job", "gres:gpu:h100:8")], 8, "h100"),
            (
                &[("tres_per_job", "gres:gpu:8"), ("tres_per_node", "gres:gpu:a:4"), ("max_nodes", "9")],
                8,
                "a",
            ),
            (&[("tres_per_socket", "gres:gpu:2"), ("sockets_per_node", "2"), ("min_nodes", "3")], 12, ""),
            (&[("tres_per_task", "gres:gpu:v100:2"), ("num_tasks", "5")], 10, "v100"),
            (&[("tres_per_task", "gres:gpu:1"), ("ntasks_per_node", "4"), ("min_nodes", "2")], 8, ""),
            (&[("tres_per_task", "gres:gpu:1")], 1, ""),
            (&[("tres_per_node", "gres:shard:3")], 1, ""),
            (&[("tres_per_node", "gres:shard:5"), ("min_nodes", "2")], 4, ""),
            (&[("tres_per_node", "gres:mps:150")], 2, ""),
            (&[("num_tasks", "8"), ("ntasks_per_tres", "3")], 3, ""),
            (&[("num_tasks", "8"), ("ntasks_per_tres", "65534")], 0, ""),
            (&[("tres_per_node", "gres:nic:2")], 0, ""),
            (&[], 0, ""),
        ] {
            let (expected, got) =
                ((gpus, model.to_owned()), need(pairs).map(|(gpus, model, _)| (gpus, model)));
            assert_eq!(got, Ok(expected), "{pairs:?}");
        }
    }

    #[test]
    fn an_array_needs_what_all_of_its_tasks_do() {
        for (array, tasks) in
            [("0-9", 10), ("0-9%2", 10), ("1,3,7", 3), ("0-15:4", 4), ("5", 1), ("0-3,10-19:5", 6)]
        {
            let pairs = [("tres_per_job", "gres:gpu:2"), ("array_inx", array)];
            assert_eq!(need(&pairs), Ok((2 * tasks, String::new(), 3600)), "{array}");
        }
        let large = [("tres_per_job", "gres:gpu:8"), ("array_inx", "0-19999"), ("time_limit", "10")];
        assert_eq!(
            need(&large),
            Ok((8, String::new(), 600 * 20_000)),
            "the same work, one task after the other"
        );
        for array in ["a", "1-", "-1", "3-1", "0-9:0", "0-9:", "0-99999999", "1;2", "+1"] {
            let error = need(&[("tres_per_job", "gres:gpu:2"), ("array_inx", array)]).unwrap_err();
            assert_eq!(error.field, "array_inx", "{array}");
        }
    }

    #[test]
    fn a_time_limit_that_is_missing_is_the_partitions() {
        let time = |pairs: &[(&str, &str)]| {
            let all = Fields::of(pairs).over(&Fields::of(&[("tres_per_job", "gres:gpu:1")]));
            Need::of(&all, SITE).map(|need| need.seconds)
        };
        let (unset, no_end) = ("4294967294", "4294967295");
        for (pairs, minutes) in [
            (&[("time_limit", "5"), ("partition_default_time", "60")][..], 5),
            (&[("time_limit", unset), ("partition_default_time", "60")], 60),
            (&[("partition_default_time", unset), ("partition_max_time", "90")], 90),
            (&[("time_limit", no_end), ("partition_max_time", "90")], 90),
        ] {
            assert_eq!(time(pairs), Ok(minutes * 60), "{pairs:?}");
        }
        for pairs in [
            &[][..],
            &[("time_limit", no_end), ("partition_default_time", "5")],
            &[("partition_max_time", no_end)],
            &[("time_limit", "600000")],
        ] {
            assert_eq!(time(pairs).map_err(|error| error.field), Err("time_limit".to_owned()), "{pairs:?}");
        }
    }

    #[test]
    fn an_ask_that_cannot_be_read_is_an_error_and_never_no_gpus() {
        for pairs in [
            &[("tres_per_node", "gres:gpu:a100:x")][..],
            &[("tres_per_node", "gpu:-1")],
            &[("tres_per_job", "gres:gpu:100001")],
            &[("tres_per_node", "gres:gpu:99999"), ("min_nodes", "99999")],
            &[("tres_per_socket", "gres:gpu:1")],
            &[("tres_per_node", "gres:gpu:1"), ("min_nodes", "two")],
            &[("tres_per_node", "gres:gpu:1"), ("max_nodes", "4294967295")],
        ] {
            let error = need(pairs).unwrap_err().to_string();
            assert!(!error.is_empty(), "{pairs:?}");
        }
    }

    #[test]
    fn what_a_change_asks_more_is_its_difference() {
        let need =
            |gpus, model: &str, seconds| Need { gpus, model: model.to_owned(), seconds, ..Need::default() };
        assert_eq!(need(2, "a", 100).beyond(&need(2, "a", 60)), Some(need(2, "a", 40)));
        assert_eq!(need(4, "a", 100).beyond(&need(2, "a", 100)), Some(need(4, "a", 50)));
        assert_eq!(need(4, "a", 50).beyond(&need(2, "a", 100)), None);
        assert_eq!(need(1, "a", 50).beyond(&need(2, "a", 100)), None);
        assert_eq!(
            need(2, "b", 100).beyond(&need(2, "a", 100)),
            Some(need(2, "b", 100)),
            "of another model it is all"
        );
        assert_eq!(need(3, "", 1).beyond(&need(1, "", 1)), Some(need(3, "", 1)), "rounded up");
    }

    #[test]
    fn a_job_without_gpus_needs_its_cpus_and_memory_where_the_site_says_so() {
        let pairs =
            [("num_tasks", "4"), ("min_mem_per_cpu", "2048"), ("time_limit", "60"), ("array_inx", "0-1")];
        assert_eq!(Need::of(&Fields::of(&pairs), SITE), Ok(Need::default()));
        let site = Site { cpu_jobs: true, ..SITE };
        let need = Need::of(&Fields::of(&pairs), site).unwrap();
        assert_eq!((need.gpus, need.cpus, need.memory_bytes, need.seconds), (0, 8, 16 << 30, 3600));
        assert!(Need::of(&Fields::of(&pairs[..2]), site).is_err(), "without an end it has no price");
        let gpus =
            Need::of(&Fields::of(&[("tres_per_job", "gres:gpu:1"), ("time_limit", "1")]), site).unwrap();
        assert_eq!((gpus.gpus, gpus.cpus), (1, 0), "a job with GPUs costs what its GPUs cost");
        let longer = Need { seconds: 7200, ..need.clone() };
        let more = longer.beyond(&need).unwrap();
        assert_eq!(
            (more.cpus, more.memory_bytes, more.seconds),
            (4, 8 << 30, 7200),
            "half of all, for all of it"
        );
        assert_eq!(need.beyond(&longer), None);
    }
}
