//! The small world around the queue, by seed, with all rules and with each taken away.

use crate::flush::queue::sim::{Plan, Sabotage, play};

fn plan(seed: u64) -> Plan {
    let seed_bits = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    Plan {
        seed,
        conditions: seed_bits & 1 == 1,
        foreign: seed_bits & 7 == 7,
        existing: false,
        fifo: seed_bits & 8 == 8,
        sabotage: Sabotage::default(),
    }
}

/// Plays seeds with a rule taken away until one complains in the expected words.
fn must_complain(sabotage: Sabotage, words: &str) {
    let mut others = Vec::new();
    for seed in 0..200 {
        match play(Plan { sabotage, ..plan(seed) }) {
            Err(complaint) if complaint.contains(words) => return,
            Err(complaint) => others.push(complaint),
            Ok(()) => {}
        }
    }
    panic!("no seed complains of \"{words}\" with {sabotage:?}; others: {others:?}");
}

#[test]
fn no_schedule_breaks_the_origin() {
    for seed in 0..400 {
        if let Err(complaint) = play(plan(seed)) {
            panic!("seed {seed} {:?}: {complaint}", plan(seed));
        }
    }
}

/// The same over data that was there before, with clients that know nothing of it.
#[test]
fn no_schedule_of_blind_rows_breaks_the_origin() {
    for seed in 0..400 {
        let plan = Plan { existing: true, ..plan(seed) };
        if let Err(complaint) = play(plan) {
            panic!("seed {seed} {plan:?}: {complaint}");
        }
    }
}

#[test]
fn blind_rows_that_are_judged_like_others_are_set_aside() {
    let mut complaints = (0..50).filter_map(|seed| {
        let sabotage = Sabotage { no_blindness: true, ..Sabotage::default() };
        play(Plan { existing: true, sabotage, ..plan(seed) }).err()
    });
    assert!(complaints.any(|complaint| complaint.contains("a blind row was set aside")));
}

#[test]
fn without_the_fence_the_origin_goes_back_under_blind_rows_too() {
    let mut complaints = (0..200).filter_map(|seed| {
        let sabotage = Sabotage { no_fence: true, ..Sabotage::default() };
        play(Plan { existing: true, sabotage, ..plan(seed) }).err()
    });
    assert!(complaints.any(|complaint| complaint.contains("the origin went back")));
}

#[test]
#[ignore = "long form: minutes; `FOREBAY_SEEDS` sets the number"]
fn no_schedule_breaks_the_origin_in_many_seeds() {
    let seeds = std::env::var("FOREBAY_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(40_000);
    for seed in 1_000..1_000 + seeds {
        let plan = Plan { existing: seed % 2 == 0, ..plan(seed) };
        if let Err(complaint) = play(plan) {
            panic!("seed {seed} {plan:?}: {complaint}");
        }
    }
}

#[test]
fn without_the_fence_the_origin_goes_back() {
    must_complain(Sabotage { no_fence: true, ..Sabotage::default() }, "the origin went back");
}

#[test]
fn with_two_requests_of_a_key_in_flight_the_origin_goes_back() {
    must_complain(Sabotage { many_in_flight: true, ..Sabotage::default() }, "the origin went back");
}

#[test]
fn without_barriers_a_manifest_arrives_before_what_it_names() {
    must_complain(Sabotage { no_barrier: true, ..Sabotage::default() }, "as a barrier before");
}

#[test]
fn without_barriers_an_overwrite_overtakes_the_manifest_that_needs_the_old_bytes() {
    must_complain(Sabotage { no_barrier: true, ..Sabotage::default() }, "overtook barrier");
}

#[test]
fn without_giving_up_older_uploads_the_origin_goes_back() {
    must_complain(Sabotage { no_abort: true, ..Sabotage::default() }, "the origin went back");
}

#[test]
fn if_not_known_is_believed_at_once_the_origin_goes_back() {
    must_complain(Sabotage { believes_not_known: true, ..Sabotage::default() }, "the origin went back");
}

#[test]
fn if_an_upload_that_was_tried_is_forgotten_when_it_is_lost_the_origin_goes_back() {
    must_complain(Sabotage { forgets_lost: true, ..Sabotage::default() }, "the origin went back");
}

#[test]
fn without_the_head_a_version_that_landed_is_taken_for_a_conflict() {
    must_complain(Sabotage { no_head: true, ..Sabotage::default() }, "nothing foreign explains");
}
