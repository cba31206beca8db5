use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::*;

const BOOT: &str = "boot-1";

struct Given {
    dir: tempfile::TempDir,
    jobs: Jobs,
}

fn given(gres_conf: &str) -> Given {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["jobs", "mapping"] {
        let path = dir.path().join(folder);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(dir.path().join("gres.conf"), gres_conf).unwrap();
    let jobs = Jobs::new(Paths {
        jobs: dir.path().join("jobs"),
        gres_conf: dir.path().join("gres.conf"),
        job_mapping: Some(dir.path().join("mapping")),
        procfs: dir.path().join("proc"),
        node: "n".to_owned(),
        ..Paths::default()
    });
    Given { dir, jobs }
}

/// A job's id, and of each device what it is and which part.
type Held = (String, Vec<(DeviceRef, u32, u32)>);

impl Given {
    fn note(&self, id: u32, lines: &str) {
        let text = format!("version=1\njob_id={id}\nboot_id={BOOT}\nstart_ns=5\nuser=ada\n{lines}\n");
        fs::write(self.dir.path().join(format!("jobs/.{id}")), text).unwrap();
        fs::rename(self.dir.path().join(format!("jobs/.{id}")), self.dir.path().join(format!("jobs/{id}")))
            .unwrap();
    }

    fn held(&mut self) -> Vec<Held> {
        let jobs = self.jobs.read(BOOT).iter();
        jobs.map(|job| {
            let devices = job.devices.iter().map(|device| (device.at, device.parts, device.of));
            (job.job_id.clone(), devices.collect())
        })
        .collect()
    }
}

fn minor(minor: u32) -> (DeviceRef, u32, u32) {
    (DeviceRef::Minor(minor), 1, 1)
}

#[test]
fn a_job_holds_the_devices_behind_its_indices_until_it_ends() {
    let mut given = given("Name=gpu File=/no/nvidia[3,1]\n");
    assert_eq!(given.held(), []);
    given.note(42, "gpus=0,1");
    assert_eq!(given.held(), [("42".to_owned(), vec![minor(3), minor(1)])]);
    let job = given.jobs.read(BOOT)[0].clone();
    assert_eq!((job.from_wall_ns, job.until_wall_ns, job.inferred), (Some(5), None, false));
    assert_eq!(job.user, "ada");
    given.note(42, "gpus=0,1\nend_ns=9");
    assert_eq!(given.jobs.read(BOOT)[0].until_wall_ns, Some(9));
    fs::remove_file(given.dir.path().join("jobs/42")).unwrap();
    assert_eq!(given.held(), []);
    assert_eq!(given.jobs.problems().count(), 0);
}

#[test]
fn a_file_of_another_boot_is_no_job() {
    let mut given = given("Name=gpu File=/no/nvidia0\n");
    given.note(42, "gpus=0");
    assert_eq!(given.jobs.read("boot-2"), []);
    assert_eq!(given.jobs.read(BOOT).len(), 1);
}

#[test]
fn a_shard_is_one_of_its_gpus_shards_and_mps_one_of_its_parts() {
    let mut given = given("Name=gpu File=/no/nvidia[0-1]\nName=shard Count=8\nName=mps Count=200\n");
    given.note(1, "gpus=1\nnode=n\ndetail=Nodes=n CPU_IDs=0 Mem=0 GRES=shard:3(IDX:1)");
    given.note(2, "gpus=0\nnode=n\ndetail=Nodes=n CPU_IDs=0 Mem=0 GRES=mps:50(IDX:0)");
    given.note(3, "gpus=0\nnode=n\ndetail=Nodes=n CPU_IDs=0 Mem=0 GRES=gpu:1(IDX:0)");
    let held = [(DeviceRef::Minor(1), 3, 4), (DeviceRef::Minor(0), 50, 100), minor(0)];
    let jobs = ["1", "2", "3"].map(str::to_owned).into_iter().zip(held.map(|device| vec![device]));
    assert_eq!(given.held(), jobs.collect::<Vec<_>>());
    assert!(given.jobs.read(BOOT).iter().all(|job| !job.inferred));
}

#[test]
fn a_job_on_shared_gpus_of_which_nobody_says_how_much_it_has_is_inferred_and_told() {
    let mut given = given("Name=gpu File=/no/nvidia0\nName=shard Count=8\n");
    given.note(1, "gpus=0");
    assert_eq!(given.held(), [("1".to_owned(), vec![minor(0)])]);
    assert!(given.jobs.read(BOOT)[0].inferred);
    assert!(given.jobs.problems().any(|problem| problem.contains("job 1") && problem.contains("scontrol")));
}

#[test]
fn an_index_that_nothing_explains_is_told_and_holds_nothing() {
    let mut given = given("Name=gpu File=/no/nvidia0\n");
    given.note(1, "gpus=0,7");
    assert_eq!(given.held(), [("1".to_owned(), vec![minor(0)])]);
    assert!(given.jobs.problems().any(|problem| problem.contains("index 7")));
}

#[test]
fn jobs_of_two_slurmd_on_one_host_have_their_own_indices() {
    let mut given =
        given("NodeName=a Name=gpu File=/no/nvidia[0-1]\nNodeName=b Name=gpu File=/no/nvidia[2-3]\n");
    given.note(1, "gpus=1\nnode=a");
    given.note(2, "gpus=1\nnode=b");
    assert_eq!(given.held(), [("1".to_owned(), vec![minor(1)]), ("2".to_owned(), vec![minor(3)])]);
}

#[test]
fn without_hooks_the_mapping_folder_says_who_holds_what() {
    let mut given = given("");
    fs::write(given.dir.path().join("mapping/0"), "7\n8\n").unwrap();
    fs::write(given.dir.path().join("mapping/1"), "7\n").unwrap();
    let index = |index, of| (DeviceRef::Index(index), 1, of);
    assert_eq!(
        given.held(),
        [("7".to_owned(), vec![index(0, 2), index(1, 1)]), ("8".to_owned(), vec![index(0, 2)])]
    );
    let job = &given.jobs.read(BOOT)[0];
    assert_eq!((job.from_wall_ns, job.user.as_str()), (None, ""));
    given.note(7, "gpus=0");
    assert_eq!(given.held()[0], ("7".to_owned(), vec![minor(0)]));
}

#[test]
fn a_file_that_is_no_job_s_is_told() {
    let mut given = given("");
    fs::write(given.dir.path().join("jobs/readme"), "x").unwrap();
    fs::write(given.dir.path().join("jobs/5"), "version=1\njob_id=6\n").unwrap();
    assert_eq!(given.held(), []);
    let problems: Vec<_> = given.jobs.problems().collect();
    assert!(problems.len() == 2 && problems.iter().any(|p| p.contains("job_id: \"6\"")), "{problems:?}");
}
