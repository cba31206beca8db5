//! Which instance has which ids, and in which of their lives. The driver gives a GPU instance's and a compute
//! instance's numbers to the next one at once: so each time that somebody else has them their *generation* rises. Pure.
//!
//! What cannot be told apart is one life: an instance that was made anew between two listings with the same UUID and
//! the same profile, with nothing seen in between.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::Instance;

/// Ids of one GPU that are remembered; it can have no more than 7 instances of 7 compute instances, over and over.
const IDS_MAX: usize = 256;

/// GPU instance and compute instance; the UUID where the driver does not number them.
type Ids = (Option<u32>, Option<u32>, Option<Arc<str>>);

/// Of one GPU. Outlives the driver's session.
#[derive(Debug, Default)]
pub(super) struct Lives {
    by_ids: BTreeMap<Ids, Life>,
}

#[derive(Debug)]
struct Life {
    instance: Arc<Instance>,
    present: bool,
}

impl Lives {
    /// An instance of before the agent started, and whether it was there then.
    pub(super) fn know(&mut self, instance: Arc<Instance>, present: bool) {
        self.by_ids.insert(ids(&instance), Life { instance, present });
    }

    /// Gives each of a whole listing its generation; what is not in it is gone.
    pub(super) fn listed(&mut self, found: Vec<Instance>) -> Vec<Arc<Instance>> {
        let mut here: Vec<Ids> = Vec::with_capacity(found.len());
        let instances = found
            .into_iter()
            .map(|found| {
                let ids = ids(&found);
                here.push(ids.clone());
                let known = self.by_ids.get(&ids);
                let instance = match known {
                    Some(life) if life.present && is_same(&life.instance, &found) => {
                        if life.instance.memory == found.memory {
                            Arc::clone(&life.instance)
                        } else {
                            Arc::new(Instance { memory: found.memory, ..Instance::clone(&life.instance) })
                        }
                    }
                    _ => {
                        let generation = known.map_or(0, |life| life.instance.generation.wrapping_add(1));
                        Arc::new(Instance { generation, ..found })
                    }
                };
                self.by_ids.insert(ids, Life { instance: Arc::clone(&instance), present: true });
                instance
            })
            .collect();
        for (ids, life) in &mut self.by_ids {
            life.present = here.contains(ids);
        }
        while self.by_ids.len() > IDS_MAX {
            let gone = self.by_ids.iter().find(|(_, life)| !life.present).map(|(ids, _)| ids.clone());
            match gone {
                Some(ids) => self.by_ids.remove(&ids),
                None => break,
            };
        }
        instances
    }
}

fn ids(instance: &Instance) -> Ids {
    let numbered = instance.gpu_instance.is_some() && instance.compute_instance.is_some();
    let uuid = (!numbered).then(|| Arc::clone(&instance.uuid));
    (instance.gpu_instance, instance.compute_instance, uuid)
}

/// In all but its generation, whether its slices were guessed, which is not remembered, and its memory slices, which may not be
/// told for a while.
fn is_same(known: &Instance, found: &Instance) -> bool {
    let Instance { generation, slices_guessed, memory, .. } = *known;
    *known == Instance { generation, slices_guessed, memory, ..found.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(gpu_instance: u32, uuid: &str, slices: u32) -> Instance {
        Instance {
            gpu_instance: Some(gpu_instance),
            compute_instance: Some(0),
            generation: 0,
            uuid: uuid.into(),
            slices,
            slices_guessed: false,
            profile: format!("{slices}g"),
            memory_bytes: 1,
            memory: None,
        }
    }

    fn generations(lives: &mut Lives, found: &[Instance]) -> Vec<u32> {
        lives.listed(found.to_vec()).iter().map(|instance| instance.generation).collect()
    }

    #[test]
    fn an_instance_that_stays_keeps_its_generation() {
        let mut lives = Lives::default();
        let found = [instance(1, "MIG-a", 3), instance(2, "MIG-b", 3)];
        assert_eq!(generations(&mut lives, &found), [0, 0]);
        assert_eq!(generations(&mut lives, &found), [0, 0]);
    }

    #[test]
    fn ids_that_somebody_else_has_are_of_the_next_generation() {
        let mut lives = Lives::default();
        assert_eq!(generations(&mut lives, &[instance(1, "MIG-a", 3)]), [0]);
        assert_eq!(generations(&mut lives, &[instance(1, "MIG-b", 3)]), [1], "another UUID");
        assert_eq!(generations(&mut lives, &[instance(1, "MIG-b", 2)]), [2], "another profile");
        assert_eq!(generations(&mut lives, &[]), [0; 0]);
        assert_eq!(generations(&mut lives, &[instance(1, "MIG-b", 2)]), [3], "gone in between");
        assert_eq!(generations(&mut lives, &[instance(1, "MIG-b", 2), instance(2, "MIG-a", 3)]), [3, 0]);
    }

    #[test]
    fn an_instance_whose_memory_slices_come_to_be_told_goes_on() {
        let mut lives = Lives::default();
        let memory = Some(crate::model::MemoryShare { slices: 4, compute_slices: 3, of: 8 });
        let told = Instance { memory, ..instance(1, "MIG-a", 3) };
        for found in [instance(1, "MIG-a", 3), told.clone(), instance(1, "MIG-a", 3), told] {
            assert_eq!(*lives.listed(vec![found.clone()])[0], found);
        }
    }

    #[test]
    fn generations_go_on_after_a_restart_of_the_agent() {
        let mut lives = Lives::default();
        lives.know(Arc::new(Instance { generation: 4, ..instance(1, "MIG-a", 3) }), true);
        lives.know(Arc::new(Instance { generation: 7, ..instance(2, "MIG-b", 3) }), true);
        lives.know(Arc::new(Instance { generation: 9, ..instance(3, "", 0) }), false);
        assert_eq!(generations(&mut lives, &[instance(1, "MIG-a", 3), instance(2, "MIG-c", 3)]), [4, 8]);
        assert_eq!(generations(&mut lives, &[instance(3, "MIG-d", 1)]), [10], "gone before the restart");
    }

    #[test]
    fn instances_without_numbers_are_told_apart_by_uuid_and_memory_is_bounded() {
        let mut lives = Lives::default();
        for n in 0..1_000 {
            let unnumbered = Instance { gpu_instance: None, ..instance(0, &format!("MIG-{n}"), 1) };
            assert_eq!(generations(&mut lives, &[unnumbered]), [0]);
        }
        assert_eq!(lives.by_ids.len(), IDS_MAX);
    }
}
