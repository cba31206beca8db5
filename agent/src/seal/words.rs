//! The model's words as the wire has them. Pure.

use tonnage_proto::metering as pb;

use crate::model::{DeviceInfo, GapReason, Instance, MemoryShare, Owner, OwnerKind};

pub(super) fn device(info: &DeviceInfo, driver_version: &str) -> pb::Device {
    pb::Device {
        uuid: info.uuid.to_string(),
        model: info.model.clone(),
        memory_bytes: info.memory_bytes,
        slices: info.slices,
        minor: info.minor.unwrap_or(u32::MAX),
        pci_bus_id: info.pci_bus_id.clone(),
        driver_version: driver_version.to_owned(),
    }
}

pub(super) fn instance(device: u32, instance: &Instance) -> pb::Instance {
    let unknown = MemoryShare { slices: 0, compute_slices: 0, of: 0 };
    let memory = instance.memory.unwrap_or(unknown);
    pb::Instance {
        memory_slices: memory.slices,
        gpu_instance_slices: memory.compute_slices,
        gpu_memory_slices: memory.of,
        device,
        generation: instance.generation,
        gpu_instance: instance.gpu_instance.unwrap_or(u32::MAX),
        compute_instance: instance.compute_instance.unwrap_or(u32::MAX),
        slices: instance.slices,
        uuid: instance.uuid.to_string(),
        profile: instance.profile.clone(),
        memory_bytes: instance.memory_bytes,
    }
}

pub(super) fn gap_reason(reason: GapReason) -> pb::gap::Reason {
    use pb::gap::Reason;
    match reason {
        GapReason::AgentDown => Reason::AgentDown,
        GapReason::NotRead => Reason::NotRead,
        GapReason::Clock => Reason::Clock,
        GapReason::Suspended => Reason::Suspended,
        GapReason::Spool => Reason::Spool,
    }
}

pub(super) fn owner(owner: &Owner) -> pb::Owner {
    use pb::owner::Kind;
    let kind = match owner.kind {
        OwnerKind::Unowned => Kind::Unowned,
        OwnerKind::Pod => Kind::Pod,
        OwnerKind::SlurmJob => Kind::SlurmJob,
        OwnerKind::SystemdUnit => Kind::SystemdUnit,
        OwnerKind::User => Kind::User,
        OwnerKind::Container => Kind::Container,
        OwnerKind::VirtualMachine => Kind::VirtualMachine,
    };
    pb::Owner {
        kind: kind.into(),
        namespace: owner.namespace.clone(),
        pod: owner.pod.clone(),
        pod_uid: owner.pod_uid.clone(),
        container: owner.container.clone(),
        container_id: owner.container_id.clone(),
        job_id: owner.job_id.clone(),
        step: owner.step.clone(),
        unit: owner.unit.clone(),
        user: owner.user.clone(),
        account: owner.account.clone(),
        partition: owner.partition.clone(),
    }
}

pub(super) fn read_instance(of: pb::Instance) -> Instance {
    let number = |number: u32| Some(number).filter(|number| *number != u32::MAX);
    let memory = MemoryShare {
        slices: of.memory_slices,
        compute_slices: of.gpu_instance_slices,
        of: of.gpu_memory_slices,
    };
    Instance {
        gpu_instance: number(of.gpu_instance),
        compute_instance: number(of.compute_instance),
        generation: of.generation,
        uuid: of.uuid.into(),
        slices: of.slices,
        slices_guessed: false,
        profile: of.profile,
        memory_bytes: of.memory_bytes,
        memory: (memory.of > 0).then_some(memory),
    }
}
