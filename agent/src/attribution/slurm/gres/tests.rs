use super::*;

fn gres(text: &str) -> Gres {
    parse(text, "n2", &[], &mut |_| None)
}

fn files(gres: &Gres) -> Vec<String> {
    gres.gpus.iter().map(|gpu| gpu.files.join("+")).collect()
}

#[test]
fn indices_follow_the_lines() {
    let gres = gres("AutoDetect=off\nName=gpu File=/dev/nvidia3\nname=GPU type=a100 file=/dev/nvidia[1,0]\n");
    assert_eq!(files(&gres), ["/dev/nvidia3", "/dev/nvidia1", "/dev/nvidia0"]);
    assert!(!gres.auto_detect && gres.problems.is_empty(), "{gres:?}");
}

#[test]
fn types_come_in_the_order_of_slurm_conf_and_no_more_than_it_counts() {
    let text = "Name=gpu Type=B File=/dev/nvidia7\nName=gpu Type=a File=/dev/nvidia6\n\
                Name=gpu Type=b File=/dev/nvidia[4-5]\n";
    let ordered = |types: &[(Option<&str>, u64)]| {
        let types: Vec<_> = types.iter().map(|(of, many)| (of.map(str::to_owned), *many)).collect();
        files(&parse(text, "n2", &types, &mut |_| None))
    };
    assert_eq!(ordered(&[(Some("a"), 1), (Some("b"), 2)]), ["/dev/nvidia6", "/dev/nvidia7", "/dev/nvidia4"]);
    assert_eq!(ordered(&[(Some("b"), 9)]), ["/dev/nvidia7", "/dev/nvidia4", "/dev/nvidia5"]);
    assert_eq!(ordered(&[(None, 2)]), ["/dev/nvidia7", "/dev/nvidia6"]);
    // Without slurm.conf it is not known.
    assert!(gres(text).unordered);
}

#[test]
fn lines_of_other_nodes_do_not_count() {
    let gres = gres(
        "NodeName=n1 Name=gpu File=/dev/nvidia9\nNodeName=n[2-4] Name=gpu File=/dev/nvidia1 # one\n\
         NodeName=n3,n2 AutoDetect=nvml\nNodeName=n22 Name=gpu File=/dev/nvidia8\n",
    );
    assert_eq!(files(&gres), ["/dev/nvidia1"]);
    assert!(gres.auto_detect);
}

#[test]
fn an_instance_is_one_gpu_of_several_files() {
    let gres = gres(
        "Name=gpu MultipleFiles=/dev/nvidia0,/dev/nvidia-caps/nvidia-cap21,/dev/nvidia-caps/nvidia-cap22\n\
         Name=gpu File=/dev/nvidia1\n",
    );
    assert_eq!(
        files(&gres),
        ["/dev/nvidia0+/dev/nvidia-caps/nvidia-cap21+/dev/nvidia-caps/nvidia-cap22", "/dev/nvidia1"]
    );
}

#[test]
fn shards_and_mps_are_divided_evenly_and_the_first_get_what_is_left() {
    let text =
        "Name=gpu File=/dev/nvidia[0-2]\nName=shard Count=8\nName=mps Count=1K File=/dev/nvidia[0-1]\n";
    let gpus = gres(text).gpus;
    assert_eq!(gpus.iter().map(|gpu| gpu.shards).collect::<Vec<_>>(), [3, 3, 2]);
    assert_eq!(gpus.iter().map(|gpu| gpu.mps).collect::<Vec<_>>(), [512, 512, 0]);
}

#[test]
fn shards_may_be_said_before_the_gpus() {
    let gpus = gres("Name=shard Count=4\nName=gpu File=/dev/nvidia[0-1]\n").gpus;
    assert_eq!(gpus.iter().map(|gpu| gpu.shards).collect::<Vec<_>>(), [2, 2]);
}

#[test]
fn an_included_file_stands_where_it_is_named() {
    let mut include = |path: &str| (path == "b.conf").then(|| "Name=gpu File=/dev/nvidia7".to_owned());
    let text = "Name=gpu File=/dev/nvidia5\ninclude b.conf\nName=gpu \\\n File=/dev/nvidia6\n";
    assert_eq!(
        files(&parse(text, "n2", &[], &mut include)),
        ["/dev/nvidia5", "/dev/nvidia7", "/dev/nvidia6"]
    );
}

#[test]
fn files_that_include_themselves_end() {
    let mut include = |_: &str| Some("include a\nName=gpu File=/dev/nvidia0".to_owned());
    let gres = parse("include a", "n2", &[], &mut include);
    assert!(gres.gpus.len() < FILES_MAX && gres.problems.len() == 1, "{gres:?}");
}

#[test]
fn what_is_wrong_is_named_with_what_would_be_right() {
    for (line, right) in [
        ("Name=gpu File=/dev/nvidia[3-1]", "/dev/nvidia[0-3]"),
        ("Name=shard Count=many", "a number"),
        ("Name=gpu nonsense", "Key=Value"),
        ("Include gone.conf", "can be read"),
    ] {
        let problems = gres(line).problems;
        assert!(problems[0].contains(line) && problems[0].contains(right), "{problems:?}");
    }
}
