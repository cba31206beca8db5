//! Who is on the GPUs right now: the newest window of each device, in memory.
//!
//! Nothing here is the ledger: it is lost at a restart and full again a window later. A window counts for two
//! minutes. Limits: [`DEVICES_MAX`] devices; windows of more are left out until others are gone.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tonnage_proto::decimal;
use tonnage_proto::limits::slot_start;
use tonnage_proto::method::{BUSY_INSTANCE, BUSY_PROCESS, HELD_ALLOCATION};
use tonnage_proto::rest::{LiveAnswer, LiveRow, OwnerName};

use crate::model::{Device, Instance, NodeFacts, NodeName, Owner, Usage, UsageBatch, Window};
use crate::prices::{Book, PriceFacts};

mod hourly;

use hourly::Hourly;

/// Age at which a window says nothing about now any more, in nanoseconds.
pub const AGE_NS_MAX: i64 = 120_000_000_000;
/// Devices that are remembered.
pub const DEVICES_MAX: usize = 131_072;
const HOUR_NS: i128 = 3_600_000_000_000;

/// The newest windows, and the agents that are connected. Share it by `Arc`.
#[derive(Debug, Default)]
pub struct Live(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Of each node, by the devices' UUIDs.
    newest: BTreeMap<NodeName, Vec<Newest>>,
    /// Devices of all nodes.
    devices: usize,
    streams: HashMap<NodeName, usize>,
}

impl State {
    fn of(&self, node: &NodeName, uuid: &str) -> Option<&Newest> {
        let devices = self.newest.get(node)?;
        devices.binary_search_by(|newest| newest.device.uuid.as_str().cmp(uuid)).ok().map(|at| &devices[at])
    }

    fn put(&mut self, node: &NodeName, newest: Newest) {
        if !self.newest.contains_key(node) {
            self.newest.insert(node.clone(), Vec::new());
        }
        let Some(devices) = self.newest.get_mut(node) else { return };
        match devices.binary_search_by(|known| known.device.uuid.cmp(&newest.device.uuid)) {
            Ok(at) => devices[at] = newest,
            Err(at) => {
                // A node's devices are few, and stay as many.
                devices.reserve_exact(1);
                devices.insert(at, newest);
                self.devices += 1;
            }
        }
    }

    fn forget_old(&mut self, now_ns: i64) {
        self.newest.retain(|_, devices| {
            devices.retain(|newest| fresh(&newest.window, now_ns));
            !devices.is_empty()
        });
        self.devices = self.newest.values().map(Vec::len).sum();
    }

    fn all(&self) -> impl Iterator<Item = (&NodeName, &Newest)> {
        self.newest.iter().flat_map(|(node, devices)| devices.iter().map(move |newest| (node, newest)))
    }
}

#[derive(Debug)]
struct Newest {
    /// This process took it in, and counts it in its metrics.
    own: bool,
    device: Arc<Device>,
    facts: Arc<NodeFacts>,
    window: Window,
    /// As `window.usages` counts them.
    owners: Vec<Arc<Owner>>,
    instances: Vec<Option<Arc<Instance>>>,
    /// Of the window, with their idle time.
    idles: Vec<(Arc<Instance>, u64)>,
    /// As `window.usages` counts them: since when a holder by allocation was not seen to use it.
    idle_since_ns: Vec<Option<i64>>,
}

/// Who holds a device, or an instance of it, now.
#[derive(Debug, Clone)]
pub struct Holding {
    pub owner: Arc<Owner>,
    /// UUID of the instance; empty: the device as a whole.
    pub instance: String,
    /// Since when it was not seen to use it; `None` = it uses it, or nobody knows.
    pub idle_since_ns: Option<i64>,
}

/// What one owner, or nobody, has of one device.
#[derive(Debug, Clone)]
pub struct Share {
    pub node: NodeName,
    pub device: Arc<Device>,
    /// `None` = the device as a whole, or what of it is in no instance.
    pub instance: Option<Arc<Instance>>,
    /// `None` = nobody holds this part.
    pub owner: Option<Arc<Owner>>,
    /// It uses what others hold.
    pub intruder: bool,
    /// Parts of the window in thousandths.
    pub held_permille: u32,
    pub busy_permille: u32,
    pub memory_bytes: u64,
    /// Nano-dollars per hour; `None` = unpriced.
    pub hourly_nanos: Option<i128>,
    pub age_ns: i64,
}

impl Live {
    /// Takes the newest window of each device in a batch that was committed.
    pub fn apply(&self, node: &NodeName, batch: &UsageBatch, now_ns: i64) {
        self.take(node, batch, now_ns, true);
    }

    /// The same for a batch that another aggregator over the same ledger took in, some seconds late.
    pub fn apply_others(&self, node: &NodeName, batch: &UsageBatch, now_ns: i64) {
        self.take(node, batch, now_ns, false);
    }

    fn take(&self, node: &NodeName, batch: &UsageBatch, now_ns: i64, own: bool) {
        // In the order of time: how long somebody has been idle is told from one window to the next.
        let mut windows: Vec<&Window> = batch.windows.iter().filter(|w| fresh(w, now_ns)).collect();
        windows.sort_by_key(|window| window.end_ns);
        if windows.is_empty() {
            return;
        }
        let facts = Arc::new(batch.facts.clone());
        let devices: Vec<Arc<Device>> = batch.devices.iter().cloned().map(Arc::new).collect();
        let all: Vec<Arc<Owner>> = batch.owners.iter().cloned().map(Arc::new).collect();
        let parts: Vec<Arc<Instance>> = batch.instances.iter().cloned().map(Arc::new).collect();
        let mut state = self.lock();
        for window in windows {
            let Some(device) = devices.get(window.device) else { continue };
            let known = state.of(node, &device.uuid);
            let owners: Vec<Arc<Owner>> =
                window.usages.iter().filter_map(|usage| all.get(usage.owner).cloned()).collect();
            let part = |at: usize| parts.get(at).cloned();
            let instances: Vec<_> = window.usages.iter().map(|usage| usage.instance.and_then(part)).collect();
            let idles = window.instance_idles.iter();
            let idles = idles.filter_map(|(at, idle_ns)| Some((part(*at)?, *idle_ns))).collect();
            let idle_since_ns = std::iter::zip(&owners, &instances)
                .zip(&window.usages)
                .map(|(whose, usage)| idle_since(known, window, whose, usage))
                .collect();
            match known {
                Some(known) if known.window.end_ns >= window.end_ns => continue,
                Some(_) => {}
                None if state.devices >= DEVICES_MAX => {
                    state.forget_old(now_ns);
                    if state.devices >= DEVICES_MAX {
                        continue;
                    }
                }
                None => {}
            }
            let (device, facts) = (Arc::clone(device), Arc::clone(&facts));
            let window = window.clone();
            let newest = Newest { own, device, facts, window, owners, instances, idles, idle_since_ns };
            state.put(node, newest);
        }
    }

    /// Who holds each device by its fresh window, by node and UUID.
    #[must_use]
    pub fn holdings(&self, now_ns: i64) -> HashMap<(NodeName, String), Vec<Holding>> {
        let state = self.lock();
        let fresh = state.all().filter(|(_, newest)| fresh(&newest.window, now_ns));
        fresh.map(|(node, newest)| ((node.clone(), newest.device.uuid.clone()), newest.holdings())).collect()
    }

    /// A stream of `node` is open for as long as the answer is kept.
    #[must_use]
    pub fn connect(self: &Arc<Self>, node: NodeName) -> Connected {
        *self.lock().streams.entry(node.clone()).or_default() += 1;
        Connected { live: Arc::clone(self), node }
    }

    /// Has `node` a stream open, or did it send to another aggregator within two minutes?
    #[must_use]
    pub fn connected(&self, node: &NodeName, now_ns: i64) -> bool {
        let state = self.lock();
        let mut devices = state.newest.get(node).into_iter().flatten();
        state.streams.contains_key(node) || devices.any(|newest| !newest.own && fresh(&newest.window, now_ns))
    }

    /// Streams that are open.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.lock().streams.values().sum()
    }

    /// All shares of all devices with a fresh window, priced by `book`: by node, device, and as the window says.
    #[must_use]
    pub fn shares(&self, book: &Book, now_ns: i64) -> Vec<Share> {
        self.some_shares(book, now_ns, |_| true)
    }

    /// The same of agents that send to this process alone: for metrics, which are summed over all of them.
    #[must_use]
    pub fn own_shares(&self, book: &Book, now_ns: i64) -> Vec<Share> {
        self.some_shares(book, now_ns, |newest| newest.own)
    }

    fn some_shares(&self, book: &Book, now_ns: i64, which: impl Fn(&Newest) -> bool) -> Vec<Share> {
        let mut state = self.lock();
        state.forget_old(now_ns);
        let some = state.all().filter(|(_, newest)| which(newest));
        some.flat_map(|(node, newest)| newest.shares(node, book, now_ns)).collect()
    }

    /// The REST API's answer.
    #[must_use]
    pub fn answer(&self, book: &Book, now_ns: i64) -> LiveAnswer {
        LiveAnswer {
            at: jiff::Timestamp::from_second(now_ns.div_euclid(1_000_000_000))
                .map_or_else(|_| String::new(), |t| t.to_string()),
            currency: book.currency().to_owned(),
            rows: self.shares(book, now_ns).into_iter().map(row).collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream is open until this is dropped.
#[derive(Debug)]
pub struct Connected {
    live: Arc<Live>,
    node: NodeName,
}

impl Drop for Connected {
    fn drop(&mut self) {
        let mut state = self.live.lock();
        if let Some(streams) = state.streams.get_mut(&self.node) {
            *streams -= 1;
            if *streams == 0 {
                state.streams.remove(&self.node);
            }
        }
    }
}

fn fresh(window: &Window, now_ns: i64) -> bool {
    now_ns.saturating_sub(window.end_ns) <= AGE_NS_MAX && window.end_ns > window.start_ns
}

/// Since when `owner` was not seen to use what it holds by allocation, in this life of its instance. What happened between
/// two windows is not seen.
fn idle_since(
    known: Option<&Newest>,
    window: &Window,
    (owner, instance): (&Arc<Owner>, &Option<Arc<Instance>>),
    usage: &Usage,
) -> Option<i64> {
    let busy_known = usage.method & (BUSY_PROCESS | BUSY_INSTANCE) != 0;
    let known_idle = busy_known && usage.method & HELD_ALLOCATION != 0;
    if usage.intruder || usage.held_ns == 0 || usage.busy_ns > 0 || !known_idle {
        return None;
    }
    let before = known.filter(|known| window.start_ns.saturating_sub(known.window.end_ns) <= AGE_NS_MAX);
    let since_ns = before.and_then(|before| before.held_idle_since(owner, instance.as_ref()));
    Some(since_ns.unwrap_or(window.start_ns))
}

impl Newest {
    fn held_idle_since(&self, owner: &Arc<Owner>, instance: Option<&Arc<Instance>>) -> Option<i64> {
        let whose = std::iter::zip(&self.owners, &self.instances).zip(&self.window.usages);
        let mut held = whose.zip(&self.idle_since_ns).filter(|((_, usage), _)| usage.held_ns > 0);
        let same = held.find(|(((who, on), _), _)| *who == owner && on.as_ref() == instance);
        same.and_then(|(_, since_ns)| *since_ns)
    }

    fn holdings(&self) -> Vec<Holding> {
        let mut holdings = Vec::new();
        for (at, _) in self.window.usages.iter().enumerate().filter(|(_, usage)| usage.held_ns > 0) {
            let Some(owner) = self.owners.get(at) else { continue };
            let instance = self.instances.get(at).and_then(Option::as_ref);
            holdings.push(Holding {
                owner: Arc::clone(owner),
                instance: instance.map_or_else(String::new, |instance| instance.uuid.clone()),
                idle_since_ns: self.idle_since_ns.get(at).copied().flatten(),
            });
        }
        holdings
    }

    fn shares(&self, node: &NodeName, book: &Book, now_ns: i64) -> Vec<Share> {
        let window = &self.window;
        let duration_ns = i128::from(window.end_ns) - i128::from(window.start_ns);
        let whole_ns = duration_ns * i128::from(self.device.slices);
        let facts = PriceFacts {
            cluster: &node.cluster,
            node: &node.node,
            gpu_model: &self.device.model,
            facts: &self.facts,
        };
        let rate = book.rate(&facts, slot_start(now_ns), self.device.slices);
        let permille = |ns: u64| u32::try_from(i128::from(ns) * 1000 / whole_ns.max(1)).unwrap_or(u32::MAX);
        let held = std::iter::zip(&self.instances, &window.usages);
        let held = held.map(|(instance, usage)| (instance.as_deref(), usage.held_ns));
        let idle = self.idles.iter().map(|(instance, idle_ns)| (Some(&**instance), *idle_ns));
        let hourly = rate.map(|rate| Hourly::new(rate, self.device.slices, duration_ns, held.chain(idle)));
        let share =
            |instance: Option<Arc<Instance>>, owner, held_ns, busy_ns, memory_byte_seconds: u64| Share {
                hourly_nanos: hourly.as_ref().map(|hourly| hourly.of(instance.as_deref(), held_ns)),
                node: node.clone(),
                device: Arc::clone(&self.device),
                instance,
                owner,
                intruder: false,
                held_permille: permille(held_ns),
                busy_permille: permille(busy_ns),
                memory_bytes: u64::try_from(i128::from(memory_byte_seconds) * 1_000_000_000 / duration_ns)
                    .unwrap_or(u64::MAX),
                age_ns: now_ns.saturating_sub(window.end_ns).max(0),
            };
        let mut shares: Vec<Share> = std::iter::zip(&self.owners, &self.instances)
            .zip(&window.usages)
            .map(|((owner, instance), usage)| {
                let (owner, memory) = (Some(Arc::clone(owner)), usage.memory_byte_seconds);
                let whose = share(instance.clone(), owner, usage.held_ns, usage.busy_ns, memory);
                Share { intruder: usage.intruder, ..whose }
            })
            .collect();
        let mut rest_ns = window.idle_ns;
        for (instance, idle_ns) in self.idles.iter().filter(|(_, idle_ns)| *idle_ns > 0) {
            shares.push(share(Some(Arc::clone(instance)), None, *idle_ns, 0, 0));
            rest_ns = rest_ns.saturating_sub(*idle_ns);
        }
        let rest_nanos = hourly.as_ref().map(|hourly| hourly.rest(rest_ns));
        if rest_ns > 0 || window.busy_unattributed_ns > 0 || rest_nanos > Some(0) {
            let rest = share(None, None, rest_ns, window.busy_unattributed_ns, 0);
            shares.push(Share { hourly_nanos: rest_nanos, ..rest });
        }
        shares
    }
}

fn row(share: Share) -> LiveRow {
    LiveRow {
        cluster: share.node.cluster,
        node: share.node.node,
        device: share.device.uuid.clone(),
        model: share.device.model.clone(),
        instance: share.instance.as_ref().map_or_else(String::new, |instance| instance.uuid.clone()),
        profile: share.instance.as_ref().map_or_else(String::new, |instance| instance.profile.clone()),
        owner: share.owner.as_deref().map_or_else(idle, owner_name),
        intruder: share.intruder,
        held_permille: share.held_permille,
        busy_permille: share.busy_permille,
        memory_bytes: share.memory_bytes,
        hourly_rate: share.hourly_nanos.map(decimal::from_nanos),
        age_seconds: share.age_ns / 1_000_000_000,
    }
}

fn idle() -> OwnerName {
    OwnerName { kind: "idle".to_owned(), ..OwnerName::default() }
}

/// An owner as answers name it.
pub(crate) fn owner_name(owner: &Owner) -> OwnerName {
    let owner = owner.clone();
    OwnerName {
        kind: owner.kind.name().to_owned(),
        namespace: owner.namespace,
        pod: owner.pod,
        pod_uid: owner.pod_uid,
        container: owner.container,
        container_id: owner.container_id,
        job: owner.job_id,
        step: owner.step,
        unit: owner.unit,
        user: owner.user,
        account: owner.account,
        partition: owner.partition,
    }
}

#[cfg(test)]
mod tests;
