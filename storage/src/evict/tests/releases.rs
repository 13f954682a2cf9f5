//! Bytes that the origin holds and that have lost their mark are found when room is wanted, and can be given up.

use super::super::hold::bring_back;
use super::super::{Want, make_room};
use super::model::{Missing, Site, key};
use crate::keyspace::memtable::RowKey;
use crate::keyspace::places::Batch;
use crate::keyspace::tables::{Table, blob_key, object_key};
use crate::keyspace::view::View;
use crate::mutation::{Mutation, Outcome};
use crate::object::ObjectRow;
use crate::submission::Submission;

/// Staged, as one piece.
const LEN: usize = 66_000;
/// More objects than any story has.
const ALL: usize = 10_000;

fn body(number: u64) -> Vec<u8> {
    (0..LEN).map(|at| (number as usize * 131 + at * 7 + at / 251) as u8).collect()
}

/// Object 1, in the origin, and what fills its segment.
fn site() -> Site {
    let mut site = Site::new(1, Missing::default()).unwrap();
    (1..6).for_each(|number| site.put(number, body(number)).unwrap());
    site.flush(ALL).unwrap();
    site.checkpoint().unwrap();
    site
}

/// Gives up what may go.
fn give_up(site: &mut Site) {
    // What was read lately goes at the second look, and nothing of the segment that copies go to.
    for _ in 0..3 {
        (100..114).for_each(|number| site.put(number, body(number)[..20_000].to_vec()).unwrap());
        site.checkpoint().unwrap();
        let wait = |_: &Batch| {
            site.checkpoint().unwrap();
            true
        };
        make_room(&site.shared(), Want::Capacity(1 << 40), &wait).unwrap();
    }
}

/// Whether the object's bytes are here.
fn is_here(site: &Site, number: u64) -> bool {
    let shared = site.shared();
    let row = object_key(Table::Object, site.bucket, &key(number));
    let row = View::latest(&shared.keyspace).get(RowKey::encoded(&row), false, true).unwrap().unwrap();
    let row = ObjectRow::from_encoded(row.unwrap());
    let is_here = |blob| shared.keyspace.base.get(&blob_key(Table::Blob, blob)).unwrap().is_some();
    row.parts().filter_map(|part| part.blob()).all(is_here)
}

/// The object's mark is gone: it stays, however much room is wanted, until somebody looks for such.
fn is_found(site: &mut Site, number: u64) {
    site.checkpoint().unwrap();
    give_up(site);
    assert!(is_here(site, number), "it was given up without a mark");
    site.release_all();
    site.checkpoint().unwrap();
    let released = site.shared().evictor.counts().released;
    assert_eq!(released, 1);
    give_up(site);
    assert!(!is_here(site, number), "it stays for ever");
    site.verify(false).unwrap();
    // And nothing is found again.
    site.release_all();
    assert_eq!(site.shared().evictor.counts().released, released);
}

#[test]
fn what_loses_its_second_reference_can_be_given_up() {
    for survivor in [1, 2] {
        let mut site = site();
        site.release_all();
        site.copy(1, 2, false, false).unwrap();
        site.flush(ALL).unwrap();
        site.delete(3 - survivor).unwrap();
        site.flush(ALL).unwrap();
        is_found(&mut site, survivor);
    }
}

#[test]
fn what_two_objects_share_is_not_released() {
    let mut site = site();
    site.copy(1, 2, false, false).unwrap();
    site.flush(ALL).unwrap();
    site.checkpoint().unwrap();
    site.release_all();
    assert_eq!(site.shared().evictor.counts().released, 0);
    give_up(&mut site);
    assert!(is_here(&site, 1));
}

#[test]
fn what_a_crash_has_left_held_can_be_given_up() {
    let mut site = site();
    site.release_all();
    let mut submission = Submission::new();
    submission.push(&Mutation::Hold { bucket: site.bucket, key: &key(1), version: None });
    assert!(matches!(site.submit(submission).unwrap().results[..], [Outcome::Done(_)]));
    site.world.borrow_mut().crash(true);
    site.open().unwrap();
    is_found(&mut site, 1);
}

#[test]
fn what_was_brought_back_and_not_built_on_can_be_given_up() {
    let mut site = site();
    site.release_all();
    give_up(&mut site);
    assert!(!is_here(&site, 1));
    site.run(bring_back(&site.shared(), site.bucket, &key(1))).unwrap().unwrap();
    // Its segment is full.
    (6..10).for_each(|number| site.put(number, body(number)).unwrap());
    is_found(&mut site, 1);
}

#[test]
fn what_waits_for_its_origin_is_not_released() {
    let mut site = site();
    site.put(1, body(7)).unwrap();
    let shared = site.shared();
    let row = object_key(Table::Object, site.bucket, &key(1));
    let row = View::latest(&shared.keyspace).get(RowKey::encoded(&row), false, true).unwrap().unwrap();
    let version = ObjectRow::from_encoded(row.unwrap()).version();
    let mut submission = Submission::new();
    submission.push(&Mutation::Release { bucket: site.bucket, key: &key(1), version });
    assert_eq!(site.submit(submission).unwrap().results, [Outcome::Unmet]);
    site.release_all();
    assert_eq!(shared.evictor.counts().released, 0);
}
