//! What is installed: systemd's units as systemd reads them, and the manifest for Kubernetes. Every flag in them is one
//! that the programs have, and nothing is mounted or allowed that nobody uses.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use harness::binaries::Binaries;
use serde_json::Value;

use crate::tidy;

/// Files of settings to begin with.
mod settings;
/// The units under a real systemd.
mod systemd;

/// Exposure by `systemd-analyze security`, in tenths, above which a unit is to be looked at again.
const EXPOSURE_MAX: [(&str, &str); 3] = [("agent", "25"), ("aggregator", "15"), ("gate", "20")];

fn file(path: &str) -> anyhow::Result<String> {
    let path = tidy::root().join(path);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

fn help(program: &PathBuf, command: &str) -> anyhow::Result<String> {
    Ok(String::from_utf8(Command::new(program).args([command, "--help"]).output()?.stdout)?)
}

/// The flags in a text of help.
fn flags(help: &str) -> BTreeSet<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
    let words = help.split(|c| !is_word(c)).filter(|word| word.starts_with("--"));
    words.map(|word| word.trim_end_matches('.').to_owned()).collect()
}

/// Everything below a key of an object in a list, by the value of `name`.
fn by_name<'a>(list: &'a Value, name: &str) -> BTreeMap<&'a str, &'a Value> {
    let items = list.as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(|item| Some((item[name].as_str()?, item))).collect()
}

/// What is wrong with an agent's manifest. `help` is the agent's.
fn findings(manifest: &str, help: &str) -> anyhow::Result<Vec<String>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(manifest)?;
    let of = |kind: &str| documents.iter().find(|document| document["kind"] == kind);
    let settings = of("ConfigMap").map(|map| map["data"].to_string()).unwrap_or_default();
    let pod = &of("DaemonSet").context("no DaemonSet")?["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let mut found = Vec::new();
    let mut must = |good: bool, what: &str| {
        if !good {
            found.push(what.to_owned());
        }
    };
    must(pod["hostPID"] == true, "hostPID: the driver's pids are the host's");
    must(pod["containers"].as_array().is_some_and(|all| all.len() == 1), "one container");
    must(pod["automountServiceAccountToken"] == false, "no token of the API server's");
    let account =
        of("ServiceAccount").is_some_and(|account| account["automountServiceAccountToken"] == false);
    must(account, "no token of the API server's");
    must(
        !documents.iter().any(|document| document["kind"].as_str().is_some_and(|kind| kind.contains("Role"))),
        "no rights",
    );
    let context = &container["securityContext"];
    must(context["privileged"].is_null(), "not privileged");
    must(context["readOnlyRootFilesystem"] == true, "readOnlyRootFilesystem");
    must(context["allowPrivilegeEscalation"] == false, "allowPrivilegeEscalation");
    must(context["capabilities"]["drop"] == serde_json::json!(["ALL"]), "drops all capabilities");
    must(context["capabilities"]["add"] == serde_json::json!(["SYS_ADMIN"]), "adds SYS_ADMIN alone");
    must(container["resources"]["limits"]["memory"] == "64Mi", "a limit on memory");
    let environment = by_name(&container["env"], "name");
    for (name, value) in [
        ("NVIDIA_VISIBLE_DEVICES", "all"),
        ("NVIDIA_DRIVER_CAPABILITIES", "utility"),
        ("NVIDIA_MIG_MONITOR_DEVICES", "all"),
    ] {
        must(environment.get(name).is_some_and(|variable| variable["value"] == value), name);
    }
    for name in environment.keys().filter(|name| name.starts_with("TONNAGE_")) {
        must(help.contains(&format!("[env: {name}=")), &format!("{name} is no setting of the agent"));
    }
    for probe in ["livenessProbe", "readinessProbe"] {
        must(container[probe]["httpGet"]["path"] == "/healthz", probe);
    }

    let args: Vec<&str> =
        container["args"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let known = flags(help);
    for arg in args.iter().filter(|arg| arg.starts_with('-')) {
        let flag = arg.split('=').next().unwrap_or_default();
        must(known.contains(flag), &format!("{flag} is no flag of the agent"));
    }
    let volumes = by_name(&pod["volumes"], "name");
    let mounts = by_name(&container["volumeMounts"], "name");
    for (name, mount) in &mounts {
        must(volumes.contains_key(name), &format!("mount {name} has no volume"));
        let path = mount["mountPath"].as_str().unwrap_or("?");
        let used =
            args.iter().any(|arg| arg.contains(path)) || settings.contains(path) || help.contains(path);
        must(used, &format!("{path} is mounted and not used"));
        must(mount["readOnly"] == true || *name == "spool", &format!("{path} may be written"));
    }
    for name in volumes.keys() {
        must(mounts.contains_key(name), &format!("volume {name} is not mounted"));
    }
    Ok(found)
}

#[test]
fn the_manifest_mounts_and_allows_what_the_agent_uses_and_no_more() -> anyhow::Result<()> {
    let help = help(&Binaries::find()?.agent, "run")?;
    let manifest = file("deploy/kubernetes/agent.yaml")?;
    tidy::none(&findings(&manifest, &help)?);
    Ok(())
}

#[test]
fn a_manifest_that_asks_for_more_or_names_what_is_not_there_is_found() -> anyhow::Result<()> {
    let help = help(&Binaries::find()?.agent, "run")?;
    let manifest = file("deploy/kubernetes/agent.yaml")?;
    for (from, to, expected) in [
        ("hostPID: true", "hostPID: false", "hostPID"),
        ("- --listen=", "- --listne=", "--listne is no flag"),
        ("allowPrivilegeEscalation: false", "privileged: true", "not privileged"),
        ("add: [SYS_ADMIN]", "add: [SYS_ADMIN, SYS_PTRACE]", "SYS_ADMIN alone"),
        ("--path.procfs=/host/proc", "--path.procfs=/proc", "/host/proc is mounted and not used"),
        (
            "- name: spool\n              mountPath",
            "- name: spol\n              mountPath",
            "spol has no volume",
        ),
        ("value: utility", "value: compute", "NVIDIA_DRIVER_CAPABILITIES"),
        ("- name: TONNAGE_NODE", "- name: TONNAGE_NDOE", "TONNAGE_NDOE is no setting"),
        ("path: /healthz", "path: /readyz", "livenessProbe"),
    ] {
        assert!(manifest.contains(from), "{from}");
        let found = findings(&manifest.replacen(from, to, 1), &help)?;
        assert!(found.iter().any(|finding| finding.contains(expected)), "{to}: {found:?}");
    }
    Ok(())
}

/// A unit with the built program in place of the installed one, which need not be there.
fn unit(name: &str) -> anyhow::Result<(tempfile::TempDir, PathBuf)> {
    let binaries = Binaries::find()?;
    let (program, installed) = match name {
        "aggregator" => (binaries.aggregator, "/usr/bin/tonnage-aggregator"),
        _ => (binaries.agent, "/usr/bin/tonnage-agent"),
    };
    let text = file(&format!("packaging/systemd/tonnage-{name}.service"))?;
    assert!(text.contains(installed), "{text}");
    let folder = tempfile::tempdir()?;
    let path = folder.path().join(format!("tonnage-{name}.service"));
    std::fs::write(&path, text.replace(installed, &program.to_string_lossy()))?;
    Ok((folder, path))
}

#[test]
fn systemd_understands_every_line_of_the_units() -> anyhow::Result<()> {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("SKIPPED: no systemd-analyze here");
        return Ok(());
    }
    for (name, exposure_max) in EXPOSURE_MAX {
        let (_folder, path) = unit(name)?;
        let verified = Command::new("systemd-analyze").arg("verify").arg(&path).output()?;
        let said = String::from_utf8_lossy(&verified.stderr).into_owned();
        // Of units that this machine has, it may say anything.
        let ours: Vec<&str> = said.lines().filter(|line| line.contains("tonnage")).collect();
        assert!(verified.status.success() && ours.is_empty(), "{said}");
        let threshold = format!("--threshold={exposure_max}");
        let analyze = ["security", "--offline=true", "--no-pager", &threshold];
        let judged = Command::new("systemd-analyze").args(analyze).arg(&path).output()?;
        assert!(judged.status.success(), "{name}: {}", String::from_utf8_lossy(&judged.stdout));
    }
    Ok(())
}

#[test]
fn the_units_wait_to_be_told_and_let_the_agent_see_what_it_meters() -> anyhow::Result<()> {
    let binaries = Binaries::find()?;
    for (name, program, command) in [
        ("agent", &binaries.agent, "run"),
        ("aggregator", &binaries.aggregator, "serve"),
        ("gate", &binaries.agent, "gate"),
    ] {
        let text = file(&format!("packaging/systemd/tonnage-{name}.service"))?;
        let lines: BTreeSet<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let environment = format!("EnvironmentFile=-/etc/tonnage/{name}.env");
        for line in ["Type=notify", "NoNewPrivileges=yes", "ProtectSystem=strict", environment.as_str()] {
            assert!(lines.contains(line), "{name}: {line}");
        }
        let start = lines.iter().find_map(|line| line.strip_prefix("ExecStart=")).context("no ExecStart")?;
        let file_name = program.file_name().unwrap_or_default().to_string_lossy();
        assert!(start.contains(&format!("/usr/bin/{file_name} {command}")), "{start}");
        assert!(flags(start).is_subset(&flags(&help(program, command)?)), "{start}");
        // Its folder is where the program looks without being told.
        let words: Vec<String> = help(program, command)?.split_whitespace().map(str::to_owned).collect();
        assert!(words.join(" ").contains(&format!("[default: /var/lib/tonnage-{name}")));
        assert!(lines.contains(format!("StateDirectory=tonnage-{name}").as_str()));
    }
    let agent = file("packaging/systemd/tonnage-agent.service")?;
    for hidden in
        ["ProtectProc=invisible", "ProcSubset=pid", "PrivateUsers=", "PrivateDevices=", "PrivatePIDs="]
    {
        assert!(!agent.lines().any(|line| line.starts_with(hidden)), "{hidden} blinds the agent");
    }
    Ok(())
}

#[test]
fn the_aggregators_role_reads_what_it_watches_and_no_more() -> anyhow::Result<()> {
    let manifest = file("deploy/kubernetes/aggregator-rbac.yaml")?;
    let documents: Vec<Value> =
        manifest.split("\n---\n").map(serde_saphyr::from_str).collect::<Result<_, _>>()?;
    let of = |kind: &str| documents.iter().find(|document| document["kind"] == kind).context(kind.to_owned());
    let (role, binding) = (of("ClusterRole")?, of("ClusterRoleBinding")?);
    let mut allowed = BTreeSet::new();
    for rule in role["rules"].as_array().context("no rules")? {
        assert_eq!(rule["verbs"], serde_json::json!(["list", "watch"]));
        for resource in rule["resources"].as_array().context("no resources")? {
            allowed.insert((rule["apiGroups"][0].as_str().unwrap_or("?"), resource.as_str().unwrap_or("?")));
        }
    }
    let watched = [("", "pods"), ("", "namespaces"), ("apps", "replicasets"), ("batch", "jobs")];
    assert_eq!(allowed, BTreeSet::from(watched));
    assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
    let account = &of("ServiceAccount")?["metadata"];
    for field in ["name", "namespace"] {
        assert_eq!(binding["subjects"][0][field], account[field]);
    }
    Ok(())
}
