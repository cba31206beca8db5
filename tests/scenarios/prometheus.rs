//! Prometheus with the rules that come with Tonnage: promtool finds nothing in them, each alert is tested both ways, they
//! name what there is, and a real server evaluates all of them over real processes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use harness::http::{get, http};
use harness::process::{Process, free_ports};
use harness::scenario;
use harness::wait::wait_until;
use harness::world::World;
use serde_json::Value;

use crate::tidy;

const FOLDER: &str = "deploy/prometheus";
const SERVER: &str = "prometheus";
const PROMTOOL: &str = "promtool";
const RULES: [&str; 2] = ["recording.yaml", "alerts.yaml"];
/// Labels that Prometheus itself gives.
const ITS_LABELS: [&str; 3] = ["instance", "job", "le"];
const SEVERITIES: [&str; 3] = ["critical", "warning", "info"];
/// Windows close every ten seconds; a loaded machine takes longer.
const PATIENCE: Duration = Duration::from_secs(120);

fn file(path: &str) -> anyhow::Result<String> {
    let path = tidy::root().join(path);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The items of a list; none where there is none.
fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn rules_in(text: &str) -> anyhow::Result<Vec<Value>> {
    let parsed: Value = serde_saphyr::from_str(text)?;
    Ok(items(&parsed["groups"]).flat_map(|group| items(&group["rules"])).cloned().collect())
}

fn rules() -> anyhow::Result<Vec<Value>> {
    let texts = RULES.iter().map(|name| rules_in(&file(&format!("{FOLDER}/{name}"))?));
    Ok(texts.collect::<anyhow::Result<Vec<_>>>()?.concat())
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

/// What stands in quotes where metrics are made: their names, and those of their labels.
fn known() -> BTreeSet<String> {
    let is_of_metrics =
        |path: &str| ["agent", "aggregator"].iter().any(|of| path.starts_with(&format!("{of}/src/metrics")));
    let sources = tidy::sources().into_iter().filter(|source| is_of_metrics(&source.path));
    let quoted = |text: String| {
        let text = text.replace("\\\"", "");
        text.split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()
    };
    sources.flat_map(|source| quoted(source.code_text())).collect()
}

/// Labels that a rule selects by, groups by or shows.
fn labels(rule: &Value) -> Vec<String> {
    let expr = rule["expr"].as_str().unwrap_or_default();
    let after = |text: &str, word: &str, end: fn(char) -> bool| {
        let rests = text.split(word).skip(1);
        rests.map(|rest| rest.split(end).next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    let lists =
        ["by (", "on (", "ignoring (", "without ("].iter().flat_map(|of| after(expr, of, |c| c == ')'));
    let lists = lists.chain(after(expr, "{", |c| c == '}'));
    let name = |part: &str| part.trim().split(['=', '!']).next().unwrap_or_default().to_owned();
    let named = lists.flat_map(|list| list.split(',').map(name).collect::<Vec<_>>());
    named.chain(after(&rule["annotations"].to_string(), "$labels.", |c| !is_word(c))).collect()
}

/// Metrics and labels in rules that neither a source nor another rule makes.
fn unknown(rules: &[Value], known: &BTreeSet<String>) -> Vec<String> {
    let recorded: BTreeSet<&str> = rules.iter().filter_map(|rule| rule["record"].as_str()).collect();
    let is_made = |name: &str| {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        recorded.contains(name) || known.contains(name) || base.is_some_and(|base| known.contains(base))
    };
    let mut found = Vec::new();
    for rule in rules {
        let words = rule["expr"].as_str().unwrap_or_default().split(|c| !is_word(c));
        let names = words.filter(|word| word.contains("tonnage_") && !is_made(word));
        found.extend(names.map(|name| format!("no metric is called {name}")));
        let labels = labels(rule).into_iter();
        let labels = labels.filter(|of| !known.contains(of) && !ITS_LABELS.contains(&of.as_str()));
        found.extend(labels.map(|label| format!("no label is called {label:?}")));
    }
    found
}

/// Headings of a document, as links to them end.
fn anchors(document: &str) -> BTreeSet<String> {
    let headings = document.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let kept = |c: &char| c.is_alphanumeric() || *c == ' ' || *c == '-';
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        text.chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

/// By alert, whether promtool's tests have it fire, and have it not.
fn tested() -> anyhow::Result<BTreeMap<String, (bool, bool)>> {
    let mut tested: BTreeMap<String, (bool, bool)> = BTreeMap::new();
    for entry in std::fs::read_dir(tidy::root().join(FOLDER).join("tests"))? {
        let parsed: Value = serde_saphyr::from_str(&std::fs::read_to_string(entry?.path())?)?;
        for case in items(&parsed["tests"]).flat_map(|test| items(&test["alert_rule_test"])) {
            let name = case["alertname"].as_str().context("the name of an alert")?;
            let (fires, rests) = tested.entry(name.to_owned()).or_default();
            *if items(&case["exp_alerts"]).next().is_some() { fires } else { rests } = true;
        }
    }
    Ok(tested)
}

#[test]
fn rules_name_metrics_and_labels_that_there_are() -> anyhow::Result<()> {
    let (rules, known) = (rules()?, known());
    assert!(rules.len() > 10 && known.len() > 100, "{} rules, {} names", rules.len(), known.len());
    tidy::none(&unknown(&rules, &known));
    Ok(())
}

#[test]
fn a_metric_or_a_label_that_nobody_makes_is_found() -> anyhow::Result<()> {
    let text = file(&format!("{FOLDER}/alerts.yaml"))?;
    for (from, to, expected) in [
        ("tonnage_agent_spool_open ==", "tonnage_agent_spool_opne ==", "tonnage_agent_spool_opne"),
        ("tonnage_unposted_slots >", "tonnage_unposted_slot >", "tonnage_unposted_slot"),
        ("by (job, instance)", "by (job, node_name)", "node_name"),
        ("{code=~", "{status=~", "status"),
        ("$labels.namespace }}", "$labels.team }}", "team"),
    ] {
        assert!(text.contains(from), "{from}");
        let mut rules = rules_in(&text.replace(from, to))?;
        rules.extend(rules_in(&file(&format!("{FOLDER}/recording.yaml"))?)?);
        let found = unknown(&rules, &known());
        assert!(!found.is_empty() && found.iter().all(|of| of.contains(expected)), "{to}: {found:?}");
    }
    Ok(())
}

#[test]
fn every_alert_says_how_bad_it_is_and_what_to_do_and_is_tested_both_ways() -> anyhow::Result<()> {
    let (rules, tested) = (rules()?, tested()?);
    let anchors = anchors(&file("docs/operations.md")?);
    let mut found = Vec::new();
    for rule in rules.iter().filter(|rule| !rule["alert"].is_null()) {
        let name = rule["alert"].as_str().context("an alert's name")?;
        let mut must = |good: bool, what: &str| {
            if !good {
                found.push(format!("{name}: {what}"));
            }
        };
        let severity = rule["labels"]["severity"].as_str().unwrap_or_default();
        must(SEVERITIES.contains(&severity), "severity is none of critical, warning, info");
        for text in ["summary", "description"] {
            must(rule["annotations"][text].as_str().is_some_and(|text| !text.is_empty()), text);
        }
        let runbook = rule["annotations"]["runbook"].as_str().unwrap_or_default();
        let anchor = runbook.strip_prefix("docs/operations.md#");
        must(anchor.is_some_and(|anchor| anchors.contains(anchor)), "its runbook is no heading");
        let (fires, rests) = tested.get(name).copied().unwrap_or_default();
        must(fires, "no test has it fire");
        must(rests, "no test has it not fire");
    }
    tidy::none(&found);
    Ok(())
}

/// Whether Prometheus and promtool are installed; says so aloud where they are not.
#[allow(clippy::print_stderr, reason = "a skipped test has to say so")]
fn is_installed() -> bool {
    let is_here = |program: &str| Command::new(program).arg("--version").output().is_ok();
    let both = is_here(SERVER) && is_here(PROMTOOL);
    if !both {
        eprintln!("SKIPPED: Prometheus is not installed here: see tests/install-needs");
    }
    both
}

/// What promtool says below `folder`, if it is content.
fn promtool(folder: &Path, args: &[&str], input: &str) -> anyhow::Result<String> {
    let mut command = Command::new(PROMTOOL);
    command.args(args).current_dir(folder).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("its input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    anyhow::ensure!(output.status.success(), "promtool {args:?}: {}\n{said}", output.status);
    Ok(said)
}

#[test]
fn promtool_finds_nothing_in_the_rules_their_tests_and_the_example() -> anyhow::Result<()> {
    if !is_installed() {
        return Ok(());
    }
    let folder = tidy::root().join(FOLDER);
    promtool(&folder, &["check", "rules", "--lint=all", "--lint-fatal", RULES[0], RULES[1]], "")?;
    promtool(&folder, &["check", "config", "--lint=all", "--lint-fatal", "prometheus.yaml"], "")?;
    let mut tests = std::fs::read_dir(folder.join("tests"))?
        .map(|entry| Ok(format!("tests/{}", entry?.file_name().to_string_lossy())))
        .collect::<anyhow::Result<Vec<_>>>()?;
    tests.sort();
    let args: Vec<&str> = ["test", "rules"].into_iter().chain(tests.iter().map(String::as_str)).collect();
    promtool(&folder, &args, "")?;
    Ok(())
}

/// A server on loopback with the example's configuration; it ends when this is dropped.
struct Server {
    process: Process,
    url: String,
    http: ureq::Agent,
}

impl Server {
    /// Scrapes and evaluates every second.
    fn start(folder: &Path, agent: &str, aggregator: &str) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        for name in RULES {
            std::fs::write(folder.join(name), file(&format!("{FOLDER}/{name}"))?)?;
        }
        let mut config = file(&format!("{FOLDER}/prometheus.yaml"))?;
        for (from, to) in [
            ("_interval: 15s", "_interval: 1s"),
            ("gpu-01.example.org:9788", agent),
            ("ledger.example.org:7788", aggregator),
        ] {
            anyhow::ensure!(config.contains(from), "the example has no {from}");
            config = config.replace(from, to);
        }
        let file = folder.join("prometheus.yaml");
        std::fs::write(&file, config)?;
        let [port] = free_ports()?;
        let mut command = Command::new(SERVER);
        command.arg("--config.file").arg(&file).arg("--storage.tsdb.path").arg(folder.join("data"));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let process = Process::start(SERVER, &mut command, &folder.join("log"))?;
        Ok(Self { process, url: format!("http://127.0.0.1:{port}"), http: http() })
    }

    /// What its API answers; nothing while it does not.
    fn answer(&self, path: &str) -> Value {
        let answer = get(&self.http, &format!("{}/api/v1/{path}", self.url), None);
        let answer = answer.ok().filter(|(status, _)| *status == 200);
        answer.and_then(|(_, text)| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    /// Labels and values of the series of a name.
    fn series(&self, name: &str) -> Vec<(Value, f64)> {
        let answer = self.answer(&format!("query?query={name}"));
        let series = items(&answer["data"]["result"]);
        let value = |of: &Value| of["value"][1].as_str().and_then(|value| value.parse().ok());
        series.filter_map(|of| Some((of["metric"].clone(), value(of)?))).collect()
    }

    /// All rules as they are evaluated.
    fn rules(&self) -> Vec<Value> {
        let answer = self.answer("rules");
        items(&answer["data"]["groups"]).flat_map(|group| items(&group["rules"])).cloned().collect()
    }

    fn wait(&self, what: &str, is: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let context = || format!("{:#?}\n{}", self.rules(), self.process.log_tail());
        wait_until(PATIENCE, what, context, || Ok(is(self).then_some(())))
    }
}

#[test]
fn a_real_prometheus_scrapes_both_and_evaluates_every_rule() -> anyhow::Result<()> {
    if !is_installed() {
        return Ok(());
    }
    let mut world = World::in_real_time(1)?;
    let mut scenario = scenario::node(2);
    scenario.process.push(scenario::process(7, &scenario::unit("a.service"), &[0], 0.0));
    scenario.process.push(scenario::process(8, &scenario::slurm_v2(77, "0", 1000), &[1], 0.0));
    world.add_node("n", scenario)?;
    world.start()?;
    let address = |url: String| url.trim_start_matches("http://").to_owned();
    let (agent, aggregator) = (address(world.nodes[0].url()), address(world.aggregator.url()));
    let server = Server::start(&world.dir().join(SERVER), &agent, &aggregator)?;

    server.wait("both to be up", |server| {
        let up = server.series("up");
        ["tonnage-agent", "tonnage-aggregator"]
            .iter()
            .all(|job| up.iter().any(|(labels, value)| labels["job"] == *job && *value > 0.0))
    })?;
    server.wait("a recorded sum", |server| {
        let unobserved = server.series("instance:tonnage_gpu_unobserved_seconds:rate5m");
        unobserved.iter().any(|(labels, value)| labels["instance"] == agent.as_str() && *value >= 0.0)
    })?;
    server.wait("a price of what is held", |server| {
        let rates = server.series("tonnage_gpu_cost_rate_dollars_per_hour");
        rates.iter().any(|(labels, value)| labels["cluster"] == "test" && *value > 0.0)
    })?;
    server.wait("a Slurm job's number", |server| {
        let held = server.series("tonnage_gpu_held_seconds_total");
        held.iter().any(|(labels, _)| {
            labels.get("slurm_job").is_some_and(|job| job == "77") && labels["job"] == "tonnage-agent"
        })
    })?;
    let count = rules()?.len();
    server.wait("all rules to be evaluated without an error", |server| {
        let rules = server.rules();
        rules.len() == count && rules.iter().all(|rule| rule["health"] == "ok")
    })?;
    let is_firing = |rule: &Value| rule["type"] == "alerting" && rule["state"] == "firing";
    let firing: Vec<Value> = server.rules().into_iter().filter(is_firing).collect();
    assert!(firing.is_empty(), "nothing is wrong: {firing:#?}");

    let agents = world.nodes[0].get("/metrics")?.1;
    let aggregators = world.aggregator.get("/metrics")?.1;
    for (whose, text) in [("the agent", agents), ("the aggregator", aggregators)] {
        assert!(text.len() > 1_000, "{whose}: {text}");
        assert_eq!(promtool(world.dir(), &["check", "metrics"], &text)?, "", "{whose}");
    }

    world.nodes[0].kill9()?;
    server.wait("an alert of the agent that was killed", |server| {
        let rules = server.rules();
        rules.iter().any(|rule| rule["name"] == "TonnageAgentDown" && rule["state"] == "pending")
    })
}
