use super::*;

const NAMES: [&str; 3] = ["2026-11-20-10-00-00-aaaaaaaaaaaa", "2026-11-20-11-00-00-bbbbbbbbbbbb", "2026-11-20-12-00-00-cccccccccccc"];

/// Covers every state of two or three slots, for each slot that visitors are led to and each live release.
#[test]
fn no_release_takes_the_slot_of_another_that_visitors_need() {
    let names: Vec<ReleaseName> = NAMES.iter().map(|name| name.parse().unwrap()).collect();
    let new = &names[2];
    let states: Vec<(Option<usize>, bool)> =
        [None, Some(0), Some(1), Some(2)].into_iter().flat_map(|of| [(of, true), (of, false)]).collect();
    let mut looked_at = 0;
    for count in [2_usize, 3] {
        for number in 0..states.len().pow(u32::try_from(count).unwrap()) {
            let state = |at: usize| states[number / states.len().pow(u32::try_from(at).unwrap()) % states.len()];
            let seats: Vec<Seat> = (0..count)
                .map(|at| Seat {
                    slot: format!("slot-{at}").parse().unwrap(),
                    release: state(at).0.map(|of| names[of].clone()),
                    down: state(at).1,
                })
                .collect();
            for (public, live) in (0..=count).flat_map(|public| [None, Some(&names[0]), Some(&names[1])].map(|live| (public, live))) {
                let is_public = |seat: &Seat| seats.get(public).is_some_and(|public| public.slot == seat.slot);
                let took = choose(&seats, new, live, is_public).expect("one of two slots is free for a release");
                let own = seats.iter().any(|seat| seat.release.as_ref() == Some(new));
                assert_eq!(took.release.as_ref() == Some(new), own, "its own slot, where it has one: {seats:?}");
                if !own {
                    let others = || seats.iter().filter(|seat| !is_public(seat));
                    assert!(!is_public(took), "visitors are led there: {took:?} of {seats:?}");
                    assert!(took.down || others().all(|seat| !seat.down), "one of the others is stopped: {took:?} of {seats:?}");
                    let of_live = |seat: &Seat| !seat.down && seat.release.is_some() && seat.release.as_ref() == live;
                    assert!(!of_live(took) || others().all(of_live), "it is of the live release: {took:?} of {seats:?}");
                }
                looked_at += 1;
            }
        }
    }
    assert!(looked_at > 6000);
}
