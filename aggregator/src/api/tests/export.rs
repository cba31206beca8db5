//! Exports of posted entries, read back as their readers read them.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::header;
use http_body_util::BodyExt as _;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::Field;
use rand::{RngExt as _, SeedableRng as _};
use tonnage_proto::decimal::from_nanos;
use tonnage_proto::limits::{DAY_NS, HOUR_NS};

use super::*;
use crate::model::{Description, Subject, SubjectKind};
use crate::store::closing::{self, Checkpoint};
use crate::store::described;
use crate::store::sql::{Connection, params};
use crate::store::write::{Mark, set_mark};

/// Of CPUs and memory.
mod jobs;

/// Rows by their columns' names; null is the empty text.
type Rows = Vec<BTreeMap<String, String>>;

const MONTH_NS: i64 = 31 * DAY_NS;
const WINDOW: &str = "window=1970-01-01T00:00:00Z,1970-02-01T00:00:00Z";
/// With a label that has what CSV and JSON must escape.
const FACTS: &str =
    r#"{"instance_type":"dgx","region":"eu","zone":"eu-a","capacity_type":"","labels":{"team":"a\"b,\nc"}}"#;

/// Two GPUs, one of seven slices with an instance of three, and rows made at random in the first `slots` of January 1970; then
/// some of them changed before February and some later. All of it posted. Says what it cost.
fn post(db: &Connection, slots: i64, owners: i64) -> i128 {
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    let db = db.begin().unwrap();
    for table in ["slot", "slot_state", "entry"] {
        server::make_room(&db, table, (0..slots).map(|slot| slot * SLOT_NS)).unwrap();
    }
    db.execute_batch(&names(owners)).unwrap();
    db.execute("INSERT INTO facts VALUES (1, ?1, ?2)", params![&[1_u8][..], FACTS]).unwrap();
    let mut row = |slot: i64, tenure: i64, instance: i64, owner: i64, kind: i64| -> [Option<i64>; 12] {
        let figures: [i64; 6] = match kind {
            // No time and no cost.
            4 => [0, rng.random_range(1..1_000_000), 1, 1, 0, 0],
            _ => std::array::from_fn(|_| rng.random_range(0..900_000_000_000)),
        };
        let [time, busy, memory, energy, cost, unpriced] = figures;
        [slot * SLOT_NS, tenure, instance, owner, kind, time, busy, memory, energy, 0, cost, unpriced]
            .map(Some)
    };
    let changed =
        "ON CONFLICT (start, tenure, instance, owner, kind) DO UPDATE SET time_ns = excluded.time_ns,
        busy_ns = excluded.busy_ns, memory_byte_seconds = excluded.memory_byte_seconds,
        energy_uj = excluded.energy_uj, cost_nanos = excluded.cost_nanos, unpriced_ns = excluded.unpriced_ns";
    let mut post = |at_ns: i64, id: i64, each: i64| {
        for slot in (0..slots).filter(|slot| slot % each == 0) {
            let mut rows = Vec::new();
            for tenure in [1, 2] {
                rows.extend((1..=owners).map(|owner| row(slot, tenure, tenure - 1, owner, 0)));
                rows.extend([(0, 1), (0, 3), (1, 4)].map(|(owner, kind)| row(slot, tenure, 0, owner, kind)));
            }
            db.insert_all("slot", changed, &rows).unwrap();
            let start = slot * SLOT_NS;
            let states = [1, 2].map(|tenure| [start, tenure, 1, 1, 1, 0, 1].map(Some));
            db.insert_all("slot_state", "ON CONFLICT DO NOTHING", &states).unwrap();
            closing::post(&db, &[(start, 1), (start, 2)], id).unwrap();
        }
        closing::put_checkpoint(&db, &Checkpoint { id, at_ns, ..Checkpoint::default() }).unwrap();
    };
    post(1, 1, 1);
    post(MONTH_NS - 1, 2, 2);
    post(MONTH_NS, 3, 3);
    set_mark(&db, Mark::ClosedUntil, slots * SLOT_NS).unwrap();
    let cost: i64 =
        db.query_row("SELECT CAST(SUM(cost_nanos) AS BIGINT) FROM slot", [], |row| row.get(0)).unwrap();
    db.commit().unwrap();
    i128::from(cost)
}

fn names(owners: i64) -> String {
    let mut sql = "INSERT INTO node (id, cluster, name) VALUES (1, 'c', 'n1');
         INSERT INTO device VALUES (1, 'GPU-1', 'H100', 80, 0, '', ''), (2, 'GPU-2', 'H100', 80, 1, '', '');
         INSERT INTO tenure (id, device, node, life, slices, claimed_ns) VALUES (1, 1, 1, 'b', 1, 0), (2, 2, 1, 'b', 7, 0);
         INSERT INTO instance VALUES (1, 2, 0, 1, 0, 3, 'MIG-1', '3g.40gb', 40, 4, 3, 8);
         INSERT INTO owner VALUES (1, 3, '', '', '', '', '', '4711', '0', '', 'ada', 'physics', 'gpu');"
        .to_owned();
    for id in 2..=owners {
        sql += &format!(
            "INSERT INTO owner VALUES ({id}, 2, 'ml', 'train-{id}', 'u{id}', 'main', '', '', '', '', '', '', '');"
        );
    }
    sql
}

/// A site with a day and a quarter of an hour of posted entries, and what they cost.
fn posted() -> (Site, i128) {
    let mut cost = 0;
    let site = site_of(|store, _| cost = post(&store.writer().unwrap(), 97, 3));
    (site, cost)
}

impl Site {
    async fn ask(&self, query: &str) -> axum::response::Response {
        let request = Request::get(format!("/api/v1/export/focus?{query}"))
            .header("authorization", format!("Bearer {}", self.reader));
        self.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    async fn exported(&self, query: &str) -> (Vec<String>, Rows) {
        let response = self.ask(query).await;
        assert_eq!(response.status(), StatusCode::OK);
        let bytes = to_bytes(response.into_body(), 1 << 28).await.unwrap();
        if query.contains("parquet") { parquet_rows(bytes) } else { csv_rows(&bytes) }
    }
}

fn csv_rows(bytes: &[u8]) -> (Vec<String>, Rows) {
    let mut reader = csv::Reader::from_reader(bytes);
    let names: Vec<String> = reader.headers().unwrap().iter().map(str::to_owned).collect();
    let rows = reader.records().map(|row| {
        names.iter().cloned().zip(row.unwrap().iter().map(str::to_owned)).collect::<BTreeMap<_, _>>()
    });
    let rows = rows.collect();
    (names, rows)
}

fn parquet_rows(bytes: axum::body::Bytes) -> (Vec<String>, Rows) {
    let reader = SerializedFileReader::new(bytes).unwrap();
    let schema = reader.metadata().file_metadata().schema();
    let names = schema.get_fields().iter().map(|field| field.name().to_owned()).collect();
    let shown = |field: &Field| match field {
        Field::Null => String::new(),
        Field::Str(text) => text.clone(),
        Field::TimestampMicros(at) => jiff::Timestamp::from_microsecond(*at).unwrap().to_string(),
        Field::Decimal(amount) => {
            assert_eq!((amount.precision(), amount.scale()), (38, 9));
            from_nanos(i128::from_be_bytes(amount.data().try_into().unwrap()))
        }
        other => panic!("{other:?}"),
    };
    let rows = reader.get_row_iter(None).unwrap().map(|row| {
        let row = row.unwrap();
        row.get_column_iter().map(|(name, field)| (name.clone(), shown(field))).collect()
    });
    let rows = rows.collect();
    (names, rows)
}

fn amount(row: &BTreeMap<String, String>, column: &str) -> i128 {
    to_nanos(&row[column]).unwrap_or_else(|| panic!("{column}: {:?}", row[column]))
}

#[tokio::test]
async fn every_export_sums_to_what_was_posted_to_the_nano() {
    let (site, cost) = posted();
    for version in ["1.2", "1.3"] {
        let (csv_names, csv) = site.exported(&format!("version={version}&{WINDOW}")).await;
        for column in ["BilledCost", "EffectiveCost", "ListCost", "ContractedCost"] {
            assert_eq!(csv.iter().map(|row| amount(row, column)).sum::<i128>(), cost, "{column}");
        }
        // One row for each thing that can be billed in an hour, in the order of hours.
        let key = |row: &BTreeMap<String, String>| {
            ["ChargePeriodStart", "ResourceId", "x_Kind", "x_Owner", "x_Posting", "ChargeClass", "x_GpuUuid"]
                .map(|name| row[name].clone())
        };
        let keys: BTreeSet<_> = csv.iter().map(key).collect();
        assert_eq!(keys.len(), csv.len());
        assert!(csv.is_sorted_by(|a, b| a["ChargePeriodStart"] <= b["ChargePeriodStart"]));
        assert_eq!(csv.last().unwrap()["ChargePeriodEnd"], "1970-01-02T00:15:00Z", "no more is closed");
        let (names, parquet) = site.exported(&format!("version={version}&format=parquet&{WINDOW}")).await;
        assert_eq!((names, parquet), (csv_names, csv), "{version}: both formats say the same");
    }
}

#[tokio::test]
async fn each_version_has_exactly_its_own_columns() {
    let (site, _) = posted();
    let names = async |version: &str| site.exported(&format!("version={version}&{WINDOW}")).await.0;
    let mandatory = "BilledCost BillingAccountId BillingAccountName BillingCurrency BillingPeriodEnd BillingPeriodStart \
        ChargeCategory ChargeClass ChargeDescription ChargePeriodEnd ChargePeriodStart ContractedCost EffectiveCost \
        InvoiceIssuerName ListCost PricingQuantity PricingUnit ProviderName PublisherName ServiceCategory ServiceName";
    let optional = "AvailabilityZone ChargeFrequency CommitmentDiscountStatus ConsumedQuantity ConsumedUnit InvoiceId PricingCategory RegionId RegionName \
        ResourceId ResourceName ResourceType ServiceSubcategory Tags";
    let new = "AllocatedMethodDetails AllocatedMethodId AllocatedResourceId AllocatedResourceName AllocatedTags \
        HostProviderName ServiceProviderName";
    let focus = |names: Vec<String>| -> BTreeSet<String> {
        names.into_iter().filter(|name| !name.starts_with("x_")).collect()
    };
    let of = |lists: &[&str]| -> BTreeSet<String> {
        lists.iter().flat_map(|list| list.split_whitespace()).map(str::to_owned).collect()
    };
    assert_eq!(focus(names("1.2").await), of(&[mandatory, optional]));
    assert_eq!(focus(names("1.3").await), of(&[mandatory, optional, new]));
}

#[tokio::test]
async fn parts_of_a_resource_are_told_as_parts_of_one_charge() {
    let (site, _) = posted();
    let (_, rows) = site.exported(&format!("version=1.3&{WINDOW}")).await;
    let mut origins: BTreeMap<_, Vec<&BTreeMap<String, String>>> = BTreeMap::new();
    for row in &rows {
        let origin = ["ChargePeriodStart", "ResourceId", "x_Posting", "ChargeClass"].map(|name| &row[name]);
        origins.entry(origin).or_default().push(row);
        assert_eq!(
            row["AllocatedResourceId"].is_empty(),
            row["x_Owner"].is_empty() || row["AllocatedMethodId"].is_empty()
        );
        assert_eq!(row["AllocatedResourceId"].is_empty(), row["AllocatedResourceName"].is_empty());
        assert_eq!(row["AllocatedResourceId"].is_empty(), row["AllocatedTags"].is_empty());
        let tags: Value = serde_json::from_str(&row["Tags"]).unwrap();
        assert_eq!(tags["team"], "a\"b,\nc", "the operator's label as it is");
        assert!(tags.as_object().unwrap().keys().all(|key| !key.contains("owner_kind")), "{tags}");
    }
    let mut whole = 0;
    for parts in origins.values() {
        let methods: BTreeSet<&str> = parts.iter().map(|part| part["AllocatedMethodId"].as_str()).collect();
        assert_eq!(methods.len(), 1, "all of an origin charge is split, or nothing");
        if parts.iter().any(|part| part["AllocatedMethodDetails"].is_empty()) {
            continue;
        }
        whole += 1;
        let ratio = |row: &BTreeMap<String, String>| {
            // As text: numbers of JSON are exact there.
            let details = &row["AllocatedMethodDetails"];
            let rest = details.strip_prefix("{\"Elements\":[{\"AllocatedRatio\":").unwrap();
            assert!(
                serde_json::from_str::<Value>(details).unwrap()["Elements"][0]["UsageUnit"] == "GPU-Hours"
            );
            to_nanos(rest.split(',').next().unwrap()).unwrap()
        };
        assert_eq!(parts.iter().map(|part| ratio(part)).sum::<i128>(), 1_000_000_000);
    }
    assert!(whole > 20, "{whole}");
    let job = rows.iter().find(|row| row["x_Job"] == "4711" && row["x_Kind"] == "held").unwrap();
    assert_eq!(job["AllocatedResourceId"], "c/slurm_job/4711/0");
    let tags: Value = serde_json::from_str(&job["AllocatedTags"]).unwrap();
    assert_eq!((&tags["tonnage/account"], &tags["tonnage/user"]), (&"physics".into(), &"ada".into()));
}

#[tokio::test]
async fn a_correction_of_a_month_that_is_over_is_one_and_an_earlier_one_is_not() {
    let (site, _) = posted();
    let (_, rows) = site.exported(WINDOW).await;
    let kinds: BTreeSet<(&str, &str)> =
        rows.iter().map(|row| (row["x_Posting"].as_str(), row["ChargeClass"].as_str())).collect();
    assert_eq!(kinds, BTreeSet::from([("first", ""), ("correction", ""), ("correction", "Correction")]));
    assert!(rows.iter().all(|row| row["BillingPeriodStart"] == "1970-01-01T00:00:00Z"));
    assert!(rows.iter().all(|row| row["BillingPeriodEnd"] == "1970-02-01T00:00:00Z"));
}

#[tokio::test]
async fn a_part_of_an_hour_is_told_as_that_part() {
    let (site, _) = posted();
    let response = site.ask("window=900,2700").await;
    assert_eq!(response.headers()[tonnage_proto::rest::CLOSED_UNTIL], "1970-01-02T00:15:00Z");
    assert_eq!(
        response.headers()[header::CONTENT_DISPOSITION],
        "attachment; filename=\"tonnage-focus-1.2.csv\""
    );
    let (_, rows) = csv_rows(&to_bytes(response.into_body(), 1 << 24).await.unwrap());
    assert!(!rows.is_empty());
    for row in rows {
        let period = (row["ChargePeriodStart"].as_str(), row["ChargePeriodEnd"].as_str());
        assert_eq!(period, ("1970-01-01T00:15:00Z", "1970-01-01T00:45:00Z"));
    }
    let (names, rows) =
        site.exported("format=parquet&window=1980-01-01T00:00:00Z,1980-01-02T00:00:00Z").await;
    assert!(names.contains(&"BilledCost".to_owned()) && rows.is_empty(), "a file without rows is one");
}

#[tokio::test]
async fn a_charge_has_the_labels_that_its_pod_had_then_and_an_hour_is_cut_where_they_changed() {
    let mut cost = 0;
    let site = site_of(|store, _| {
        let db = store.writer().unwrap();
        cost = post(&db, 97, 3);
        let labelled = |key: &str, value: &str| Description {
            controller_kind: "Job".into(),
            controller: "train".into(),
            labels: BTreeMap::from([(key.to_owned(), value.to_owned())]),
        };
        let subject = |kind, name: &str, pod: &str| {
            let (name, namespace, pod) = (name.to_owned(), "ml".to_owned(), pod.to_owned());
            described::add(&db, "c", &Subject { kind, name, namespace, pod }).unwrap()
        };
        let pod = subject(SubjectKind::Pod, "u2", "train-2");
        let namespace = subject(SubjectKind::Namespace, "ml", "");
        for (number, from_ns, key, value) in
            [(pod, 0, "team", "a"), (pod, 2 * SLOT_NS, "team", "b"), (namespace, 0, "cost-center", "7")]
        {
            let text = described::Text::of(&labelled(key, value)).unwrap();
            described::describe(&db, number, from_ns, &text).unwrap();
        }
    });
    let (_, rows) = site.exported(WINDOW).await;
    assert_eq!(rows.iter().map(|row| amount(row, "BilledCost")).sum::<i128>(), cost);
    let tags = |row: &BTreeMap<String, String>| serde_json::from_str::<Value>(&row["Tags"]).unwrap();
    let told: BTreeSet<_> = rows
        .iter()
        .filter(|row| row["x_Pod"] == "train-2" && row["ChargePeriodEnd"].as_str() <= "1970-01-01T02:00:00Z")
        .map(|row| {
            let tags = tags(row);
            assert_eq!(
                (&tags["tonnage/controller"], &tags["tonnage/namespace_label/cost-center"]),
                (&"train".into(), &"7".into())
            );
            let period = [&row["ChargePeriodStart"], &row["ChargePeriodEnd"]].map(|at| at[11..16].to_owned());
            (period, tags["team"].as_str().unwrap().to_owned())
        })
        .collect();
    let expected = [(["00:00", "00:30"], "a"), (["00:30", "01:00"], "b"), (["01:00", "02:00"], "b")];
    assert_eq!(told, expected.map(|(period, team)| (period.map(str::to_owned), team.to_owned())).into());
    // Others have the node's label, and nobody's time has no namespace.
    let others = rows.iter().filter(|row| row["x_Pod"] != "train-2");
    assert!(others.clone().all(|row| tags(row)["team"] == "a\"b,\nc"));
    assert!(others.filter(|row| row["x_Owner"].is_empty()).all(|row| !row["Tags"].contains("cost-center")));
    let (_, rows) = site.exported(&format!("version=1.3&{WINDOW}")).await;
    let row = rows.iter().find(|row| row["x_Pod"] == "train-2" && row["x_Kind"] == "held").unwrap();
    assert_eq!(tags(row)["team"], "a\"b,\nc", "the resource's");
    let of_owner: Value = serde_json::from_str(&row["AllocatedTags"]).unwrap();
    assert_eq!(of_owner["team"], "a");
}

#[tokio::test]
async fn what_cannot_be_exported_is_refused_with_advice() {
    let site = site_of(|store, _| {
        let db = store.writer().unwrap();
        post(&db, 8, 2);
        set_mark(&db, Mark::PurgedUntil, HOUR_NS).unwrap();
    });
    for (query, field, said) in [
        ("version=1.4", "version", "\"1.4\" is none of 1.2 and 1.3"),
        ("format=xlsx", "format", "\"xlsx\" is none of csv and parquet"),
        ("window=fortnight", "window", "is not a window"),
        ("window=0,7200", "window", "1970-01-01T01:00:00Z"),
    ] {
        let (status, _, named, message) = site.get(&format!("/api/v1/export/focus?{query}")).await.error();
        assert_eq!((status, named.as_deref()), (400, Some(field)), "{query}");
        assert!(message.contains(said), "{message}");
    }
    assert_eq!(site.ask("window=3600,7200").await.status(), StatusCode::OK);
}

/// More than is on the way at once.
fn large() -> (Site, Connection) {
    let mut writer = None;
    let site = site_of(|store, _| {
        let db = store.writer().unwrap();
        post(&db, 96, 60);
        writer = Some(db);
    });
    (site, writer.unwrap())
}

#[tokio::test]
async fn a_body_that_breaks_off_does_not_end_as_a_whole_one() {
    let (site, db) = large();
    for format in ["csv", "parquet"] {
        set_mark(&db, Mark::PurgedUntil, 0).unwrap();
        let mut body = site.ask(&format!("format={format}&{WINDOW}")).await.into_body();
        assert!(body.frame().await.unwrap().is_ok());
        // What is yet to be read goes.
        set_mark(&db, Mark::PurgedUntil, DAY_NS).unwrap();
        let broken = loop {
            match body.frame().await {
                Some(Ok(_)) => {}
                other => break other,
            }
        };
        assert!(matches!(broken, Some(Err(_))), "{format}: {broken:?}");
    }
}

#[tokio::test]
async fn one_export_too_many_is_turned_away_and_a_client_that_goes_ends_its_own() {
    let (site, _db) = large();
    let first = site.ask(WINDOW).await;
    let second = site.ask(WINDOW).await;
    assert_eq!((first.status(), second.status()), (StatusCode::OK, StatusCode::OK));
    let path = format!("/api/v1/export/focus?{WINDOW}");
    assert_eq!(site.get(&path).await.error().1, "unavailable");
    drop((first, second));
    while site.ask(WINDOW).await.status() != StatusCode::OK {
        tokio::task::yield_now().await;
    }
}
