//! One ask, one answer: what the job needs, whether there is enough, and what to tell the user.
//!
//! ```text
//! ok held TEXT               it is held under the token           ok none     it needs nothing that has a price
//! ok escrow=ID=AMOUNT TEXT   it is let in for leased money
//! ok open TEXT               nobody could say, and the policy lets it in
//! no TEXT                    it is refused
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use tonnage_runtime::clock::Clock;
use tonnage_runtime::telemetry::chain;

use super::escrow::{Key, Purse, Spent};
use super::ledger::{ARRAY, Ask, Checked, EXTENDS, Escrow, GATE, Granted, Ledger, TOKEN};
use super::mark::{Kind, word};
use super::need::{Need, Site};
use super::owed::Owed;
use super::processors;
use super::request::{AskError, Fields, Request, Verb, wrong};
use super::settings::Policy;
use crate::metrics::gate::{Counts, Outcome};

/// See the module.
pub struct Admission {
    pub ledger: Ledger,
    /// For leases, that no submission waits for.
    pub leasing: Arc<Ledger>,
    pub purse: Arc<Purse>,
    pub site: Site,
    pub policy: Policy,
    pub unbudgeted: Policy,
    pub owed: Arc<Owed>,
    pub counts: Arc<Counts>,
    pub clock: Clock,
}

/// What becomes of an ask.
enum Answer {
    NoGpus,
    Let(Kind, String),
    Refused(String),
}

impl Admission {
    /// The answer to a line, without its line feed.
    pub async fn answer(&self, line: &str) -> String {
        let began_ns = self.clock.monotonic_ns();
        let (outcome, answer) = match Request::parse(line) {
            Ok(request) => self.decide(&request, line).await,
            Err(error) => (Outcome::Invalid, Answer::Refused(error.to_string())),
        };
        self.counts.answered(outcome, self.clock.monotonic_ns() - began_ns);
        match answer {
            Answer::NoGpus => "ok none".to_owned(),
            Answer::Let(kind, text) => format!("ok {} tonnage: {}", word(&kind), one_line(&text)),
            Answer::Refused(text) => format!("no tonnage: {}", one_line(&text)),
        }
    }

    async fn decide(&self, request: &Request, line: &str) -> (Outcome, Answer) {
        let ask = match self.ask(request) {
            Ok(Some(ask)) => ask,
            Ok(None) => return (Outcome::NoGpus, Answer::NoGpus),
            Err(error) => return (Outcome::Invalid, Answer::Refused(error.to_string())),
        };
        let whose = whose(&ask);
        let what = said(&ask.need);
        let key = Key::of(&ask);
        // A change of a job has no mark to say what it was let in for.
        let leasable = ask.need.gpus > 0;
        let spends = leasable && request.verb == Verb::Submit;
        let spent = if spends { self.purse.spend(&key, &ask.need) } else { None };
        if let Some(spent) = spent {
            self.lease(key);
            let Spent { transaction, amount, left } = spent;
            let left = left
                .map_or_else(|| "without a limit".to_owned(), |left| format!("about {} left", short(&left)));
            let text = format!("{whose}: {what}, {} held, {left}", short(&amount));
            return (Outcome::Escrow, Answer::Let(Kind::Escrow { transaction, amount }, text));
        }
        match self.ledger.check(&ask).await {
            Ok(Checked::Granted(granted)) => {
                // Money is leased by the price of GPUs.
                if leasable {
                    self.lease(key);
                }
                (Outcome::Held, Answer::Let(Kind::Held, format!("{whose}: {what}{}", amounts(&granted))))
            }
            Ok(Checked::Refused(why)) => {
                (Outcome::Refused, Answer::Refused(format!("{whose}: {what}: {why}")))
            }
            // The token is used a second time: it was let in then or not, and is not now.
            Ok(Checked::Conflict(why)) => (Outcome::Invalid, Answer::Refused(format!("{whose}: {why}"))),
            Ok(Checked::Unbudgeted(why)) => match self.unbudgeted {
                Policy::Open => (Outcome::Unbudgeted, Answer::NoGpus),
                Policy::Closed => (
                    Outcome::Unbudgeted,
                    Answer::Refused(format!("{whose}: {what}: it has no budget ({why})")),
                ),
            },
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(%error, "The aggregator could not say whether there is enough.");
                match self.policy {
                    Policy::Closed => {
                        let text =
                            format!("{whose}: {what}: its balance cannot be read now; try again later");
                        (Outcome::Closed, Answer::Refused(text))
                    }
                    Policy::Open => self.open(
                        request,
                        line,
                        format!("{whose}: {what}: not checked, since its balance cannot be read now"),
                    ),
                }
            }
        }
    }

    /// Has money leased for more of the same, if that is due.
    fn lease(&self, key: Key) {
        let Some(ask) = self.purse.wanted(&key, &self.ledger.cluster) else { return };
        let (ledger, purse, began) = (Arc::clone(&self.leasing), Arc::clone(&self.purse), self.clock.read());
        tokio::spawn(async move {
            let mut random = [0_u8; 16];
            let granted = match getrandom::fill(&mut random) {
                Ok(()) => {
                    let digits: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
                    ledger.check(&Ask { key: format!("lease-{digits}"), ..ask }).await
                }
                Err(_) => return purse.leased(&key, began, None),
            };
            match granted {
                Ok(Checked::Granted(granted)) => purse.leased(&key, began, Some(&granted)),
                // It may have been leased all the same: then nobody spends it, and a sweep gives it back.
                Ok(_) | Err(_) => purse.leased(&key, began, None),
            }
        });
    }

    /// Lets it in. A submission's mark says so; a change has none, and is noted here before it is answered.
    fn open(&self, request: &Request, line: &str, text: String) -> (Outcome, Answer) {
        if request.verb == Verb::Modify
            && let Err(error) = self.owed.note(&request.token, line)
        {
            tracing::error!(%error, "What was let in could not be noted, so that it is refused.");
            return (
                Outcome::Closed,
                Answer::Refused("the gate cannot write down what it lets in".to_owned()),
            );
        }
        (Outcome::Open, Answer::Let(Kind::Open, text))
    }

    fn ask(&self, request: &Request) -> Result<Option<Ask>, AskError> {
        ask(request, self.site, &self.ledger.cluster)
    }
}

/// What to ask for; `None` if nothing more is needed.
///
/// # Errors
/// If it cannot be read.
pub fn ask(request: &Request, site: Site, cluster: &str) -> Result<Option<Ask>, AskError> {
    let Request { verb, token, ask, was } = request;
    let mut details = BTreeMap::from([(GATE, cluster.to_owned()), (TOKEN, token.clone())]);
    let (fields, need) = match verb {
        Verb::Submit => (ask.clone(), Need::of(ask, site)?),
        Verb::Modify => {
            let after = ask.over(was);
            let job = after.text("job");
            if job.is_empty() || !job.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(wrong("job", job, "give the id of the job that is modified"));
            }
            details.insert(EXTENDS, job.to_owned());
            let need = Need::of(&after, site)?;
            let same_account = after.text("account") == was.text("account");
            // What it was cannot be unreadable, or it would not have been let in; and if it is, all of it is asked for.
            let before = Need::of(was, site).unwrap_or_default();
            let more = if same_account { need.beyond(&before) } else { Some(need) };
            match more {
                Some(more) => (after, more),
                None => return Ok(None),
            }
        }
    };
    if need.is_nothing() {
        return Ok(None);
    }
    if !fields.text("array_inx").is_empty() {
        details.insert(ARRAY, "true".to_owned());
    }
    // Of several partitions the first: it is the one that Slurm shows, too.
    let partition = fields.text("partition").split(',').next().unwrap_or_default().to_owned();
    let text = |key| Fields::text(&fields, key).to_owned();
    Ok(Some(Ask {
        key: token.clone(),
        account: text("account"),
        user: text("user"),
        partition,
        need,
        details,
        job: None,
        overdraft: String::new(),
        escrow: Escrow::None,
    }))
}

fn whose(ask: &Ask) -> String {
    if ask.account.is_empty() { format!("user {}", ask.user) } else { format!("account {}", ask.account) }
}

/// `4 GPUs (a100) for 1-00:00:00`, `4 CPUs, 8 GB for 01:00:00`.
fn said(need: &Need) -> String {
    let Need { gpus, model, seconds, cpus, memory_bytes } = need;
    let plural = if *gpus == 1 { "" } else { "s" };
    let model = if model.is_empty() { String::new() } else { format!(" ({model})") };
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let days = if days > 0 { format!("{days}-") } else { String::new() };
    let what = match gpus {
        0 => processors::said(*cpus, *memory_bytes),
        _ => format!("{gpus} GPU{plural}{model}"),
    };
    format!("{what} for {days}{:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

fn amounts(granted: &Granted) -> String {
    let exact = &granted.exact;
    let cost = match &exact.estimated_cost {
        Some(cost) => format!(" cost {} at most", short(cost)),
        None => " have no price".to_owned(),
    };
    match &exact.budget_remaining {
        Some(left) => format!("{cost}, {} held, {} left", short(&exact.hold_amount), short(left)),
        None => format!("{cost}, {} held, without a limit", short(&exact.hold_amount)),
    }
}

/// An amount with two places, or as many as it has.
fn short(amount: &str) -> &str {
    let Some((whole, _)) = amount.split_once('.') else { return amount };
    let least = (whole.len() + 3).min(amount.len());
    let end = amount.trim_end_matches('0').len().max(least);
    &amount[..end]
}

/// Slurm prints it as it is.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: Site = Site { shards_per_gpu: 1, cpu_jobs: false };

    fn of(line: &str) -> Result<Option<Ask>, AskError> {
        ask(&Request::parse(line).unwrap(), SITE, "c")
    }

    const HEAD: &str = "token=0123456789abcdef user=ada account=physics partition=gpu,cpu";

    #[test]
    fn a_submission_asks_for_all_and_a_change_for_what_is_more() {
        let submit =
            of(&format!("submit {HEAD} tres_per_node=gres:gpu:a100:4 time_limit=60")).unwrap().unwrap();
        assert_eq!(
            (submit.account.as_str(), submit.partition.as_str(), submit.need.gpus),
            ("physics", "gpu", 4)
        );
        assert_eq!((submit.key.as_str(), submit.details[GATE].as_str()), ("0123456789abcdef", "c"));
        assert_eq!(submit.details.get(ARRAY), None);
        let array =
            of(&format!("submit {HEAD} tres_per_job=gres:gpu:1 time_limit=60 array_inx=0-9")).unwrap();
        assert_eq!(array.map(|ask| (ask.need.gpus, ask.details.contains_key(ARRAY))), Some((10, true)));
        assert_eq!(of(&format!("submit {HEAD}")), Ok(None), "no GPU, nothing to ask");
        let was = "was.account=physics was.time_limit=60 was.tres_per_node=gres:gpu:4";
        let head = HEAD.replace(" account=physics", "");
        let more = of(&format!("modify {head} job=7 time_limit=90 {was}")).unwrap().unwrap();
        assert_eq!((more.need.gpus, more.need.seconds, more.details[EXTENDS].as_str()), (4, 1800, "7"));
        assert_eq!(of(&format!("modify {head} job=7 time_limit=30 {was}")), Ok(None));
        let other = of(&format!("modify {head} job=7 account=chemistry {was}")).unwrap().unwrap();
        assert_eq!(
            (other.account.as_str(), other.need.seconds),
            ("chemistry", 3600),
            "another account pays all of it"
        );
        assert!(of(&format!("modify {head} time_limit=90 {was}")).is_err(), "of no job");
    }

    #[test]
    fn amounts_are_short_and_lose_nothing() {
        for (text, shown) in [
            ("12.000000000", "12.00"),
            ("0.000000001", "0.000000001"),
            ("1.230000000", "1.23"),
            ("1.2", "1.2"),
            ("-3", "-3"),
        ] {
            assert_eq!(short(text), shown);
        }
        let need = Need { gpus: 4, model: "a100".into(), seconds: 90_061, ..Need::default() };
        assert_eq!(said(&need), "4 GPUs (a100) for 1-01:01:01");
        let without = Need { cpus: 4, memory_bytes: 8 << 30, seconds: 3600, ..Need::default() };
        assert_eq!(said(&without), "4 CPUs, 8 GB for 01:00:00");
        assert_eq!(one_line("a\nb"), "a b");
    }
}
