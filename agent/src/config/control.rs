//! Settings of the commands that have a running agent do something.

use std::path::PathBuf;

use clap::Args;
use tonnage_runtime::settings::{self, SettingsError, wrong};

use super::{DEFAULT_SPOOL, File};
use crate::release::SECONDS_MAX;
use crate::release::socket::{Order, beside};

/// Which agent: it is found beside its spool.
#[derive(Debug, Default, Args)]
pub struct ControlArgs {
    /// The file with the agent's settings
    #[arg(long, value_name = "FILE", env = "TONNAGE_CONFIG")]
    config: Option<PathBuf>,
    /// The agent's spool [default: /var/lib/tonnage-agent/spool]
    #[arg(long, value_name = "DIR", env = "TONNAGE_SPOOL")]
    spool: Option<PathBuf>,
}

#[derive(Debug, Default, Args)]
pub struct ReleaseArgs {
    /// For how long at most: a number with s, m or h, up to 24h
    #[arg(long = "for", value_name = "DURATION", default_value = "10m")]
    length: String,
    #[command(flatten)]
    control: ControlArgs,
}

impl ControlArgs {
    /// Where the agent takes orders.
    ///
    /// # Errors
    /// If the file cannot be used.
    pub fn resolve(self) -> Result<PathBuf, SettingsError> {
        let file: File = settings::read(self.config.as_deref())?;
        Ok(beside(&self.spool.or(file.spool).unwrap_or_else(|| DEFAULT_SPOOL.into())))
    }
}

impl ReleaseArgs {
    /// Where the agent takes orders, and this one.
    ///
    /// # Errors
    /// If the file cannot be used, or the length is none.
    pub fn resolve(self) -> Result<(PathBuf, Order), SettingsError> {
        let seconds = seconds(&self.length).filter(|seconds| (1..=SECONDS_MAX).contains(seconds));
        let seconds = seconds.ok_or_else(|| {
            wrong("for", &self.length, "use a number with s, m or h, from 1s to 24h, as in 10m")
        })?;
        Ok((self.control.resolve()?, Order::Release { seconds }))
    }
}

fn seconds(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_has_a_unit_and_an_end() {
        let resolve = |length: &str| {
            let args = ReleaseArgs { length: length.to_owned(), control: ControlArgs::default() };
            args.resolve().map(|(_, order)| order)
        };
        for (length, seconds) in [("1s", 1), ("10m", 600), ("24h", 86_400)] {
            assert_eq!(resolve(length).unwrap(), Order::Release { seconds });
        }
        for length in ["", "m", "10", "0s", "25h", "-1m", "9999999999999999999h", "1µ"] {
            let error = resolve(length).unwrap_err().to_string();
            assert!(error.contains("24h"), "{length:?}: {error}");
        }
    }
}
