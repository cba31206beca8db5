//! The parsers of outside bytes, each with what it promises.

mod batch;
mod book;
mod cgroup;
mod filter;
mod gate;
mod query;
mod seal;
mod settings;
mod slurm;

use crate::target::Target;

pub(crate) fn all() -> Vec<Target> {
    vec![
        batch::target(),
        seal::target(),
        cgroup::target(),
        book::target(),
        query::target(),
        filter::target(),
        settings::agent(),
        settings::aggregator(),
        slurm::job_file(),
        slurm::gres_conf(),
        gate::target(),
    ]
}
