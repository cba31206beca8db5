//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

pub(crate) mod budgets;
mod cost;
pub(crate) mod grants;
pub(crate) mod moved;

pub(crate) use cost::{Chargeback, Cost, Report};

/// Whose GPU-seconds were these, and what did they cost?
#[derive(Debug, Parser)]
#[command(name = "tonnage", version, after_help = crate::error::EXIT_CODES)]
pub(crate) struct Args {
    /// Where the aggregator's REST API is
    #[arg(long, global = true, env = "TONNAGE_URL", default_value = "http://127.0.0.1:7788", value_parser = url)]
    pub(crate) url: String,
    /// File that holds the token to show
    #[arg(long, global = true, env = "TONNAGE_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// table for people; json and csv are exact
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
    Csv,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// What GPUs cost in a window of time, by whom
    Cost(Cost),
    /// Months, and who pays for one
    Report {
        #[command(subcommand)]
        command: Report,
    },
    /// Who holds GPUs without using them, who uses what others hold, and what nobody is known for
    Idle(Idle),
    /// One quarter of an hour of a GPU, a MIG instance, a pod or a job, line by line, down to the sealed bytes
    Explain(Explain),
    /// Who is on the GPUs right now
    Top(Top),
    /// Nodes and their agents
    Nodes,
    /// GPUs, where they are and what they cost per hour
    #[command(args_conflicts_with_subcommands = true)]
    Devices {
        #[command(subcommand)]
        command: Option<Devices>,
    },
    /// How long GPUs existed without anybody looking, and why
    Unobserved(Unobserved),
    /// Windows that are not counted, because others cover their time or a clock was wrong
    Quarantine {
        #[command(subcommand)]
        command: Quarantine,
    },
    /// What the ledger was told, and whether it adds up
    Audit {
        #[command(subcommand)]
        command: Audit,
    },
    /// What was posted, as a file for other programs
    Export {
        #[command(subcommand)]
        command: Export,
    },
    /// Accounts of budgets, and what is left of them
    Account {
        #[command(subcommand)]
        command: budgets::Accounts,
    },
    /// What somebody is to know of budgets and of the ledger, and who knows
    Alert {
        #[command(subcommand)]
        command: Alerts,
    },
    /// What is held for work that may run
    #[command(visible_aliases = ["transaction", "transactions"])]
    Hold {
        #[command(subcommand)]
        command: budgets::Holds,
    },
    /// Whether there is enough for some work
    Budget {
        #[command(subcommand)]
        command: budgets::Budget,
    },
    /// Limits that come in parts, at dates of a calendar
    Allocation {
        #[command(subcommand)]
        command: budgets::Allocations,
    },
    /// Grants of agencies: what was awarded, budget periods, and reports
    Grant {
        #[command(subcommand)]
        command: grants::Grants,
    },
    /// How fast a budget is spent, day by day, and how healthy it is
    BurnRate(budgets::Burn),
    /// When a budget will be gone if days go on as they were, and how sure that is
    Forecast(budgets::Burn),
    /// What was charged to budgets
    Usage {
        #[command(subcommand)]
        command: budgets::Usage,
    },
    /// What another system knows, moved here
    Import {
        #[command(subcommand)]
        command: moved::Import,
    },
    /// The same as hold recover
    Recover(budgets::Recover),
    /// The same as budget reconcile
    Reconcile(budgets::Reconcile),
    /// Files of settings
    Config {
        #[command(subcommand)]
        command: moved::Config,
    },
    /// How the parts stand, as far as the server and Slurm's commands tell
    Ecosystem,
    /// Price books
    Price {
        #[command(subcommand)]
        command: Price,
    },
    /// A script that completes commands in a shell
    Completions { shell: Shell },
    /// Versions of this program and of the server
    Version,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Alerts {
    /// Newest first
    List {
        /// Of this budget alone
        #[arg(long)]
        account: Option<String>,
        #[arg(long, value_parser = ["active", "acknowledged", "resolved"])]
        status: Option<String>,
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: Option<u32>,
    },
    /// Say that you know of it
    Acknowledge {
        id: i64,
        /// What others should know
        #[arg(long)]
        notes: Option<String>,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Explain {
    /// GPU-... or MIG-... UUID, a Slurm job's number, or a pod as NAMESPACE/NAME, name or UID
    #[arg(value_name = "DEVICE|POD|JOB")]
    pub(crate) subject: String,
    /// RFC 3339 or Unix seconds: the slot of 15 minutes that has it is explained [default: now]
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<String>,
    #[arg(long)]
    pub(crate) cluster: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Idle {
    /// Until now: 30m, 12h, 7d, 2w [default: 24h]
    #[arg(long, value_name = "LENGTH", conflicts_with = "window")]
    pub(crate) last: Option<String>,
    /// As for cost
    #[arg(long)]
    pub(crate) window: Option<String>,
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
    /// Rows of each list; totals are of all [server's default: 100]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) limit: Option<u32>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Table {
    Namespaces,
    Pods,
    Jobs,
    Users,
    Devices,
    Nodes,
}

impl Table {
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Namespaces => "/api/v1/cost/namespaces",
            Self::Pods => "/api/v1/cost/pods",
            Self::Jobs => "/api/v1/cost/jobs",
            Self::Users => "/api/v1/cost/users",
            Self::Devices => "/api/v1/cost/devices",
            Self::Nodes => "/api/v1/cost/nodes",
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Devices {
    /// Take a GPU out of service: from then on it does not exist, until it is observed again
    Retire {
        uuid: String,
        /// Since when it is gone, RFC 3339; not before it was last observed [default: now]
        #[arg(long, value_name = "TIME")]
        at: Option<String>,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Unobserved {
    /// As for cost [default: 24h]
    #[arg(long)]
    pub(crate) window: Option<String>,
    /// Only this GPU, by its UUID
    #[arg(long)]
    pub(crate) device: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Quarantine {
    /// List them, oldest first
    List {
        #[arg(long)]
        device: Option<String>,
        /// held, released, counted or all
        #[arg(long, default_value = "held")]
        state: String,
        /// Go on behind this id
        #[arg(long, value_name = "ID")]
        after: Option<u64>,
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: Option<u32>,
    },
    /// What is in a window, who counts for its time, and what may be done
    Explain { id: u64 },
    /// Count a window after all, if its time is free. There is no way back
    Release {
        id: u64,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// Recompute every bucket, charge and balance from the journal, and name the first difference
    Verify,
    /// The journal, oldest first
    Log {
        /// Go on behind this id
        #[arg(long, value_name = "ID")]
        after: Option<u64>,
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: Option<u32>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Export {
    /// By the FinOps Open Cost and Usage Specification (FOCUS)
    Focus(Focus),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Focus {
    /// Of the specification: 1.2 or 1.3
    #[arg(long, default_value = "1.2", value_parser = ["1.2", "1.3"])]
    pub(crate) version: String,
    /// csv or parquet
    #[arg(long, default_value = "csv", value_parser = ["csv", "parquet"])]
    pub(crate) format: String,
    /// As for cost
    #[arg(long, default_value = "lastmonth")]
    pub(crate) window: String,
    /// Where to write; replaced only once the new one is whole. - for standard output
    #[arg(short, long)]
    pub(crate) file: PathBuf,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Top {
    /// Time between looks, e.g. 2s or 500ms
    #[arg(long, default_value = "2s", value_parser = interval)]
    pub(crate) interval: Duration,
    /// One table, even in a terminal
    #[arg(long)]
    pub(crate) once: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Price {
    /// Has the server look at a price book, without putting it in force
    Check {
        /// The book; - for standard input
        file: PathBuf,
    },
    /// The prices in force
    List,
}

fn url(text: &str) -> Result<String, String> {
    let host =
        text.strip_prefix("http://").ok_or("only http://HOST:PORT is understood; TLS is a proxy's work")?;
    if host.is_empty() || text.len() > 1024 || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("has no host; write http://HOST:PORT".to_owned());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

fn interval(text: &str) -> Result<Duration, String> {
    let parsed = match text.strip_suffix("ms") {
        Some(number) => number.parse().map(Duration::from_millis),
        None => text.strip_suffix('s').unwrap_or(text).parse().map(Duration::from_secs),
    };
    let allowed = Duration::from_millis(200)..=Duration::from_secs(3600);
    parsed
        .ok()
        .filter(|interval| allowed.contains(interval))
        .ok_or_else(|| "use seconds or milliseconds from 200ms to 3600s, e.g. 2s".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }

    #[test]
    fn intervals_and_urls_are_checked_before_anything_is_asked() {
        assert_eq!(interval("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(interval("2"), Ok(Duration::from_secs(2)));
        for text in ["0s", "10ms", "2h", "", "-1s", "9999s"] {
            assert!(interval(text).is_err(), "{text}");
        }
        assert_eq!(url("http://host:1/").as_deref(), Ok("http://host:1"));
        for text in ["host:1", "https://host", "http://", "http://a b"] {
            assert!(url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn last_and_window_exclude_each_other() {
        assert!(Args::try_parse_from(["tonnage", "cost", "--last", "7d", "--window", "today"]).is_err());
    }
}
