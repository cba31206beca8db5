use super::*;
use crate::target::Target;

/// Inputs of each target in a test: seconds in all, in a debug build.
const EXECUTIONS: u64 = 1_000;
const FIXED_SEED: u64 = 1;

fn survives(target: &Target, seed: u64) {
    println!("seed {seed}");
    match run::run(target, seed, Budget::Executions(EXECUTIONS)) {
        Outcome::Survived(report) => {
            println!("{report}");
            assert!(report.executions >= EXECUTIONS);
            // Or the target learns nothing of what its parser takes.
            assert!(report.accepted > EXECUTIONS / 50, "{report}");
        }
        Outcome::Found(finding) => {
            let saved = finding.save(&std::env::temp_dir().join("tonnage-fuzz"));
            panic!("{finding}\nsaved as {saved:?}");
        }
    }
}

#[test]
fn every_parser_keeps_its_promises_under_a_fixed_seed() {
    targets::all().iter().for_each(|target| survives(target, FIXED_SEED));
}

#[test]
fn every_parser_keeps_its_promises_under_a_fresh_seed() {
    let seed = rand::random();
    targets::all().iter().for_each(|target| survives(target, seed));
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut folders: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    folders.sort();
    let mut names: Vec<_> = targets::all().iter().map(|target| target.name.to_owned()).collect();
    names.sort();
    assert_eq!(folders, names);
    assert!(names.iter().all(|name| !run::corpus(name).is_empty()));
}

#[test]
fn a_parser_that_panics_or_breaks_its_promise_is_found_with_the_input() {
    fn brittle(bytes: &[u8]) -> Result<bool, String> {
        assert!(!bytes.windows(2).any(|pair| pair == [0xff, 0xff]), "two of them");
        Ok(true)
    }
    fn wrong(bytes: &[u8]) -> Result<bool, String> {
        target::promise(bytes.len() < 100, || "too long".to_owned()).map(|()| true)
    }
    for (check, why) in [(brittle as fn(&[u8]) -> _, "panicked: two of them"), (wrong, "too long")] {
        let target = Target {
            name: "planted",
            generate: |_| vec![7; 20],
            warp: |bytes, _| bytes,
            words: &[],
            bytes_max: 1_000,
            check,
        };
        let Outcome::Found(finding) = run::run(&target, FIXED_SEED, Budget::Executions(100_000)) else {
            panic!("not found: {why}")
        };
        let folder = tempfile::tempdir().unwrap();
        let saved = finding.save(folder.path()).unwrap();
        assert_eq!(std::fs::read(saved).unwrap(), finding.input);
        let text = finding.to_string();
        assert!(text.contains(why) && text.contains("seed=1"), "{text}");
        // The same seed finds the same.
        let Outcome::Found(again) = run::run(&target, FIXED_SEED, Budget::Executions(100_000)) else {
            panic!("not found again: {why}")
        };
        assert_eq!(again.input, finding.input);
    }
}
