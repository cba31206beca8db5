//! The kubelet's messages as the agent's own words. Pure; what is over a limit is left out.

use tonnage_proto::limits::NAME_BYTES_MAX;
use tonnage_proto::podresources as pb;

use crate::model::{ClaimedDevice, ContainerDevices, PluginDevice, PodDevices};

/// Pods with devices on one node; Kubernetes advises against more than 110 in all.
pub(super) const PODS_MAX: usize = 2_048;
const CONTAINERS_MAX: usize = 256;
/// Devices of one pod, and of the node: replicas are counted one by one.
pub(super) const DEVICES_MAX: usize = 16_384;

/// Pods that have devices.
pub(super) fn pods(pods: Vec<pb::PodResources>) -> Vec<PodDevices> {
    let sound = |pod: &pb::PodResources| is_name(&pod.namespace) && is_name(&pod.name);
    let pods = pods.into_iter().filter(sound).map(|pod| PodDevices {
        namespace: pod.namespace,
        pod: pod.name,
        containers: pod.containers.into_iter().filter_map(container).take(CONTAINERS_MAX).collect(),
    });
    pods.filter(|pod| !pod.containers.is_empty()).take(PODS_MAX).collect()
}

fn container(container: pb::ContainerResources) -> Option<ContainerDevices> {
    let claims = container.dynamic_resources.into_iter().flat_map(|claim| claim.claim_resources);
    let sound = |device: &ClaimedDevice| is_name(&device.driver) && is_name(&device.device);
    let claimed: Vec<ClaimedDevice> = claims
        .map(|claim| ClaimedDevice { device: device_name(&claim), driver: claim.driver_name })
        .filter(sound)
        .take(DEVICES_MAX)
        .collect();
    let devices = devices(container.devices);
    let has_any = is_name(&container.name) && !(devices.is_empty() && claimed.is_empty());
    has_any.then_some(ContainerDevices { container: container.name, devices, claimed })
}

/// The name that the driver gave the device. Where the kubelet does not say it, it is at the end of the CDI device's
/// name: `k8s.gpu.nvidia.com/claim=<claim uid>-<device>`, with a uid of 36 characters.
fn device_name(claim: &pb::ClaimResource) -> String {
    if !claim.device_name.is_empty() {
        return claim.device_name.clone();
    }
    let of_cdi = |device: &pb::CdiDevice| {
        let (_, name) = device.name.split_once('=')?;
        Some(name.get(36..)?.strip_prefix('-')?.to_owned())
    };
    claim.cdi_devices.iter().find_map(of_cdi).unwrap_or_default()
}

/// One device per id, whether the kubelet gives an entry per resource or per id.
pub(super) fn devices(devices: Vec<pb::ContainerDevices>) -> Vec<PluginDevice> {
    let each = devices.into_iter().flat_map(|entry| {
        let resource = entry.resource_name;
        entry.device_ids.into_iter().map(move |id| PluginDevice { resource: resource.clone(), id })
    });
    each.filter(|device| is_name(&device.resource) && is_name(&device.id)).take(DEVICES_MAX).collect()
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= NAME_BYTES_MAX && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(ids: &[&str]) -> pb::ContainerDevices {
        let device_ids = ids.iter().map(|id| (*id).to_owned()).collect();
        pb::ContainerDevices { resource_name: "nvidia.com/gpu".into(), device_ids }
    }

    fn pod(containers: Vec<pb::ContainerResources>) -> pb::PodResources {
        pb::PodResources { name: "train-0".into(), namespace: "ml".into(), containers }
    }

    #[test]
    fn an_entry_per_id_says_the_same_as_one_with_all_ids() {
        let one = devices(vec![entry(&["GPU-a", "GPU-b"])]);
        assert_eq!(one, devices(vec![entry(&["GPU-a"]), entry(&["GPU-b"])]));
        assert_eq!(one.len(), 2);
    }

    #[test]
    fn pods_and_containers_without_devices_are_left_out() {
        let with = pb::ContainerResources {
            name: "main".into(),
            devices: vec![entry(&["0"])],
            ..Default::default()
        };
        let without = pb::ContainerResources { name: "sidecar".into(), ..Default::default() };
        let found = pods(vec![pod(vec![with, without.clone()]), pod(vec![without]), pod(Vec::new())]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].containers.iter().map(|c| c.container.as_str()).collect::<Vec<_>>(), ["main"]);
    }

    #[test]
    fn a_claims_device_is_named_by_the_driver_or_else_by_cdi() {
        let claim = pb::ClaimResource {
            driver_name: "gpu.nvidia.com".into(),
            device_name: "gpu-1".into(),
            ..Default::default()
        };
        let uid = "5c89852c-d268-c3f3-1b07-005d5ae1dc3f";
        let cdi = pb::CdiDevice { name: format!("k8s.gpu.nvidia.com/claim={uid}-gpu-2-mig-1g24gb-19-0") };
        let older = pb::ClaimResource { device_name: String::new(), cdi_devices: vec![cdi], ..claim.clone() };
        let dynamic = pb::DynamicResource { claim_resources: vec![claim, older], ..Default::default() };
        let container = pb::ContainerResources {
            name: "main".into(),
            dynamic_resources: vec![dynamic],
            ..Default::default()
        };
        let found = pods(vec![pod(vec![container])]);
        let names: Vec<&str> = found[0].containers[0].claimed.iter().map(|d| d.device.as_str()).collect();
        assert_eq!(names, ["gpu-1", "gpu-2-mig-1g24gb-19-0"]);
    }

    #[test]
    fn names_that_are_too_long_or_not_printable_and_too_many_ids_are_left_out() {
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        assert!(devices(vec![entry(&[&long, "a\nb", ""])]).is_empty());
        let many: Vec<&str> = vec!["GPU-a"; DEVICES_MAX + 9];
        assert_eq!(devices(vec![entry(&many)]).len(), DEVICES_MAX);
    }
}
