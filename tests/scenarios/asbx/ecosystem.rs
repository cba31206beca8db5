//! How the parts stand: what nobody tells is unknown, and Slurm and an OpenCost are as they answer.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::Path;

use harness::process::free_ports;
use harness::slurm::{GresNode, Slurm};

use super::*;

/// State and detail of each part, by its name.
fn parts(world: &World, environment: &[(&str, &Path)]) -> anyhow::Result<BTreeMap<String, (String, String)>> {
    let mut command = Command::new(&world.binaries().cli);
    command.args(["--url", &world.aggregator.url(), "ecosystem", "-o", "json"]);
    command.env_remove("TONNAGE_TOKEN_FILE").envs(environment.iter().copied());
    let output = command.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let parts: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    let text = |part: &Value, field: &str| part[field].as_str().unwrap_or_default().to_owned();
    Ok(parts.iter().map(|of| (text(of, "part"), (text(of, "state"), text(of, "detail")))).collect())
}

/// Answers every question of an hour's costs: there are none. Ends with the process.
fn opencost() -> anyhow::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream);
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|length| length > 2) {
                line.clear();
            }
            let body = r#"{"code":200,"status":"success","data":[{}]}"#;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close", body.len());
            let _ = write!(reader.into_inner(), "{head}\r\n\r\n{body}");
        }
    });
    Ok(url)
}

fn is(parts: &BTreeMap<String, (String, String)>, part: &str, state: &str, says: &str) -> anyhow::Result<()> {
    let (is, detail) = parts.get(part).with_context(|| format!("{part}: {parts:?}"))?;
    ensure!(is == state && detail.contains(says), "{part} is not {state} {says:?}: {parts:?}");
    Ok(())
}

#[test]
fn slurm_and_an_opencost_are_as_they_answer_and_what_nobody_tells_is_unknown() -> anyhow::Result<()> {
    let mut world = begun(5)?;
    let none = world.dir().join("none");
    std::fs::create_dir_all(&none)?;
    let found = parts(&world, &[("PATH", &none)])?;
    is(&found, "aggregator", "ok", "ledger")?;
    is(&found, "slurm", "unknown", "scontrol is not on this machine")?;
    is(&found, "opencost", "unknown", "has none to ask")?;
    is(&found, "gate", "unknown", "no open hold")?;
    is(&found, "agents", "unknown", "0 of 0")?;

    let [port] = free_ports()?;
    for (upstream, state, says) in [
        (opencost()?, "ok", "1 requests answered, 0 failed"),
        // Nobody listens there.
        (format!("http://127.0.0.1:{}", free_ports::<1>()?[0]), "not ok", "the last request failed"),
    ] {
        world.aggregator.stop(DEADLINE)?;
        let listen = format!("127.0.0.1:{port}");
        world.aggregator.extra_args =
            ["--opencost-listen", &listen, "--opencost-upstream", &upstream].map(str::to_owned).to_vec();
        world.aggregator.start(DEADLINE)?;
        is(&parts(&world, &[("PATH", &none)])?, "opencost", "unknown", "has not asked it yet")?;
        http().get(format!("http://{listen}/allocation?window=1h")).call()?;
        is(&parts(&world, &[("PATH", &none)])?, "opencost", state, says)?;
    }

    let node = GresNode { minors: vec![0], ..GresNode::default() };
    let Some(slurm) = Slurm::start(&world.dir().join("slurm"), &[node])? else { return Ok(()) };
    let conf = slurm.conf();
    let found = parts(&world, &[("SLURM_CONF", &conf)])?;
    is(&found, "slurm", "ok", "is UP")?;
    is(&found, "slurm nodes", "ok", "1 idle")?;
    drop(slurm);
    let found = parts(&world, &[("SLURM_CONF", &conf)])?;
    is(&found, "slurm", "not ok", "is DOWN")?;
    ensure!(!found.contains_key("slurm nodes"), "{found:?}");
    Ok(())
}
