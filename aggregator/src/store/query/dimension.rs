//! What rows of the ledger can be grouped by, and the value that a row has there.

use tonnage_proto::rest::sentinel;

use crate::model::{OwnerKind, RowKind};
use crate::store::sql::{self, Row};

/// Columns in the order in which [`Dimension::value`] reads them.
pub(super) const COLUMNS: &str = "n.cluster, n.name, d.uuid, d.model, o.kind, o.namespace, o.pod, o.pod_uid,
    o.container, o.container_id, o.job_id, o.step, o.unit, o.user, o.account, o.partition, i.uuid, i.profile";
/// How many they are.
pub(super) const COLUMN_COUNT: usize = 18;

/// One grouping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
}

impl Dimension {
    /// Every one with the name that parameters and answers use.
    pub const ALL: [(Self, &'static str); 17] = [
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
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(known, _)| *known == self).map_or("", |(_, name)| name)
    }

    /// By its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, known)| *known == name).map(|(dimension, _)| dimension)
    }

    /// Does the device have it, whoever holds it? Then idle time has a value there too.
    #[must_use]
    pub fn of_device(self) -> bool {
        matches!(
            self,
            Self::Cluster | Self::Node | Self::Device | Self::Model | Self::Instance | Self::Profile
        )
    }

    /// The value of `row`, which begins with [`COLUMNS`].
    pub(super) fn value(self, row: &Row<'_>, kind: RowKind) -> Result<String, sql::Error> {
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
            return Ok(text(column)?.to_owned());
        }
        match kind {
            RowKind::Held | RowKind::Intruder => {}
            RowKind::Idle | RowKind::Stranded => return Ok(sentinel::IDLE.to_owned()),
            RowKind::Unobserved => return Ok(sentinel::UNOBSERVED.to_owned()),
            RowKind::Rounding => return Ok(sentinel::ROUNDING.to_owned()),
        }
        let number: Option<i64> = row.get(4)?;
        let owner = number.and_then(OwnerKind::from_number).unwrap_or_default();
        let first = |columns: [usize; 2]| {
            let found = text(columns[0])?;
            if found.is_empty() { text(columns[1]) } else { Ok(found) }
        };
        let value = match self {
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
