//! Settings of the estimator that checks ask.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tonnage_runtime::settings::{SettingsError, wrong};

use super::File;
use crate::estimator::Settings;
use crate::http::Server;

/// Less than a gate waits for a check, unless told otherwise.
const TIMEOUT_MS: u32 = 300;
const TIMEOUT_MS_MAX: u32 = 10_000;

#[derive(Debug, Args)]
pub(super) struct EstimatorArgs {
    /// Who says what work will cost, asked at each check, as https://estimator.example/cost [default: the price decides]
    #[arg(long, value_name = "URL", env = "TONNAGE_ESTIMATOR_URL")]
    estimator_url: Option<String>,
    /// File with a token to show to it
    #[arg(long, value_name = "FILE", env = "TONNAGE_ESTIMATOR_TOKEN_FILE")]
    estimator_token_file: Option<PathBuf>,
    /// CAs of its certificate (PEM), where it is asked by https:// [default: the system's]
    #[arg(long, value_name = "FILE", env = "TONNAGE_ESTIMATOR_CA_FILE")]
    estimator_ca_file: Option<PathBuf>,
    /// For how long a check waits for it, 10 to 10000 [default: 300]
    #[arg(long, value_name = "MILLISECONDS", env = "TONNAGE_ESTIMATOR_TIMEOUT_MS")]
    estimator_timeout_ms: Option<u32>,
}

impl EstimatorArgs {
    /// Merges with the file's.
    pub(super) fn resolve(self, file: &File) -> Result<Option<Settings>, SettingsError> {
        let token_file = self.estimator_token_file.or_else(|| file.estimator_token_file.clone());
        let ca_file = self.estimator_ca_file.or_else(|| file.estimator_ca_file.clone());
        let timeout_ms = self.estimator_timeout_ms.or(file.estimator_timeout_ms);
        let Some(url) = self.estimator_url.or_else(|| file.estimator_url.clone()) else {
            for (field, given) in [
                ("estimator_token_file", token_file.is_some()),
                ("estimator_ca_file", ca_file.is_some()),
                ("estimator_timeout_ms", timeout_ms.is_some()),
            ] {
                if given {
                    return Err(wrong(field, "", "has no effect without estimator_url: give that too"));
                }
            }
            return Ok(None);
        };
        let server = Server::parse(&url, 80, "estimator_ca_file")
            .ok_or_else(|| wrong("estimator_url", &url, "is no http:// or https:// address"))?;
        let server = match ca_file {
            None => server,
            Some(ca) => {
                let shown = ca.display().to_string();
                let right = "has no effect without an estimator_url of https://";
                server.of_ca(ca).ok_or_else(|| wrong("estimator_ca_file", shown, right))?
            }
        };
        let timeout_ms = timeout_ms.unwrap_or(TIMEOUT_MS);
        if !(10..=TIMEOUT_MS_MAX).contains(&timeout_ms) {
            let right = format!("use 10 to {TIMEOUT_MS_MAX}");
            return Err(wrong("estimator_timeout_ms", timeout_ms, right));
        }
        let timeout = Duration::from_millis(timeout_ms.into());
        Ok(Some(Settings { server, token_file, timeout }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::resolve;
    use super::*;

    #[test]
    fn an_estimator_is_a_url_and_what_is_said_of_none_is_refused() {
        assert_eq!(resolve(&[]).unwrap().estimator, None);
        let url = ["--estimator-url", "https://e.example:8443/cost"];
        let settings = resolve(&url).unwrap().estimator.unwrap();
        assert_eq!(settings.server.to_string(), "https://e.example:8443/cost");
        assert_eq!((settings.timeout, settings.token_file), (Duration::from_millis(300), None));
        for (args, said) in [
            (&["--estimator-url", "ftp://e"][..], "estimator_url"),
            (&["--estimator-token-file", "/a"], "estimator_token_file"),
            (&["--estimator-url", "http://e", "--estimator-ca-file", "/a"], "estimator_ca_file"),
            (&["--estimator-url", "http://e", "--estimator-timeout-ms", "9"], "estimator_timeout_ms"),
        ] {
            let error = resolve(args).unwrap_err().to_string();
            assert!(error.contains(said), "{args:?}: {error}");
        }
    }
}
