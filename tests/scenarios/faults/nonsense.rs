//! Answers that cannot be true.

use nvidia_ml::scenario::{Garbage, Nonsense};

use super::*;

fn garbage(what: &[Nonsense]) -> Faults {
    let garbage = vec![Garbage { what: what.to_vec(), from_s: 20.0, to_s: Some(35.0) }];
    Faults { garbage, ..Faults::default() }
}

#[test]
fn impossible_figures_cost_no_time_and_book_no_energy() -> anyhow::Result<()> {
    let mut world = world(garbage(&[Nonsense::Energy, Nonsense::Memory, Nonsense::Utilisation]))?;
    world.start()?;
    world.live(60)?;
    world.nodes[0].stop(DEADLINE)?;
    assert_eq!(conserved(&world, 60)?, []);
    let books = Books::read(&world.aggregator.data_dir())?;
    let held = books.time(RowKind::Held, Some(&scenario::uuid(0)));
    assert_eq!(held.into_values().collect::<Vec<_>>(), [60 * i128::from(S)]);
    // Two GPUs that draw 700 W at most.
    let energy_uj: i128 = books.slots.values().map(|bucket| bucket.energy_uj).sum();
    assert!((1..=2 * 700 * 60 * 1_000_000).contains(&energy_uj), "{energy_uj}");
    Ok(())
}

#[test]
fn processes_that_are_none_hold_as_unowned_and_end() -> anyhow::Result<()> {
    let (_, told) = minute(garbage(&[Nonsense::Pids]))?;
    assert_eq!(told, []);
    Ok(())
}

#[test]
fn a_list_that_claims_more_than_there_was_room_for_was_not_read() -> anyhow::Result<()> {
    let (_, told) = minute(garbage(&[Nonsense::Counts]))?;
    let devices: Vec<_> = told.iter().map(|gap| (gap.1, gap.2, gap.3)).collect();
    assert!(!devices.is_empty() && devices.iter().all(|gap| *gap == (Reason::NotRead, 19, 34)), "{told:?}");
    Ok(())
}

#[test]
fn a_gpu_whose_name_is_no_text_cannot_be_opened_until_it_is_again() -> anyhow::Result<()> {
    // Devices are opened anew after about a minute.
    let garbage = vec![Garbage { what: vec![Nonsense::Text], from_s: 50.0, to_s: Some(75.0) }];
    let mut world = world(Faults { garbage, ..Faults::default() })?;
    world.start()?;
    world.live(50)?;
    pass(&mut world, 24)?;
    let (status, said) = world.nodes[0].get("/readyz")?;
    assert!(status == 503 && said.contains("none can be opened"), "{status} {said}");
    pass(&mut world, 1)?;
    world.live(15)?;
    world.nodes[0].stop(DEADLINE)?;
    let told = conserved(&world, 90)?;
    assert!(told.len() == 1 && told[0].1 == Reason::NotRead, "{told:?}");
    assert!((50..70).contains(&told[0].2) && told[0].3 == 74, "{told:?}");
    Ok(())
}
