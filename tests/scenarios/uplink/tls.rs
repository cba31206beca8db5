//! TLS between real agents and a real ledger: who is let in by what, what both sides say where they do not match, and
//! new certificates under running processes.

use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use harness::certificates::{Ca, Identity};
use harness::process::tail;
use harness::scenario;
use harness::sim_clock::BEGIN_NS;
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};
use tonnage_aggregator::model::RowKind;

use crate::books::Books;

const S: i64 = 1_000_000_000;

/// A world whose ledger speaks TLS and asks for certificates.
struct Tls {
    world: World,
    client_ca: Ca,
    server: Identity,
    ca_file: PathBuf,
}

impl Tls {
    fn new(more: &[&str]) -> anyhow::Result<Self> {
        let mut world = World::new(1)?;
        let (ca, client_ca) = (Ca::new("ca")?, Ca::new("client-ca")?);
        let server = Identity::within(world.dir(), "server");
        let [ca_file, client_ca_file] = ["ca.pem", "client-ca.pem"].map(|name| world.dir().join(name));
        ca.write(&ca_file)?;
        client_ca.write(&client_ca_file)?;
        ca.server(&server)?;
        world.aggregator.insecure = false;
        let args = &mut world.aggregator.extra_args;
        args.extend(server.args());
        args.extend(["--tls-client-ca".to_owned(), client_ca_file.display().to_string()]);
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        Ok(Self { world, client_ca, server, ca_file })
    }

    /// A node with one GPU that trusts the ledger's CA and has no credential yet.
    fn node(&mut self, name: &str) -> anyhow::Result<usize> {
        let at = self.world.add_node(name, scenario::node(1))?;
        let node = &mut self.world.nodes[at];
        node.spec.uplink = node.spec.uplink.replace("http:", "https:");
        node.insecure = false;
        node.extra_args = vec!["--tls-ca".to_owned(), self.ca_file.display().to_string()];
        Ok(at)
    }

    /// The same with a certificate of these names, by `ca`; see [`Ca::client`].
    fn named(&mut self, name: &str, uris: &[&str]) -> anyhow::Result<(usize, Identity)> {
        let at = self.node(name)?;
        let identity = Identity::within(self.world.dir(), name);
        self.client_ca.client(&identity, uris, None)?;
        self.world.nodes[at].extra_args.extend(identity.args());
        Ok((at, identity))
    }

    /// Time passes until both logs say so.
    fn until_said(&mut self, node: usize, agent_says: &str, ledger_says: &str) -> anyhow::Result<()> {
        let logs = [self.world.nodes[node].log(), self.world.aggregator.log()];
        for (log, text) in logs.iter().zip([agent_says, ledger_says]) {
            let world = &mut self.world;
            wait_until(
                DEADLINE,
                text,
                || tail(log),
                || {
                    world.live(1)?;
                    Ok(said(log, text).then_some(()))
                },
            )?;
        }
        Ok(())
    }
}

fn said(log: &Path, text: &str) -> bool {
    std::fs::read_to_string(log).unwrap_or_default().contains(text)
}

fn uri(node: &str) -> String {
    format!("spiffe://example.org/tonnage/test/{node}")
}

fn idle_s(world: &World) -> anyhow::Result<i128> {
    let idle = Books::read(&world.aggregator.data_dir())?.time(RowKind::Idle, None);
    Ok(idle.values().sum::<i128>() / i128::from(S))
}

#[test]
fn a_node_bills_by_its_certificate_and_needs_no_token() -> anyhow::Result<()> {
    let mut tls = Tls::new(&["--require-client-cert"])?;
    let (at, _) = tls.named("n1", &[&uri("n1")])?;
    tls.world.start()?;
    tls.world.live(30)?;
    tls.world.nodes[at].stop(DEADLINE)?;
    assert_eq!(idle_s(&tls.world)?, 30);
    Ok(())
}

#[test]
fn a_token_is_enough_over_tls_unless_a_certificate_is_required() -> anyhow::Result<()> {
    for (more, billed_s) in [(&[][..], 20), (&["--require-client-cert"], 0)] {
        let mut tls = Tls::new(more)?;
        let at = tls.node("n1")?;
        let token = tls.world.aggregator.admin(&[
            "token",
            "add",
            "--name",
            "n1",
            "--cluster",
            "test",
            "--node",
            "n1",
        ])?;
        let file = tls.world.dir().join("token");
        std::fs::write(&file, token)?;
        tls.world.nodes[at].token_file = Some(file);
        tls.world.start()?;
        tls.world.live(20)?;
        if billed_s == 0 {
            tls.until_said(at, "fatal alert: CertificateRequired", "shows no certificate")?;
        } else {
            tls.world.nodes[at].stop(DEADLINE)?;
        }
        assert_eq!(idle_s(&tls.world)?, billed_s);
    }
    Ok(())
}

#[test]
fn a_certificate_that_does_not_name_this_node_is_refused_in_words_on_both_sides() -> anyhow::Result<()> {
    let mut tls = Tls::new(&[])?;
    let two = [uri("n2"), uri("n3")];
    let (other, _) = tls.named("n1", &[&uri("other")])?;
    let (many, _) = tls.named("n2", &[&two[0], &two[1]])?;
    let (none, _) = tls.named("n3", &[])?;
    let (stranger, stranger_files) = tls.named("n4", &[])?;
    Ca::new("another")?.client(&stranger_files, &[&uri("n4")], None)?;
    let (old, old_files) = tls.named("n5", &[])?;
    // Hours before the simulated time begins.
    tls.client_ca.client(&old_files, &[&uri("n5")], Some((2027, 1, 15)))?;
    let (forger, forger_files) = tls.named("n6", &[])?;
    Ca::new("client-ca")?.client(&forger_files, &[&uri("n6")], None)?;
    tls.world.start()?;
    let wrong_node = "its certificate is of node";
    tls.until_said(other, wrong_node, wrong_node)?;
    tls.until_said(many, "names more than one", "names more than one")?;
    tls.until_said(none, "has no URI", "has no URI")?;
    tls.until_said(stranger, "fatal alert: UnknownCA", "not trusted here")?;
    tls.until_said(forger, "fatal alert: DecryptError", "not signed by the CA")?;
    tls.until_said(old, "fatal alert: CertificateExpired", "not good")?;
    assert_eq!(Books::read(&tls.world.aggregator.data_dir())?.entries.len(), 0);
    // And whose ledger is of an unknown CA sends it nothing.
    let (wary, _) = tls.named("n7", &[&uri("n7")])?;
    let another = tls.world.dir().join("another-ca.pem");
    Ca::new("another")?.write(&another)?;
    tls.world.nodes[wary].extra_args[1] = another.display().to_string();
    tls.world.start()?;
    tls.until_said(wary, "not trusted here", "refused ours")
}

#[test]
fn plain_and_tls_that_meet_say_so_on_both_sides() -> anyhow::Result<()> {
    let mut tls = Tls::new(&[])?;
    let at = tls.world.add_node("plain", scenario::node(1))?;
    tls.world.start()?;
    tls.until_said(at, "use an https:// address", "NOT_TLS")?;

    let mut plain = World::new(1)?;
    let (at, _) = tls.named("n1", &[&uri("n1")])?;
    let tls_args = tls.world.nodes[at].extra_args.clone();
    let at = plain.add_node("n1", scenario::node(1))?;
    plain.nodes[at].spec.uplink = plain.aggregator.uplink().replace("http:", "https:");
    plain.nodes[at].extra_args = tls_args;
    std::mem::swap(&mut tls.world, &mut plain);
    tls.world.start()?;
    tls.until_said(at, "TLS: ", "NOT_PLAIN")
}

#[test]
fn new_certificates_are_taken_on_both_sides_without_a_restart() -> anyhow::Result<()> {
    let mut tls = Tls::new(&[])?;
    let (at, identity) = tls.named("n1", &[])?;
    tls.client_ca.client(&identity, &[&uri("n1")], Some((2027, 1, 16)))?;
    tls.world.start()?;
    tls.world.live(30)?;
    // A bad file changes nothing, and is told once.
    let (cert, log) = (tls.server.cert.clone(), tls.world.aggregator.log());
    let good = std::fs::read(&cert)?;
    std::fs::write(&cert, &good[..good.len() / 2])?;
    tls.until_said(at, "", "Kept the last good TLS files")?;
    assert!(!said(&log, "Took new TLS files"));
    // Another CA for the ledger, another certificate for the node; the stream goes on with what it has.
    let ca = Ca::new("next")?;
    ca.write(&tls.ca_file)?;
    ca.server(&tls.server)?;
    tls.client_ca.client(&identity, &[&uri("n1")], None)?;
    tls.until_said(at, "", "Took new TLS files")?;
    assert!(!said(&tls.world.nodes[at].log(), "The uplink ended"), "{}", tail(&tls.world.nodes[at].log()));
    // Until its certificate has expired: then only the new ones let it in again.
    let before_s = idle_s(&tls.world)?;
    tls.world.advance(17 * 3600 * S)?;
    tls.until_said(at, "no longer good", "no longer good")?;
    tls.world.nodes[at].stop(DEADLINE)?;
    let after_s = idle_s(&tls.world)?;
    assert!(before_s >= 30 && after_s > before_s, "{before_s} s, then {after_s} s");
    Ok(())
}

#[test]
fn another_client_ca_cuts_the_streams_of_the_old_one_and_loses_nothing() -> anyhow::Result<()> {
    let mut tls = Tls::new(&[])?;
    let (at, identity) = tls.named("n1", &[&uri("n1")])?;
    tls.world.start()?;
    tls.world.live(20)?;
    let next = Ca::new("next-client-ca")?;
    next.write(&tls.world.dir().join("client-ca.pem"))?;
    tls.until_said(at, "no longer good", "Took new TLS files")?;
    next.client(&identity, &[&uri("n1")], None)?;
    let lived_s = (tls.world.now().wall_ns - BEGIN_NS) / S;
    tls.world.nodes[at].stop(DEADLINE)?;
    assert_eq!(idle_s(&tls.world)?, i128::from(lived_s));
    Ok(())
}

#[test]
fn two_thousand_stalled_handshakes_are_bounded_and_keep_nobody_out() -> anyhow::Result<()> {
    const STALLED: usize = 2_000;
    let mut tls = Tls::new(&[])?;
    let (at, _) = tls.named("n1", &[&uri("n1")])?;
    tls.world.aggregator.start(DEADLINE)?;
    // Each has a descriptor here.
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: most.maximum, ..most };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised)?;
    let address = tls.world.aggregator.uplink().replace("http://", "");
    let mut stalled = Vec::with_capacity(STALLED);
    for at in 0..STALLED {
        let mut stream = TcpStream::connect(&address)?;
        // Every other one begins, and stops after half a header.
        if at % 2 == 0 {
            stream.write_all(&[0x16, 3, 1])?;
        }
        stalled.push(stream);
    }
    let id = tls.world.aggregator.process().expect("it runs").id();
    let open = || std::fs::read_dir(format!("/proc/{id}/fd")).map_or(0, Iterator::count);
    let aggregator = &tls.world.aggregator;
    let cut = || -> anyhow::Result<Option<()>> {
        let metrics = harness::http::Scrape::parse(&aggregator.get("/metrics")?.1)?;
        let family = metrics.families.get("tonnage_ingest_refused_streams_total");
        let cut: f64 = family.into_iter().flatten().map(|(_, count)| count).sum();
        Ok((cut >= (STALLED - 512) as f64).then_some(()))
    };
    wait_until(DEADLINE, "the oldest to be cut", || tail(&aggregator.log()), cut)?;
    assert!(open() < 600, "{} descriptors are open", open());
    tls.world.start()?;
    tls.world.live(20)?;
    tls.world.nodes[at].stop(DEADLINE)?;
    assert_eq!(idle_s(&tls.world)?, 20);
    drop(stalled);
    Ok(())
}

#[test]
fn check_says_what_is_wrong_with_each_file() -> anyhow::Result<()> {
    let mut tls = Tls::new(&[])?;
    let (at, identity) = tls.named("n1", &[&uri("n1")])?;
    let check = |tls: &Tls| -> anyhow::Result<String> {
        Ok(String::from_utf8_lossy(&tls.world.nodes[at].command("check").output()?.stdout).into_owned())
    };
    let good = check(&tls)?;
    assert!(good.contains("known by its certificate") && good.contains(&uri("n1")), "{good}");
    std::fs::write(&tls.ca_file, "no certificate")?;
    std::fs::remove_file(&identity.key)?;
    let bad = check(&tls)?;
    for says in ["PROBLEM  tls_ca: ", "holds no certificate", "PROBLEM  tls_key: ", "cannot be read"] {
        assert!(bad.contains(says), "{says}: {bad}");
    }
    Ok(())
}
