//! What Slurm's hooks and administrators write: never a panic, never more than a node can have.

use rand::RngExt;
use rand::rngs::StdRng;
use tonnage_agent::attribution::slurm::{gres, hostlist, job_file, slurm_conf};

use crate::mutate::{number, text};
use crate::target::{Target, promise};

const NAME: &str = "42";
const JOB_WORDS: &[&str] = &[
    "gpus=0-3\n",
    "detail=Nodes=n[1-2] CPU_IDs=0 Mem=0 GRES=gpu:a100:1(IDX:0),shard:2(IDX:1)\n",
    "detail=Nodes=n1 GRES=shard:3(1/4,2/4)\n",
    "GRES=mps:50(IDX:0-1)",
    "Nodes=n1",
    "end_ns=2\n",
    "mps_percent=50\n",
    "account=ml\n",
    "(",
    ")",
    "IDX:",
    "-",
    ",",
    "=",
    "4294967295",
    "9223372036854775807",
];
const GRES_WORDS: &[&str] = &[
    "Name=gpu File=/dev/nvidia[0-3]\n",
    "NodeName=n[1-4,7] Name=gpu Type=a100 File=/dev/nvidia1\n",
    "Name=shard Count=8\n",
    "Name=mps Count=200 File=/dev/nvidia0\n",
    "Name=gpu MultipleFiles=/dev/nvidia0,/dev/nvidia-caps/nvidia-cap[21-22]\n",
    "AutoDetect=nvml\n",
    "NodeName=n[1-2] Gres=gpu:a100:1,gpu:2\n",
    "include more.conf\n",
    "[0-99999999]",
    "[0-9][0-9][0-9]",
    "Count=18446744073709551615K ",
    "\\\n",
    "#",
    ",",
    "[",
    "]",
    "-",
    "=",
];

pub(crate) fn job_file() -> Target {
    Target {
        name: "slurm-job-file",
        generate: job_generate,
        warp: job_warp,
        words: JOB_WORDS,
        bytes_max: (64 << 10) + 1,
        check: job_check,
    }
}

pub(crate) fn gres_conf() -> Target {
    Target {
        name: "slurm-gres-conf",
        generate: gres_generate,
        warp: gres_warp,
        words: GRES_WORDS,
        bytes_max: 1 << 17,
        check: gres_check,
    }
}

fn job_generate(rng: &mut StdRng) -> Vec<u8> {
    let first = rng.random_range(0..8);
    let gpus = format!("gpus={first},{}", first + rng.random_range(1..9));
    let mut text =
        format!("version=1\njob_id={NAME}\nboot_id=b\nstart_ns={}\nnode=n1\n", rng.random::<u32>());
    text += &gpus;
    text += "\n";
    // Not its first, which says the GPUs again.
    text += JOB_WORDS[rng.random_range(1..3)];
    text.into_bytes()
}

fn job_warp(bytes: Vec<u8>, rng: &mut StdRng) -> Vec<u8> {
    let mut whole = String::from_utf8_lossy(&bytes).into_owned();
    let key = ["start_ns", "end_ns", "gpus", "uid", "user", "account", "detail", "mps_percent"];
    let key = key[rng.random_range(0..key.len())];
    let value = if rng.random_bool(0.5) { number(rng).to_string() } else { text(rng) };
    whole = whole.lines().filter(|line| !line.starts_with(key)).map(|line| format!("{line}\n")).collect();
    whole += &format!("{key}={value}\n");
    whole.into_bytes()
}

fn job_check(bytes: &[u8]) -> Result<bool, String> {
    let file = match job_file::parse(bytes, NAME) {
        Ok(file) => file,
        Err(error) => {
            promise(!error.field.is_empty() && !error.right.is_empty(), || format!("{error:?}"))?;
            return Ok(false);
        }
    };
    let short = |text: &str| text.len() <= 256 && !text.chars().any(char::is_control);
    let names = [&file.user, &file.account, &file.partition, &file.node, &file.boot_id];
    let parts = file.parts.as_deref().unwrap_or_default();
    let good = file.job_id == NAME
        && names.into_iter().all(|name| short(name))
        && (1..=gres::GPUS_MAX).contains(&file.gpus.len())
        && parts.iter().all(|part| part.count > 0)
        && parts.len() <= 2 * gres::GPUS_MAX
        && file.start_ns.is_none_or(|ns| ns >= 0)
        && file.end_ns.is_none_or(|ns| ns >= 0);
    promise(good, || format!("{file:?}"))?;
    Ok(true)
}

fn gres_generate(rng: &mut StdRng) -> Vec<u8> {
    (0..rng.random_range(1..6)).flat_map(|_| GRES_WORDS[rng.random_range(0..8)].bytes()).collect()
}

fn gres_warp(mut bytes: Vec<u8>, rng: &mut StdRng) -> Vec<u8> {
    let key = ["NodeName", "Name", "File", "MultipleFiles", "Count", "AutoDetect"][rng.random_range(0..6)];
    let value = if rng.random_bool(0.5) { number(rng).to_string() } else { text(rng) };
    bytes.extend(format!("Name=gpu {key}={value}\n").bytes());
    bytes
}

fn gres_check(bytes: &[u8]) -> Result<bool, String> {
    let text = String::from_utf8_lossy(bytes);
    let mut included = 0;
    let types = slurm_conf::gpu_types(&text, "n1", &mut |_| None);
    promise(types.len() <= gres::GPUS_MAX, || format!("{} types", types.len()))?;
    let gres = gres::parse(&text, "n1", &types, &mut |_| {
        included += 1;
        Some("Name=gpu File=/dev/nvidia9\n".to_owned())
    });
    promise(gres.gpus.len() <= gres::GPUS_MAX, || format!("{} GPUs", gres.gpus.len()))?;
    promise(gres.problems.len() <= gres::FILES_MAX, || format!("{} problems", gres.problems.len()))?;
    promise(gres.gpus.iter().all(|gpu| !gpu.files.is_empty()), || "a GPU without a file".to_owned())?;
    // What is listed is found, and nothing is listed without a limit.
    let line = text.lines().next().unwrap_or_default();
    let names = hostlist::expand(line);
    promise(names.len() <= hostlist::MAX, || format!("{} names", names.len()))?;
    for name in names.iter().take(64) {
        promise(hostlist::contains(line, name), || format!("{name:?} of {line:?} is not found"))?;
    }
    Ok(!gres.gpus.is_empty())
}
