//! A job whose Epilog was lost: it ends where another was given its GPU. Pure.
//!
//! Slurm gives a GPU as a whole to one job at a time, so where two jobs of the hooks have one, the older has ended. What
//! was found stays for as long as the older job's file does: the file of the newer one is removed earlier.
//!
//! Not for: parts of GPUs, which several jobs have at once, and jobs of which it is not known when they began.

use std::collections::BTreeMap;

use crate::attribution::slurm::{DeviceRef, Job, Moment};

/// When a job was taken to have ended, and the job that was given its GPU; by id and start.
pub(super) type Ends = BTreeMap<(String, i64), (Moment, String)>;

/// Ends jobs at the start of the next job on a device of theirs, and gives what is to be told of it.
pub(super) fn end_at_the_next(jobs: &mut BTreeMap<String, Job>, ends: &mut Ends) -> Vec<String> {
    let mut of_device: BTreeMap<DeviceRef, Vec<(Order, Moment, &String)>> = BTreeMap::new();
    for (id, job) in &*jobs {
        if let Some(from) = job.from {
            let whole = job.devices.iter().filter(|device| device.whole);
            whole
                .for_each(|device| of_device.entry(device.at).or_default().push((order(from, id), from, id)));
        }
    }
    let mut found = Ends::new();
    let mut find = |id: &String, from: Moment, end: (Moment, String)| {
        let known = found.entry((id.clone(), from.wall_ns)).or_insert_with(|| end.clone());
        if order(end.0, &end.1) < order(known.0, &known.1) {
            *known = end;
        }
    };
    for mut holds in of_device.into_values() {
        holds.sort_unstable_by_key(|(order, ..)| *order);
        for pair in holds.windows(2) {
            if let [(_, from, id), (_, next_from, next)] = pair {
                find(id, *from, (*next_from, (*next).clone()));
            }
        }
    }
    for (id, job) in &*jobs {
        if let Some((from, end)) =
            job.from.and_then(|from| Some((from, ends.get(&(id.clone(), from.wall_ns))?)))
        {
            find(id, from, end.clone());
        }
    }
    let mut problems = Vec::new();
    for ((id, _), (end, next)) in &found {
        let Some(job) = jobs.get_mut(id) else { continue };
        if job.until.is_none() {
            problems.push(format!(
                "job {id} has no end, but job {next} was given its GPU: it is taken to have ended then; did its Epilog \
                 run?"
            ));
        }
        if job.until.is_none_or(|until| until.boot_ns > end.boot_ns) {
            job.until = Some(*end);
        }
    }
    *ends = found;
    problems
}

type Order = (i64, i64, u64);

/// By the boot clock, whose hundredths of a second several moments may share.
fn order(at: Moment, id: &str) -> Order {
    (at.boot_ns, at.wall_ns, id.parse().unwrap_or_default())
}
