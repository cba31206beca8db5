use super::*;
use crate::budgets::{Change, Spec};

const NANO: i64 = 1_000_000_000;

fn ns(text: &str) -> i64 {
    i64::try_from(text.parse::<jiff::Timestamp>().unwrap().as_nanosecond()).unwrap()
}

fn grant(number: &str, account: &str, start: &str, end: &str) -> Grant {
    Grant {
        number: number.into(),
        account: account.into(),
        agency: "NSF".into(),
        program: String::new(),
        investigator: "Ada Lovelace".into(),
        co_investigators: Vec::new(),
        institution: "University".into(),
        department: String::new(),
        start: start.parse().unwrap(),
        end: end.parse().unwrap(),
        total_nanos: 1000 * NANO,
        indirect_rate: 550_000_000,
        period_months: 12,
        suspended: false,
        compliance: String::new(),
        federal_award_id: String::new(),
        project_code: String::new(),
        cost_center: String::new(),
    }
}

fn tree(accounts: &[(&str, Option<&str>)]) -> Tree {
    let mut tree = Tree::default();
    for (name, parent) in accounts {
        let spec = Spec { parent: parent.map(str::to_owned), ..Spec::new(name) };
        tree.apply(&Change::Create(Box::new(spec)), 0, 0).unwrap();
    }
    tree
}

fn create(awards: &mut Awards, tree: &Tree, grant: Grant) -> Result<Award, BudgetError> {
    awards.apply(&GrantChange::Create(Box::new(grant)), tree, 5)
}

#[test]
fn the_example_of_the_documentation_is_worked_out() {
    let grant = grant("NSF-2534", "physics", "2026-01-31", "2028-07-01");
    assert_eq!(grant.check(), Ok(()));
    // 1000 / 1.55, rounded down.
    assert_eq!(grant.direct_nanos(), 645_161_290_322);
    let periods = grant.periods();
    let edges: Vec<i64> = periods.iter().map(|period| period.start_ns).collect();
    assert_eq!(edges, ["2026-01-31T00:00:00Z", "2027-01-31T00:00:00Z", "2028-01-31T00:00:00Z"].map(ns));
    assert_eq!(periods[2].end_ns, ns("2028-07-01T00:00:00Z"));
    // 365, 365 and 152 days of 882.
    let awards: Vec<i64> = periods.iter().map(|period| period.award_nanos).collect();
    assert_eq!(awards, [413_832_199_547, 413_832_199_546, 172_335_600_907]);
    assert_eq!(awards.iter().sum::<i64>(), grant.total_nanos);
    let direct: Vec<i64> = periods.iter().map(|period| period.direct_nanos).collect();
    assert_eq!(direct, [266_988_515_836, 266_988_515_836, 111_184_258_650]);
    assert_eq!(direct.iter().sum::<i64>(), grant.direct_nanos());
}

#[test]
fn periods_are_months_from_the_start_and_lie_end_to_end() {
    let grant = Grant { period_months: 1, ..grant("g", "a", "2024-01-31", "2024-05-02") };
    let days: Vec<i64> =
        grant.periods().iter().map(|period| (period.end_ns - period.start_ns) / DAY_NS).collect();
    assert_eq!(days, [29, 31, 30, 2], "the 31st of January, the 29th of February, the 31st of March");
    for months in 1..=PERIOD_MONTHS_MAX {
        let grant = Grant { period_months: months, total_nanos: 7, ..grant.clone() };
        let periods = Grant { end: "2063-12-30".parse().unwrap(), ..grant }.periods();
        assert!(periods.windows(2).all(|two| two[0].end_ns == two[1].start_ns));
        assert_eq!(periods.iter().map(|period| period.award_nanos).sum::<i64>(), 7, "{months}");
        assert!(periods.iter().zip(1..).all(|(period, number)| period.number == number));
    }
    // An edge is the next one's.
    let first = grant.periods()[0];
    assert!(first.has(first.start_ns) && first.has(first.end_ns - 1) && !first.has(first.end_ns));
}

#[test]
fn a_sum_is_split_to_the_nano_and_what_is_left_goes_where_most_was_lost() {
    assert_eq!(split(10, &[1, 1, 1]), [4, 3, 3]);
    assert_eq!(split(10, &[1, 2, 4]), [1, 3, 6]);
    assert_eq!(split(i64::MAX, &[1, 1]), [4_611_686_018_427_387_904, 4_611_686_018_427_387_903]);
}

#[test]
fn a_grant_stands_by_its_dates_until_somebody_decides_otherwise() {
    let (start_ns, end_ns) = (ns("2026-01-01T00:00:00Z"), ns("2027-01-01T00:00:00Z"));
    let grant = grant("g", "a", "2026-01-01", "2027-01-01");
    let award = Award { id: 1, grant, created_ns: 0, updated_ns: 0, closed_ns: None };
    let suspended = Award { grant: Grant { suspended: true, ..award.grant.clone() }, ..award.clone() };
    for (of, at_ns, expected) in [
        (&award, start_ns - 1, Standing::Pending),
        (&award, start_ns, Standing::Active),
        (&award, end_ns - 1, Standing::Active),
        (&award, end_ns, Standing::Completed),
        (&suspended, start_ns, Standing::Suspended),
        (&suspended, end_ns, Standing::Completed),
        (&Award { closed_ns: Some(start_ns), ..award.clone() }, end_ns, Standing::Cancelled),
        (&Award { closed_ns: Some(end_ns), ..award.clone() }, end_ns, Standing::Completed),
    ] {
        assert_eq!(of.standing(at_ns), expected, "{of:?} {at_ns}");
    }
    // It pays for the whole day on which it was closed, and never for a time before its start.
    let closed = |at_ns| Award { closed_ns: Some(at_ns), ..award.clone() }.pays_ns();
    assert_eq!(closed(start_ns + 1), (start_ns, start_ns + DAY_NS));
    assert_eq!(closed(start_ns - 5 * DAY_NS), (start_ns, start_ns));
    assert_eq!(closed(end_ns + 5), (start_ns, end_ns));
}

#[test]
fn no_day_of_an_account_is_paid_for_twice() {
    let tree = tree(&[("org", None), ("physics", Some("org")), ("biology", Some("org"))]);
    let mut awards = Awards::default();
    create(&mut awards, &tree, grant("a", "physics", "2026-01-01", "2027-01-01")).unwrap();
    create(&mut awards, &tree, grant("next", "physics", "2027-01-01", "2028-01-01")).unwrap();
    create(&mut awards, &tree, grant("b", "biology", "2026-01-01", "2027-01-01")).unwrap();
    for account in ["physics", "org"] {
        let error = create(&mut awards, &tree, grant("c", account, "2026-12-31", "2029-01-01")).unwrap_err();
        assert!(error.to_string().contains("would both pay for the same days of"), "{error}");
    }
    create(&mut awards, &tree, grant("later", "org", "2028-01-01", "2029-01-01")).unwrap();
    // What is closed pays for nothing more, and another may: from the day after.
    awards.apply(&GrantChange::Close("a".into()), &tree, 6).unwrap();
    create(&mut awards, &tree, grant("c", "physics", "2026-01-01", "2027-01-01")).unwrap();
    // Nor may accounts move so that it is.
    let mut moved = tree.clone();
    let spec = Spec { parent: Some("biology".into()), ..Spec::new("physics") };
    moved.apply(&Change::Update(Box::new(spec)), 7, 0).unwrap();
    assert!(awards.fits(&tree).is_ok() && awards.fits(&moved).is_err());
}

#[test]
fn a_change_that_does_not_fit_changes_nothing() {
    let tree = tree(&[("physics", None)]);
    let mut awards = Awards::default();
    let first = grant("a", "physics", "2026-01-01", "2027-01-01");
    let made = create(&mut awards, &tree, first.clone()).unwrap();
    assert_eq!((made.id, made.created_ns), (1, 5));
    let before = awards.clone();
    for (change, said) in [
        (GrantChange::Create(Box::new(first.clone())), "is there already"),
        (
            GrantChange::Create(Box::new(grant("b", "chemistry", "2026-01-01", "2027-01-01"))),
            "none of the name",
        ),
        (GrantChange::Update(Box::new(Grant { total_nanos: 0, ..first.clone() })), "total_award_amount: "),
        (GrantChange::Update(Box::new(Grant { number: "x".into(), ..first.clone() })), "there is no grant"),
        (GrantChange::Close("x".into()), "there is no grant"),
    ] {
        let error = awards.apply(&change, &tree, 9).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
        assert_eq!(awards, before);
    }
    let closed = awards.apply(&GrantChange::Close("a".into()), &tree, 9).unwrap();
    assert_eq!((closed.closed_ns, closed.created_ns), (Some(9), 5));
    for change in [GrantChange::Close("a".into()), GrantChange::Update(Box::new(first.clone()))] {
        assert!(awards.apply(&change, &tree, 10).unwrap_err().to_string().contains("closed, for good"));
    }
    let again = create(&mut awards, &tree, first).unwrap_err().to_string();
    assert!(again.contains("closed, and stays so"), "{again}");
}

#[test]
fn a_field_that_is_wrong_is_named() {
    let good = grant("R01 GM-1/2", "a", "2026-01-01", "2027-01-01");
    assert_eq!(good.check(), Ok(()));
    let date = |text: &str| text.parse().unwrap();
    for (grant, field) in [
        (Grant { number: String::new(), ..good.clone() }, "grant_number"),
        (Grant { number: "a\u{e9}".into(), ..good.clone() }, "grant_number"),
        (Grant { number: "/a".into(), ..good.clone() }, "grant_number"),
        (Grant { number: "reports".into(), ..good.clone() }, "grant_number"),
        (Grant { agency: " ".into(), ..good.clone() }, "funding_agency"),
        (Grant { investigator: "a\nb".into(), ..good.clone() }, "principal_investigator"),
        (Grant { co_investigators: vec!["x".into(); 51], ..good.clone() }, "co_investigators"),
        (Grant { end: date("2026-01-01"), ..good.clone() }, "grant_end_date"),
        (Grant { end: date("2066-01-02"), ..good.clone() }, "grant_end_date"),
        (Grant { start: date("1969-12-31"), ..good.clone() }, "grant_start_date"),
        (Grant { total_nanos: 0, ..good.clone() }, "total_award_amount"),
        (Grant { indirect_rate: 1_000_000_001, ..good.clone() }, "indirect_cost_rate"),
        (Grant { period_months: 61, ..good.clone() }, "budget_period_months"),
        (Grant { compliance: "x".repeat(4097), ..good }, "compliance_requirements"),
    ] {
        let error = grant.check().unwrap_err().to_string();
        assert!(error.starts_with(&format!("{field}: ")), "{error}");
    }
}
