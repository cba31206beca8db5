use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use clap::Parser as _;

use super::*;
use crate::config::{Cli, Command};
use crate::model::{DeviceInfo, Gauges};

struct Given(tempfile::TempDir);

impl Given {
    fn new(slurm_conf: &str, gres_conf: &str) -> Self {
        let given = Self(tempfile::tempdir().unwrap());
        let fill = |text: &str| text.replace("DIR", given.0.path().to_str().unwrap());
        for (name, text) in [("slurm.conf", fill(slurm_conf)), ("gres.conf", fill(gres_conf))] {
            fs::write(given.0.path().join(name), text).unwrap();
        }
        for hook in ["prolog.sh", "epilog.sh"] {
            fs::write(given.0.path().join(hook), "#!/bin/sh\n/usr/local/lib/tonnage/hook\n").unwrap();
        }
        given
    }

    fn jobs(&self, mode: u32) {
        let path = self.0.path().join("jobs");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn check(&self) -> Findings {
        let conf = format!("--slurm.conf={}/slurm.conf", self.0.path().display());
        let jobs = format!("--slurm.jobs-dir={}/jobs", self.0.path().display());
        let args = ["tonnage-agent", "check", "--insecure-loopback", "--slurm.node=n", &conf, &jobs];
        let Command::Check(args) = Cli::try_parse_from(args).unwrap().command else { unreachable!() };
        let mut findings = Findings::default();
        slurm(
            &args.resolve().unwrap(),
            &[device("GPU-a", 3), device("GPU-b", 1)],
            Reading::default(),
            &mut findings,
        );
        findings
    }
}

fn device(uuid: &str, minor: u32) -> DeviceReading {
    let info = DeviceInfo {
        uuid: uuid.into(),
        model: "H100".to_owned(),
        memory_bytes: 1,
        slices: 1,
        minor: Some(minor),
        pci_bus_id: String::new(),
    };
    DeviceReading {
        index: 0,
        mig: None,
        info: Arc::new(info),
        processes: Ok(Vec::new()),
        vgpus: Vec::new(),
        utilisation: None,
        energy_mj: None,
        gauges: Gauges::default(),
        signals: Default::default(),
    }
}

const GOOD: &str =
    "ProctrackType=proctrack/cgroup\nprologflags=Serial,Alloc # so\ninclude hooks.conf\nEpilog=DIR/ep*.sh\n";

#[test]
fn a_node_that_is_set_up_has_no_problem_and_its_indices_are_told() {
    let given = Given::new(GOOD, "Name=gpu File=/no/nvidia[3,1]\n");
    fs::write(given.0.path().join("hooks.conf"), format!("Prolog={}/prolog.sh\n", given.0.path().display()))
        .unwrap();
    given.jobs(0o755);
    let Findings { text, problems } = given.check();
    assert_eq!(problems, 0, "{text}");
    for line in ["GRES index 0 is GPU-a", "GRES index 1 is GPU-b", "/prolog.sh", "/epilog.sh"] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[test]
fn each_thing_that_is_missing_is_told_with_what_to_do() {
    let given = Given::new("Prolog=/bin/true\n", "Name=gpu File=/no/nvidia[3,7]\n");
    given.jobs(0o777);
    let Findings { text, problems } = given.check();
    for part in ["PrologFlags=Alloc", "Prolog is /bin/true", "Epilog is not set", "go-w", "proctrack/cgroup"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(problems, 4, "{text}");
}

#[test]
fn an_index_whose_gpu_is_not_there_is_a_problem() {
    let given = Given::new(GOOD, "Name=gpu File=/no/nvidia[3,7]\n");
    let Findings { text, .. } = given.check();
    assert!(text.contains("GRES index 1 is minor 7"), "{text}");
}

#[test]
fn a_node_without_slurm_has_no_problem() {
    let given = Given::new("", "");
    fs::remove_file(given.0.path().join("slurm.conf")).unwrap();
    let Findings { text, problems } = given.check();
    assert!(problems == 0 && text.contains("no Slurm on this node"), "{text}");
}

#[test]
fn where_slurm_finds_gpus_by_itself_indices_are_said_to_be_inferred() {
    let given = Given::new(GOOD, "AutoDetect=nvml\n");
    let Findings { text, .. } = given.check();
    assert!(text.contains("GRES index 1 is taken to be GPU-b"), "{text}");
}
