use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::attribution::Now;
use crate::attribution::devices::Devices;
use crate::attribution::dra_checkpoint::Checkpoint;
use crate::attribution::grants::Grant;
use crate::attribution::tests::device;

use super::*;

const BOOT: &str = "boot-1";
const S: i64 = 1_000_000_000;
/// The wall clock shows 1000 s more than the boot clock.
const NOW: Reading = Reading { wall_ns: 1_100 * S, monotonic_ns: 100 * S, boot_ns: 100 * S };

/// A moment as it is reckoned at [`NOW`].
fn at_ns(wall_ns: i64) -> Moment {
    Moment { wall_ns, boot_ns: wall_ns - 1_000 * S }
}

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
        let text = format!("version=1\njob_id={id}\nboot_id={BOOT}\nuser=ada\n{lines}\n");
        let text = if lines.contains("start_ns") { text } else { format!("start_ns=5\n{text}") };
        fs::write(self.dir.path().join(format!("jobs/.{id}")), text).unwrap();
        fs::rename(self.dir.path().join(format!("jobs/.{id}")), self.dir.path().join(format!("jobs/{id}")))
            .unwrap();
    }

    fn held(&mut self) -> Vec<Held> {
        let jobs = self.jobs.read(BOOT, NOW).iter();
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
    let job = given.jobs.read(BOOT, NOW)[0].clone();
    assert_eq!((job.from, job.until, job.inferred), (Some(at_ns(5)), None, false));
    assert_eq!(job.user, "ada");
    given.note(42, "gpus=0,1\nend_ns=9");
    assert_eq!(given.jobs.read(BOOT, NOW)[0].until, Some(at_ns(9)));
    fs::remove_file(given.dir.path().join("jobs/42")).unwrap();
    assert_eq!(given.held(), []);
    assert_eq!(given.jobs.problems().count(), 0);
}

#[test]
fn a_file_of_another_boot_is_no_job() {
    let mut given = given("Name=gpu File=/no/nvidia0\n");
    given.note(42, "gpus=0");
    assert_eq!(given.jobs.read("boot-2", NOW), []);
    assert_eq!(given.jobs.read(BOOT, NOW).len(), 1);
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
    assert!(given.jobs.read(BOOT, NOW).iter().all(|job| !job.inferred));
}

#[test]
fn a_job_on_shared_gpus_of_which_nobody_says_how_much_it_has_is_inferred_and_told() {
    let mut given = given("Name=gpu File=/no/nvidia0\nName=shard Count=8\n");
    given.note(1, "gpus=0");
    assert_eq!(given.held(), [("1".to_owned(), vec![minor(0)])]);
    assert!(given.jobs.read(BOOT, NOW)[0].inferred);
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
    let job = &given.jobs.read(BOOT, NOW)[0];
    assert_eq!((job.from, job.user.as_str()), (None, ""));
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

/// A job on `GPU-a`, whose minor is 0, as metering takes it, in seconds of ledger time, which is the boot clock's and 5000.
fn claimed(given: &mut Given, reading: Reading) -> Vec<(String, Option<i64>, Option<i64>)> {
    let checkpoint = Checkpoint::new("/no/such/file".into());
    let device = device();
    let devices = Devices::new(std::slice::from_ref(&device), &checkpoint, [].into_iter());
    let now = Now { reading, ledger_ns: reading.boot_ns + 5_000 * S };
    let in_s = |ns: i64| (ns - 5_000 * S) / S;
    let (grants, _) = grants(given.jobs.read(BOOT, reading), &devices, now);
    let claim =
        |grant: Grant| (grant.owner.job_id.clone(), grant.from_ns.map(in_s), grant.until_ns.map(in_s));
    grants.into_iter().map(claim).collect()
}

fn one(
    id: &str,
    from_s: impl Into<Option<i64>>,
    until_s: impl Into<Option<i64>>,
) -> Vec<(String, Option<i64>, Option<i64>)> {
    vec![(id.to_owned(), from_s.into(), until_s.into())]
}

/// `at_s` after boot, with a wall clock that is `set_s` ahead of what it was.
fn reading(at_s: i64, set_s: i64) -> Reading {
    Reading { wall_ns: (at_s + 1_000 + set_s) * S, monotonic_ns: at_s * S, boot_ns: at_s * S }
}

#[test]
fn a_job_holds_from_its_start_to_its_end_however_the_wall_clock_is_set() {
    for set_s in [-500, -3, 0, 3, 500] {
        let mut given = given("Name=gpu File=/no/nvidia0\n");
        let start = format!("start_ns={}\nstart_boot_s=90.00\ngpus=0", 1_090 * S);
        given.note(1, &start);
        assert_eq!(claimed(&mut given, reading(100, set_s)), one("1", 90, None), "{set_s}");
        given.note(1, &format!("{start}\nend_ns={}\nend_boot_s=110.00", (1_110 + set_s) * S));
        assert_eq!(claimed(&mut given, reading(120, set_s)), one("1", 90, 110), "{set_s}");
        assert_eq!(claimed(&mut given, reading(121, -set_s)), one("1", 90, 110), "{set_s}");
    }
}

#[test]
fn without_the_boot_clock_what_lies_in_the_future_is_unknown_or_now_and_stays_so() {
    let mut given = given("Name=gpu File=/no/nvidia0\n");
    given.note(1, &format!("start_ns={}\ngpus=0", 1_090 * S));
    assert_eq!(claimed(&mut given, reading(95, -500)), one("1", None, None));
    given.note(1, &format!("start_ns={}\nend_ns={}\ngpus=0", 1_090 * S, 1_099 * S));
    assert_eq!(claimed(&mut given, reading(100, -500)), one("1", None, 100));
    given.note(2, "gpus=7");
    assert_eq!(claimed(&mut given, reading(110, 0)), one("1", None, 100));
    assert_eq!(claimed(&mut given, reading(161, 0)), []);
}

#[test]
fn a_job_whose_end_was_lost_ends_where_another_was_given_its_gpu_and_that_is_told() {
    let start = |at_s: i64| format!("start_ns={}\ngpus=0", (1_000 + at_s) * S);
    for order in [[12, 15, 17], [17, 15, 12], [15, 17, 12]] {
        let mut given = given("Name=gpu File=/no/nvidia0\n");
        for id in order {
            given.note(id, &start(i64::from(id)));
            given.jobs.read(BOOT, NOW);
        }
        let ends = || [one("12", 12, 15), one("15", 15, 17), one("17", 17, None)].concat();
        assert_eq!(claimed(&mut given, reading(50, 0)), ends(), "{order:?}");
        let problems: Vec<_> = given.jobs.problems().collect();
        assert!(
            problems.len() == 2 && problems[0].starts_with("job 12 has no end, but job 15 was"),
            "{problems:?}"
        );
        // The end stays when the file of the next job goes.
        given.note(15, &format!("{}\nend_ns={}", start(15), 1_016 * S));
        claimed(&mut given, reading(50, 0));
        fs::remove_file(given.dir.path().join("jobs/15")).unwrap();
        assert_eq!(claimed(&mut given, reading(50, 0)), [one("12", 12, 15), one("17", 17, None)].concat());
    }
}

#[test]
fn jobs_that_share_a_gpu_or_may_do_so_do_not_end_one_another() {
    let mut given = given("Name=gpu File=/no/nvidia0\nName=shard Count=4\n");
    for (id, detail) in
        [(1, ""), (2, ""), (3, "GRES=shard:2(IDX:0)"), (4, "GRES=shard:4(IDX:0)"), (5, "GRES=gpu:1(IDX:0)")]
    {
        given.note(
            id,
            &format!("start_ns={}\ngpus=0\nnode=n\ndetail=Nodes=n {detail}", (1_000 + i64::from(id)) * S),
        );
    }
    assert!(claimed(&mut given, reading(50, 0)).iter().all(|(_, _, until)| until.is_none()));
}

#[test]
fn a_mapping_of_before_this_boot_holds_nothing() {
    let mut given = given("");
    fs::write(given.dir.path().join("mapping/0"), "7\n").unwrap();
    let written = fs::metadata(given.dir.path().join("mapping/0")).unwrap().modified().unwrap();
    let written_ns = written.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let booted = |at_ns: i64| Reading { wall_ns: at_ns + 100 * S, monotonic_ns: 100 * S, boot_ns: 100 * S };
    let written_ns = i64::try_from(written_ns).unwrap();
    assert!(given.jobs.read(BOOT, booted(written_ns + S)).is_empty());
    fs::write(given.dir.path().join("mapping/0"), "7\n8\n").unwrap();
    assert_eq!(given.jobs.read(BOOT, booted(written_ns - S)).len(), 2);
}

#[test]
fn where_a_hook_says_who_holds_a_device_the_mapping_does_not_count() {
    let mut given = given("Name=gpu File=/no/nvidia0\n");
    fs::write(given.dir.path().join("mapping/0"), "7\n").unwrap();
    assert_eq!(claimed(&mut given, reading(50, 0)), one("7", None, None));
    given.note(8, &format!("start_ns={}\ngpus=0", 1_010 * S));
    assert_eq!(claimed(&mut given, reading(50, 0)), one("8", 10, None));
}
