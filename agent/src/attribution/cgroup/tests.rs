use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

const UID: &str = "0b3f4b3e-8a0c-4b6e-9a55-0123456789ab";
const UID_: &str = "0b3f4b3e_8a0c_4b6e_9a55_0123456789ab";
const STATIC: &str = "0123456789abcdef0123456789abcdef";
const ID: &str = "89abcdef0123456789abcdef0123456789abcdef0123456789abcdef01234567";
const OTHER: &str = "ffffffff0123456789abcdef0123456789abcdef0123456789abcdef01234567";

fn v2(path: &str) -> Place {
    parse(format!("0::{path}\n").as_bytes())
}

fn pod_of(uid: &str) -> Place {
    Place::Pod { uid: uid.to_owned(), container_id: ID.to_owned() }
}

fn slurm_job(job: &str, step: &str, uid: Option<u32>) -> Place {
    Place::Slurm { job: job.to_owned(), step: step.to_owned(), uid }
}

fn unit(name: &str) -> Place {
    Place::Unit { name: name.to_owned() }
}

fn user(uid: u32) -> Place {
    Place::User { uid: Some(uid), container_id: String::new() }
}

#[test]
fn a_pod_is_known_in_every_shape_that_kubelets_write() {
    let paths = [
        format!(
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice/cri-containerd-{ID}.scope"
        ),
        format!("/kubepods.slice/kubepods-pod{UID_}.slice/crio-{ID}.scope"),
        format!(
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UID_}.slice/docker-{ID}.scope"
        ),
        format!("/kubepods.slice/kubepods-pod{UID_}.slice/crio-{ID}.scope/container"),
        format!("/kubepods/besteffort/pod{UID}/{ID}"),
        format!("/kubepods/pod{UID}/{ID}"),
        format!("/system.slice/containerd.service/kubepods-burstable-pod{UID_}.slice:cri-containerd:{ID}"),
        format!(
            "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UID_}.slice/cri-containerd-{ID}.scope"
        ),
        format!(
            "/system.slice/docker-{OTHER}.scope/kubelet.slice/kubelet-kubepods-pod{UID_}.slice/cri-containerd-{ID}.scope"
        ),
        format!("/docker/{OTHER}/kubelet/kubepods/burstable/pod{UID}/{ID}"),
        format!("/my.root/kubepods/burstable/pod{UID}/{ID}"),
        format!("/../../pod{UID}/{ID}"),
        format!(
            "/../../../kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice/cri-containerd-{ID}.scope"
        ),
        format!("/kubepods/burstable/pod{UID}/{ID} (deleted)"),
        format!("/kubepods/burstable/pod{UID}/{ID}/docker/{OTHER}"),
    ];
    for path in paths {
        assert_eq!(v2(&path), pod_of(UID), "{path}");
    }
    assert_eq!(v2(&format!("/kubepods/burstable/pod{STATIC}/{ID}")), pod_of(STATIC));
    assert_eq!(v2(&format!("/kubepods.slice/kubepods-pod{STATIC}.slice/crio-{ID}.scope")), pod_of(STATIC));
    let bare = Place::Pod { uid: UID.to_owned(), container_id: String::new() };
    assert_eq!(v2(&format!("/kubepods/burstable/pod{UID}")), bare);
}

#[test]
fn a_folder_made_within_a_pod_or_a_users_slice_is_no_evidence() {
    let victim = "11111111-8a0c-4b6e-9a55-0123456789ab";
    assert_eq!(v2(&format!("/kubepods/pod{UID}/{ID}/kubepods/pod{victim}/{OTHER}")), pod_of(UID));
    assert_eq!(
        v2(&format!("/kubepods/pod{UID}/{ID}/system.slice/slurmstepd.scope/job_1/step_0")),
        pod_of(UID)
    );
    let mine = "/user.slice/user-1000.slice/user@1000.service";
    let forged = v2(&format!("{mine}/kubepods/pod{victim}/{ID}"));
    assert_eq!(forged, Place::User { uid: Some(1000), container_id: ID.to_owned() });
    assert_eq!(v2(&format!("{mine}/slurm/job_7/step_0")), user(1000));
    assert_eq!(v2(&format!("{mine}/app.slice/jupyter.service")), user(1000));
    assert_eq!(v2("/system.slice/own.service/other.service"), unit("own.service"));
}

#[test]
fn what_only_looks_like_a_pod_is_none() {
    for path in [
        format!("/machine.slice/machine-libpod_pod_{ID}.slice"),
        format!("/kubepods/podx{UID}"),
        format!("/kubepods/tripod{UID}"),
        "/kubepods/pod1234".to_owned(),
        format!("/kubepods/pod{UID}-more"),
        "/kubepods.slice".to_owned(),
    ] {
        assert!(!matches!(v2(&path), Place::Pod { .. }), "{path}");
    }
}

#[test]
fn slurm_jobs_are_known_under_v1_v2_and_with_sluids() {
    let v1 = |path: &str| {
        parse(format!("4:memory:{path}\n1:name=systemd:/system.slice/slurmd.service\n").as_bytes())
    };
    assert_eq!(v1("/slurm/uid_1000/job_12/step_0/task_0"), slurm_job("12", "0", Some(1000)));
    assert_eq!(v1("/slurm_n1/uid_7/job_12/step_batch/task_1"), slurm_job("12", "batch", Some(7)));
    assert_eq!(v1("/slurm/system"), unit("slurmd.service"));
    let scope = "/system.slice/slurmstepd.scope";
    assert_eq!(v2(&format!("{scope}/job_99/step_extern/user/task_special")), slurm_job("99", "extern", None));
    assert_eq!(v2("/my.slice/n1_slurmstepd.scope/job_99/step_3/user/task_0"), slurm_job("99", "3", None));
    assert_eq!(
        v2(&format!("{scope}/s5K1KKYAYG5D00/step_0/user/task_0")),
        slurm_job("s5K1KKYAYG5D00", "0", None)
    );
    assert_eq!(v2(&format!("{scope}/system")), unit("slurmstepd.scope"));
    assert_eq!(v2(&format!("{scope}/job_x/step_0")), unit("slurmstepd.scope"));
}

#[test]
fn a_session_that_slurm_adopted_belongs_to_the_job() {
    let text = "5:cpuset:/slurm/uid_1000/job_5/step_extern/task_0\n\
                1:name=systemd:/user.slice/user-1000.slice/session-3.scope\n\
                0::/user.slice/user-1000.slice/session-3.scope\n";
    assert_eq!(parse(text.as_bytes()), slurm_job("5", "extern", Some(1000)));
}

#[test]
fn a_pod_is_found_in_any_hierarchy_of_a_hybrid_mount() {
    let text = format!(
        "12:cpuset:/kubepods/burstable/pod{UID}/{ID}\n1:name=systemd:/\n0::/system.slice/x.service\n"
    );
    assert_eq!(parse(text.as_bytes()), pod_of(UID));
}

#[test]
fn containers_without_a_pod_are_their_own_and_rootless_ones_their_users() {
    let container = Place::Container { id: ID.to_owned() };
    for path in [
        format!("/system.slice/docker-{ID}.scope"),
        format!("/docker/{ID}"),
        format!("/system.slice/docker.service/docker/{ID}"),
        format!("/machine.slice/libpod-{ID}.scope/container"),
        format!("/libpod_parent/libpod-{ID}"),
        format!("/docker/{ID}/user.slice/user-0.slice"),
    ] {
        assert_eq!(v2(&path), container, "{path}");
    }
    let rootless =
        format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container");
    assert_eq!(v2(&rootless), Place::User { uid: Some(1000), container_id: ID.to_owned() });
}

#[test]
fn units_sessions_and_users_are_told_apart() {
    assert_eq!(v2("/system.slice/jupyter.service"), unit("jupyter.service"));
    assert_eq!(v2("/system.slice/system-ollama.slice/ollama@0.service"), unit("ollama@0.service"));
    assert_eq!(v2("/init.scope"), unit("init.scope"));
    assert_eq!(v2("/user.slice/user-1000.slice/session-3.scope"), user(1000));
    assert_eq!(v2("/user.slice/user-1000.slice/user@1000.service/init.scope"), user(1000));
    assert_eq!(v2("/../session-3.scope"), Place::User { uid: None, container_id: String::new() });
    for nothing in ["/", "/system.slice", "/some/folder", ""] {
        assert_eq!(v2(nothing), Place::Nowhere, "{nothing}");
    }
}

#[test]
fn any_bytes_have_some_place() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let words = [
        "pod", UID, UID_, ID, "/", ":", "-", "_", ".slice", ".scope", "job_", "step_", "slurm", "é", "\n",
        "0::",
    ];
    for _ in 0..5_000 {
        let mut text = Vec::new();
        for _ in 0..rng.random_range(0..20) {
            if rng.random_bool(0.3) {
                text.push(rng.random());
            } else {
                text.extend(words[rng.random_range(0..words.len())].bytes());
            }
        }
        let _ = parse(&text);
    }
    assert_eq!(parse(&[b'x'; 2 * BYTES_MAX]), Place::Nowhere);
}
