use super::*;

const GOOD: &str = "version=1\njob_id=42\nboot_id=b\nstart_ns=5\nuid=1000\nuser=ada\naccount=ml\npartition=gpu\ngpus=0,2-3\n";

fn part(gpu: u32, kind: PartKind, count: u32) -> Part {
    Part { gpu, kind, count, inferred: false }
}

#[test]
fn a_file_of_the_hooks_is_understood() {
    let file = parse(GOOD.as_bytes(), "42").unwrap();
    assert_eq!((file.start_ns, file.end_ns, file.uid), (Some(5), None, Some(1000)));
    assert_eq!((file.user.as_str(), file.account.as_str(), file.partition.as_str()), ("ada", "ml", "gpu"));
    assert_eq!((file.gpus, file.parts), (vec![0, 2, 3], None));
    assert_eq!((file.start_boot_ns, file.end_boot_ns), (None, None));
    let ended = format!("end_ns=9\nend_boot_s=17986.13\nstart_boot_s=0.07\n{GOOD}");
    let ended = parse(ended.as_bytes(), "42").unwrap();
    assert_eq!(ended.end_ns, Some(9));
    assert_eq!((ended.start_boot_ns, ended.end_boot_ns), (Some(70_000_000), Some(17_986_130_000_000)));
}

#[test]
fn what_is_wrong_is_named_with_its_value_and_what_would_be_right() {
    for (from, to, field) in [
        ("version=1", "version=2", "version"),
        ("job_id=42", "job_id=43", "job_id"),
        ("job_id=42", "job_id=../x", "job_id"),
        ("boot_id=b\n", "", "boot_id"),
        ("start_ns=5", "start_ns=-5", "start_ns"),
        ("start_ns=5", "start_ns=99999999999999999999", "start_ns"),
        ("user=ada", "start_boot_s=1.5", "start_boot_s"),
        ("user=ada", "end_boot_s=-1.50", "end_boot_s"),
        ("gpus=0,2-3", "gpus=", "gpus"),
        ("gpus=0,2-3", "gpus=3-2", "gpus"),
        ("gpus=0,2-3", "gpus=0-4000000000", "gpus"),
        ("user=ada", "user=a\u{7}", "user"),
        ("user=ada", "user=ada\nuser=eve", "line"),
        ("user=ada", "nonsense", "line"),
    ] {
        let error = parse(GOOD.replace(from, to).as_bytes(), "42").unwrap_err();
        assert_eq!(error.field, field, "{to}: {error}");
        assert!(error.to_string().contains(error.right), "{error}");
    }
    assert_eq!(parse(&[0xff], "42").unwrap_err().field, "file");
}

#[test]
fn a_key_of_a_later_version_is_left() {
    assert!(parse(format!("{GOOD}het_job_id=7\nnew=thing\n").as_bytes(), "42").is_ok());
}

#[test]
fn shards_and_mps_come_from_what_scontrol_says_of_this_node() {
    let detail = |detail: &str| parts(detail, "n2");
    let two = "Nodes=n1 CPU_IDs=0 Mem=0 GRES=gpu:1(IDX:3) Nodes=n[2-3] CPU_IDs=0 Mem=0 GRES=shard:2(IDX:1)";
    assert_eq!(detail(two), Some(vec![part(1, PartKind::Shard, 2)]));
    assert_eq!(detail("Nodes=n2 GRES=mps:50(IDX:0)"), Some(vec![part(0, PartKind::Mps, 50)]));
    let mixed = "Nodes=n2 GRES=craynetwork:1,gpu:a100:2(IDX:0,2),shard:a100:3(0/4,1/4,0/4,2/4)";
    let whole = [0, 2].map(|gpu| part(gpu, PartKind::Whole, 1));
    let shards = [(1, 1), (3, 2)].map(|(gpu, count)| part(gpu, PartKind::Shard, count));
    assert_eq!(detail(mixed), Some([whole, shards].concat()));
    assert_eq!(detail("Nodes=n1 GRES=shard:2(IDX:1)"), None);
    assert_eq!(detail("Nodes=n2 GRES=shard(CNT:4)"), None);
}

#[test]
fn shards_on_several_gpus_together_are_divided_evenly_and_said_to_be() {
    let shards = gres_parts("shard:5(IDX:0-1)").unwrap();
    assert_eq!(shards.iter().map(|part| (part.gpu, part.count)).collect::<Vec<_>>(), [(0, 3), (1, 2)]);
    assert!(shards.iter().all(|part| part.inferred));
}

#[test]
fn a_percentage_that_cannot_be_one_is_not_believed() {
    for (percent, known) in [("0", None), ("1666", None), ("50", Some(50))] {
        let text = format!("{GOOD}mps_percent={percent}\n");
        assert_eq!(parse(text.as_bytes(), "42").unwrap().mps_percent, known);
    }
}
