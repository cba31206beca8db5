//! What a price book accepts, refuses and answers.

use super::*;

const BOOK: &str = r#"
currency = "USD"

[[price]]
match = { gpu_model = "NVIDIA H100*", capacity_type = "spot" }
price = "1.25"
unit = "gpu_hour"

[[price]]
match = { gpu_model = "NVIDIA H100*" }
valid_from = "2026-01-01T00:00:00Z"
price = "2.50"
unit = "gpu_hour"

[[price]]
match = { gpu_model = "NVIDIA H100*" }
valid_from = 2026-02-01T00:07:00Z
price = 3
unit = "gpu_hour"

[[price]]
match = { labels = { "pool" = "train-*" }, cluster = "prod" }
price = "98.32"
unit = "node_hour"
gpus_per_node = 8
"#;

fn slot(text: &str) -> i64 {
    i64::try_from(text.parse::<jiff::Timestamp>().unwrap().as_nanosecond()).unwrap()
}

fn hourly(book: &Book, model: &str, facts: &NodeFacts, at: &str) -> Option<i128> {
    let facts = PriceFacts { cluster: "prod", node: "n1", gpu_model: model, facts };
    book.rate(&facts, slot(at), 1).map(|rate| rate.per_gpu_hour_nanos(1))
}

const H100: &str = "NVIDIA H100 80GB HBM3";

#[test]
fn a_book_says_what_becomes_of_idle_cost_and_no_rate_depends_on_it() {
    assert_eq!(Book::parse(BOOK).unwrap().idle(), IdlePolicy::Report);
    for (said, policy) in
        [("report", IdlePolicy::Report), ("share", IdlePolicy::Share), ("platform", IdlePolicy::Platform)]
    {
        let book = Book::parse(&format!("idle = \"{said}\"\n{BOOK}")).unwrap();
        assert_eq!(book.idle(), policy);
        let at = hourly(&book, H100, &NodeFacts::default(), "2026-02-01T00:15:00Z");
        assert_eq!(at, Some(3_000_000_000));
    }
    let error = Book::parse("currency = \"USD\"\nidle = \"none\"\n").unwrap_err().to_string();
    assert_eq!(error, "price book line 2: idle: \"none\" is none of report, share and platform");
}

#[test]
fn the_first_series_that_matches_wins() {
    let book = Book::parse(BOOK).unwrap();
    let spot = NodeFacts { capacity_type: "spot".into(), ..NodeFacts::default() };
    assert_eq!(hourly(&book, H100, &spot, "2026-03-01T00:00:00Z"), Some(1_250_000_000));
    assert_eq!(hourly(&book, H100, &NodeFacts::default(), "2026-01-01T00:00:00Z"), Some(2_500_000_000));
}

#[test]
fn a_price_takes_effect_at_the_first_slot_that_starts_at_or_after_it() {
    let book = Book::parse(BOOK).unwrap();
    let at = |time| hourly(&book, H100, &NodeFacts::default(), time);
    assert_eq!(at("2025-12-31T23:45:00Z"), None);
    assert_eq!(at("2026-01-01T00:00:00Z"), Some(2_500_000_000));
    assert_eq!(at("2026-02-01T00:00:00Z"), Some(2_500_000_000));
    assert_eq!(at("2026-02-01T00:15:00Z"), Some(3_000_000_000));
}

#[test]
fn a_series_without_a_valid_row_leaves_the_slot_to_the_next_series() {
    let book = Book::parse(BOOK).unwrap();
    let labels = [("pool".to_owned(), "train-a".to_owned())].into();
    let facts = NodeFacts { labels, ..NodeFacts::default() };
    assert_eq!(hourly(&book, H100, &facts, "2025-06-01T00:00:00Z"), Some(12_290_000_000));
}

#[test]
fn what_is_not_known_matches_no_pattern() {
    let book = Book::parse(
        "currency = \"USD\"\n[[price]]\nmatch = { region = \"*\" }\nprice = 1\nunit = \"gpu_hour\"\n",
    )
    .unwrap();
    assert_eq!(hourly(&book, H100, &NodeFacts::default(), "2026-01-01T00:00:00Z"), None);
    let known = NodeFacts { region: "us-east-1".into(), ..NodeFacts::default() };
    assert!(hourly(&book, H100, &known, "2026-01-01T00:00:00Z").is_some());
}

#[test]
fn an_empty_book_prices_nothing() {
    assert_eq!(hourly(&Book::empty(), H100, &NodeFacts::default(), "2026-01-01T00:00:00Z"), None);
    assert!(Book::parse("currency = \"EUR\"\n").unwrap().rows().is_empty());
}

#[test]
fn rows_show_what_each_price_is_per_gpu_hour() {
    let rows = Book::parse(BOOK).unwrap().rows();
    assert_eq!(rows.len(), 4);
    assert_eq!(rows[0].valid_from, "");
    assert_eq!((rows[1].line, rows[1].valid_from.as_str()), (9, "2026-01-01T00:00:00Z"));
    assert_eq!(rows[3].price_per_gpu_hour, "12.290000000");
    assert_eq!(rows[3].matches["labels.pool"], "train-*");
}

#[test]
fn the_hash_is_of_the_text() {
    let (a, b) = (Book::parse(BOOK).unwrap(), Book::parse(&format!("{BOOK}\n")).unwrap());
    assert_eq!(a.text(), BOOK);
    assert_ne!(a.sha256(), b.sha256());
}

fn refusal(row: &str) -> String {
    Book::parse(&format!("currency = \"USD\"\n[[price]]\n{row}")).unwrap_err().to_string()
}

#[test]
fn a_wrong_value_is_named_with_its_line_and_what_would_be_right() {
    assert_eq!(
        refusal("price = \"2\"\nunit = \"per_hour\"\n"),
        "price book line 4: price.unit: \"per_hour\" is not a unit; \
         use gpu_hour, gpu_month, node_hour or node_month"
    );
    for (row, line, said) in [
        ("price = 2.5\nunit = \"gpu_hour\"", 3, "quote it"),
        ("price = \"-1\"\nunit = \"gpu_hour\"", 3, "from 0 to 1000000"),
        ("price = 1000001\nunit = \"gpu_hour\"", 3, "from 0 to 1000000"),
        ("price = \"0.0000000001\"\nunit = \"gpu_hour\"", 3, "nine places"),
        ("unit = \"gpu_hour\"", 2, "price.price: is missing"),
        ("price = 1", 2, "price.unit: is missing"),
        ("price = 1\nunit = \"node_hour\"", 4, "gpus_per_node: is missing"),
        ("price = 1\nunit = \"gpu_hour\"\ngpus_per_node = 8", 5, "remove it"),
        ("price = 1\nunit = \"node_month\"\ngpus_per_node = 0", 5, "from 1 to 1024"),
        ("price = 1\nunit = \"gpu_hour\"\nvalid_from = 2026-01-01", 5, "RFC 3339"),
        ("price = 1\nunit = \"gpu_hour\"\ncolour = \"red\"", 5, "\"colour\" is not a key"),
        ("price = 1\nunit = \"gpu_hour\"\nweight = \"bytes\"", 5, "is neither compute nor memory"),
        ("price = 1\nunit = \"gpu_hour\"\nmatch = { gpu = \"x\" }", 5, "\"gpu\" is not a fact"),
        ("price = 1\nunit = \"gpu_hour\"\nmatch = { zone = \"[\" }", 2, "is not a glob"),
        ("price = 1\nunit = \"gpu_hour\"\nmatch = \"all\"", 5, "is not a table"),
        ("price = ", 3, "is not TOML"),
    ] {
        let text = refusal(row);
        assert!(text.starts_with(&format!("price book line {line}: ")) && text.contains(said), "{text}");
    }
}

#[test]
fn a_row_says_by_what_instances_are_weighed_and_compute_slices_are_what_it_means_without() {
    let weights = ["", "weight = \"compute\"", "weight = \"memory\""];
    let rows = weights.iter().enumerate().map(|(zone, weight)| {
        format!("[[price]]\nmatch = {{ zone = \"{zone}\" }}\nprice = 1\nunit = \"gpu_hour\"\n{weight}\n")
    });
    let book = Book::parse(&format!("currency = \"USD\"\n{}", rows.collect::<String>())).unwrap();
    let rows = book.rows();
    assert_eq!(
        rows.iter().map(|row| row.weight.as_str()).collect::<Vec<_>>(),
        ["compute", "compute", "memory"]
    );
}

#[test]
fn the_same_match_and_time_twice_is_refused() {
    let row = "[[price]]\nmatch = { zone = \"a\" }\nprice = 1\nunit = \"gpu_hour\"\n";
    let error = Book::parse(&format!("currency = \"USD\"\n{row}{row}")).unwrap_err();
    assert_eq!(error.line, 6);
    assert!(error.reason.contains("line 2"), "{error}");
}

#[test]
fn a_book_says_its_currency() {
    assert!(Book::parse("").unwrap_err().to_string().contains("currency: is missing"));
    assert!(Book::parse("currency = \"dollars\"").is_err());
    assert!(Book::parse("curency = \"USD\"").unwrap_err().to_string().contains("\"curency\" is not a key"));
}

#[test]
fn a_book_has_limits() {
    assert!(Book::parse(&"#".repeat(BOOK_BYTES_MAX + 1)).unwrap_err().reason.contains("at most 1048576"));
    let row = "[[price]]\nprice=1\nunit='gpu_hour'\n";
    let many = format!("currency = \"USD\"\n{}", row.repeat(BOOK_ROWS_MAX + 1));
    assert!(Book::parse(&many).unwrap_err().reason.contains("at most 10000"));
    let globs: String = (0..1001)
        .map(|n| format!("[[price]]\nmatch={{zone=\"{n}*\"}}\nprice=1\nunit=\"gpu_hour\"\n"))
        .collect();
    let error = Book::parse(&format!("currency = \"USD\"\n{globs}")).unwrap_err();
    assert!(error.reason.contains("at most 1000 distinct globs"), "{error}");
}
