//! The settings that `tonnage config init` writes, held against the processes that read them.

use std::collections::BTreeSet;

use clap::Parser as _;
use tonnage_runtime::settings::SettingsError;

use super::file;

/// Of each process: its file to begin with, and where its keys are declared.
const FILES: [(&str, &str); 3] = [
    ("aggregator", "aggregator/src/config.rs"),
    ("agent", "agent/src/config.rs"),
    ("gate", "agent/src/config/gate.rs"),
];

/// All settings, those that are commented out with them.
fn whole(text: &str) -> String {
    let lines =
        text.lines().map(|line| line.strip_prefix("# ").filter(|line| line.contains(" = ")).unwrap_or(line));
    lines.collect::<Vec<_>>().join("\n")
}

/// What the process says to a file of all of its settings.
fn read_by(process: &str, path: &str) -> Result<(), SettingsError> {
    use tonnage_agent::config as agent;
    use tonnage_aggregator::config as aggregator;
    let command = match process {
        "aggregator" => match aggregator::Cli::parse_from(["a", "serve", "--config", path]).command {
            aggregator::Command::Serve(args) => return args.resolve().map(drop),
            other => panic!("{other:?}"),
        },
        "agent" => agent::Cli::parse_from(["a", "run", "--config", path]).command,
        _ => agent::Cli::parse_from(["a", "gate", "--config", path]).command,
    };
    match command {
        agent::Command::Run(args) => args.resolve().map(drop),
        agent::Command::Gate(args) => args.resolve().map(drop),
        other => panic!("{other:?}"),
    }
}

#[test]
fn settings_to_begin_with_are_all_that_each_process_knows_and_no_others() -> anyhow::Result<()> {
    for (process, source) in FILES {
        let text = whole(&file(&format!("cli/src/commands/config/{process}.toml"))?);
        let source = file(source)?;
        let declared = source.split("struct File {\n").nth(1).and_then(|rest| rest.split("\n}").next());
        let keys: BTreeSet<&str> = declared
            .into_iter()
            .flat_map(str::lines)
            .filter_map(|line| Some(line.trim().split_once(": ")?.0))
            .filter(|key| !key.starts_with('#') && !key.starts_with('/'))
            .collect();
        let known: toml::Table = text.parse()?;
        let known: BTreeSet<&str> = known.keys().map(String::as_str).collect();
        assert_eq!(keys, known, "{process}");
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), &text)?;
        // Some stand in for each other, or name files that are not there; none is unknown or of another type.
        if let Err(error @ (SettingsError::Parse { .. } | SettingsError::Read { .. })) =
            read_by(process, &file.path().display().to_string())
        {
            panic!("{process}: {error}");
        }
    }
    Ok(())
}
