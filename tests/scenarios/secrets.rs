//! No token and no private key gets into what people read: logs at `trace`, answers, metrics, errors, the ledger's file.
//!
//! Secrets are told apart from names by their bytes: the test knows every one that it made, and greps for it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use harness::certificates::{Ca, Identity};
use harness::forged::Forged;
use harness::http::http;
use harness::scenario;
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};

/// Bytes of a secret that give it away.
const TELLING: usize = 12;

/// Everything that must not be read, and what was said by whom.
struct Watch {
    secrets: Vec<(String, String)>,
    said: Vec<(String, String)>,
}

impl Watch {
    fn secret(&mut self, what: &str, text: &str) {
        self.secrets.push((what.to_owned(), text.trim().to_owned()));
    }

    /// A key's lines, each a secret of its own.
    fn key(&mut self, what: &str, path: &Path) -> anyhow::Result<()> {
        for line in std::fs::read_to_string(path)?.lines().filter(|line| !line.starts_with('-')) {
            self.secret(what, line);
        }
        Ok(())
    }

    fn said(&mut self, who: &str, text: impl AsRef<[u8]>) {
        self.said.push((who.to_owned(), String::from_utf8_lossy(text.as_ref()).into_owned()));
    }

    /// Runs a command to its end; what it says is watched, how it ends is its own matter.
    fn run(&mut self, who: &str, command: &mut Command) -> anyhow::Result<String> {
        let output = command.stdin(Stdio::null()).output()?;
        let text = [output.stdout, output.stderr].concat();
        self.said(who, &text);
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn verdict(&self) -> anyhow::Result<()> {
        for (what, secret) in &self.secrets {
            anyhow::ensure!(secret.len() >= TELLING, "{what} is too short to look for");
            // Any part of it counts, so what was cut or escaped in the middle is seen too.
            let parts: Vec<&str> =
                (0..=secret.len() - TELLING).step_by(4).map(|at| &secret[at..at + TELLING]).collect();
            for (who, text) in &self.said {
                if let Some(part) = parts.iter().find(|part| text.contains(**part)) {
                    let at = text.find(part).unwrap_or(0);
                    let line = text[..at].lines().count();
                    anyhow::bail!("{what} stands in {who}, line {line}");
                }
            }
        }
        Ok(())
    }
}

fn written(world: &World, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    let path = world.dir().join(name);
    std::fs::write(&path, text)?;
    Ok(path)
}

/// A ledger with TLS and tokens, and all of its tokens: of a reader, of a node, removed, never known, too long.
fn world(watch: &mut Watch) -> anyhow::Result<(World, Vec<String>)> {
    let mut world = World::new(1)?;
    let ca = Ca::new("ca")?;
    let [ca_file, server] = [world.dir().join("ca.pem"), world.dir().join("server")];
    let server = Identity { cert: server.with_extension("pem"), key: server.with_extension("key") };
    ca.write(&ca_file)?;
    ca.server(&server)?;
    watch.key("the server's key", &server.key)?;
    world.aggregator.insecure = false;
    let args = &mut world.aggregator.extra_args;
    args.extend(server.args());
    args.extend(["--log-level", "trace", "--tls-client-ca"].map(str::to_owned));
    args.push(ca_file.display().to_string());
    let mut tokens = Vec::new();
    for add in [
        &["--name", "ann", "--role", "reader"][..],
        &["--name", "n1", "--cluster", "test", "--node", "n1"],
        &["--name", "gone", "--role", "admin"],
    ] {
        let token = world.aggregator.admin(&[&["token", "add"], add].concat())?;
        tokens.push(token.trim().to_owned());
    }
    let removed = world.aggregator.admin(&["token", "remove", "--name", "gone"])?;
    watch.said("token remove", removed);
    tokens.push(format!("tng_{}", "5eC3e7".repeat(11)));
    tokens.push(format!("tng_{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>()));
    for (at, token) in tokens.iter().enumerate() {
        watch.secret(&format!("token {at}"), token.trim_start_matches("tng_"));
    }
    Ok((world, tokens))
}

#[test]
fn a_part_of_a_secret_is_seen_wherever_it_stands() {
    let mut watch = Watch { secrets: Vec::new(), said: Vec::new() };
    watch.secret("a token", &"0123456789abcdef".repeat(4));
    watch.said("a log", "nothing\n0123456 89abcdef\n");
    watch.verdict().unwrap();
    watch.said("a log", "one\nError: \"6789abcdef0123456\"\n");
    assert!(watch.verdict().unwrap_err().to_string().contains("a token stands in a log, line 2"));
}

#[test]
fn no_token_and_no_key_stands_in_any_log_answer_metric_error_or_file() -> anyhow::Result<()> {
    let mut watch = Watch { secrets: Vec::new(), said: Vec::new() };
    let (mut world, tokens) = world(&mut watch)?;
    let token_files: Vec<PathBuf> = tokens
        .iter()
        .enumerate()
        .map(|(at, token)| written(&world, &format!("token-{at}"), token))
        .collect::<anyhow::Result<_>>()?;
    let key = world.dir().join("server.key");
    world.aggregator.start(DEADLINE)?;
    agents(&mut world, &mut watch, &token_files, &key)?;
    forged(&world, &mut watch, &tokens)?;
    rest(&mut world, &mut watch, &tokens)?;
    command_lines(&world, &mut watch, &tokens, &token_files, &key)?;
    watch.said("token list", world.aggregator.admin(&["token", "list"])?);
    world.aggregator.stop(DEADLINE)?;
    watch.said("the aggregator's log", std::fs::read(world.aggregator.log())?);
    for entry in std::fs::read_dir(world.aggregator.data_dir())? {
        let path = entry?.path();
        watch.said(&path.display().to_string(), std::fs::read(&path)?);
    }
    // What is watched did happen: a good node's usage came in, and every log is full of traces.
    let (log, agent) = (std::fs::read_to_string(world.aggregator.log())?, &world.nodes[0]);
    anyhow::ensure!(log.contains("TRACE") || log.contains("DEBUG"), "no traces");
    anyhow::ensure!(std::fs::read_to_string(agent.log())?.len() > 10_000, "no traces of an agent");
    watch.verdict()
}

/// Agents with each token and with a key for a token, for a while.
fn agents(world: &mut World, watch: &mut Watch, tokens: &[PathBuf], key: &Path) -> anyhow::Result<()> {
    let ca = world.dir().join("ca.pem").display().to_string();
    // The node's own first.
    let own = [&tokens[1], &tokens[0], &tokens[3], &tokens[4], &key.to_owned()];
    for (at, token) in own.into_iter().enumerate() {
        let name = format!("n{}", at + 1);
        let at = world.add_node(&name, scenario::node(1))?;
        let node = &mut world.nodes[at];
        node.spec.uplink = node.spec.uplink.replace("http:", "https:");
        node.token_file = Some(token.clone());
        node.extra_args = ["--tls-ca", &ca, "--log-level", "trace"].map(str::to_owned).to_vec();
    }
    world.start()?;
    world.live(15)?;
    for node in &world.nodes {
        watch.said("an agent's metrics", node.get("/metrics")?.1);
    }
    for (at, says) in [(0, "acked"), (1, "person's token"), (3, "not known"), (4, "not a token")] {
        let log = || std::fs::read_to_string(world.nodes[at].log()).unwrap_or_default();
        let metrics = || world.nodes[at].metrics().map(|m| m.sum("tonnage_agent_uplink_acked_total"));
        wait_until(
            DEADLINE,
            says,
            || harness::process::tail(&world.nodes[at].log()),
            || Ok((log().contains(says) || (at == 0 && metrics()? > Some(0.0))).then_some(())),
        )?;
    }
    for node in &mut world.nodes {
        node.kill9()?;
        watch.said("an agent's log", std::fs::read(node.log())?);
    }
    Ok(())
}

/// Who speaks gRPC by hand, without TLS: the token has left by then, and must not be told on.
fn forged(world: &World, watch: &mut Watch, tokens: &[String]) -> anyhow::Result<()> {
    for token in tokens {
        let mut agent = Forged::new(&world.aggregator.uplink(), "test", "n1")?;
        agent.token = Some(token.clone());
        let refused = agent.connect().err().map(|status| format!("{status:?}"));
        watch.said("a status", refused.unwrap_or_default());
    }
    Ok(())
}

/// Tokens in their header, and in every place where they do not belong.
fn rest(world: &mut World, watch: &mut Watch, tokens: &[String]) -> anyhow::Result<()> {
    for token in tokens {
        for given in [token.clone(), format!("{token}x"), token.to_uppercase()] {
            world.aggregator.token = Some(given);
            for path in ["/api/v1/nodes", "/api/v1/cost/pods?window=1d", "/metrics", "/nowhere"] {
                watch.said("an answer", world.aggregator.get(path)?.1);
            }
        }
        world.aggregator.token = Some(tokens[0].clone());
        for path in ["/api/v1/TOKEN", "/api/v1/nodes?TOKEN=1", "/api/v1/cost/pods?window=TOKEN", "/?a=TOKEN"]
        {
            watch.said("an answer", world.aggregator.get(&path.replace("TOKEN", token))?.1);
        }
        let url = format!("{}/api/v1/prices/check", world.aggregator.url());
        let request = http().post(&url).header("authorization", format!("Bearer {}", tokens[0]));
        let request = request.header("x-request-id", token);
        let mut answer = request.send(format!("currency = \"{token}\"\n"))?;
        watch.said("a price book's answer", answer.body_mut().read_to_string()?);
    }
    Ok(())
}

/// The three programs, with tokens and keys where they belong, and where they do not.
fn command_lines(
    world: &World,
    watch: &mut Watch,
    tokens: &[String],
    files: &[PathBuf],
    key: &Path,
) -> anyhow::Result<()> {
    let binaries = world.binaries();
    let url = world.aggregator.url();
    let path = |path: &Path| path.display().to_string();
    for file in files.iter().map(PathBuf::as_path).chain([key]) {
        let said = watch.run(
            "tonnage nodes",
            Command::new(&binaries.cli).args(["--url", &url, "--token-file", &path(file), "nodes"]),
        )?;
        anyhow::ensure!(!said.is_empty(), "the command says nothing");
        for args in
            [&["check-prices"][..], &["serve", "--config"], &["serve", "--tls-key", "x", "--tls-cert"]]
        {
            watch.run("tonnage-aggregator", Command::new(&binaries.aggregator).args(args).arg(file))?;
        }
        for args in [&["run", "--config"][..], &["check", "--driver", "none", "--token-file"]] {
            watch.run("tonnage-agent", Command::new(&binaries.agent).args(args).arg(file))?;
        }
    }
    for token in tokens {
        for (binary, args) in [
            (&binaries.cli, &["--token-file", "TOKEN", "nodes"][..]),
            (&binaries.cli, &["--token", "TOKEN", "nodes"]),
            (&binaries.cli, &["TOKEN"]),
            (&binaries.cli, &["--url", "TOKEN", "nodes"]),
            (&binaries.agent, &["run", "--token-file", "TOKEN"]),
            (&binaries.agent, &["run", "--token=TOKEN"]),
            (&binaries.agent, &["check", "--node", "TOKEN"]),
            (&binaries.aggregator, &["token", "add", "--role", "reader", "--name", "TOKEN"]),
            (&binaries.aggregator, &["token", "remove", "--name", "TOKEN"]),
            (&binaries.aggregator, &["serve", "--listen-http", "TOKEN"]),
        ] {
            let args: Vec<_> = args.iter().map(|arg| arg.replace("TOKEN", token)).collect();
            let said = watch.run("a wrong command line", Command::new(binary).args(&args))?;
            anyhow::ensure!(said.contains("write it to a file"), "{args:?}: no advice: {said}");
        }
        let environment = [("TONNAGE_TOKEN_FILE", token.as_str()), ("TONNAGE_URL", &url)];
        let mut cli = Command::new(&binaries.cli);
        let said = watch.run("tonnage", cli.envs(environment).arg("nodes"))?;
        anyhow::ensure!(said.contains("write it to a file"), "no advice: {said}");
        let mut agent = Command::new(&binaries.agent);
        watch.run("tonnage-agent", agent.envs(environment).args(["check", "--driver", "none"]))?;
        for line in
            ["token = 'TOKEN'", "token_file = 'TOKEN'", "token_file = TOKEN", "TOKEN", "period_ms = 'TOKEN'"]
        {
            let config = written(world, "settings.toml", &line.replace("TOKEN", token))?;
            for (binary, what) in [(&binaries.agent, "check"), (&binaries.aggregator, "serve")] {
                watch.run("settings", Command::new(binary).args([what, "--config", &path(&config)]))?;
            }
        }
    }
    Ok(())
}
