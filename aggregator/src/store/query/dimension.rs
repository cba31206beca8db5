//! What rows of the ledger can be grouped by, and the value that a row has there.

use tonnage_proto::method::{HELD_SPLIT, SHARED_MPS, SHARED_SHARDS, SHARED_TIME_SLICING, SHARED_VGPU};
use tonnage_proto::rest::sentinel;

use super::described::{Described, OwnerNames};
use crate::budgets::{Tree, Usage};
use crate::model::{NodeFacts, OwnerKind, RowKind};
use crate::store::sql::{self, Row};

/// Columns in the order in which [`Dimension::value`] reads them.
pub(super) const COLUMNS: &str = "n.cluster, n.name, d.uuid, d.model, o.kind, o.namespace, o.pod, o.pod_uid,
    o.container, o.container_id, o.job_id, o.step, o.unit, o.user, o.account, o.partition, i.uuid, i.profile";
/// How many they are.
pub(super) const COLUMN_COUNT: usize = 18;

/// Labels by which clouds and autoscalers name a node's pool; the first that a node has tells it.
const POOL_LABELS: [&str; 5] = [
    "cloud.google.com/gke-nodepool",
    "eks.amazonaws.com/nodegroup",
    "kubernetes.azure.com/agentpool",
    "karpenter.sh/nodepool",
    "pool",
];
/// What a label's name stands behind in [`Dimension::name`].
const NODE_LABEL: &str = "node_label:";
const LABEL: &str = "label:";
const NAMESPACE_LABEL: &str = "namespace_label:";

/// One grouping.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Dimension {
    Cluster,
    Node,
    Device,
    Model,
    /// UUID of a MIG instance; empty for a device as a whole, and what of it is in no instance.
    Instance,
    /// Of an instance.
    Profile,
    Namespace,
    Pod,
    PodUid,
    Container,
    Job,
    Step,
    Unit,
    User,
    Account,
    Partition,
    Kind,
    /// `exclusive`, or by what it was split among several owners at some time in the row; `mig` before that in an instance;
    /// or `intruder`.
    SharingMode,
    /// This and what follows are of the node's facts.
    CapacityType,
    InstanceType,
    Region,
    Zone,
    Pool,
    NodeLabel(String),
    /// This and what follows are of what Kubernetes said of a pod or its namespace, as of the slot.
    Controller,
    ControllerKind,
    Team,
    Label(String),
    NamespaceLabel(String),
    /// The account that the usage is bound to in its slot.
    Budget,
}

/// A row beginning with [`COLUMNS`], and what stands elsewhere of it.
pub(super) struct Line<'a> {
    pub(super) row: &'a Row<'a>,
    pub(super) kind: RowKind,
    pub(super) method: u32,
    /// Of the node, where they are asked for and known.
    pub(super) facts: Option<&'a NodeFacts>,
    /// Of pods and namespaces, where they are asked for, and as of when.
    pub(super) described: &'a Described,
    /// Of accounts, where they are asked for.
    pub(super) tree: &'a Tree,
    pub(super) at_ns: i64,
}

impl Dimension {
    /// Every one but labels, with the name that parameters and answers use.
    pub const ALL: [(Self, &'static str); 27] = [
        (Self::Cluster, "cluster"),
        (Self::Node, "node"),
        (Self::Device, "device"),
        (Self::Model, "model"),
        (Self::Instance, "instance"),
        (Self::Profile, "profile"),
        (Self::Namespace, "namespace"),
        (Self::Pod, "pod"),
        (Self::PodUid, "pod_uid"),
        (Self::Container, "container"),
        (Self::Job, "job"),
        (Self::Step, "step"),
        (Self::Unit, "unit"),
        (Self::User, "user"),
        (Self::Account, "account"),
        (Self::Partition, "partition"),
        (Self::Kind, "kind"),
        (Self::SharingMode, "sharing_mode"),
        (Self::CapacityType, "capacity_type"),
        (Self::InstanceType, "instance_type"),
        (Self::Region, "region"),
        (Self::Zone, "zone"),
        (Self::Pool, "pool"),
        (Self::Controller, "controller"),
        (Self::ControllerKind, "controller_kind"),
        (Self::Team, "team"),
        (Self::Budget, "budget"),
    ];

    /// What parameters and answers call it: `node_label:KEY` for a node's label, `label:KEY` for a pod's.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::NodeLabel(key) => return format!("{NODE_LABEL}{key}"),
            Self::Label(key) => return format!("{LABEL}{key}"),
            Self::NamespaceLabel(key) => return format!("{NAMESPACE_LABEL}{key}"),
            _ => {}
        }
        Self::ALL.into_iter().find(|(known, _)| known == self).map_or("", |(_, name)| name).to_owned()
    }

    /// By its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        for prefix in [NODE_LABEL, NAMESPACE_LABEL, LABEL] {
            if let Some(key) = name.strip_prefix(prefix).map(str::to_owned) {
                let label = match prefix {
                    NODE_LABEL => Self::NodeLabel(key),
                    NAMESPACE_LABEL => Self::NamespaceLabel(key),
                    _ => Self::Label(key),
                };
                return (name.len() > prefix.len()).then_some(label);
            }
        }
        Self::ALL.into_iter().find(|(_, known)| *known == name).map(|(dimension, _)| dimension)
    }

    /// Does the device have it, whoever holds it? Then idle time has a value there too.
    #[must_use]
    pub fn of_device(&self) -> bool {
        self.of_node()
            || matches!(
                self,
                Self::Cluster | Self::Node | Self::Device | Self::Model | Self::Instance | Self::Profile
            )
    }

    /// Is it told by the node's facts?
    #[must_use]
    pub fn of_node(&self) -> bool {
        matches!(
            self,
            Self::CapacityType
                | Self::InstanceType
                | Self::Region
                | Self::Zone
                | Self::Pool
                | Self::NodeLabel(_)
        )
    }

    /// Is it told by what Kubernetes said of a pod or its namespace?
    #[must_use]
    pub fn of_pod(&self) -> bool {
        matches!(
            self,
            Self::Controller | Self::ControllerKind | Self::Team | Self::Label(_) | Self::NamespaceLabel(_)
        )
    }

    /// What Kubernetes said, of a dimension of pods.
    fn told<'a>(&self, line: &Line<'a>) -> Result<Option<&'a str>, sql::Error> {
        let Line { row, described, at_ns, .. } = *line;
        let text = |column: usize| Ok::<_, sql::Error>(row.text(column)?.unwrap_or(""));
        let owner = OwnerNames {
            cluster: text(0)?,
            namespace: text(5)?,
            pod: text(6)?,
            pod_uid: text(7)?,
            account: text(14)?,
        };
        let pod = || described.pod(&owner, at_ns);
        Ok(match self {
            Self::Controller => pod().map(|pod| pod.controller.as_str()),
            Self::ControllerKind => pod().map(|pod| pod.controller_kind.as_str()),
            Self::Label(key) => pod().and_then(|pod| pod.labels.get(key)).map(String::as_str),
            Self::NamespaceLabel(key) => {
                let namespace = described.namespace(&owner, at_ns);
                namespace.and_then(|namespace| namespace.labels.get(key)).map(String::as_str)
            }
            _ => described.team(&owner, at_ns),
        })
    }

    /// The account that a row's usage is bound to.
    fn budget(line: &Line<'_>) -> Result<String, sql::Error> {
        let text = |column: usize| Ok::<_, sql::Error>(line.row.text(column)?.unwrap_or("").to_owned());
        let usage = Usage {
            cluster: text(0)?,
            namespace: text(5)?,
            user: text(13)?,
            account: text(14)?,
            partition: text(15)?,
        };
        let [pod, pod_uid] = [line.row.text(6)?.unwrap_or(""), line.row.text(7)?.unwrap_or("")];
        let Usage { cluster, namespace, account, .. } = &usage;
        let owner = OwnerNames { cluster, namespace, pod, pod_uid, account };
        let labels = line.described.labels(&owner, line.at_ns);
        let account = line.tree.owner_of(&usage, labels, line.at_ns).and_then(|id| line.tree.by_id(id));
        Ok(account.map_or(sentinel::UNASSIGNED, |account| &account.spec.name).to_owned())
    }

    /// Of the node's facts; `None` if it is not of them.
    fn fact(&self, facts: Option<&NodeFacts>) -> Option<String> {
        if !self.of_node() {
            return None;
        }
        let absent = if matches!(self, Self::Pool | Self::NodeLabel(_)) {
            sentinel::UNALLOCATED
        } else {
            sentinel::UNKNOWN
        };
        let value = facts.map(|facts| match self {
            Self::CapacityType => facts.capacity_type.as_str(),
            Self::InstanceType => &facts.instance_type,
            Self::Region => &facts.region,
            Self::Zone => &facts.zone,
            Self::Pool => POOL_LABELS.iter().find_map(|key| facts.labels.get(*key)).map_or("", |pool| pool),
            Self::NodeLabel(key) => facts.labels.get(key).map_or("", |value| value),
            _ => "",
        });
        Some(value.filter(|value| !value.is_empty()).unwrap_or(absent).to_owned())
    }

    /// The value that a row has.
    pub(super) fn value(&self, line: &Line<'_>) -> Result<String, sql::Error> {
        if let Some(fact) = self.fact(line.facts) {
            return Ok(fact);
        }
        let Line { row, kind, method, .. } = *line;
        let text = |column: usize| Ok::<_, sql::Error>(row.text(column)?.unwrap_or(""));
        let device = match self {
            Self::Cluster => Some(0),
            Self::Node => Some(1),
            Self::Device => Some(2),
            Self::Model => Some(3),
            Self::Instance => Some(16),
            Self::Profile => Some(17),
            _ => None,
        };
        if let Some(column) = device {
            // What is of no GPU is on no node that has a name here.
            if kind.is_of_job() && column != 0 {
                return Ok(sentinel::UNALLOCATED.to_owned());
            }
            return Ok(text(column)?.to_owned());
        }
        match kind {
            RowKind::Held | RowKind::Intruder | RowKind::Cpu | RowKind::Memory => {}
            RowKind::Idle | RowKind::Stranded => return Ok(sentinel::IDLE.to_owned()),
            RowKind::Unobserved => return Ok(sentinel::UNOBSERVED.to_owned()),
            RowKind::Rounding => return Ok(sentinel::ROUNDING.to_owned()),
        }
        if self.of_pod() {
            let told = self.told(line)?.filter(|value| !value.is_empty());
            return Ok(told.unwrap_or(sentinel::UNALLOCATED).to_owned());
        }
        if *self == Self::Budget {
            return Self::budget(line);
        }
        let number: Option<i64> = row.get(4)?;
        let owner = number.and_then(OwnerKind::from_number).unwrap_or_default();
        let first = |columns: [usize; 2]| {
            let found = text(columns[0])?;
            if found.is_empty() { text(columns[1]) } else { Ok(found) }
        };
        let value = match self {
            Self::SharingMode => sharing_mode(kind, method, row.text(16)?.is_some()),
            Self::Kind => owner.name(),
            Self::Namespace => text(5)?,
            // A pod whose name is not known yet is still told from others.
            Self::Pod => first([6, 7])?,
            Self::PodUid => text(7)?,
            Self::Container => first([8, 9])?,
            Self::Job => text(10)?,
            Self::Step => text(11)?,
            Self::Unit => text(12)?,
            Self::User => text(13)?,
            Self::Account => text(14)?,
            _ => text(15)?,
        };
        let of_pods = matches!(self, Self::Namespace | Self::Pod | Self::PodUid);
        Ok(match value {
            "" if of_pods && owner == OwnerKind::Pod => sentinel::UNKNOWN,
            "" => sentinel::UNALLOCATED,
            known => known,
        }
        .to_owned())
    }
}

fn sharing_mode(kind: RowKind, method: u32, in_instance: bool) -> &'static str {
    if kind == RowKind::Intruder {
        return "intruder";
    }
    if method & HELD_SPLIT == 0 {
        return if in_instance { "mig" } else { "exclusive" };
    }
    // The first of these that a row ever was: turns are what there is before the first client of MPS.
    let modes = [
        (SHARED_MPS, "mps", "mig_mps"),
        (SHARED_SHARDS, "shards", "mig_shards"),
        (SHARED_VGPU, "vgpu", "mig_vgpu"),
        (SHARED_TIME_SLICING, "time_slicing", "mig_time_slicing"),
        // From agents that did not tell.
        (HELD_SPLIT, "shared", "mig_shared"),
    ];
    let told = modes.into_iter().find(|(bit, ..)| method & bit != 0);
    told.map_or("shared", |(_, whole, of_instance)| if in_instance { of_instance } else { whole })
}
