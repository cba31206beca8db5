//! Which instances of GPUs there are, and which there were, for the next run of the agent: what is given ids that were
//! used before must never be of a generation that was used with them. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{Instance, KnownInstance};

/// Ids of one GPU that are remembered beside those in use; drivers give some tens of pairs, over and over.
const IDS_MAX: usize = 256;

/// GPU instance and compute instance.
type Ids = (u32, u32);

/// Of all GPUs, by UUID.
#[derive(Debug, Default)]
pub(super) struct Roll(BTreeMap<Arc<str>, Gpu>);

#[derive(Debug, Default)]
struct Gpu {
    here: Vec<Arc<Instance>>,
    /// The latest life of each pair of ids. Instances without numbers are told apart by UUID, so none is kept.
    latest: BTreeMap<Ids, Arc<Instance>>,
}

impl Roll {
    /// Takes over what the run before knew, until a reading shows what is there now.
    pub(super) fn resume(&mut self, known: &[KnownInstance]) {
        self.recall(known);
        for KnownInstance { device, instance, .. } in known.iter().filter(|known| known.present) {
            self.0.entry(Arc::clone(device)).or_default().here.push(Arc::clone(instance));
        }
    }

    /// Takes over which generations were used, where readings have shown already what is there.
    pub(super) fn recall(&mut self, known: &[KnownInstance]) {
        for KnownInstance { device, instance, .. } in known {
            self.0.entry(Arc::clone(device)).or_default().note(instance);
        }
    }

    /// These are all of a GPU's instances now.
    pub(super) fn seen(&mut self, device: &Arc<str>, instances: impl Iterator<Item = Arc<Instance>>) {
        let gpu = self.0.entry(Arc::clone(device)).or_default();
        gpu.here = instances.collect();
        for at in 0..gpu.here.len() {
            let instance = Arc::clone(&gpu.here[at]);
            gpu.note(&instance);
        }
    }

    /// To be kept: all that are there, and the latest life of ids that nobody has now.
    pub(super) fn known(&self) -> Vec<KnownInstance> {
        let of = |device: &Arc<str>, instance: &Arc<Instance>, present| KnownInstance {
            device: Arc::clone(device),
            instance: Arc::clone(instance),
            present,
        };
        let gpus = self.0.iter().flat_map(|(device, gpu)| {
            let here = gpu.here.iter().map(move |instance| of(device, instance, true));
            let gone = gpu.latest.values().filter(|latest| !gpu.here.contains(latest));
            here.chain(gone.map(move |instance| of(device, instance, false)))
        });
        gpus.collect()
    }
}

impl Gpu {
    fn note(&mut self, instance: &Arc<Instance>) {
        let Some(ids) = instance.gpu_instance.zip(instance.compute_instance) else { return };
        let later = match self.latest.get(&ids) {
            Some(latest) => latest.generation <= instance.generation,
            None => self.latest.len() < IDS_MAX,
        };
        if later {
            self.latest.insert(ids, Arc::clone(instance));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(gpu_instance: u32, generation: u32) -> Arc<Instance> {
        Arc::new(Instance {
            gpu_instance: Some(gpu_instance),
            compute_instance: Some(0),
            generation,
            uuid: format!("MIG-{gpu_instance}-{generation}").into(),
            slices: 1,
            slices_guessed: false,
            profile: String::new(),
            memory_bytes: 1,
            memory: None,
        })
    }

    /// GPU instance, generation, present.
    fn known(roll: &Roll) -> Vec<(u32, u32, bool)> {
        let of = |known: KnownInstance| {
            (known.instance.gpu_instance.unwrap_or(u32::MAX), known.instance.generation, known.present)
        };
        roll.known().into_iter().map(of).collect()
    }

    #[test]
    fn ids_that_nobody_has_now_are_remembered_by_their_latest_life_over_restarts() {
        let gpu: Arc<str> = "GPU-1".into();
        let mut roll = Roll::default();
        roll.seen(&gpu, [instance(1, 0), instance(2, 5)].into_iter());
        roll.seen(&gpu, [instance(1, 1)].into_iter());
        assert_eq!(known(&roll), [(1, 1, true), (2, 5, false)]);
        let mut next = Roll::default();
        next.resume(&roll.known());
        assert_eq!(known(&next), known(&roll));
        next.seen(&gpu, [instance(2, 6)].into_iter());
        assert_eq!(known(&next), [(2, 6, true), (1, 1, false)]);
        // MIG is switched off.
        next.seen(&gpu, std::iter::empty());
        assert_eq!(known(&next), [(1, 1, false), (2, 6, false)]);
    }

    #[test]
    fn ids_without_end_are_not_remembered_without_end() {
        let gpu: Arc<str> = "GPU-1".into();
        let mut roll = Roll::default();
        for n in 0..1_000 {
            let unnumbered = Arc::new(Instance { gpu_instance: None, ..Instance::clone(&instance(n, 0)) });
            roll.seen(&gpu, [instance(n, 0), unnumbered].into_iter());
        }
        assert_eq!(roll.known().len(), IDS_MAX + 2);
    }
}
