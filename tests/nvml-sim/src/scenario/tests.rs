use super::*;

const DEVICE: &str = "[[device]]\nuuid = 'GPU-a'\nmodel = 'H200'\nmemory_bytes = 1000\nminor = 0\n\
                      pci_bus_id = '00000000:3B:00.0'\nidle_mw = 1\nbusy_mw = 2\n";

const ON_MIG_1: &str = "[[process]]\npid = 7\ndevices = ['GPU-a']\ninstance = 'MIG-1'\nstart_s = 3\n";

/// A device that is cut into these.
fn mig(parts: &[&str]) -> String {
    let part = |part: &&str| format!("{{ {part}, gpu_instance = 1, compute_instance = 0 }}");
    format!("{DEVICE}mig = [{}]\n", parts.iter().map(part).collect::<Vec<_>>().join(", "))
}

fn refusal(text: &str) -> String {
    let error = Scenario::parse(text).unwrap_err();
    let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    format!("{error} {source}")
}

#[test]
fn a_field_that_does_not_exist_is_named() {
    let error = refusal("[[process]]\npid = 1\nstart_s = 0\nstat_s = 3");
    assert!(error.contains("stat_s"), "{error}");
}

#[test]
fn errors_name_the_field_and_the_value() {
    for (text, field, value) in [
        ("speed = 0", "speed", "0"),
        ("[[process]]\npid = 7\nstart_s = -1", "process[0].start_s", "-1"),
        ("[[process]]\npid = 7\nstart_s = 4\nend_s = 3", "process[0].end_s", "3"),
        ("[[process]]\npid = 7\nstart_s = 4\nrepeat_s = 3", "process[0].repeat_s", "3"),
        ("[[process]]\npid = 7\nstart_s = 4\ndevices = ['GPU-b']", "process[0].devices", "GPU-b"),
        ("[[process]]\npid = 7\nstart_s = 4\nutilisation = [[0, 101]]", "process[0].utilisation", "101"),
        ("[[process]]\npid = 7\nstart_s = 4\n[[process]]\npid = 7\nstart_s = 5", "process[1].pid", "7"),
        ("[[faults.hang]]\nfrom_s = 5\nto_s = 5", "faults.hang[0].to_s", "5"),
        ("[[faults.refuse]]\nfrom_s = -1\nwith = 'unknown'", "faults.refuse[0].from_s", "-1"),
        (
            "[[faults.refuse]]\nfrom_s = 1\nwith = 'unknown'\ndevices = ['GPU-b']",
            "faults.refuse[0].devices",
            "GPU-b",
        ),
        ("[[faults.garbage]]\nwhat = ['energy']\nfrom_s = 1e10", "faults.garbage[0].from_s", "10000000000"),
        ("[faults]\ndriver_version = [[7, 'b'], [6, 'a']]", "faults.driver_version", "6"),
        (&DEVICE.replace("3B:", "zz:"), "device[0].pci_bus_id", "00000000:zz:00.0"),
        (&format!("{DEVICE}{DEVICE}"), "device[1].uuid", "GPU-a"),
        (&mig(&["uuid = 'GPU-b', profile_slices = 1"]), "device[0].mig[0].uuid", "GPU-b"),
        (&mig(&["uuid = 'MIG-1', profile_slices = 8"]), "device[0].mig[0].profile_slices", "8"),
        (&mig(&["uuid = 'MIG-1', profile_slices = 1, to_s = 0"]), "device[0].mig[0].to_s", "0"),
        (&mig(&["uuid = 'MIG-1', profile_slices = 1"; 2]), "device[0].mig[1].uuid", "MIG-1"),
        (
            &mig(&["uuid = 'MIG-1', profile_slices = 4", "uuid = 'MIG-2', profile_slices = 4"]),
            "device[0].mig[1].profile_slices",
            "8",
        ),
        (&mig(&["uuid = 'MIG-1', profile_slices = 5"]), "device[0].mig[0].profile_slices", "5"),
        (&mig(&["uuid = 'MIG-1', profile = '3g.9gb'"]), "device[0].mig[0].profile", "3g.9gb"),
        (&mig(&["uuid = 'MIG-1', profile = '4c.3g.71gb'"]), "device[0].mig[0].profile", "4c.3g.71gb"),
        (&mig(&["uuid = 'MIG-1', profile_slices = 3, placement = 2"]), "device[0].mig[0].placement", "2"),
        (
            &mig(&["uuid = 'MIG-1', profile_slices = 3", "uuid = 'MIG-2', profile_slices = 3"]),
            "device[0].mig[1].compute_instance",
            "0",
        ),
        (&format!("{DEVICE}mig_from_s = 3"), "device[0].mig_from_s", "3"),
        (&format!("{DEVICE}mig = []\nmig_from_s = 3\nmig_to_s = 2"), "device[0].mig_to_s", "2"),
        (
            &format!("{DEVICE}signals = {{ ecc_corrected = [[0, 4], [1, 3]] }}"),
            "device[0].signals.ecc_corrected",
            "3",
        ),
        (&format!("{DEVICE}signals = {{ nvlinks = 19 }}"), "device[0].signals.nvlinks", "19"),
        (
            &format!("{DEVICE}xid = [{{ at_s = 1, code = 13, instance = 'MIG-1' }}]"),
            "device[0].xid[0].instance",
            "MIG-1",
        ),
        (
            &format!("{DEVICE}vgpu = [{{ uuid = 'v', vm = '', kind = 'k', memory_bytes = 1 }}]"),
            "device[0].vgpu[0].vm",
            "",
        ),
        (
            &format!("{}{}", mig(&["uuid = 'MIG-1', profile_slices = 1, to_s = 9"]), ON_MIG_1),
            "process[0].instance",
            "MIG-1",
        ),
    ] {
        let error = refusal(text);
        assert!(error.starts_with(&format!("{field}: {value}")), "{error}");
    }
}

#[test]
fn a_scenario_survives_being_written_and_read() {
    let text = format!(
        "epoch_ns = 5\n{}\
         [[process]]\npid = 7\nstart_s = 4\nend_s = 5.5\ndevices = ['GPU-a']\nutilisation = [[0, 1], [0.5, 2]]\n\
         lists = ['compute', 'mps']\ncgroup = ['0::/x']\nowner = 'who'",
        mig(&[
            "uuid = 'MIG-1', profile_slices = 3, to_s = 5",
            "uuid = 'MIG-1', profile_slices = 7, from_s = 5"
        ]),
    );
    let scenario = Scenario::parse(&text).unwrap();
    assert_eq!(Scenario::parse(&toml::to_string(&scenario).unwrap()).unwrap(), scenario);
}
