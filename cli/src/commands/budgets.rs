//! `tonnage account`, `tonnage hold`, `tonnage budget`: what the server says of budgets, and what it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use serde_json::{Map, Value, json};
use tonnage_proto::rest::sentinel;

use super::Show;
use super::audit::{confirm, path_part, query};
use crate::args::Output;
use crate::args::budgets::{Accounts, Budget, Check, Holds, Reconcile, Recover, Said};
use crate::error::Error;
use crate::output::{Grid, left, right};

const ACCOUNTS: &str = "/api/v1/accounts";
/// The most that the server gives at once, and how often it is asked for more.
const PAGE: usize = 100;
const PAGES_MAX: usize = 200;

pub(super) fn accounts(show: &Show<'_>, command: Accounts, out: &mut dyn Write) -> Result<(), Error> {
    let one = |account: &str| format!("{ACCOUNTS}/{}", path_part(account));
    let text = match command {
        Accounts::List(page) => {
            let number = |number: Option<u32>| number.map(|number| number.to_string());
            let query = query([
                ("status", page.status),
                ("limit", number(page.limit)),
                ("offset", number(page.offset)),
            ]);
            let (text, rest) = (show.client.get(ACCOUNTS, &query)?, unassigned(show)?);
            return show.write(&text, |accounts| with_rest(list(accounts), rest), csv, out);
        }
        Accounts::Tree => {
            let (text, rest) = (Value::Array(all(show)?).to_string(), unassigned(show)?);
            return show.write(&text, |accounts| with_rest(tree(accounts), rest), csv, out);
        }
        Accounts::Show { account } => show.client.get(&one(&account), &[])?,
        Accounts::Create { account, said } => {
            let mut body = body(*said)?;
            body.insert("slurm_account".to_owned(), account.into());
            show.client.send("POST", ACCOUNTS, &Value::Object(body).to_string())?
        }
        Accounts::Update { account, status, said } => {
            let mut body = body(*said)?;
            if let Some(status) = status {
                body.insert("status".to_owned(), status.into());
            }
            show.client.send("PUT", &one(&account), &Value::Object(body).to_string())?
        }
        Accounts::Close { account, yes } => {
            if !yes {
                confirm(&format!("Close account {account:?}? There is no way back."))?;
            }
            show.client.send("DELETE", &one(&account), "")?;
            show.client.get(&one(&account), &[])?
        }
    };
    show.write(&text, shown, |account: &Value| csv(&vec![account.clone()]), out)
}

pub(super) fn holds(show: &Show<'_>, command: Holds, out: &mut dyn Write) -> Result<(), Error> {
    let act = |transaction: &str, what: &str| {
        let path = format!("/api/v1/holds/{}/{what}", path_part(transaction));
        show.client.send("POST", &path, "")
    };
    match command {
        Holds::List { account, job, status, kind, from, to, limit, offset } => {
            let number = |number: Option<u32>| number.map(|number| number.to_string());
            let query = query([
                ("account", account),
                ("job_id", job),
                ("status", status),
                ("type", kind),
                ("start_date", from),
                ("end_date", to),
                ("limit", number(limit)),
                ("offset", number(offset)),
            ]);
            show.write(&show.client.get("/api/v1/transactions", &query)?, transactions, csv, out)
        }
        Holds::Show { transaction } => {
            let path = format!("/api/v1/holds/{}", path_part(&transaction));
            fields(show, &show.client.get(&path, &[])?, out)
        }
        Holds::Recover(Recover { silent, waiting, account, dry_run, yes }) => {
            let mut body = json!({ "waiting": waiting, "account": account, "dry_run": true });
            if let Some(seconds) = silent {
                body["silent_seconds"] = seconds.into();
            }
            let ask = |body: &Value| show.client.send("POST", "/api/v1/holds/recover", &body.to_string());
            if !dry_run {
                if !yes {
                    let would: Value = show.client.parse(&ask(&body)?)?;
                    let [count, released] =
                        ["recovered_count", "released"].map(|field| text_of(&would, field));
                    confirm(&format!("End {count} holds, which reserve {released}? There is no way back."))?;
                }
                body["dry_run"] = false.into();
            }
            let rows = |answer: &Value| csv(&answer["holds"].as_array().cloned().unwrap_or_default());
            show.write(&ask(&body)?, recovered, rows, out)
        }
        Holds::Renew { transaction } => fields(show, &act(&transaction, "renew")?, out),
        Holds::Void { transaction, yes } => {
            if !yes {
                confirm(&format!("Void hold {transaction}? There is no way back."))?;
            }
            fields(show, &act(&transaction, "void")?, out)
        }
    }
}

/// Checks end with an error where there is not enough, so that a script need not read the answer.
pub(super) fn budget(show: &Show<'_>, command: Budget, out: &mut dyn Write) -> Result<(), Error> {
    let check = match command {
        Budget::Reconcile(Reconcile { transaction, job, dry_run, yes }) => {
            if dry_run || !yes {
                let path = format!("/api/v1/holds/{}", path_part(&transaction));
                let hold = show.client.get(&path, &[])?;
                if dry_run {
                    return fields(show, &hold, out);
                }
                let hold: Value = show.client.parse(&hold)?;
                let [amount, charged] = ["amount", "charged"].map(|field| text_of(&hold["exact"], field));
                confirm(&format!(
                    "Settle hold {transaction} of {amount}, whose job was charged {charged}? There is no way back."
                ))?;
            }
            let body = json!({ "transaction_id": transaction, "job_id": job });
            return fields(
                show,
                &show.client.send("POST", "/api/v1/budget/reconcile", &body.to_string())?,
                out,
            );
        }
        Budget::Check(check) => *check,
    };
    let Check { account, partition, namespace, user, cluster, nodes, model, time, job, key, .. } = check;
    let Check { gpus, cpus, memory, labels, .. } = check;
    let label = |pair: &String| {
        let (key, value) = pair
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| Error::Refused(format!("--label {pair:?} is not KEY=VALUE")))?;
        Ok((key.to_owned(), Value::from(value)))
    };
    let labels = labels.iter().map(label).collect::<Result<Map<_, _>, Error>>()?;
    let gpus = gpus.map(|gpus| gpus.parse::<u32>().map_or_else(|_| json!(gpus), |number| json!(number)));
    let mut body = Map::new();
    let given = [
        ("account", account.map(Value::from)),
        ("partition", partition.map(Value::from)),
        ("namespace", namespace.map(Value::from)),
        ("user_id", user.map(Value::from)),
        ("labels", (!labels.is_empty()).then_some(Value::Object(labels))),
        ("cluster", cluster.map(Value::from)),
        ("gpus", gpus),
        ("cpus", cpus.map(Value::from)),
        ("memory_bytes", memory.map(|mb| mb.saturating_mul(1 << 20).into())),
        ("nodes", nodes.map(Value::from)),
        ("gpu_model", model.map(Value::from)),
        ("wall_time", Some(time.into())),
        ("job_id", job.map(Value::from)),
        ("idempotency_key", key.map(Value::from)),
    ];
    body.extend(given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    let text = show.client.send("POST", "/api/v1/budget/check", &Value::Object(body).to_string())?;
    fields(show, &text, out)?;
    let answer: Value = show.client.parse(&text)?;
    if answer["available"] == true {
        return Ok(());
    }
    out.flush()?;
    Err(Error::Refused(text_of(&answer, "message")))
}

/// What was charged to nobody's budget in this month, where people read it.
fn unassigned(show: &Show<'_>) -> Result<Option<String>, Error> {
    if show.output != Output::Table {
        return Ok(None);
    }
    let filter = format!("budget:\"{}\"", sentinel::UNASSIGNED);
    let query = [("aggregate", "budget".to_owned()), ("filter", filter), ("window", "month".to_owned())];
    let answer: Value = show.client.parse(&show.client.get("/api/v1/cost/users", &query)?)?;
    Ok(Some(text_of(&answer["totals"], "cost")))
}

fn with_rest(mut grid: Grid, rest: Option<String>) -> Grid {
    let note = |cost| {
        format!(
            "charged to nobody's budget this month (UTC): {cost}; `tonnage cost users --window month \
         --by cluster,namespace,user,account,partition --filter 'budget:\"{}\"'` says whose it is",
            sentinel::UNASSIGNED
        )
    };
    grid.notes.extend(rest.map(note));
    grid
}

/// Every account, page by page.
fn all(show: &Show<'_>) -> Result<Vec<Value>, Error> {
    let mut accounts = Vec::new();
    for page in 0..PAGES_MAX {
        let query = [("limit", PAGE.to_string()), ("offset", (page * PAGE).to_string())];
        let more: Vec<Value> = show.client.parse(&show.client.get(ACCOUNTS, &query)?)?;
        let last = more.len() < PAGE;
        accounts.extend(more);
        if last {
            break;
        }
    }
    Ok(accounts)
}

/// The request that says this of an account.
fn body(said: Said) -> Result<Map<String, Value>, Error> {
    let Said {
        title,
        description,
        parent,
        limit,
        monthly,
        bindings,
        start,
        end,
        buffer,
        overrun,
        fail,
        estimate,
    } = said;
    let texts = [
        ("name", title),
        ("description", description),
        ("parent", parent),
        ("budget_limit", limit),
        ("start_date", start),
        ("end_date", end),
        ("buffer", buffer),
        ("overrun", overrun),
        ("fail", fail),
        ("estimate", estimate),
    ];
    let texts = texts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), Value::from(value?))));
    let mut body: Map<String, Value> = texts.collect();
    if let Some(amount) = monthly {
        let period = json!({ "kind": "calendar", "unit": "month" });
        body.insert("limits".to_owned(), json!([{ "amount": amount, "period": period }]));
    }
    if !bindings.is_empty() {
        let bindings = bindings.iter().map(|text| binding(text)).collect::<Result<Vec<_>, _>>()?;
        body.insert("bindings".to_owned(), bindings.into());
    }
    Ok(body)
}

fn binding(text: &str) -> Result<Value, Error> {
    const FIELDS: [&str; 6] = ["cluster", "account", "partition", "namespace", "user", "from"];
    const LABELS: [(&str, &str); 2] = [("label:", "labels"), ("namespace_label:", "namespace_labels")];
    let mut given = Map::new();
    for pair in text.split(',') {
        let refused = || {
            let fields = FIELDS.join(", ");
            Error::Refused(format!(
                "--bind {pair:?} is not FIELD=VALUE with one of {fields}, label:KEY, namespace_label:KEY"
            ))
        };
        let (field, value) = pair.split_once('=').ok_or_else(refused)?;
        let label = LABELS.iter().find_map(|(prefix, labels)| Some((*labels, field.strip_prefix(prefix)?)));
        let into = match label {
            Some((labels, _)) => given.entry(labels).or_insert_with(|| json!({})).as_object_mut(),
            None if FIELDS.contains(&field) => Some(&mut given),
            None => None,
        };
        let key = label.map_or(field, |(_, key)| key);
        into.filter(|_| !key.is_empty()).ok_or_else(refused)?.insert(key.to_owned(), value.into());
    }
    Ok(Value::Object(given))
}

/// A field as text; empty of what is not there.
pub(super) fn text_of(value: &Value, field: &str) -> String {
    match &value[field] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

const COLUMNS: [(&str, &str); 4] = [
    ("budget_limit", "limit"),
    ("budget_used", "used"),
    ("budget_held", "held"),
    ("budget_available", "available"),
];

fn row(account: &Value, name: String) -> Vec<String> {
    let amounts = COLUMNS.iter().map(|(field, _)| text_of(&account["exact"], field));
    [name, text_of(account, "status")].into_iter().chain(amounts).collect()
}

fn columns() -> Vec<crate::output::Column> {
    let amounts = COLUMNS.iter().map(|(_, title)| right(*title));
    [left("account"), left("status")].into_iter().chain(amounts).collect()
}

#[expect(clippy::ptr_arg, reason = "what is written is decoded as a `Vec`")]
fn list(accounts: &Vec<Value>) -> Grid {
    let rows = accounts.iter().map(|account| row(account, text_of(account, "slurm_account")));
    Grid { columns: columns(), rows: rows.collect(), notes: Vec::new() }
}

fn tree(accounts: &Vec<Value>) -> Grid {
    let mut below: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for account in accounts {
        below.entry(text_of(account, "parent")).or_default().push(account);
    }
    let mut rows = Vec::new();
    let mut seen = BTreeSet::new();
    let mut left: Vec<(usize, &Value)> =
        below.get("").into_iter().flatten().rev().map(|account| (0, *account)).collect();
    while let Some((depth, account)) = left.pop() {
        let name = text_of(account, "slurm_account");
        rows.push(row(account, format!("{}{name}", "  ".repeat(depth))));
        // A server that makes a circle of them does not keep us here for ever.
        if seen.insert(name.clone()) {
            let children = below.get(&name).into_iter().flatten().rev();
            left.extend(children.map(|account| (depth + 1, *account)));
        }
    }
    Grid { columns: columns(), rows, notes: Vec::new() }
}

fn shown(account: &Value) -> Grid {
    let mut grid = list(&vec![account.clone()]);
    let mut note = |text: String| grid.notes.push(text);
    for field in ["name", "description", "parent", "start_date", "end_date", "overrun", "fail", "estimate"] {
        let value = text_of(account, field);
        if !value.is_empty() {
            note(format!("{field}: {value}"));
        }
    }
    for binding in account["bindings"].as_array().into_iter().flatten() {
        let given = binding.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
        let given = given.flat_map(|(field, value)| match value.as_object() {
            None => vec![format!("{field} {}", text_of(binding, field))],
            Some(labels) => {
                let kind = field.trim_end_matches('s');
                labels.keys().map(|key| format!("{kind}:{key} {}", text_of(value, key))).collect()
            }
        });
        let given: Vec<String> = given.collect();
        note(format!("binding: {}", given.join(", ")));
    }
    for limit in account["limits"].as_array().into_iter().flatten() {
        let of: Vec<String> = ["partition", "model"]
            .into_iter()
            .filter(|field| !limit[*field].is_null())
            .map(|field| format!(" {field} {}", text_of(limit, field)))
            .collect();
        let [amount, spent, held, available, start] =
            ["amount", "spent", "held", "available", "start"].map(|field| text_of(limit, field));
        let period = text_of(&limit["period"], "unit");
        let period = if period.is_empty() { text_of(&limit["period"], "kind") } else { period };
        note(format!(
            "limit: {amount} by {period} since {start}{}: {spent} spent, {held} held, {available} available",
            of.concat()
        ));
    }
    grid
}

#[expect(clippy::ptr_arg, reason = "what is written is decoded as a `Vec`")]
fn transactions(holds: &Vec<Value>) -> Grid {
    let names = ["transaction_id", "status", "job_id", "created_at"];
    let rows = holds.iter().map(|hold| {
        let amounts = ["amount", "charged"].map(|field| text_of(&hold["exact"], field));
        names.map(|field| text_of(hold, field)).into_iter().chain(amounts).collect()
    });
    let columns = names.map(left).into_iter().chain(["amount", "charged"].map(right)).collect();
    Grid { columns, rows: rows.collect(), notes: Vec::new() }
}

fn recovered(answer: &Value) -> Grid {
    let names = ["transaction_id", "job_id", "state", "heard_at", "amount", "charged", "released"];
    let rows = answer["holds"].as_array().into_iter().flatten();
    let rows = rows.map(|hold| names.map(|field| text_of(hold, field)).to_vec()).collect();
    let [count, released] = ["recovered_count", "released"].map(|field| text_of(answer, field));
    let done = if answer["dry_run"] == true { "would end" } else { "ended" };
    let more = if answer["more"] == true { "; there are more: run it again" } else { "" };
    let notes = vec![format!("{done} {count} holds, which reserved {released}{more}")];
    Grid { columns: names.map(left).to_vec(), rows, notes }
}

/// An answer's fields, each on its line; amounts as exact texts.
pub(super) fn fields(show: &Show<'_>, text: &str, out: &mut dyn Write) -> Result<(), Error> {
    let lines = |answer: &Value| {
        let own = answer.as_object().into_iter().flatten().filter(|(_, value)| !value.is_object());
        let line = |(field, _): (&String, &Value)| {
            let exact = text_of(&answer["exact"], field);
            let value = if exact.is_empty() { text_of(answer, field) } else { exact };
            format!("{field}: {value}")
        };
        Grid { notes: own.map(line).collect(), ..Grid::default() }
    };
    show.write(text, lines, |answer: &Value| csv(&vec![answer.clone()]), out)
}

/// What is a value of its own of each, under the names of the server; amounts as exact texts.
#[expect(clippy::ptr_arg, reason = "what is written is decoded as a `Vec`")]
pub(super) fn csv(rows: &Vec<Value>) -> Vec<Vec<String>> {
    let plain =
        |(name, value): (&String, &Value)| (!value.is_object() && !value.is_array()).then(|| name.clone());
    let names: BTreeSet<String> =
        rows.iter().filter_map(Value::as_object).flatten().filter_map(plain).collect();
    let names: Vec<String> = names.into_iter().collect();
    let row = |row: &Value| {
        let value = |name: &String| {
            let exact = text_of(&row["exact"], name);
            if exact.is_empty() { text_of(row, name) } else { exact }
        };
        names.iter().map(value).collect::<Vec<_>>()
    };
    std::iter::once(names.clone()).chain(rows.iter().map(row)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_is_fields_and_values_and_nothing_else() {
        let bound = binding("account=physics,partition=gpu").unwrap();
        assert_eq!(bound, json!({ "account": "physics", "partition": "gpu" }));
        let labelled =
            binding("namespace=ml,label:team=vision,label:app.kubernetes.io/name=a=b,namespace_label:cost=7")
                .unwrap();
        let labels = json!({ "team": "vision", "app.kubernetes.io/name": "a=b" });
        assert_eq!(
            labelled,
            json!({ "namespace": "ml", "labels": labels, "namespace_labels": { "cost": "7" } })
        );
        for text in ["physics", "acount=x", "", "account=x,", "label:=x", "label:team", "labels=x"] {
            assert!(binding(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_tree_shows_each_account_below_its_parent_and_a_circle_ends() {
        let account = |name: &str, parent: Value| json!({ "slurm_account": name, "parent": parent });
        let accounts = vec![
            account("org", Value::Null),
            account("b", json!("org")),
            account("a", json!("org")),
            account("x", json!("b")),
            account("y", json!("y")),
        ];
        let names: Vec<String> = tree(&accounts).rows.into_iter().map(|row| row[0].clone()).collect();
        assert_eq!(names, ["org", "  b", "    x", "  a"]);
    }

    #[test]
    fn amounts_are_exact_in_csv() {
        let rows = csv(&vec![json!({ "a": 1.5, "b": "x", "exact": { "a": "1.500000001" } })]);
        assert_eq!(rows, [["a", "b"], ["1.500000001", "x"]]);
    }
}
