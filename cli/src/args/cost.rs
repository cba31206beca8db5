//! What is asked of costs, and of reports of them.

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use tonnage_proto::rest::IdlePolicy;

use super::Table;

#[derive(Debug, ClapArgs)]
pub(crate) struct Cost {
    /// What the table is of
    #[arg(value_enum, default_value = "namespaces")]
    pub(crate) table: Table,
    /// Until now: 30m, 12h, 7d, 2w [default: 24h]
    #[arg(long, value_name = "LENGTH", conflicts_with = "window")]
    pub(crate) last: Option<String>,
    /// today, yesterday, week, month, lastweek, lastmonth, a month as 2026-03, or START,END as RFC 3339 times or Unix
    /// seconds; UTC
    #[arg(long)]
    pub(crate) window: Option<String>,
    /// Move the window back by this, e.g. 7d
    #[arg(long, value_name = "LENGTH")]
    pub(crate) offset: Option<String>,
    /// The window in parts: 1h, 1d, 1w or 1mo
    #[arg(long, conflicts_with = "page")]
    pub(crate) step: Option<String>,
    /// Group by these instead, with commas between: cluster, node, device, model, instance, profile, namespace, pod,
    /// pod_uid, container, job, step, unit, user, account, partition, kind, sharing_mode, capacity_type, instance_type,
    /// region, zone, pool, node_label:KEY, controller, controller_kind, team, budget, label:KEY, namespace_label:KEY
    #[arg(long, value_name = "LIST")]
    pub(crate) by: Option<String>,
    /// Only what this lets through, e.g. 'namespace:"a","b"+(node<~:"gpu-"|user!:"eve")'
    #[arg(long)]
    pub(crate) filter: Option<String>,
    #[arg(long)]
    pub(crate) namespace: Option<String>,
    /// Only this pod, job, unit, user or container
    #[arg(long)]
    pub(crate) owner: Option<String>,
    /// Only this Slurm account
    #[arg(long)]
    pub(crate) account: Option<String>,
    /// Only this Slurm partition
    #[arg(long)]
    pub(crate) partition: Option<String>,
    #[arg(long)]
    pub(crate) node: Option<String>,
    #[arg(long)]
    pub(crate) cluster: Option<String>,
    /// Only this GPU or MIG instance, by its UUID
    #[arg(long, value_name = "UUID")]
    pub(crate) device: Option<String>,
    /// Only MIG instances of this profile, e.g. 3g.40gb
    #[arg(long)]
    pub(crate) profile: Option<String>,
    /// Leave out rows of what nobody held; totals keep it
    #[arg(long)]
    pub(crate) no_idle: bool,
    /// What comes first: cost, held_cost, idle_cost, unobserved_cost, held_seconds, busy_seconds, idle_seconds,
    /// unobserved_seconds, energy_joules or name [server's default: cost]
    #[arg(long)]
    pub(crate) order: Option<String>,
    /// Rows; what is beyond is one row [server's default: 1000, with --step 100]
    #[arg(long, visible_alias = "top", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) limit: Option<u32>,
    /// The rows behind those of the answer that named this page
    #[arg(long)]
    pub(crate) page: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Chargeback {
    /// A month as 2026-03 [default: the last whole one]
    #[arg(long)]
    pub(crate) month: Option<String>,
    /// Whose rows these are; as for cost
    #[arg(long, value_name = "LIST", default_value = "namespace,account")]
    pub(crate) by: String,
    /// As for cost; only where idle cost is reported
    #[arg(long)]
    pub(crate) filter: Option<String>,
    #[arg(long)]
    pub(crate) cluster: Option<String>,
    /// What becomes of the cost of what nobody held [default: as the price book says]
    #[arg(long)]
    pub(crate) idle: Option<IdleCost>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum IdleCost {
    /// It has rows of its own
    Report,
    /// Shared within each cluster, by what was held
    Share,
    /// It is the platform's
    Platform,
}

impl From<IdleCost> for IdlePolicy {
    fn from(idle: IdleCost) -> Self {
        match idle {
            IdleCost::Report => Self::Report,
            IdleCost::Share => Self::Share,
            IdleCost::Platform => Self::Platform,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Report {
    /// What everybody owes for a month; the rows sum to its total, to the nano
    Chargeback(Chargeback),
    /// One row a month
    Monthly {
        /// Until this one [server's default: 6]
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=13))]
        months: Option<u32>,
        /// As for cost
        #[arg(long)]
        filter: Option<String>,
        #[arg(long)]
        cluster: Option<String>,
    },
}
