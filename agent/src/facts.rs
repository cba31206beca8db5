//! What is known of the machine, and who says so: settings outweigh the cloud's metadata, which outweighs DMI.
//!
//! Facts may come at any time, and stand in all batches from then on. Which life of the node this is may not: time of
//! two lives is time of two tenures. So a life is decided once per boot: by the instance id if one is known before the
//! first windows leave for the spool, else by the boot id alone. The spool remembers what a boot was decided to be.
//!
//! Not for: asking anybody (`cloud`, `dmi`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tonnage_proto::limits::{LABELS_PER_NODE_MAX, NAME_BYTES_MAX};
use tonnage_proto::metering::NodeFacts;

/// A cloud whose machines can be asked what they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    Aws,
    Gcp,
    Azure,
}

impl Provider {
    /// Its name, as settings and people write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::Gcp => "gcp",
            Self::Azure => "azure",
        }
    }
}

/// What one source says of the machine. Empty: it does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    pub instance_id: String,
    pub instance_type: String,
    pub region: String,
    pub zone: String,
    pub capacity_type: String,
    pub labels: BTreeMap<String, String>,
}

/// What each source says, the weightiest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    pub settings: Machine,
    pub cloud: Machine,
    pub dmi: Machine,
}

/// A fact with its value and who says so.
pub type Told<'a> = (&'static str, &'a str, &'static str);

impl Sources {
    /// Every fact that somebody tells, with the word that counts.
    #[must_use]
    pub fn told(&self) -> Vec<Told<'_>> {
        let field = |name, of: fn(&Machine) -> &String| {
            let (value, source) = self.first(of)?;
            Some((name, value, source))
        };
        let fields = [
            field("instance id", |machine| &machine.instance_id),
            field("instance type", |machine| &machine.instance_type),
            field("region", |machine| &machine.region),
            field("zone", |machine| &machine.zone),
            field("capacity type", |machine| &machine.capacity_type),
        ];
        fields.into_iter().flatten().collect()
    }

    fn first(&self, of: fn(&Machine) -> &String) -> Option<(&str, &'static str)> {
        let sources =
            [(&self.settings, "settings"), (&self.cloud, "the cloud's metadata"), (&self.dmi, "DMI")];
        let said = sources.into_iter().map(|(machine, source)| (of(machine).as_str(), source));
        said.into_iter().find(|(value, _)| !value.is_empty())
    }

    fn value(&self, of: fn(&Machine) -> &String) -> String {
        self.first(of).map_or_else(String::new, |(value, _)| value.to_owned())
    }

    /// The instance's id, empty if nobody knows it.
    #[must_use]
    pub fn instance_id(&self) -> String {
        self.value(|machine| &machine.instance_id)
    }

    /// As a batch tells them.
    #[must_use]
    pub fn node_facts(&self) -> NodeFacts {
        let mut labels: std::collections::HashMap<_, _> = self.settings.labels.clone().into_iter().collect();
        for (key, value) in self.cloud.labels.iter().chain(&self.dmi.labels) {
            // One label too many, and the ledger would refuse all that the node sends.
            if labels.len() < LABELS_PER_NODE_MAX {
                labels.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        NodeFacts {
            instance_type: self.value(|machine| &machine.instance_type),
            region: self.value(|machine| &machine.region),
            zone: self.value(|machine| &machine.zone),
            capacity_type: self.value(|machine| &machine.capacity_type),
            labels,
        }
    }
}

/// A name from outside without the space around it, if it can stand in a batch.
#[must_use]
pub fn sound(text: &str) -> Option<String> {
    let text = text.trim();
    let good = !text.is_empty() && text.len() <= NAME_BYTES_MAX && !text.chars().any(char::is_control);
    good.then(|| text.to_owned())
}

/// What is known by now. Cloneable; all clones are one.
#[derive(Debug, Clone)]
pub struct Known(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    sources: Sources,
    /// The instance id by which this life goes, once that is decided; empty: it goes by the boot id.
    life: Option<String>,
}

impl Known {
    /// Before anybody was asked. `remembered`: how an earlier run decided in this boot.
    #[must_use]
    pub fn new(sources: Sources, remembered: Option<String>) -> Self {
        let known = Some(sources.instance_id()).filter(|id| !id.is_empty());
        let life = remembered.or(known);
        Self(Arc::new(Mutex::new(State { sources, life })))
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The cloud has answered. True if it tells an instance id too late for this life.
    pub fn answered(&self, cloud: Machine) -> bool {
        self.with(|state| {
            state.sources.cloud = cloud;
            let id = state.sources.instance_id();
            *state.life.get_or_insert_with(|| id.clone()) != id
        })
    }

    /// Waits no longer: without an instance id this life goes by the boot id.
    pub fn decide(&self) {
        self.with(State::decide);
    }

    /// Windows may leave: they will say which life they are of.
    #[must_use]
    pub fn is_decided(&self) -> bool {
        self.with(|state| state.life.is_some())
    }

    /// The instance id by which this life goes, which from now on does not change, and the facts of this moment.
    #[must_use]
    pub fn now(&self) -> (String, NodeFacts) {
        self.with(|state| {
            state.decide();
            (state.life.clone().unwrap_or_default(), state.sources.node_facts())
        })
    }
}

impl State {
    fn decide(&mut self) {
        let id = self.sources.instance_id();
        self.life.get_or_insert(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(instance_id: &str, region: &str, zone: &str) -> Machine {
        let [instance_id, region, zone] = [instance_id, region, zone].map(str::to_owned);
        Machine { instance_id, region, zone, ..Machine::default() }
    }

    #[test]
    fn settings_outweigh_the_cloud_and_the_cloud_outweighs_dmi() {
        let sources = Sources {
            settings: machine("", "mine", ""),
            cloud: machine("", "theirs", "theirs-1"),
            dmi: machine("i-1", "board", "board"),
        };
        let expected = [
            ("instance id", "i-1", "DMI"),
            ("region", "mine", "settings"),
            ("zone", "theirs-1", "the cloud's metadata"),
        ];
        assert_eq!(sources.told(), expected);
        let facts = sources.node_facts();
        assert_eq!((facts.region.as_str(), facts.zone.as_str()), ("mine", "theirs-1"));
    }

    #[test]
    fn labels_of_the_machine_give_way_to_settings_and_never_pass_the_limit() {
        let of = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let mut sources = Sources::default();
        sources.dmi.labels = BTreeMap::from([of("dmi.vendor", "Dell Inc."), of("dmi.product", "R760")]);
        sources.settings.labels = BTreeMap::from([of("dmi.vendor", "Dell")]);
        let labels = sources.node_facts().labels;
        assert_eq!((labels["dmi.vendor"].as_str(), labels["dmi.product"].as_str()), ("Dell", "R760"));
        sources.settings.labels = (0..LABELS_PER_NODE_MAX).map(|n| of(&n.to_string(), "x")).collect();
        assert_eq!(sources.node_facts().labels.len(), LABELS_PER_NODE_MAX);
    }

    #[test]
    fn an_answer_in_time_names_the_life_and_a_late_one_only_brings_facts() {
        let early = Known::new(Sources::default(), None);
        assert!(!early.is_decided());
        assert!(!early.answered(machine("i-1", "eu", "")));
        assert!(early.is_decided());
        assert_eq!(early.now().0, "i-1");

        let late = Known::new(Sources::default(), None);
        assert_eq!(late.now().0, "", "the first windows left");
        assert!(late.answered(machine("i-1", "eu", "")));
        let (life, facts) = late.now();
        assert_eq!((life.as_str(), facts.region.as_str()), ("", "eu"));
    }

    #[test]
    fn a_boot_stays_what_an_earlier_run_decided() {
        let sources = || Sources { dmi: machine("i-1", "", ""), ..Sources::default() };
        assert_eq!(Known::new(sources(), None).now().0, "i-1");
        assert_eq!(Known::new(sources(), Some(String::new())).now().0, "");
        let known = Known::new(Sources::default(), Some("i-1".to_owned()));
        assert!(known.is_decided() && !known.answered(machine("i-1", "", "")));
        assert_eq!(known.now().0, "i-1");
    }

    #[test]
    fn what_cannot_stand_in_a_batch_is_no_name() {
        assert_eq!(sound(" PowerEdge XE9680\n").as_deref(), Some("PowerEdge XE9680"));
        for bad in ["", " \n", "a\u{7}b", &"x".repeat(NAME_BYTES_MAX + 1)] {
            assert_eq!(sound(bad), None, "{bad:?}");
        }
    }
}
