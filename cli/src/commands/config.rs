//! `tonnage config`: a file of settings to begin with, and whether one has keys and types that its process knows. Asks no server.
//!
//! What is known is what stands in the files beside this one, which a test holds against the processes themselves. Whether a value is good
//! (an address, a path) its process says when it starts, and `tonnage-agent check` before that.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use toml::Table;

use crate::args::moved::{Config, Process};
use crate::error::Error;

const FILE_BYTES_MAX: u64 = 1 << 20;

fn template(process: Process) -> &'static str {
    match process {
        Process::Aggregator => include_str!("config/aggregator.toml"),
        Process::Agent => include_str!("config/agent.toml"),
        Process::Gate => include_str!("config/gate.toml"),
    }
}

pub(super) fn config(command: Config, out: &mut dyn Write) -> Result<(), Error> {
    match command {
        Config::Init { process, file: None } => out.write_all(template(process).as_bytes())?,
        Config::Init { process, file: Some(path) } => {
            // What somebody wrote is never written over.
            let file = OpenOptions::new().write(true).create_new(true).open(&path);
            file.and_then(|mut file| file.write_all(template(process).as_bytes()))
                .map_err(|source| Error::Write { path: path.clone(), source })?;
            writeln!(out, "{}", crate::output::plain(&format!("{}: written", path.display())))?;
        }
        Config::Validate { process, file } => {
            let text = read(&file)?;
            validate(process, &text).map_err(|reason| Error::File { path: file.clone(), reason })?;
            writeln!(
                out,
                "{}",
                crate::output::plain(&format!("{}: its keys and types are known", file.display()))
            )?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > FILE_BYTES_MAX {
        let reason = format!("is larger than {FILE_BYTES_MAX} bytes");
        return Err(Error::File { path: path.to_owned(), reason });
    }
    std::fs::read_to_string(path).map_err(failed)
}

/// Says what is wrong first. Values are left out of it: one may be a secret.
fn validate(process: Process, text: &str) -> Result<(), String> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().and_then(|span| text.get(..span.start));
        let line = line.map(|before| before.matches('\n').count() + 1);
        line.map_or_else(|| error.message().to_owned(), |line| format!("line {line}: {}", error.message()))
    })?;
    let known = whole(process);
    for (key, value) in &table {
        let Some(example) = known.get(key) else {
            let keys: Vec<&str> = known.keys().map(String::as_str).collect();
            return Err(format!("{key}: is no setting of this process; there are {}", keys.join(", ")));
        };
        if value.type_str() != example.type_str() {
            let (is, right) = (value.type_str(), example.type_str());
            return Err(format!(
                "{key}: is of the type {is}, and has to be a {right}, as in {key} = {example}"
            ));
        }
        let elements = value.as_array().into_iter().flatten();
        if elements.clone().any(|element| !element.is_str()) {
            return Err(format!("{key}: has to be a list of strings, as in {key} = {example}"));
        }
        if value.as_integer().is_some_and(|number| number < 0) {
            return Err(format!("{key}: is less than 0"));
        }
    }
    Ok(())
}

/// All settings of a process, those that are commented out with them.
fn whole(process: Process) -> Table {
    let lines = template(process).lines().map(|line| {
        let setting = line.strip_prefix("# ").filter(|line| is_setting(line));
        setting.unwrap_or(if line.starts_with('#') { "" } else { line })
    });
    let text: Vec<&str> = lines.collect();
    text.join("\n").parse().unwrap_or_default()
}

/// Is it `key = value`, and no sentence?
fn is_setting(line: &str) -> bool {
    let key = line.split_once(" = ").map(|(key, _)| key);
    key.is_some_and(|key| {
        !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    }) && line.parse::<Table>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_to_begin_with_is_known_and_whole() {
        for (process, count) in [(Process::Aggregator, 31), (Process::Agent, 43), (Process::Gate, 25)] {
            validate(process, template(process)).unwrap();
            assert!(whole(process).len() >= count, "{} of {count}: {:?}", whole(process).len(), process);
        }
    }

    #[test]
    fn a_key_that_is_none_and_a_type_that_is_another_are_named_and_no_value_is() {
        for (text, said) in [
            ("dat = \"/x\"\n", "dat: is no setting"),
            ("data = 7\n", "data: is of the type integer, and has to be a string"),
            ("\n\nlisten_http = [\n", "line "),
            ("kubernetes_cluster = [7]\n", "kubernetes_cluster: has to be a list of strings"),
            ("keep_hours_days = -1\n", "keep_hours_days: is less than 0"),
            ("insecure_loopback = \"yes\"\n", "insecure_loopback: is of the type string"),
        ] {
            let error = validate(Process::Aggregator, text).unwrap_err();
            assert!(error.starts_with(said), "{error}");
        }
        let secret = validate(Process::Aggregator, "keep_hours_days = \"hunter2\"\n").unwrap_err();
        assert!(!secret.contains("hunter2"), "{secret}");
        assert_eq!(validate(Process::Gate, "aggregator = [\"http://a\"]\ndeadline_ms = 10\n"), Ok(()));
    }
}
