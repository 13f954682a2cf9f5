//! What a reader had is kept without being fetched again. One blob, mostly of eight blocks; what it takes to forget
//! blocks is read of another.

use super::*;
use crate::fill::blocks::tests::{Fed, body_in, long_body, node, nth, part, slice, until};
use crate::fill::{OriginBody, expect, read};
use crate::io::buffers::PIECE_BYTES;
use crate::node::Node;
use crate::origin::memory::MemoryOrigin;
use bytes::Bytes;

const BLOCKS: u64 = 8;
/// Those of a blob that is longer than all blocks that stay.
const LONG: u64 = 20;
/// Blocks of another blob that drive out everything that may go.
const OTHERS: u64 = 16;

struct Site {
    node: Node,
    shared: Arc<Shared>,
    origin: Arc<Fed>,
    body: Bytes,
    of: OriginBody,
    others: OriginBody,
    _dir: tempfile::TempDir,
}

impl Site {
    async fn new() -> Site {
        Site::of(BLOCKS).await
    }

    async fn of(blocks: u64) -> Site {
        let (dir, node) = node().await;
        let body = long_body(blocks);
        let origin = Fed::that_flows(&body, true);
        let (of, shared) = (body_in(&origin, &body), node.store().shared().clone());
        let other = long_body(OTHERS);
        let memory = Arc::new(MemoryOrigin::capable());
        memory.put_foreign_with("k", other.clone(), Default::default(), &[]);
        let others = body_in(&memory, &other);
        Site { node, shared, origin, body, of, others, _dir: dir }
    }

    /// A reader of all of the blob.
    fn reader(&self) -> OriginPart {
        part(1, &self.body)
    }

    /// Reads as a client does that wants everything up to the end.
    async fn read(&self, reader: &OriginPart, blocks: Range<u64>) {
        let (end, len) = (blocks.end * BLOCK_BYTES, self.body.len() as u64);
        for at in (blocks.start * BLOCK_BYTES..end).step_by(PIECE_BYTES as usize) {
            let range = at..at + PIECE_BYTES;
            let _ = expect(&self.shared, &self.of, reader, at..len);
            let bytes = read(&self.shared, &self.of, reader, range.clone()).await.unwrap();
            assert!(bytes == slice(&self.body, range), "{at}");
        }
    }

    async fn read_others(&self) {
        let other =
            OriginPart { whole: false, ..part(2, &Bytes::from(vec![0; (OTHERS * BLOCK_BYTES) as usize])) };
        for number in 0..OTHERS {
            let start = nth(number).start;
            read(&self.shared, &self.others, &other, start..start + 1).await.unwrap();
        }
    }

    fn kept(&self) -> u64 {
        self.shared.fills.counts().kept
    }

    async fn until_all_is_kept(&self) {
        until("the end of what is kept", || self.shared.fills.keeping() == 0).await;
        assert_eq!(self.kept(), 1);
    }

    fn assert_each_block_once(&self) {
        let blocks = self.body.len() as u64 / BLOCK_BYTES;
        assert_eq!(self.origin.asked(), (0..blocks).map(nth).collect::<Vec<_>>());
    }

    async fn stop(self) {
        drop(self.shared);
        self.node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_reader_had_is_written_without_being_fetched_again() {
    let site = Site::new().await;
    let reader = site.reader();
    let shut = site.shared.fills.writes.shut.clone().write_owned().await;
    site.read(&reader, 0..3).await;
    // The disk has taken nothing; the blocks that the reader had stay, and others come and go.
    site.read_others().await;
    drop(shut);
    site.read(&reader, 3..BLOCKS).await;
    site.until_all_is_kept().await;
    site.assert_each_block_once();
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_is_kept_from_the_moment_that_its_second_block_is_expected() {
    let site = Site::new().await;
    let reader = site.reader();
    site.read(&reader, 0..1).await;
    // The reader goes away; the rest is fetched for what is kept.
    drop(reader);
    site.until_all_is_kept().await;
    site.assert_each_block_once();
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_reader_gets_what_is_written_and_has_no_place_yet() {
    let site = Site::new().await;
    let shut = site.shared.fills.ends.shut.clone().write_owned().await;
    site.read(&site.reader(), 0..BLOCKS).await;
    site.read_others().await;
    site.read(&site.reader(), 0..BLOCKS).await;
    drop(shut);
    site.until_all_is_kept().await;
    // Now it lies here.
    site.shared.fills.blocks.forget();
    site.read(&site.reader(), 0..BLOCKS).await;
    site.assert_each_block_once();
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_readers_at_once_have_each_block_fetched_once() {
    let site = Site::new().await;
    let (first, second) = (site.reader(), site.reader());
    tokio::join!(site.read(&first, 0..BLOCKS), site.read(&second, 0..BLOCKS));
    site.until_all_is_kept().await;
    site.assert_each_block_once();
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_before_a_readers_first_byte_is_fetched_beside_it_once() {
    let site = Site::new().await;
    let shut = site.shared.fills.writes.shut.clone().write_owned().await;
    let reader = site.reader();
    site.read(&reader, 3..6).await;
    site.read_others().await;
    drop(shut);
    site.read(&reader, 6..BLOCKS).await;
    site.until_all_is_kept().await;
    site.assert_each_block_once();
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_for_the_disk_is_not_kept_and_its_reader_goes_on() {
    let site = Site::of(LONG).await;
    let shut = site.shared.fills.writes.shut.clone().write_owned().await;
    site.shared.fills.blocks.lose_patience();
    let reader = site.reader();
    site.read(&reader, 0..LONG).await;
    assert_eq!(site.shared.fills.keeping(), 1);
    site.read_others().await;
    drop(shut);
    until("the end of what is kept", || site.shared.fills.keeping() == 0).await;
    assert_eq!(site.kept(), 0);
    site.assert_each_block_once();
    // This reader does not begin anew what is too much for the disk; another may.
    site.read(&reader, 0..LONG).await;
    until("the end of what is kept", || site.shared.fills.keeping() == 0).await;
    assert_eq!(site.kept(), 0);
    site.read(&site.reader(), 0..1).await;
    site.until_all_is_kept().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_waits_for_the_disk_rather_than_have_blocks_fetched_twice() {
    let site = Site::of(LONG).await;
    let shut = site.shared.fills.writes.shut.clone().write_owned().await;
    let reader = site.reader();
    let mut reading = Box::pin(site.read(&reader, 0..LONG));
    let blocks = &site.shared.fills.blocks;
    tokio::select! {
        () = &mut reading => panic!("nothing is written, and everything was read"),
        () = until("a reader that waits", || blocks.waiting() > 0) => {}
    }
    drop(shut);
    reading.await;
    site.until_all_is_kept().await;
    site.assert_each_block_once();
    site.stop().await;
}
