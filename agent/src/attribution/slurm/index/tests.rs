use super::*;

struct Given {
    dir: tempfile::TempDir,
    paths: Paths,
}

fn given(gres_conf: &str) -> Given {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("gres.conf"), gres_conf).unwrap();
    let paths = Paths {
        gres_conf: dir.path().join("gres.conf"),
        slurm_conf: dir.path().join("slurm.conf"),
        procfs: dir.path().join("proc"),
        ..Paths::default()
    };
    Given { dir, paths }
}

impl Given {
    fn write(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn locate(&self, index: u32) -> Result<Located, String> {
        let mut indices = Indices::new(&self.paths);
        indices.refresh();
        indices.locate(index, "n")
    }
}

fn at(at: DeviceRef, inferred: bool) -> Located {
    Located { at, shards: 0, mps: 0, inferred }
}

#[test]
fn an_index_is_the_lines_device_not_its_number() {
    let given = given("Name=gpu File=/no/dev/nvidia3\nName=gpu File=/no/dev/nvidia1\nName=shard Count=8\n");
    let located = |minor| Located { shards: 4, ..at(DeviceRef::Minor(minor), false) };
    assert_eq!([0, 1].map(|index| given.locate(index)), [Ok(located(3)), Ok(located(1))]);
    let error = given.locate(2).unwrap_err();
    assert!(error.contains("index 2") && error.contains("--slurm.gpu-map"), "{error}");
}

#[test]
fn a_device_node_s_number_counts_more_than_its_name() {
    // Minor 3 of the memory devices.
    let given = given("Name=gpu File=/dev/null\n");
    assert_eq!(given.locate(0), Ok(at(DeviceRef::Minor(3), false)));
}

#[test]
fn a_file_that_is_neither_is_told() {
    let error = given("Name=gpu File=/no/card\n").locate(0).unwrap_err();
    assert!(error.contains("/no/card"), "{error}");
}

#[test]
fn an_instance_is_found_by_its_capabilities() {
    let given = given(
        "Name=gpu MultipleFiles=/dev/nvidia0,/dev/nvidia-caps/nvidia-cap[21-22]\n\
         Name=gpu File=/dev/nvidia-caps/nvidia-cap30\nName=gpu File=/dev/nvidia-caps/nvidia-cap99\n",
    );
    given.write(
        "proc/driver/nvidia-caps/mig-minors",
        "config 1\nmonitor 2\ngpu1/gi2/access 21\ngpu1/gi2/ci1/access 22\ngpu3/gi7/access 30\n",
    );
    let instance = |minor, gpu_instance, compute_instance| {
        Ok(at(DeviceRef::Instance { minor, gpu_instance, compute_instance }, false))
    };
    assert_eq!([0, 1].map(|index| given.locate(index)), [instance(1, 2, 1), instance(3, 7, 0)]);
    assert!(given.locate(2).unwrap_err().contains("mig-minors"));
}

#[test]
fn where_slurm_finds_gpus_by_itself_indices_are_inferred_from_minors() {
    let given = given("AutoDetect=nvml\n");
    assert_eq!(given.locate(1), Ok(at(DeviceRef::Minor(1), true)));
    for (pci, minor) in [("0000:18:00.0", 5), ("0000:3b:00.0", 2)] {
        let text = format!("Model: \t\t NVIDIA\nDevice Minor: \t {minor}\n");
        given.write(&format!("proc/driver/nvidia/gpus/{pci}/information"), &text);
    }
    let minors = [2, 5].map(|minor| Ok(at(DeviceRef::Minor(minor), true)));
    assert_eq!([0, 1].map(|index| given.locate(index)), minors);
    assert!(given.locate(2).is_err());
}

#[test]
fn what_is_found_and_listed_in_another_order_is_inferred() {
    let one = given("AutoDetect=nvml\nName=gpu File=/no/nvidia[0-1]\n");
    assert!(!one.locate(0).unwrap().inferred);
    let other = given("AutoDetect=nvml\nName=gpu File=/no/nvidia[1,0]\n");
    assert!(other.locate(0).unwrap().inferred);
}

#[test]
fn of_several_types_slurm_conf_says_which_come_first_and_without_it_all_is_inferred() {
    let given = given("Name=gpu Type=b File=/no/nvidia7\nName=gpu Type=a File=/no/nvidia6\n");
    assert_eq!(given.locate(0), Ok(at(DeviceRef::Minor(7), true)));
    given.write("slurm.conf", "NodeName=n Gres=gpu:a:1,gpu:b:1\n");
    assert_eq!(
        [0, 1].map(|index| given.locate(index)),
        [6, 7].map(|minor| Ok(at(DeviceRef::Minor(minor), false)))
    );
}

#[test]
fn what_a_person_said_counts() {
    let mut given = given("AutoDetect=nvml\nName=gpu File=/no/nvidia[1,0]\n");
    given.paths.gpu_map = BTreeMap::from([(0, PathBuf::from("/no/nvidia7"))]);
    assert_eq!(given.locate(0), Ok(at(DeviceRef::Minor(7), false)));
}

#[test]
fn a_changed_file_is_read_again() {
    let given = given("include more.conf\n");
    given.write("more.conf", "Name=gpu File=/no/nvidia4\n");
    let mut indices = Indices::new(&given.paths);
    assert!(indices.refresh());
    assert_eq!(indices.locate(0, "n").map(|located| located.at), Ok(DeviceRef::Minor(4)));
    assert!(!indices.refresh());
    given.write("more.conf", "Name=gpu File=/no/nvidia55\n");
    assert!(indices.refresh());
    assert_eq!(indices.locate(0, "n").map(|located| located.at), Ok(DeviceRef::Minor(55)));
}

#[test]
fn where_slurm_finds_mig_devices_by_itself_nothing_is_guessed() {
    let mut given = given("AutoDetect=nvml\n");
    given.write("proc/driver/nvidia-caps/mig-minors", "gpu0/gi1/access 12\n");
    given.write("proc/driver/nvidia/capabilities/mig/config", "");
    assert!(given.locate(0).is_ok(), "it is not divided");
    given.write("proc/driver/nvidia/capabilities/gpu0/mig/gi1/access", "");
    let error = given.locate(0).unwrap_err();
    assert!(error.contains("MIG") && error.contains("--slurm.gpu-map"), "{error}");
    given.paths.gpu_map = BTreeMap::from([(0, PathBuf::from("/no/nvidia7"))]);
    assert!(given.locate(0).is_ok());
}

#[test]
fn a_gres_conf_that_cannot_be_read_is_told_and_nothing_is_guessed_until_it_can() {
    let given = given("");
    fs::remove_file(given.dir.path().join("gres.conf")).unwrap();
    assert!(given.locate(0).is_ok(), "there is none");
    // Root may read any file, but a folder is none.
    fs::create_dir(given.dir.path().join("gres.conf")).unwrap();
    let mut indices = Indices::new(&given.paths);
    assert!(indices.refresh());
    assert!(indices.locate(0, "n").unwrap_err().contains("gres.conf"));
    assert!(
        indices.gres("n").problems.iter().any(|problem| problem.contains("let the agent's user read it"))
    );
    fs::remove_dir(given.dir.path().join("gres.conf")).unwrap();
    given.write("gres.conf", "Name=gpu File=/no/nvidia4\n");
    assert!(indices.refresh());
    assert_eq!(indices.locate(0, "n"), Ok(at(DeviceRef::Minor(4), false)));
    assert!(!indices.refresh());
}
