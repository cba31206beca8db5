//! Who is who in FOCUS exports, docs/focus.md.

use clap::Args;
use tonnage_proto::limits::NAME_BYTES_MAX;
use tonnage_runtime::settings::{SettingsError, wrong};

use super::File;
use crate::export::Parties;

#[derive(Debug, Args)]
pub(super) struct FocusArgs {
    /// In FOCUS exports, who runs the GPUs [default: Tonnage]
    #[arg(long, value_name = "NAME", env = "TONNAGE_FOCUS_PROVIDER")]
    focus_provider: Option<String>,
    /// Whose machines the GPUs are in [default: the provider]
    #[arg(long, value_name = "NAME", env = "TONNAGE_FOCUS_HOST_PROVIDER")]
    focus_host_provider: Option<String>,
    /// Who bills for them [default: the provider]
    #[arg(long, value_name = "NAME", env = "TONNAGE_FOCUS_INVOICE_ISSUER")]
    focus_invoice_issuer: Option<String>,
    /// The billing account's name; its id is the ledger's [default: the provider]
    #[arg(long, value_name = "NAME", env = "TONNAGE_FOCUS_ACCOUNT_NAME")]
    focus_account_name: Option<String>,
}

impl FocusArgs {
    /// Merges with the file's. Without a name of its own, a party has the provider's.
    pub(super) fn resolve(self, file: &File) -> Result<Parties, SettingsError> {
        let named = |field, flag: Option<String>, file: &Option<String>, default: &str| {
            checked(field, flag.or(file.clone()).unwrap_or_else(|| default.to_owned()))
        };
        let provider =
            named("focus_provider", self.focus_provider, &file.focus_provider, &Parties::default().provider)?;
        Ok(Parties {
            host_provider: named(
                "focus_host_provider",
                self.focus_host_provider,
                &file.focus_host_provider,
                &provider,
            )?,
            invoice_issuer: named(
                "focus_invoice_issuer",
                self.focus_invoice_issuer,
                &file.focus_invoice_issuer,
                &provider,
            )?,
            account_name: named(
                "focus_account_name",
                self.focus_account_name,
                &file.focus_account_name,
                &provider,
            )?,
            provider,
        })
    }
}

fn checked(field: &'static str, name: String) -> Result<String, SettingsError> {
    if !name.trim().is_empty() && name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control) {
        return Ok(name);
    }
    let right = format!("use a name of 1 to {NAME_BYTES_MAX} bytes without control characters");
    Err(wrong(field, name, right))
}

#[cfg(test)]
mod tests {
    use super::super::tests::resolve;
    use super::*;

    #[test]
    fn parties_of_a_bill_are_the_provider_unless_named() {
        let config = resolve(&["--focus-provider", "Lab", "--focus-account-name", "ML"]).unwrap();
        let Parties { provider, host_provider, invoice_issuer, account_name } = config.focus;
        assert_eq!([provider, host_provider, invoice_issuer, account_name], ["Lab", "Lab", "Lab", "ML"]);
        let error = resolve(&["--focus-host-provider", " "]).unwrap_err().to_string();
        assert!(error.starts_with("focus_host_provider: \" \""), "{error}");
    }
}
