//! The queue in stories, and under the simulation of `sim.rs`.

use super::sim::{Plan, Sabotage, play};

fn plan(seed: u64) -> Plan {
    let seed_bits = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    Plan {
        seed,
        conditions: seed_bits & 1 == 1,
        foreign: seed_bits & 7 == 7,
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

#[test]
#[ignore = "long form: a minute or two"]
fn no_schedule_breaks_the_origin_in_many_seeds() {
    for seed in 1_000..41_000 {
        if let Err(complaint) = play(plan(seed)) {
            panic!("seed {seed} {:?}: {complaint}", plan(seed));
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
fn without_the_head_a_version_that_landed_is_taken_for_a_conflict() {
    must_complain(Sabotage { no_head: true, ..Sabotage::default() }, "nothing foreign explains");
}
