//! Alerts by e-mail, to a real mail server under TLS.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use harness::certificates::{Ca, Identity};
use harness::process::{Process, free_ports};
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};
use serde_json::{Value, json};

use super::{Site, file};

/// The one that Debian's packages are for.
const PYTHON: &str = "/usr/bin/python3";

/// Whether there is a mail server to be had; says so aloud where there is none.
#[allow(clippy::print_stderr, reason = "a skipped test has to say so")]
fn is_installed() -> bool {
    let asked = Command::new(PYTHON).args(["-c", "import aiosmtpd"]).output();
    let is_here = asked.is_ok_and(|output| output.status.success());
    if !is_here {
        eprintln!("SKIPPED: aiosmtpd is not installed here: see tests/install-needs");
    }
    is_here
}

/// `tests/smtp/server.py`, which begins away.
struct MailServer {
    folder: PathBuf,
    /// Of STARTTLS, and of TLS from the first byte.
    ports: [u16; 2],
    process: Option<Process>,
}

impl MailServer {
    fn new(world: &World, ca: &Ca) -> anyhow::Result<Self> {
        let folder = world.dir().join("mail");
        std::fs::create_dir_all(&folder)?;
        ca.server(&Identity::within(&folder, "server"))?;
        Ok(Self { folder, ports: free_ports()?, process: None })
    }

    fn start(&mut self) -> anyhow::Result<()> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("smtp/server.py");
        let mut command = Command::new(PYTHON);
        command.arg(script).arg(&self.folder).args(self.ports.map(|port| port.to_string()));
        let process = Process::start("mail server", &mut command, &self.folder.join("log"))?;
        let ready = self.folder.join("ready");
        wait_until(DEADLINE, "the mail server", || process.log_tail(), || Ok(ready.exists().then_some(())))?;
        self.process = Some(process);
        Ok(())
    }

    /// What is answered from now on, by word.
    fn answers(&self, answers: &Value) -> anyhow::Result<()> {
        // At once: it is read at any time.
        let new = self.folder.join("answers.new");
        std::fs::write(&new, answers.to_string())?;
        Ok(std::fs::rename(new, self.folder.join("answers.json"))?)
    }

    fn taken(&self) -> anyhow::Result<Vec<Value>> {
        let text = std::fs::read_to_string(self.folder.join("taken.jsonl")).unwrap_or_default();
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        Ok(whole.map(serde_json::from_str).collect::<Result<_, _>>()?)
    }
}

impl Site<MailServer> {
    /// Lets ledger time pass until the server has taken so many messages.
    fn until_mailed(&mut self, count: usize) -> anyhow::Result<Vec<Value>> {
        let (world, server) = (&mut self.world, &self.server);
        let shown = || format!("{:?}", server.taken());
        wait_until(DEADLINE, "mail", shown, || {
            world.advance(5_000_000_000)?;
            Ok((server.taken()?.len() >= count).then_some(()))
        })?;
        let taken = self.server.taken()?;
        ensure!(taken.len() == count, "{taken:?}");
        Ok(taken)
    }
}

/// A channel, with what differs from that of `mail`.
fn channel(world: &World, name: &str, port: u16, more: &str) -> String {
    let folder = world.dir().display();
    format!(
        r#"
        [[channel]]
        name = "{name}"
        kind = "email"
        server = "127.0.0.1:{port}"
        username = "tonnage"
        from = "Tonnage <tonnage@ledger.example.org>"
        to = ["ops@example.org", "Ada <ada@example.org>"]
        {more}
        [[rule]]
        name = "of {name}"
        kind = "spent"
        percent = 1
        channels = ["{name}"]
        "#
    )
    .replace("FOLDER", &folder.to_string())
}

const GOOD: &str = "password_file = \"FOLDER/right\"\nca_file = \"FOLDER/ca.pem\"";

fn header<'a>(message: &'a Value, name: &str) -> anyhow::Result<&'a str> {
    let data = message["data"].as_str().context("a message")?;
    let head = data.split("\r\n\r\n").next().unwrap_or_default();
    let value = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    value.with_context(|| format!("{name}: {data}"))
}

/// A world, a CA whose certificate is `ca.pem`, and the passwords `right` and `wrong`.
fn begin() -> anyhow::Result<(World, MailServer)> {
    let world = World::new(1)?;
    let ca = Ca::new("mail")?;
    ca.write(&world.dir().join("ca.pem"))?;
    Ca::new("stranger")?.write(&world.dir().join("stranger.pem"))?;
    file(&world, "right", "right\n")?;
    file(&world, "wrong", "guessed\n")?;
    let server = MailServer::new(&world, &ca)?;
    Ok((world, server))
}

#[test]
fn an_alert_goes_by_mail_under_tls_through_an_outage_and_a_kill_and_its_end_answers_to_it()
-> anyhow::Result<()> {
    if !is_installed() {
        return Ok(());
    }
    let (world, server) = begin()?;
    let rules = channel(&world, "mail", server.ports[0], GOOD);
    let mut site = Site::start(world, server, &rules)?;
    let hold = site.hold()?;
    site.until_result("failed", 1.0)?;
    site.world.aggregator.kill9()?;
    site.server.start()?;
    site.world.aggregator.start(DEADLINE)?;

    let mailed = site.until_mailed(1)?;
    let first = &mailed[0];
    ensure!(first["tls"] == true && first["user"] == "tonnage", "{first}");
    ensure!(first["from"] == "tonnage@ledger.example.org", "{first}");
    ensure!(first["to"] == json!(["ops@example.org", "ada@example.org"]), "{first}");
    let subject = header(first, "Subject")?;
    ensure!(subject.starts_with("[WARNING] of mail: physics: 1.0 % of its limit"), "{subject}");
    ensure!(
        first["data"].as_str().is_some_and(|data| data.contains("tonnage alert acknowledge ")),
        "{first}"
    );
    let id = header(first, "Message-ID")?;
    ensure!(id.ends_with(".trigger@ledger.example.org>"), "{id}");

    site.posted(&format!("/api/v1/holds/{hold}/void"), &json!({}), 200)?;
    let mailed = site.until_mailed(2)?;
    let second = &mailed[1];
    ensure!(header(second, "Subject")?.starts_with("[resolved] of mail"), "{second}");
    ensure!(header(second, "In-Reply-To")? == id && header(second, "References")? == id, "{second}");
    Ok(())
}

#[test]
fn what_a_mail_server_answers_decides_who_is_told_again_and_who_is_given_up() -> anyhow::Result<()> {
    if !is_installed() {
        return Ok(());
    }
    let (world, mut server) = begin()?;
    let [port, implicit] = server.ports;
    let from_the_start = format!("tls = \"implicit\"\n{GOOD}");
    let rules = [
        channel(&world, "mail", port, GOOD),
        channel(&world, "implicit", implicit, &from_the_start),
        channel(&world, "guessed", port, &GOOD.replace("right", "wrong")),
        channel(&world, "stranger", port, &GOOD.replace("ca.pem", "stranger.pem")),
    ];
    // One of two recipients is nobody there.
    let refused = ("ada@example.org", "550 5.1.1 no such user");
    server.answers(&json!({ "DATA": "451 4.3.0 later", refused.0: refused.1 }))?;
    server.start()?;
    let mut site = Site::start(world, server, &rules.concat())?;
    site.hold()?;
    // Put off; a stranger's certificate is no server's.
    site.until_result("failed", 5.0)?;
    ensure!(site.server.taken()?.is_empty());
    let given_up = |site: &Site<MailServer>, channel| {
        let labels = [("result", "refused"), ("channel", channel)];
        site.metric("tonnage_alert_deliveries_total", &labels)
    };
    ensure!(given_up(&site, "guessed")? > 0.5, "a wrong password is not tried again");
    let log = std::fs::read_to_string(site.world.aggregator.log())?;
    ensure!(log.contains("535") && log.contains("UnknownIssuer"), "{log}");
    ensure!(!log.contains("guessed\n") && !log.contains("password=\"guessed"), "{log}");

    // The other recipient is told, by either way of TLS.
    site.server.answers(&json!({ refused.0: refused.1 }))?;
    let mailed = site.until_mailed(2)?;
    for message in &mailed {
        ensure!(message["to"] == json!(["ops@example.org"]) && message["tls"] == true, "{message}");
    }
    let log = std::fs::read_to_string(site.world.aggregator.log())?;
    ensure!(log.contains("ada@example.org: ") && log.contains("no such user"), "{log}");
    for channel in ["mail", "implicit", "stranger"] {
        ensure!(given_up(&site, channel)? < 0.5, "{channel}");
    }
    Ok(())
}
