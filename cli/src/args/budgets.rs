//! The command line of budgets.

use clap::{Args as ClapArgs, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum Accounts {
    /// Accounts, and what is left of them
    List(Page),
    /// The same, each below its parent
    Tree,
    /// One account with its bindings and limits
    Show { account: String },
    /// Make an account
    Create {
        account: String,
        #[command(flatten)]
        said: Box<Said>,
    },
    /// Change what is given of an account
    Update {
        account: String,
        /// active, inactive or suspended
        #[arg(long, value_parser = ["active", "inactive", "suspended"])]
        status: Option<String>,
        #[command(flatten)]
        said: Box<Said>,
    },
    /// Close an account: nothing is bound to it any more, and its name is never used again. There is no way back
    Close {
        account: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// What may be said of an account.
#[derive(Debug, ClapArgs)]
pub(crate) struct Said {
    /// What it is called
    #[arg(long)]
    pub(crate) title: Option<String>,
    #[arg(long)]
    pub(crate) description: Option<String>,
    /// The account above it; empty for none
    #[arg(long)]
    pub(crate) parent: Option<String>,
    /// What may be spent in its whole life, e.g. 1000.50
    #[arg(long, value_name = "AMOUNT")]
    pub(crate) limit: Option<String>,
    /// What may be spent in each month of UTC; instead of all other limits but --limit
    #[arg(long, value_name = "AMOUNT")]
    pub(crate) monthly: Option<String>,
    /// Whose usage is its own, e.g. account=physics,partition=gpu or namespace=ml-*,label:team=vision; several times for
    /// several. All that is bound is said at once [default of a new account: account=ACCOUNT]
    #[arg(long = "bind", value_name = "FIELD=VALUE,...")]
    pub(crate) bindings: Vec<String>,
    /// RFC 3339, or a date in UTC; empty for since ever
    #[arg(long, value_name = "TIME")]
    pub(crate) start: Option<String>,
    /// RFC 3339, or a date in UTC: from then on it is expired; empty for never
    #[arg(long, value_name = "TIME")]
    pub(crate) end: Option<String>,
    /// What a hold is more than what its work may cost, 1 to 10 [server's default: 1.2]
    #[arg(long)]
    pub(crate) buffer: Option<String>,
    /// When work costs more than its hold: charge, or suspend the account
    #[arg(long, value_parser = ["charge", "suspend"])]
    pub(crate) overrun: Option<String>,
    /// Where no price is known: open lets work in, closed does not
    #[arg(long, value_parser = ["open", "closed"])]
    pub(crate) fail: Option<String>,
    /// What holds go by: price, or measured, what such work typically cost where that is less
    #[arg(long, value_parser = ["price", "measured"])]
    pub(crate) estimate: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Page {
    /// active, pending, inactive, suspended, expired or closed
    #[arg(long)]
    pub(crate) status: Option<String>,
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) limit: Option<u32>,
    /// Leave out so many of the first
    #[arg(long)]
    pub(crate) offset: Option<u32>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Holds {
    /// Holds and refused checks, newest first
    List {
        #[arg(long)]
        account: Option<String>,
        /// Of this job, or the pod with this UID
        #[arg(long)]
        job: Option<String>,
        /// pending, completed, cancelled, expired or failed
        #[arg(long)]
        status: Option<String>,
        /// What of those that have ended: charge, what their jobs were charged by then; refund, what they had reserved beyond
        #[arg(long = "type", value_parser = ["hold", "charge", "refund"])]
        kind: Option<String>,
        /// Made from then on; RFC 3339, or a date in UTC
        #[arg(long, value_name = "TIME")]
        from: Option<String>,
        /// Made before then
        #[arg(long, value_name = "TIME")]
        to: Option<String>,
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: Option<u32>,
        /// Leave out so many of the first
        #[arg(long)]
        offset: Option<u32>,
    },
    /// One hold, or a refused check
    Show { transaction: String },
    /// End holds that were left behind: nobody renewed them, nor did their jobs use anything, for so long
    Recover(Recover),
    /// Another lease for a hold, from now on
    Renew { transaction: String },
    /// End a hold whose work will never run. There is no way back
    Void {
        transaction: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Budget {
    /// Check whether there is enough for some work, and hold it if so
    Check(Box<Check>),
    /// Settle a hold whose job has ended. There is no way back
    Reconcile(Reconcile),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Recover {
    /// Seconds, 900 at least [server's default: 3600]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) silent: Option<u32>,
    /// Also those of jobs and pods that were never seen to use anything: they may wait in a queue
    #[arg(long)]
    pub(crate) waiting: bool,
    /// Of this account and those below it alone
    #[arg(long)]
    pub(crate) account: Option<String>,
    /// Only say which
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Reconcile {
    pub(crate) transaction: String,
    /// The job, if the hold was not for it already
    #[arg(long)]
    pub(crate) job: Option<String>,
    /// Only show the hold
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Check {
    /// Slurm's account
    #[arg(long, required_unless_present_any = ["namespace", "user", "labels"])]
    pub(crate) account: Option<String>,
    #[arg(long)]
    pub(crate) partition: Option<String>,
    #[arg(long)]
    pub(crate) namespace: Option<String>,
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// Of the pod that it is for; several times for several
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub(crate) labels: Vec<String>,
    /// Needed where usage comes from several
    #[arg(long)]
    pub(crate) cluster: Option<String>,
    /// All GPUs as a number, or what each node has as gpu:a100:4
    #[arg(long, required_unless_present = "cpus")]
    pub(crate) gpus: Option<String>,
    /// All CPUs of work without GPUs
    #[arg(long, conflicts_with = "gpus")]
    pub(crate) cpus: Option<u64>,
    /// All its memory in MB, as Slurm counts them
    #[arg(long, value_name = "MB", requires = "cpus")]
    pub(crate) memory: Option<u64>,
    #[arg(long)]
    pub(crate) nodes: Option<u32>,
    /// The model of the GPUs, in place of the type in --gpus
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// Time limit as Slurm writes it, e.g. 1-12:00:00
    #[arg(long)]
    pub(crate) time: String,
    /// The job, if it is there already
    #[arg(long)]
    pub(crate) job: Option<String>,
    /// Names this request: the same again is answered as before
    #[arg(long)]
    pub(crate) key: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Burn {
    #[arg(required_unless_present = "grant")]
    pub(crate) account: Option<String>,
    /// Of a grant's direct costs instead, by its number
    #[arg(long, value_name = "NUMBER", conflicts_with = "account")]
    pub(crate) grant: Option<String>,
    /// Whole days before today that count: 7d, 30d, 90d, 6m or 1y
    #[arg(long, default_value = "30d")]
    pub(crate) period: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Usage {
    /// Each budget, and what is nobody's
    Summary {
        /// today, month, 30d, 2026-03, START,END: as in tonnage cost
        #[arg(long, default_value = "month")]
        window: String,
    },
    /// One budget without those below it, by whose usage it is
    Show {
        account: String,
        /// today, month, 30d, 2026-03, START,END: as in tonnage cost
        #[arg(long, default_value = "month")]
        window: String,
        /// Group by these, as in tonnage cost
        #[arg(long, value_name = "LIST", default_value = "cluster,namespace,user,account,partition")]
        by: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Allocations {
    /// Schedules by which limits come in parts
    List {
        #[arg(long)]
        account: Option<String>,
    },
    /// One schedule, and the parts that have come by it
    Show { schedule: i64 },
    /// Another schedule of an account: its parts come to the account's limit for life
    Create {
        account: String,
        /// All parts together
        #[arg(long, value_name = "AMOUNT")]
        total: String,
        /// One part
        #[arg(long, value_name = "AMOUNT")]
        amount: String,
        #[arg(long, value_parser = ["daily", "weekly", "monthly", "quarterly", "yearly"])]
        every: String,
        /// Of the first part, e.g. 2026-01-31; a date that is over is due at once
        #[arg(long, value_name = "DATE")]
        start: String,
        /// No part comes on that day or later
        #[arg(long, value_name = "DATE")]
        end: Option<String>,
        /// At whose midnight parts come, e.g. Europe/Berlin [server's default: UTC]
        #[arg(long)]
        zone: Option<String>,
        /// Parts wait for tonnage allocation process
        #[arg(long)]
        by_hand: bool,
    },
    /// Allocate the parts that are due and do not come by themselves. What has come stays
    Process {
        /// Of this schedule alone
        #[arg(long)]
        schedule: Option<i64>,
        /// Only say which
        #[arg(long)]
        dry_run: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Let its dates bring nothing from now on
    Pause { schedule: i64 },
    /// Let its dates bring parts again
    Resume { schedule: i64 },
    /// Let it bring no part any more. There is no way back
    Cancel {
        schedule: i64,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}
