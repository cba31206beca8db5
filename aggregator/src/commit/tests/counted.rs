//! Batches are counted by node, however many of them one transaction has.

use super::*;

fn counts(ledger: &Ledger) -> Vec<(String, [i64; 3])> {
    let db = ledger.db();
    let mut statement =
        db.prepare_cached("SELECT name, accepted, refused, quarantined FROM node ORDER BY name").unwrap();
    let rows =
        statement.query_map([], |row| Ok((row.get(0)?, [row.get(1)?, row.get(2)?, row.get(3)?]))).unwrap();
    rows.map(Result::unwrap).collect()
}

#[test]
fn what_became_of_the_batches_of_one_transaction_is_counted_once_for_each_node() {
    let mut ledger = Ledger::new(BOOK, 200);
    let (mut own, mut clone) = (Agent::new("own", "a", 1), Agent::new("clone", "b", 2));
    let mut group: Vec<Sealed> = (0..3).map(|at| own.batch("GPU-1", &[(at * 10, 10, 10)])).collect();
    group.push(clone.batch("GPU-1", &[(5, 5, 5)]));
    group.push(Sealed { valid: Err("is none".into()), ..clone.batch("GPU-2", &[(0, 10, 10)]) });
    // Another one under the last number: neither it nor the one before is counted again.
    let twice = own.seal(own.empty());
    let (submissions, _answers): (Vec<_>, Vec<_>) = group
        .into_iter()
        .map(|sealed| {
            let (answer, answered) = oneshot::channel();
            (Submission::Batch { batch: Box::new(sealed), answer }, answered)
        })
        .unzip();
    ledger.committer.commit_now(submissions);
    let expected = vec![("clone".to_owned(), [0, 1, 1]), ("own".to_owned(), [3, 0, 0])];
    assert_eq!(counts(&ledger), expected);
    let (answer, mut answered) = oneshot::channel();
    ledger.committer.commit_now(vec![Submission::Batch { batch: Box::new(twice), answer }]);
    assert!(matches!(answered.try_recv().unwrap().unwrap(), Verdict::Resync { .. }));
    assert_eq!(counts(&ledger), expected);
}
