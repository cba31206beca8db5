//! What is left: sums of periods and of what jobs were charged, and what work may cost.

use std::collections::{BTreeMap, HashMap};

use tonnage_proto::limits::{SLOT_NS, slot_start};

use super::{Budgets, Context, REMEMBERED_MAX, Refusal, Span};
use crate::budgets::account::{Limit, names};
use crate::budgets::available::{Stand, Sums, stands};
use crate::budgets::hold::{Found, PartitionFound};
use crate::budgets::{Ask, BudgetError, Hold, Labels, Tree, amount};
use crate::commit::CommitError;
use crate::commit::written::Held;
use crate::model::NodeFacts;
use crate::prices::PriceFacts;
use crate::store::Connection;
use crate::store::budgets::{self as stored, KnownGpu};
use crate::store::existence::TenureRecord;
use crate::store::rollup::Figures;

/// What there is for some work.
pub(super) struct Room {
    /// In the tightest limit that it counts in; `None` without any.
    pub(super) available_nanos: Option<i64>,
    /// What stands against it.
    pub(super) short: Option<Refusal>,
    pub(super) found: Found,
}

impl Budgets {
    /// What is left in the tightest limit that the work counts in, and what stands against it.
    pub(super) fn room(
        &mut self,
        context: Context<'_>,
        account: i64,
        ask: &Ask,
        amount_nanos: i64,
    ) -> Result<Room, CommitError> {
        let held_nanos = narrow(self.reserved.of(account, |_, _| true));
        let stands = self.stands(context, account)?;
        let counts = stands.iter().filter(|stand| stand.limit.reserves(&ask.partition, &ask.model));
        let counts: Vec<&Stand<'_>> = counts.collect();
        let of_partition = counts.iter().filter(|stand| stand.limit.partition.is_some());
        let of_partition = of_partition.min_by_key(|stand| stand.available_nanos());
        let partition = of_partition.map(|stand| PartitionFound {
            limit_nanos: stand.amount_nanos,
            used_nanos: narrow(stand.spent_nanos),
            held_nanos: narrow(stand.reserved_nanos),
        });
        let found = Found { held_nanos, partition, ..Found::default() };
        let Some(tightest) = counts.iter().min_by_key(|stand| stand.available_nanos()) else {
            return Ok(Room { available_nanos: None, short: None, found });
        };
        let available = tightest.available_nanos();
        let short = (available < i128::from(amount_nanos)).then(|| {
            let [left, wanted, limit] =
                [available, i128::from(amount_nanos), i128::from(tightest.amount_nanos)]
                    .map(tonnage_proto::decimal::from_nanos);
            let name = &tightest.account.spec.name;
            let text =
                format!("account {name:?} has {left} left of its limit of {limit}; the hold is {wanted}");
            (tightest.code(), text)
        });
        Ok(Room { available_nanos: Some(narrow(available)), short, found })
    }

    /// Every limit of an account and of those above it.
    fn stands(&mut self, context: Context<'_>, account: i64) -> Result<Vec<Stand<'_>>, CommitError> {
        let Self { tree, reserved, spent, usages, .. } = self;
        stands(tree, account, reserved, context.now_ns, |span_ns, account, limit: &Limit| {
            let sums = match spent.get(&span_ns) {
                Some(sums) => sums,
                None => {
                    let sums = stored::spent(context.db, tree, usages, span_ns, context.now_ns)?;
                    usages.forget_described();
                    if spent.values().map(Sums::count).sum::<usize>() + spent.len() > REMEMBERED_MAX {
                        spent.clear();
                    }
                    spent.entry(span_ns).or_insert(sums)
                }
            };
            Ok(sums.of(account, |partition, model| limit.counts(partition, model)))
        })
    }

    /// What the work may cost and the hold for it, by the dearest GPUs that it may get; `None` if no price is known.
    pub(super) fn price(
        &mut self,
        context: Context<'_>,
        ask: &Ask,
        buffer_permille: u32,
    ) -> Result<Result<Option<(i64, i64)>, BudgetError>, CommitError> {
        let slot_ns = slot_start(context.now_ns);
        if ask.gpus == 0 {
            // Without such a price in the book, work without GPUs costs nothing.
            let Some(prices) = context.book.compute(&ask.cluster, &ask.partition, slot_ns) else {
                return Ok(Ok(Some((0, 0))));
            };
            let asked = (ask.cpus, ask.memory_bytes);
            let rates = [prices.cpu.parts(), prices.memory.parts()];
            return Ok(amount::compute(rates, asked, ask.time_ns, buffer_permille).map(Some));
        }
        if self.gpus.as_ref().is_none_or(|(of_ns, _)| *of_ns != slot_ns) {
            self.gpus = Some((slot_ns, stored::gpus(context.db, slot_ns - 2 * SLOT_NS)?));
        }
        let known = self.gpus.iter().flat_map(|(_, gpus)| gpus);
        let fits = |gpu: &&KnownGpu| {
            gpu.cluster == ask.cluster && (ask.model.is_empty() || names(&ask.model, &gpu.model))
        };
        let mut found: Vec<&KnownGpu> = known.filter(fits).collect();
        // What was never seen may have a price by its model all the same.
        let unseen = KnownGpu {
            cluster: ask.cluster.clone(),
            node: String::new(),
            model: ask.model.clone(),
            slices: 1,
            facts: NodeFacts::default(),
        };
        if found.is_empty() {
            found.push(&unseen);
        }
        let mut dearest: Option<(i64, i64)> = None;
        for gpu in found {
            let facts = PriceFacts {
                cluster: &gpu.cluster,
                node: &gpu.node,
                gpu_model: &gpu.model,
                facts: &gpu.facts,
            };
            let Some(rate) = context.book.rate(&facts, slot_ns, gpu.slices) else { continue };
            match amount::amounts(rate.parts(), gpu.slices, ask.gpus, ask.time_ns, buffer_permille) {
                Ok(amounts) => dearest = dearest.max(Some(amounts)),
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(dearest))
    }

    /// Moves on by what slots' rows changed by: sums of periods, and what holds' jobs were charged.
    pub(in crate::commit) fn fold<'a>(
        &mut self,
        db: &Connection,
        figures: &HashMap<(i64, i64), Figures>,
        held: &Held,
        tenure_of: impl Fn(i64) -> Option<&'a TenureRecord>,
    ) -> Result<(), CommitError> {
        let Self { tree, spent, usages, .. } = self;
        let pods_apart = tree.is_by_labels();
        if !spent.is_empty() {
            for ((slot_ns, key), figures) in figures.iter().filter(|(_, figures)| figures.cost_nanos() != 0) {
                let Some(of) = stored::usage(db, usages, *key)? else { continue };
                if of.is_of_pods && pods_apart {
                    continue;
                }
                let Some(account) = tree.owner_of(&of.usage, Labels::default(), *slot_ns) else { continue };
                let of = (of.usage.partition.as_str(), of.model.as_str());
                add(tree, spent, *slot_ns, (account, of), figures.cost_nanos());
            }
            if pods_apart {
                for ((slot_ns, tenure, owner), cost_nanos) in held.iter().filter(|(_, cost)| **cost != 0) {
                    let Some(tenure) = tenure_of(*tenure) else { continue };
                    let cluster = tenure.node.cluster.as_str();
                    let Some(pod) = self.pods.of(db, cluster, *owner)? else { continue };
                    let Some(account) = pod.account(tree, cluster, *slot_ns) else { continue };
                    let of = (pod.owner.partition.as_str(), tenure.model.as_str());
                    add(tree, spent, *slot_ns, (account, of), (*cost_nanos).into());
                }
            }
        }
        if self.subjects.is_empty() {
            return Ok(());
        }
        let mut changed: BTreeMap<i64, Hold> = BTreeMap::new();
        for ((slot_ns, tenure, owner), cost_nanos) in held {
            let subject = match self.owners.get(owner) {
                Some(subject) => subject,
                None => {
                    if self.owners.len() >= REMEMBERED_MAX {
                        self.owners.clear();
                    }
                    self.owners.entry(*owner).or_insert(stored::subject_of(db, *owner)?)
                }
            };
            let Some((tenure, subject)) = tenure_of(*tenure).zip(subject.clone()) else { continue };
            let cluster = tenure.node.cluster.clone();
            let Some(known) = self.subjects.get(&(cluster, subject)).and_then(|id| self.holds.get(id)) else {
                continue;
            };
            if *slot_ns < known.from_ns {
                continue;
            }
            let hold = changed.entry(known.id).or_insert_with(|| known.clone());
            hold.charged_nanos = hold.charged_nanos.saturating_add(*cost_nanos);
            // It runs: its lease goes on.
            hold.until_ns =
                hold.until_ns.max(slot_ns.saturating_add(SLOT_NS).saturating_add(hold.ask.lease_ns));
        }
        for hold in changed.into_values() {
            stored::update_hold(db, &hold)?;
            if let Some(before) = self.holds.get(&hold.id).cloned() {
                self.forget(&before);
            }
            self.remember(hold);
        }
        Ok(())
    }
}

/// Moves on the sums of the periods that have the slot.
fn add(
    tree: &Tree,
    spent: &mut HashMap<Span, Sums>,
    slot_ns: i64,
    (account, of): (i64, (&str, &str)),
    cost_nanos: i128,
) {
    let within = spent.iter_mut().filter(|((from_ns, to_ns), _)| (*from_ns..*to_ns).contains(&slot_ns));
    for (_, sums) in within {
        sums.add(tree, account, of, cost_nanos);
    }
}

/// As far as 64 bits go.
fn narrow(nanos: i128) -> i64 {
    i64::try_from(nanos).unwrap_or(if nanos < 0 { i64::MIN } else { i64::MAX })
}
