//! Something else than a gate answers, or nothing does: a submission waits no longer than it is told, and the policy decides.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex};

use tonnage_runtime::clock::Clock;

use super::*;

/// What is said to each line, and whether the connection is closed then.
type Says = (&'static [u8], bool);

/// Answers at a socket until the test ends.
fn answers(path: &Path) -> anyhow::Result<Arc<Mutex<Says>>> {
    let says: Arc<Mutex<Says>> = Arc::new(Mutex::new((b"", false)));
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    let said = Arc::clone(&says);
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming().flatten() {
            let mut line = String::new();
            let _ = BufReader::new(&stream).read_line(&mut line);
            let (text, closes) = said.lock().map_or((&b""[..], true), |says| *says);
            let _ = (&stream).write_all(text);
            if !closes {
                kept.push(stream);
            }
        }
    });
    Ok(says)
}

#[test]
fn a_gate_that_hangs_or_talks_nonsense_is_waited_for_no_longer_than_told_and_let_nothing_in()
-> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let Some(mut slurm) = Slurm::start(&dir.path().join("slurm"), &[four()])? else { return Ok(()) };
    let socket = slurm.dir().join("nonsense.sock");
    let says = answers(&socket)?;
    let nonsense: [Says; 9] = [
        (b"", false),
        (b"ok held tonna", false),
        (b"ok held tonna", true),
        (b"", true),
        (b"ok\n", true),
        (b"ok !held tonnage: x\n", true),
        (b"ok escrow=1;2 tonnage: x\n", true),
        (b"HTTP/1.1 200 OK\r\n\r\nok held\n", true),
        (b"\0\xff\xfe no\n", true),
    ];
    let clock = Clock::system();
    for policy in ["closed", "open"] {
        let settings =
            format!("socket = {:?}, deadline_ms = 300, policy = {policy:?}", socket.display().to_string());
        slurm.with_submit_plugin(&settings)?;
        for said in nonsense {
            *says.lock().map_err(|_| anyhow::anyhow!("a thread is gone"))? = said;
            let args = [
                "--parsable",
                "--account=research",
                "--chdir=/",
                "--hold",
                "--gpus=1",
                "--time=1",
                "--wrap=true",
            ];
            let began_ns = clock.monotonic_ns();
            let answer = slurm.run("sbatch", &args);
            let seconds = (clock.monotonic_ns() - began_ns) as f64 * 1e-9;
            // 0.3 s, and what sbatch takes on a busy machine.
            ensure!(seconds < 5.0, "{said:?}: {seconds} s");
            match (policy, answer) {
                ("closed", Err(error)) => {
                    let text = error.to_string();
                    ensure!(text.contains("the gate does not answer now"), "{said:?}: {text}");
                }
                ("open", Ok(text)) => {
                    let id = text.lines().find_map(|line| line.trim().parse::<u32>().ok()).context(text)?;
                    let shown = slurm.run("scontrol", &["show", "job", &id.to_string()])?;
                    // By which the next sweep books it.
                    ensure!(shown.contains("tonnage:open:"), "{said:?}: {shown}");
                }
                (_, answer) => anyhow::bail!("{policy}, {said:?}: {answer:?}"),
            }
        }
    }
    slurm.run("scancel", &["--user=root"])?;
    Ok(())
}
