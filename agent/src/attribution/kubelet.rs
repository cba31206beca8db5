//! What the kubelet's list gives to whom: its pods, those of them that live, and the devices that their ids mean.
//!
//! The list is believed for ten minutes after it was read: a kubelet that restarts does not end its pods, and whether a
//! pod lives is seen in its cgroup. Not for: asking the kubelet (another stage does).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::attribution::device_ids::{self, DeviceId, NoGpu};
use crate::attribution::devices::{Devices, Fraction, Place};
use crate::attribution::grants::Grant;
use crate::attribution::pod_names::PodName;
use crate::attribution::pods::Standing;
use crate::model::{AllocationCounts, KubeletState, Owner, OwnerKind, PodDevices};

/// Longest time for which a list is believed.
const BELIEVED_NS: i64 = 600_000_000_000;

/// The kubelet's list with its ids taken apart: done once per list.
#[derive(Debug, Default)]
pub(super) struct Listed {
    of: Option<Arc<KubeletState>>,
    at_ns: i64,
    pods: Vec<Pod>,
    /// Of all pods of the list, also those without ids that are known here.
    names: BTreeSet<PodName>,
    all: BTreeSet<DeviceId>,
    unresolved: usize,
    hami: usize,
}

#[derive(Debug)]
struct Pod {
    name: PodName,
    /// Of the container that has the devices, if it is one.
    container: String,
    ids: BTreeSet<DeviceId>,
}

impl Listed {
    /// Takes the list in place of the one before, if it is another. `at_ns`: when it was read, on the boot clock.
    pub(super) fn update(&mut self, state: Option<&Arc<KubeletState>>, at_ns: i64) {
        self.at_ns = at_ns;
        let same = match (&self.of, state) {
            (Some(known), Some(state)) => Arc::ptr_eq(known, state),
            (None, None) => true,
            _ => false,
        };
        if same {
            return;
        }
        *self = Self { of: state.cloned(), at_ns, ..Self::default() };
        let Some(state) = state else { return };
        for device in &state.allocatable {
            // What is wrong with one that nobody has is nobody's loss.
            self.all.extend(device_ids::plugin(&device.resource, &device.id));
        }
        for pod in &state.pods {
            let pod = self.pod(pod);
            self.names.insert(pod.name.clone());
            self.all.extend(pod.ids.iter().cloned());
            if !pod.ids.is_empty() {
                self.pods.push(pod);
            }
        }
    }

    fn pod(&mut self, pod: &PodDevices) -> Pod {
        let mut containers: BTreeMap<&str, BTreeSet<DeviceId>> = BTreeMap::new();
        for container in &pod.containers {
            let plugin =
                container.devices.iter().map(|device| device_ids::plugin(&device.resource, &device.id));
            let claimed =
                container.claimed.iter().map(|device| device_ids::claimed(&device.driver, &device.device));
            for id in plugin.chain(claimed) {
                match id {
                    Ok(id) => _ = containers.entry(&container.container).or_default().insert(id),
                    Err(NoGpu::Other) => {}
                    Err(NoGpu::Hami) => self.hami += 1,
                    Err(NoGpu::Malformed) => self.unresolved += 1,
                }
            }
        }
        let container = match containers.first_key_value() {
            Some((only, _)) if containers.len() == 1 => (*only).to_owned(),
            _ => String::new(),
        };
        let ids = containers.into_values().flatten().collect();
        Pod { name: (pod.namespace.clone(), pod.pod.clone()), container, ids }
    }

    /// All ids that are or could be allocated.
    pub(super) fn ids(&self) -> impl Iterator<Item = &DeviceId> {
        self.all.iter()
    }

    /// Whether the list names the pod, whatever it was given.
    pub(super) fn has(&self, name: &PodName) -> bool {
        self.names.contains(name)
    }

    /// What the living pods were given. `now_ns` is on the boot clock.
    pub(super) fn grants(
        &self,
        devices: &Devices<'_>,
        mut standing: impl FnMut(&PodName) -> Standing,
        now_ns: i64,
    ) -> (Vec<Grant>, AllocationCounts) {
        let mut counts =
            AllocationCounts { unresolved: self.unresolved, hami: self.hami, ..AllocationCounts::default() };
        let mut grants = Vec::new();
        let fresh = now_ns.saturating_sub(self.at_ns) <= BELIEVED_NS;
        for pod in self.pods.iter().filter(|_| fresh) {
            let (pod_uid, inferred) = match standing(&pod.name) {
                Standing::Live(uid) => (uid, false),
                Standing::Several => (String::new(), false),
                Standing::Unconfirmed(uid) => (uid.unwrap_or_default(), true),
                Standing::Gone => {
                    counts.gone += 1;
                    continue;
                }
            };
            counts.held += 1;
            counts.unconfirmed += usize::from(inferred || pod_uid.is_empty());
            let owner = Arc::new(Owner {
                kind: OwnerKind::Pod,
                namespace: pod.name.0.clone(),
                pod: pod.name.1.clone(),
                pod_uid,
                container: pod.container.clone(),
                ..Owner::default()
            });
            for id in &pod.ids {
                let Some(found) = devices.find(id) else {
                    counts.unresolved += 1;
                    continue;
                };
                let (part, inferred) = (found.part, inferred || found.guessed);
                grants.extend(found.places().into_iter().map(|place| Grant {
                    place,
                    owner: Arc::clone(&owner),
                    part,
                    from_ns: None,
                    until_ns: None,
                    inferred,
                    shared_by: found.shared_by,
                }));
            }
        }
        drop_disputed(&mut grants);
        (grants, counts)
    }
}

/// Of a device that somebody else has too, a pod that may have ended has nothing: the list goes on naming it when the
/// device is given to the next.
fn drop_disputed(grants: &mut Vec<Grant>) {
    let mut whole: BTreeMap<Place, BTreeSet<Arc<Owner>>> = BTreeMap::new();
    for grant in grants.iter().filter(|grant| grant.part == Fraction::WHOLE) {
        whole.entry(grant.place.clone()).or_default().insert(Arc::clone(&grant.owner));
    }
    grants.retain(|grant| {
        let holders = whole.get(&grant.place).map_or(0, BTreeSet::len);
        !grant.inferred || grant.part != Fraction::WHOLE || holders < 2
    });
}
