//! What the firmware says of the machine: `/sys/class/dmi/id`, which the kernel fills from SMBIOS tables.
//!
//! On a cloud's machines it tells which cloud, and on AWS's Nitro the instance's id and type too, with no network.
//! Elsewhere the product's name stands for an instance type (`PowerEdge XE9680`), but not the names that hypervisors and
//! makers of boards put there where they have nothing to say.
//!
//! Reads files of the kernel that everybody may read, once, at the start. A machine without them has no such facts.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::facts::{Machine, Provider, sound};

/// Chassis tag of every Azure machine.
const AZURE_CHASSIS: &str = "7783-7084-3265-9085-8269-3286-77";
/// Bytes of a file that are read; the kernel gives a page at most.
const BYTES_MAX: u64 = 4096;
/// Parts of the vendor's or the product's name by which a virtual machine is known; most are in systemd-detect-virt too.
const VIRTUAL: [&str; 15] = [
    "QEMU",
    "KVM",
    "Standard PC",
    "VMware",
    "VirtualBox",
    "innotek",
    "Virtual Machine",
    "Virtual Platform",
    "OpenStack",
    "Xen",
    "Bochs",
    "BHYVE",
    "Parallels",
    "Apple Virtualization",
    "HVM domU",
];
/// What stands where nobody filled anything in.
const EMPTY: [&str; 8] = [
    "To Be Filled By O.E.M.",
    "To be filled by O.E.M.",
    "System Product Name",
    "System manufacturer",
    "Default string",
    "Not Specified",
    "Unknown",
    "None",
];

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dmi {
    pub vendor: Option<String>,
    pub product: Option<String>,
    /// The cloud whose machine this is, where the firmware says so.
    pub provider: Option<Provider>,
    pub machine: Machine,
}

/// Reads the folder of the kernel's DMI attributes; it need not exist.
#[must_use]
pub fn read(folder: &Path) -> Dmi {
    let attribute = |name: &str| {
        let mut bytes = Vec::new();
        File::open(folder.join(name)).and_then(|file| file.take(BYTES_MAX).read_to_end(&mut bytes)).ok()?;
        sound(&String::from_utf8_lossy(&bytes)).filter(|text| !EMPTY.contains(&text.as_str()))
    };
    let vendor = attribute("sys_vendor");
    let product = attribute("product_name");
    let named = |name: Option<&String>, is: &str| name.is_some_and(|name| name == is);
    let (mut machine, mut provider) = (Machine::default(), None);
    if named(vendor.as_ref(), "Amazon EC2") {
        provider = Some(Provider::Aws);
        machine.instance_type = product.clone().unwrap_or_default();
        machine.instance_id =
            attribute("board_asset_tag").filter(|tag| is_instance_id(tag)).unwrap_or_default();
    } else if named(product.as_ref(), "Google Compute Engine") {
        provider = Some(Provider::Gcp);
    } else if attribute("chassis_asset_tag").is_some_and(|tag| tag == AZURE_CHASSIS) {
        provider = Some(Provider::Azure);
    } else {
        let names = [("dmi.vendor", &vendor), ("dmi.product", &product)];
        let told = names.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)));
        machine.labels = told.collect::<BTreeMap<_, _>>();
        let names = [vendor.as_deref().unwrap_or_default(), product.as_deref().unwrap_or_default()];
        let is_virtual = VIRTUAL.iter().any(|part| names.iter().any(|name| name.contains(part)));
        if !is_virtual {
            machine.instance_type = product.clone().unwrap_or_default();
        }
    }
    Dmi { vendor, product, provider, machine }
}

/// `i-` and 8 or 17 hexadecimal digits, as AWS names instances.
fn is_instance_id(tag: &str) -> bool {
    let digits = tag.strip_prefix("i-").unwrap_or_default();
    matches!(digits.len(), 8 | 17) && digits.chars().all(|c| c.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dmi(attributes: &[(&str, &str)]) -> Dmi {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in attributes {
            std::fs::write(folder.path().join(name), format!("{text}\n")).unwrap();
        }
        read(folder.path())
    }

    #[test]
    fn a_nitro_machine_tells_its_instances_id_and_type() {
        let found = dmi(&[
            ("sys_vendor", "Amazon EC2"),
            ("product_name", "p5.48xlarge"),
            ("board_asset_tag", "i-0123456789abcdef0"),
        ]);
        assert_eq!(found.provider, Some(Provider::Aws));
        let expected = ("i-0123456789abcdef0", "p5.48xlarge");
        assert_eq!((found.machine.instance_id.as_str(), found.machine.instance_type.as_str()), expected);
        assert!(found.machine.labels.is_empty());
        let odd =
            dmi(&[("sys_vendor", "Amazon EC2"), ("product_name", "p5.48xlarge"), ("board_asset_tag", "i-x")]);
        assert_eq!(odd.machine.instance_id, "");
    }

    #[test]
    fn other_clouds_are_known_by_their_marks() {
        let gcp = dmi(&[("sys_vendor", "Google"), ("product_name", "Google Compute Engine")]);
        assert_eq!((gcp.provider, gcp.machine), (Some(Provider::Gcp), Machine::default()));
        let azure = dmi(&[
            ("sys_vendor", "Microsoft Corporation"),
            ("product_name", "Virtual Machine"),
            ("chassis_asset_tag", AZURE_CHASSIS),
        ]);
        assert_eq!((azure.provider, azure.machine), (Some(Provider::Azure), Machine::default()));
    }

    #[test]
    fn a_servers_product_is_its_instance_type_and_a_hypervisors_is_not() {
        let server = dmi(&[("sys_vendor", "Dell Inc."), ("product_name", "PowerEdge XE9680")]);
        assert_eq!(server.machine.instance_type, "PowerEdge XE9680");
        assert_eq!(server.machine.labels["dmi.vendor"], "Dell Inc.");
        assert_eq!(server.machine.labels["dmi.product"], "PowerEdge XE9680");
        for (vendor, product) in [
            ("QEMU", "Standard PC (Q35 + ICH9, 2009)"),
            ("Red Hat", "KVM"),
            ("VMware, Inc.", "VMware20,1"),
            ("Microsoft Corporation", "Virtual Machine"),
            ("innotek GmbH", "VirtualBox"),
            ("ASUS", "System Product Name"),
            ("Supermicro", "To be filled by O.E.M."),
        ] {
            let found = dmi(&[("sys_vendor", vendor), ("product_name", product)]);
            assert_eq!(found.machine.instance_type, "", "{product}");
            assert_eq!(found.machine.labels["dmi.vendor"], vendor);
        }
    }

    #[test]
    fn a_machine_without_dmi_and_one_with_rubbish_have_no_facts() {
        assert_eq!(read(Path::new("/no/such/folder")), Dmi::default());
        assert_eq!(dmi(&[("sys_vendor", "a\u{1}b"), ("product_name", "")]), Dmi::default());
    }
}
