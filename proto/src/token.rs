//! How a token looks, so that each program can keep one out of what people read. Pure.

/// What every token begins with; its digits follow.
pub const PREFIX: &str = "tng_";
/// So many letters and digits after the prefix are a secret; fewer are a name that happens to begin so.
const SECRET_CHARS_MIN: usize = 16;
/// What to say where a token was given instead of a file.
pub const BELONGS_IN_A_FILE: &str =
    "a token was given where everybody can read it; write it to a file, and name that with --token-file";

/// `text` with every token cut to its prefix.
#[must_use]
pub fn masked(text: &str) -> String {
    let mut parts = text.split(PREFIX);
    let mut masked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let secret = part.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(part.len());
        masked.push_str(PREFIX);
        masked.push_str(if secret < SECRET_CHARS_MIN { part } else { "..." });
        if secret >= SECRET_CHARS_MIN {
            masked.push_str(&part[secret..]);
        }
    }
    masked
}

/// True if a token stands in `text`.
#[must_use]
pub fn stands_in(text: &str) -> bool {
    masked(text) != text
}

/// What is wrong if one of a program's arguments has a token in it: other users of the machine see arguments.
#[must_use]
pub fn in_arguments(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> Option<&'static str> {
    arguments.into_iter().any(|text| stands_in(&text.to_string_lossy())).then_some(BELONGS_IN_A_FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_cut_wherever_it_stands_and_a_name_is_not() {
        let token = format!("tng_{}", "0123456789abcdef".repeat(4));
        assert_eq!(masked(&format!("a {token}, {token}\n")), "a tng_..., tng_...\n");
        assert_eq!(masked("tng_node tng_ tng"), "tng_node tng_ tng");
        assert!(stands_in(&format!("http://{token}@host/")) && !stands_in("tng_node-7"));
        assert!(in_arguments(["--token-file".into(), token.into()]).is_some());
        assert!(in_arguments(["--node".into(), "tng_node".into()]).is_none());
    }
}
