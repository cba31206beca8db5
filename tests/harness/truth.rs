//! How a scenario names owners, and how the ledger's owners are put into the same words.
//!
//! | owner | text |
//! |---|---|
//! | pod | `pod:<uid>/<container id>` |
//! | Slurm job | `slurm:<job>/<step>` |
//! | systemd unit | `unit:<name>` |
//! | Linux user | `user:<name or number>` |
//! | container of no pod | `container:<id>` |
//! | virtual machine | `vm:<name>` |
//! | nobody who can be known | `unowned` |

use tonnage_proto::metering::{Owner, owner::Kind};
use tonnage_proto::rest::OwnerName;

/// The words in the order in which the contract orders kinds.
const KINDS: [&str; 7] = ["unowned", "pod", "slurm", "unit", "user", "container", "vm"];

/// Orders owners as the ledger's contract does: by kind, then field by field.
#[must_use]
pub fn order(owner: &str) -> (usize, Vec<&str>) {
    let (kind, rest) = owner.split_once(':').unwrap_or((owner, ""));
    let rank = KINDS.iter().position(|known| *known == kind).unwrap_or(KINDS.len());
    (rank, rest.split('/').collect())
}

/// An owner from the wire in the scenario's words.
#[must_use]
pub fn of_wire(owner: &Owner) -> String {
    match owner.kind() {
        Kind::Unspecified | Kind::Unowned => "unowned".to_owned(),
        Kind::Pod => format!("pod:{}/{}", owner.pod_uid, owner.container_id),
        Kind::SlurmJob => format!("slurm:{}/{}", owner.job_id, owner.step),
        Kind::SystemdUnit => format!("unit:{}", owner.unit),
        Kind::User => format!("user:{}", owner.user),
        Kind::Container => format!("container:{}", owner.container_id),
        Kind::VirtualMachine => format!("vm:{}", owner.unit),
    }
}

/// An owner from a REST answer in the scenario's words. A kind that is no owner (idle) keeps its own name.
#[must_use]
pub fn of_rest(owner: &OwnerName) -> String {
    match owner.kind.as_str() {
        "pod" => format!("pod:{}/{}", owner.pod_uid, owner.container_id),
        "slurm_job" => format!("slurm:{}/{}", owner.job, owner.step),
        "systemd_unit" => format!("unit:{}", owner.unit),
        "user" => format!("user:{}", owner.user),
        "container" => format!("container:{}", owner.container_id),
        "virtual_machine" => format!("vm:{}", owner.unit),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_ordered_by_kind_and_then_field_by_field() {
        let mut owners =
            ["container:a", "user:1", "slurm:9/0", "slurm:10/1", "pod:b/a", "pod:a/z", "unowned"];
        owners.sort_by_key(|owner| order(owner));
        assert_eq!(
            owners,
            ["unowned", "pod:a/z", "pod:b/a", "slurm:10/1", "slurm:9/0", "user:1", "container:a"]
        );
    }

    #[test]
    fn wire_and_rest_say_the_same() {
        let wire = Owner {
            kind: Kind::SlurmJob.into(),
            job_id: "7".into(),
            step: "batch".into(),
            ..Owner::default()
        };
        let rest = OwnerName {
            kind: "slurm_job".into(),
            job: "7".into(),
            step: "batch".into(),
            ..OwnerName::default()
        };
        assert_eq!((of_wire(&wire).as_str(), of_rest(&rest).as_str()), ("slurm:7/batch", "slurm:7/batch"));
    }
}
