//! The shapes of single folders in a cgroup path.

const UUID_DASHES: [usize; 4] = [8, 13, 18, 23];

/// The pod's uid in `pod<uid>` or `...-pod<uid>.slice`: with `-` or `_`, or 32 hex digits (static pods).
pub(super) fn pod(component: &str) -> Option<String> {
    component.match_indices("pod").find_map(|(at, _)| {
        let before = component[..at].chars().next_back();
        if before.is_some_and(|c| c != '-') {
            return None;
        }
        let rest = &component[at + 3..];
        let end = rest.find(|c: char| !matches!(c, '0'..='9' | 'a'..='f' | '-' | '_')).unwrap_or(rest.len());
        let (uid, after) = rest.split_at(end);
        let ends =
            after.is_empty() || after == ".slice" || after.starts_with(':') || after.starts_with(".slice:");
        let uid = uid.replace('_', "-");
        (ends && is_pod_uid(&uid)).then_some(uid)
    })
}

fn is_pod_uid(uid: &str) -> bool {
    match uid.len() {
        32 => !uid.contains('-'),
        36 => uid.char_indices().all(|(at, c)| (c == '-') == UUID_DASHES.contains(&at)),
        _ => false,
    }
}

/// 64 hex digits: bare, or at the end of `<runtime>-<id>.scope`, `<slice>:<runtime>:<id>` and the like.
pub(super) fn container_id(component: &str) -> Option<String> {
    let name = component.strip_suffix(".scope").unwrap_or(component);
    let id = name.rsplit(['-', ':']).next().unwrap_or(name);
    let hex = |c: u8| matches!(c, b'0'..=b'9' | b'a'..=b'f');
    (id.len() == 64 && id.bytes().all(hex)).then(|| id.to_owned())
}

/// `slurm`, `slurm_<node>` (v1), `slurmstepd.scope`, `<node>_slurmstepd.scope` (v2).
pub(super) fn slurm_root(component: &str) -> bool {
    component == "slurm"
        || component.starts_with("slurm_")
        || component == "slurmstepd.scope"
        || component.ends_with("_slurmstepd.scope")
}

/// `job_<number>`, or a SLUID: `s` and 13 digits of Crockford's base 32.
pub(super) fn slurm_job(component: &str) -> Option<&str> {
    let digit =
        |c: u8| c.is_ascii_digit() || (c.is_ascii_uppercase() && !matches!(c, b'I' | b'L' | b'O' | b'U'));
    if let Some(number) = component.strip_prefix("job_") {
        return (!number.is_empty() && number.bytes().all(|c| c.is_ascii_digit())).then_some(number);
    }
    let id = component.strip_prefix('s')?;
    (id.len() == 13 && id.bytes().all(digit)).then_some(component)
}

/// `uid_<uid>`.
pub(super) fn slurm_uid(component: &str) -> Option<u32> {
    number(component.strip_prefix("uid_")?)
}

/// `user-<uid>.slice` or `user@<uid>.service`.
pub(super) fn user_slice(component: &str) -> Option<u32> {
    let slice = component.strip_prefix("user-").and_then(|rest| rest.strip_suffix(".slice"));
    let manager = component.strip_prefix("user@").and_then(|rest| rest.strip_suffix(".service"));
    number(slice.or(manager)?)
}

fn number(digits: &str) -> Option<u32> {
    // `parse` would take a sign too.
    if digits.bytes().all(|c| c.is_ascii_digit()) { digits.parse().ok() } else { None }
}
