//! What the gate is told, validated.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::client::Target;
use super::escrow::Terms;
use super::guard;
use super::need::Site;
use super::plan::Waits;
use super::reporter::Programs;
use super::slurm::Slurm;

/// What is answered where nobody can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Work is let in.
    Open,
    /// It is refused.
    Closed,
}

#[derive(Debug, Clone)]
pub struct Settings {
    pub target: Target,
    pub cluster: String,
    pub socket: PathBuf,
    /// What a crash must not forget.
    pub state: PathBuf,
    /// Whose process may ask, besides root's and the gate's own user's.
    pub slurm_uid: Option<u32>,
    pub listen: SocketAddr,
    /// The aggregator does not answer in time.
    pub policy: Policy,
    /// The account is of no budget.
    pub unbudgeted: Policy,
    /// For the aggregator's answer to a submission.
    pub deadline: Duration,
    pub site: Site,
    pub escrow: Terms,
    pub slurm: Slurm,
    /// Where limits are to be set in Slurm too.
    pub guard: Option<guard::Terms>,
    /// Where it is told what jobs without GPUs ran for.
    pub reports: Option<Programs>,
    pub sweep_every: Duration,
    pub waits: Waits,
}
