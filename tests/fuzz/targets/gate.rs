//! What Slurm's submit plugin asks, and the marks that Slurm gives back: never a panic, never GPUs that are read as none, never more than
//! can be priced.

use rand::RngExt;
use rand::rngs::StdRng;
use tonnage_agent::gate::mark::Mark;
use tonnage_agent::gate::need::{GPUS_MAX, Need, SECONDS_MAX, Site};
use tonnage_agent::gate::request::{LINE_BYTES_MAX, Request};

use crate::mutate::{number, text};
use crate::target::{Target, promise};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const WORDS: &[&str] = &[
    " tres_per_node=gres:gpu:a100:4",
    " tres_per_job=gres:gpu:2",
    " tres_per_task=gres/gpu=1",
    " tres_per_socket=gpu:1(S:0-1),shard:3",
    " time_limit=60",
    " time_limit=4294967294",
    " partition_max_time=4294967295",
    " min_nodes=2",
    " max_nodes=65534",
    " num_tasks=8",
    " ntasks_per_node=3",
    " ntasks_per_tres=2",
    " sockets_per_node=2",
    " array_inx=0-9%252",
    " array_inx=1,3,0-15:4",
    " was.time_limit=30",
    " job=7",
    "modify",
    "%2c",
    "18446744073709551615",
    "mps:1k",
];

pub(crate) fn target() -> Target {
    Target { name: "gate-line", generate, warp, words: WORDS, bytes_max: LINE_BYTES_MAX + 1, check }
}

fn generate(rng: &mut StdRng) -> Vec<u8> {
    let gpus = WORDS[rng.random_range(0..4)];
    let more = WORDS[rng.random_range(7..15)];
    format!("submit token={TOKEN} user=u account=a time_limit={}{gpus}{more}", rng.random_range(1..1000))
        .into_bytes()
}

fn warp(bytes: Vec<u8>, rng: &mut StdRng) -> Vec<u8> {
    let keys =
        ["tres_per_node", "tres_per_job", "time_limit", "array_inx", "max_nodes", "num_tasks", "account"];
    let key = keys[rng.random_range(0..keys.len())];
    let value = if rng.random_bool(0.5) { number(rng).to_string() } else { text(rng) };
    let line = String::from_utf8_lossy(&bytes).into_owned();
    let mut words: Vec<&str> = line.split(' ').filter(|word| !word.starts_with(key)).collect();
    let word = format!("{key}={value}");
    words.push(&word);
    words.join(" ").into_bytes()
}

fn check(bytes: &[u8]) -> Result<bool, String> {
    let line = String::from_utf8_lossy(bytes);
    let request = match Request::parse(&line) {
        Ok(request) => request,
        Err(error) => {
            promise(!error.field.is_empty() && !error.right.is_empty(), || format!("{error:?}"))?;
            return Ok(false);
        }
    };
    // As the plugin makes a mark of it.
    let mark = Mark::find(&format!("tonnage:held:{}:{}", request.token, line.replace(' ', ";")));
    if let Some(mark) = mark.filter(|_| !line.contains(|c: char| c == ';' || c.is_whitespace() && c != ' ')) {
        promise(mark.request().as_ref() == Ok(&request), || format!("{mark:?} is not {request:?}"))?;
    }
    for fields in [request.ask.clone(), request.ask.over(&request.was)] {
        let Ok(need) = Need::of(&fields, Site { shards_per_gpu: 4, cpu_jobs: true }) else { continue };
        promise(need.gpus <= GPUS_MAX && need.seconds <= SECONDS_MAX, || format!("{need:?}"))?;
        promise(need.is_nothing() == (need.seconds == 0), || format!("{need:?}"))?;
        promise(need.beyond(&need).is_none(), || format!("{need:?} is more than itself"))?;
    }
    Ok(true)
}
