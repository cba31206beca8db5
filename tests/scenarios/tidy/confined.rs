//! One foreign library, one file: what it can do to us is then on one screen.

use super::{Source, has_word, none, sources};

/// A word of code, and the paths that may have it (a folder ends with a slash); `why` is what stands in a finding.
struct Confined {
    word: &'static str,
    only: &'static [&'static str],
    why: &'static str,
}

const RULES: &[Confined] = &[
    Confined {
        word: "nvml_wrapper",
        only: &["agent/src/driver/nvml/", "tests/nvml-sim/"],
        why: "NVML is touched below agent/src/driver/nvml alone",
    },
    Confined {
        word: "nvml_wrapper_sys",
        // The yardstick reads the driver as nakedly as can be.
        only: &["agent/src/driver/nvml/", "tests/nvml-sim/", "tests/bench/"],
        why: "NVML is touched below agent/src/driver/nvml alone",
    },
    Confined {
        word: "sled",
        only: &["agent/src/spool/store.rs"],
        why: "sled is touched in agent/src/spool/store.rs alone",
    },
    Confined {
        word: "rusqlite",
        only: &[
            "aggregator/src/store/sql.rs",
            "aggregator/src/store/sql/",
            // What only a file needs.
            "aggregator/src/store/embedded.rs",
            "aggregator/src/store/backup.rs",
            "aggregator/src/store/migrate.rs",
            "aggregator/src/store/migrate/",
        ],
        why: "SQLite is touched by its side of aggregator/src/store/sql alone, and where the ledger's file is handled",
    },
    Confined {
        word: "prometheus",
        only: &[
            "agent/src/metrics.rs",
            "agent/src/metrics/",
            "aggregator/src/metrics.rs",
            "aggregator/src/metrics/",
            // The server, not the library.
            "tests/scenarios/main.rs",
            "tests/scenarios/prometheus.rs",
        ],
        why: "metrics have one place in each process",
    },
    Confined {
        word: "procfs::process",
        only: &["agent/src/attribution/", "tests/nvml-sim/"],
        why: "/proc is read by attribution alone",
    },
    Confined {
        word: "pdf_writer",
        only: &["aggregator/src/export/pdf.rs"],
        why: "PDF is written in aggregator/src/export/pdf.rs alone",
    },
    Confined { word: "kube", only: &["aggregator/src/kubernetes/api.rs"], why: KUBE },
    Confined { word: "k8s_openapi", only: &["aggregator/src/kubernetes/api.rs"], why: KUBE },
    Confined {
        word: "lettre",
        only: &["aggregator/src/alerts/email.rs"],
        why: "mail is sent by aggregator/src/alerts/email.rs alone",
    },
    Confined { word: "rustls", only: TLS_FILES, why: TLS },
    Confined { word: "tokio_rustls", only: TLS_FILES, why: TLS },
    Confined { word: "webpki", only: TLS_FILES, why: TLS },
    Confined { word: "unsafe_code", only: UNSAFE_FILES, why: UNSAFE },
    Confined { word: "unsafe", only: UNSAFE_FILES, why: UNSAFE },
    Confined { word: "SystemTime::now", only: CLOCK, why: TIME },
    Confined { word: "Instant::now", only: CLOCK, why: TIME },
    Confined { word: "Timestamp::now", only: CLOCK, why: TIME },
    Confined { word: "Zoned::now", only: CLOCK, why: TIME },
    Confined { word: "clock_gettime", only: CLOCK, why: TIME },
    Confined { word: "UNIX_EPOCH.elapsed", only: CLOCK, why: TIME },
    Confined {
        word: "env::var",
        only: &["tests/nvml-sim/src/config.rs", "tests/disk-trace/src/config.rs"],
        why: "the environment is configuration: clap reads it in config.rs",
    },
    Confined {
        word: "env::var_os",
        // Tests have no command line: these say on which engine all of them run, and for how long with which seed.
        only: &[
            "tests/nvml-sim/src/config.rs",
            "tests/disk-trace/src/config.rs",
            "aggregator/src/store/tests.rs",
            "tests/scenarios/contract.rs",
        ],
        why: "the environment is configuration: clap reads it in config.rs",
    },
];
/// Its tests call it as C does.
const UNSAFE_FILES: &[&str] = &[
    "agent/src/driver/nvml/raw.rs",
    "runtime/src/heap.rs",
    "tests/nvml-sim/src/abi.rs",
    "tests/nvml-sim/src/abi/",
    "tests/nvml-sim/tests/",
    // Stands in for libc in a child process, to log and to fail what it does to its files.
    "tests/disk-trace/src/hooks.rs",
    "tests/disk-trace/src/sys.rs",
    // Calls CUDA, to load a real GPU.
    "tests/gpu/src/cuda.rs",
];
const TLS_FILES: &[&str] = &["runtime/src/tls.rs", "runtime/src/tls/"];
const TLS: &str = "TLS is spoken in runtime/src/tls.rs and below it alone";
const KUBE: &str = "the API server is asked in aggregator/src/kubernetes/api.rs alone";
const CLOCK: &[&str] = &["runtime/src/clock.rs"];
const TIME: &str = "time is an argument: only runtime/src/clock.rs reads a clock";
const UNSAFE: &str = "unsafe code has five places: the driver's raw calls, the heap's, the simulated driver's C side, the disk tracer's, and the GPU load's";

impl Confined {
    fn allows(&self, path: &str) -> bool {
        self.only.iter().any(|only| if only.ends_with('/') { path.starts_with(only) } else { path == *only })
    }

    /// Looks into unit tests too: a library that tests alone need has crept out as well.
    fn findings(&self, source: &Source) -> Vec<String> {
        // These files are full of the words in quotes.
        if self.allows(&source.path) || source.path.starts_with("tests/scenarios/tidy") {
            return Vec::new();
        }
        let whole = source.text.lines().enumerate();
        whole
            .filter(|(_, line)| has_word(line.split("//").next().unwrap_or_default(), self.word))
            .map(|(at, _)| format!("{}:{}: {}: {}", source.path, at + 1, self.word, self.why))
            .collect()
    }
}

/// SQL outside the store. A statement, not a word: text in capitals that begins like one.
fn sql(source: &Source) -> Vec<String> {
    let within = source.path.starts_with("aggregator/src/store/") || source.path == "aggregator/src/store.rs";
    if within || !source.path.starts_with("aggregator/src/") || source.is_test() {
        return Vec::new();
    }
    let begins =
        ["SELECT ", "INSERT ", "UPDATE ", "DELETE ", "CREATE TABLE", "PRAGMA ", "DROP ", "ALTER TABLE"];
    source.wrong("SQL belongs below aggregator/src/store", |line| {
        begins
            .iter()
            .any(|begin| line.contains(&format!("\"{begin}")) || line.trim_start().starts_with(begin))
    })
}

/// Methods of a connection that run statements, outside the store.
fn statements(source: &Source) -> Vec<String> {
    let handles =
        ["aggregator/src/commit", "aggregator/src/verify", "aggregator/src/admin.rs", "aggregator/src/api"];
    if source.is_test() || !handles.iter().any(|path| source.path.starts_with(path)) {
        return Vec::new();
    }
    let calls = [".prepare(", ".prepare_cached(", ".query_row(", ".execute(", ".execute_batch(", ".pragma_"];
    source.wrong("a statement runs outside the store", |line| calls.iter().any(|call| line.contains(call)))
}

#[test]
fn each_foreign_library_and_each_clock_is_touched_in_its_one_place() {
    let sources = sources();
    let of = |rule: &Confined| sources.iter().flat_map(|source| rule.findings(source)).collect::<Vec<_>>();
    none(&RULES.iter().flat_map(of).collect::<Vec<_>>());
}

#[test]
fn every_place_that_a_rule_names_is_there() {
    let sources = sources();
    for rule in RULES {
        for only in rule.only {
            assert!(
                sources.iter().any(|source| source.path.starts_with(only)),
                "{only} is gone: {}",
                rule.word
            );
        }
    }
}

#[test]
fn sql_is_below_the_store_alone() {
    none(&sources().iter().flat_map(|source| [sql(source), statements(source)].concat()).collect::<Vec<_>>());
}

#[test]
fn what_creeps_out_is_found() {
    let found = |path: &str, text: &str| {
        let source = Source::new(path, text);
        let confined = RULES.iter().flat_map(|rule| rule.findings(&source));
        confined.chain(sql(&source)).chain(statements(&source)).count()
    };
    for (path, text) in [
        ("agent/src/check.rs", "use nvml_wrapper::Nvml;\n"),
        ("agent/src/driver/nvml/mig.rs", "unsafe { x() }\n"),
        ("agent/src/spool.rs", "let db = sled::open(path)?;\n"),
        ("agent/src/spool/tests.rs", "let db = sled::open(path)?;\n"),
        ("aggregator/src/api/cost.rs", "use rusqlite::Connection;\n"),
        ("aggregator/src/store/write.rs", "use rusqlite::Connection;\n"),
        ("aggregator/src/kubernetes.rs", "use kube::Client;\n"),
        ("aggregator/src/commit.rs", "db.execute(sql, [])?;\n"),
        ("aggregator/src/commit/fold.rs", "let text = \"DELETE FROM slot\";\n"),
        ("aggregator/src/verify.rs", "    let text = concat!(\n        \"SELECT 1\"\n"),
        ("agent/src/uplink/tls.rs", "use tokio_rustls::TlsConnector;\n"),
        ("agent/src/uplink.rs", "let now = std::time::Instant::now();\n"),
        ("aggregator/src/serve.rs", "let now = SystemTime::now();\n"),
        ("agent/src/node.rs", "let token = std::env::var(\"TOKEN\");\n"),
        ("agent/src/spool.rs", "unsafe { x() }\n"),
        ("cli/src/main.rs", "#![allow(unsafe_code)]\n"),
        ("cli/src/top.rs", "#[cfg(test)]\nmod tests {\n    use sled::Db;\n}\n"),
    ] {
        assert_eq!(found(path, text), 1, "{path}: {text}");
    }
    for (path, text) in [
        ("agent/src/spool/store.rs", "use sled::Db;\n"),
        ("aggregator/src/store/sql.rs", "use rusqlite::Connection;\n"),
        ("agent/src/check.rs", "// sled and nvml_wrapper are elsewhere\n"),
        ("aggregator/src/store/write.rs", "db.execute(\"DELETE FROM slot\", [])?;\n"),
    ] {
        assert_eq!(found(path, text), 0, "{path}: {text}");
    }
}
