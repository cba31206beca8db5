//! How many GPU-minutes an account may still use, as a limit in Slurm (`GrpTRESMins=gres/gpu=N`). Pure.
//!
//! Slurm counts what jobs used and may still use until their time limits, so the limit is that of what was used, and of what there is
//! money for: what is left, and what is held for jobs that wait or run. By the cheapest price, so that Slurm holds no job back that
//! the budget has let in. What was used decays in Slurm, so that the limit goes with it.

use std::collections::BTreeMap;

use tonnage_proto::decimal::to_nanos;
use tonnage_proto::rest::PricesAnswer;

use super::{Account, Change, whole};
use crate::gate::slurm::SlurmError;

const GPU: &str = "gres/gpu";

/// Why the limit must not be set, if so; `config` is what `scontrol show config` says.
pub(super) fn unsafe_because(config: &str) -> Option<&'static str> {
    let has = |key: &str, wanted: &str| {
        let lines = config.lines().filter_map(|line| line.split_once('='));
        let mut values =
            lines.filter(|(known, _)| known.trim() == key).flat_map(|(_, value)| value.split(','));
        values.any(|word| word.trim() == wanted)
    };
    if !has("AccountingStorageEnforce", "safe") {
        return Some(
            "AccountingStorageEnforce lacks safe, so that Slurm would kill jobs that run when their account reaches its limit",
        );
    }
    let counts = has("PriorityType", "priority/multifactor");
    (!counts).then_some(
        "PriorityType is not priority/multifactor, so that Slurm does not count what accounts used",
    )
}

/// The least that a GPU-hour of a cluster may cost, in nano-dollars; `None` without a price, or where one is nothing.
pub(super) fn cheapest(prices: &PricesAnswer, cluster: &str) -> Option<i128> {
    let of_cluster = prices
        .prices
        .iter()
        .filter(|row| row.matches.get("cluster").is_none_or(|of| of == cluster || of.contains(['*', '?'])));
    let least = of_cluster.filter_map(|row| to_nanos(&row.price_per_gpu_hour)).min();
    least.filter(|nanos| *nanos > 0)
}

/// Accounts of Slurm that are bound whole, and the GPU-minutes that there is money for; `None` without a limit.
pub(super) fn wanted(
    accounts: &[Account],
    cluster: &str,
    gpu_hour_nanos: Option<i128>,
) -> BTreeMap<String, Option<u64>> {
    let mut all = BTreeMap::new();
    for account in accounts {
        let amount = |text: &Option<String>| text.as_deref().and_then(to_nanos);
        let left = amount(&account.exact.budget_available).zip(gpu_hour_nanos).map(|(left, price)| {
            let held = amount(&account.exact.budget_held).unwrap_or_default();
            let minutes = (left.max(0) + held.max(0)).saturating_mul(60) / price;
            // What does not make a minute may be one that was let in.
            u64::try_from(minutes).unwrap_or(u64::MAX / 2).saturating_add(1)
        });
        let is_over = amount(&account.exact.budget_available).is_some_and(|left| left <= 0)
            && amount(&account.exact.budget_held).is_none_or(|held| held <= 0);
        let left = if is_over { left.map(|_| 0) } else { left };
        all.extend(whole(account, cluster).map(|name| (name.to_owned(), left)));
    }
    all
}

/// Limits to be set, with what each was before: `None` where it is set back.
pub(super) fn changes(
    wanted: &BTreeMap<String, Option<u64>>,
    used: &BTreeMap<String, u64>,
    now: &BTreeMap<String, String>,
    noted: &BTreeMap<String, String>,
) -> Vec<Change> {
    // What no account is bound to any more has no limit of ours.
    let unbound = noted.keys().filter(|name| !wanted.contains_key(*name)).map(|name| (name, &None));
    let change = |(name, left): (&String, &Option<u64>)| {
        let current = now.get(name)?;
        let Some(left) = left else {
            return noted.get(name).map(|before| (name.clone(), before.clone(), None));
        };
        let before = noted.get(name).unwrap_or(current);
        let own = used.get(name).copied().unwrap_or_default().saturating_add(*left);
        // A person's own limit stays if it is less.
        let limit = before.parse().map_or(own, |before: u64| before.min(own));
        // Not each minute: every change is one of slurmdbd's database.
        let close = |current: u64| current.abs_diff(limit) <= left / 50;
        let is_set = noted.contains_key(name) && current.parse().is_ok_and(close);
        (!is_set).then(|| (name.clone(), limit.to_string(), Some(before.clone())))
    };
    wanted.iter().chain(unbound).filter_map(change).collect()
}

/// GPU-minutes that accounts used, by `sshare --format=Account,User,GrpTRESRaw`.
pub(super) fn used(text: &str) -> Result<BTreeMap<String, u64>, SlurmError> {
    let minutes = |list: String| gpu(&list).and_then(|value| value.parse().ok()).unwrap_or_default();
    Ok(super::limits(text)?.into_iter().map(|(name, list)| (name, minutes(list))).collect())
}

/// Limits of GPU-minutes of accounts themselves, empty without one, by `format=Account,User,GrpTRESMins`.
pub(super) fn limits(text: &str) -> Result<BTreeMap<String, String>, SlurmError> {
    let limit = |list: String| gpu(&list).unwrap_or_default().to_owned();
    Ok(super::limits(text)?.into_iter().map(|(name, list)| (name, limit(list))).collect())
}

/// Of a list such as `cpu=12,gres/gpu=3`.
fn gpu(list: &str) -> Option<&str> {
    list.split(',').find_map(|tres| tres.strip_prefix(GPU)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn slurm_has_to_let_running_jobs_be() {
        let counts = "PriorityType            = priority/multifactor\n";
        let safe = format!("X = 1\nAccountingStorageEnforce = associations,limits,safe\n{counts}");
        assert_eq!(unsafe_because(&safe), None);
        let basic = safe.replace("multifactor", "basic");
        assert!(unsafe_because(&basic).is_some_and(|why| why.contains("PriorityType")));
        assert!(unsafe_because(&safe.replace(",safe", "")).is_some_and(|why| why.contains("lacks safe")));
        assert!(unsafe_because(&safe.replace("Enforce", "TRES")).is_some());
    }

    #[test]
    fn a_limit_is_what_there_is_money_for_by_the_cheapest_price_and_what_is_held_is_in_it() {
        let row = |cluster: Option<&str>, price: &str| {
            let matches: BTreeMap<_, _> = cluster.map(|cluster| ("cluster", cluster)).into_iter().collect();
            serde_json::json!({ "line": 1, "match": matches, "valid_from": "", "price": price, "unit": "gpu_hour",
                "price_per_gpu_hour": price })
        };
        let prices = |rows: Vec<serde_json::Value>| -> PricesAnswer {
            serde_json::from_value(serde_json::json!({ "currency": "USD", "prices": rows })).unwrap()
        };
        let book = prices(vec![row(None, "3.60"), row(Some("d"), "1"), row(Some("*"), "1.20")]);
        let price = cheapest(&book, "c");
        assert_eq!(price, Some(1_200_000_000));
        assert_eq!(cheapest(&prices(vec![row(None, "0")]), "c"), None, "what costs nothing has no limit");
        let account = |left: Option<&str>, held: &str| -> Account {
            let binding = serde_json::json!({ "account": "a", "to": null });
            let exact = serde_json::json!({ "budget_available": left, "budget_held": held });
            let json = serde_json::json!({ "status": "active", "bindings": [binding], "exact": exact });
            serde_json::from_value(json).unwrap()
        };
        let minutes = |left, held| wanted(&[account(left, held)], "c", price)["a"];
        assert_eq!(minutes(Some("1.2"), "0"), Some(61));
        assert_eq!(minutes(Some("1.2"), "0.6"), Some(91));
        assert_eq!(minutes(Some("-5"), "0.6"), Some(31));
        assert_eq!(minutes(Some("0"), "0"), Some(0));
        assert_eq!(minutes(None, "5"), None);
        assert_eq!(wanted(&[account(Some("1"), "0")], "c", None)["a"], None);
    }

    #[test]
    fn a_limit_goes_with_what_was_used_and_is_changed_where_it_matters_and_set_back() {
        let wanted = |left| BTreeMap::from([("a".to_owned(), left)]);
        let used = BTreeMap::from([("a".to_owned(), 40)]);
        let change = |left, now: &str, noted: Option<&str>| {
            let noted = noted.map_or_else(BTreeMap::new, |before| map(&[("a", before)]));
            changes(&wanted(left), &used, &map(&[("a", now)]), &noted)
        };
        let set = |limit: &str, before: Option<&str>| {
            vec![("a".to_owned(), limit.to_owned(), before.map(str::to_owned))]
        };
        assert_eq!(change(Some(100), "", None), set("140", Some("")));
        assert_eq!(change(Some(100), "142", Some("")), [], "near enough");
        assert_eq!(change(Some(100), "143", Some("")), set("140", Some("")));
        assert_eq!(change(Some(0), "41", Some("")), set("40", Some("")));
        assert_eq!(change(Some(100), "90", None), set("90", Some("90")), "a person's own is less");
        assert_eq!(change(Some(20), "90", Some("90")), set("60", Some("90")));
        assert_eq!(change(None, "60", Some("90")), set("90", None));
        assert_eq!(change(None, "60", None), [], "somebody else's");
        let unbound = changes(&BTreeMap::new(), &used, &map(&[("a", "60")]), &map(&[("a", "90")]));
        assert_eq!(unbound, set("90", None), "its budget is closed");
        assert_eq!(
            changes(&wanted(Some(1)), &used, &BTreeMap::new(), &BTreeMap::new()),
            [],
            "no such account"
        );
    }

    #[test]
    fn gpus_are_read_out_of_lists_of_what_accounts_have() {
        let text = "root||cpu=9,gres/gpu=7,gres/gpu:a100=5\n a||cpu=1\n a|ada|gres/gpu=3\n";
        assert_eq!(used(text).unwrap(), BTreeMap::from([("a".to_owned(), 0), ("root".to_owned(), 7)]));
        assert_eq!(limits("a||cpu=1,gres/gpu=60\nb||\n").unwrap(), map(&[("a", "60"), ("b", "")]));
        assert!(limits("a|\n").is_err());
    }
}
