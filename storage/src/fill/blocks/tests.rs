use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::*;
use crate::evict::tests::stories;
use crate::io::buffers::PIECE_BYTES;
use crate::mutation::BLOCK_BYTES;
use crate::node::{Node, OriginBackend, StorageConfig};
use crate::origin::memory::{Fault, MemoryOrigin};
use crate::origin::{
    AbortReply, BeginRequest, CompleteRequest, DeleteRequest, HeadReply, ListReply, ListRequest,
    ListedUpload, Origin, OriginETag, OriginKey, PartRequest, PutReply, PutRequest, ReadReply, SentPart,
    UploadId,
};
use crate::store::Store;

const LIMIT: Duration = Duration::from_secs(60);

/// A read that is under way.
struct Reading {
    range: Range<u64>,
    chunks: mpsc::UnboundedSender<Result<Bytes, OriginError>>,
}

/// An origin that knows what was read of it, and whose bodies come when the test sends them.
pub(in crate::fill) struct Fed {
    inner: MemoryOrigin,
    readings: Mutex<Vec<Reading>>,
    /// Whether bodies come by themselves.
    flows: bool,
}

impl Fed {
    /// With an object `k` of this body.
    fn of(body: &Bytes) -> Arc<Fed> {
        Fed::that_flows(body, false)
    }

    pub(in crate::fill) fn that_flows(body: &Bytes, flows: bool) -> Arc<Fed> {
        let inner = MemoryOrigin::capable();
        inner.put_foreign_with("k", body.clone(), Default::default(), &[]);
        Arc::new(Fed { inner, readings: Mutex::default(), flows })
    }

    /// The ranges of all reads so far, in the order of the object's bytes.
    pub(in crate::fill) fn asked(&self) -> Vec<Range<u64>> {
        let mut asked: Vec<_> = self.readings.lock().iter().map(|reading| reading.range.clone()).collect();
        asked.sort_by_key(|range| range.start);
        asked
    }

    /// Sends the next chunk of the reading that began at `start`.
    fn send(&self, start: u64, chunk: Result<Bytes, OriginError>) {
        let readings = self.readings.lock();
        let reading =
            readings.iter().rfind(|reading| reading.range.start == start).expect("it was asked for");
        // A reading that nobody waits for any more is no mistake.
        let _ = reading.chunks.send(chunk);
    }

    /// Nothing more of it comes.
    fn end(&self, start: u64) {
        self.readings.lock().retain(|reading| reading.range.start != start);
    }
}

#[async_trait]
impl Origin for Fed {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn put(&self, request: PutRequest) -> Result<PutReply, OriginError> {
        self.inner.put(request).await
    }

    async fn begin_upload(&self, request: BeginRequest) -> Result<UploadId, OriginError> {
        self.inner.begin_upload(request).await
    }

    async fn put_part(&self, request: PartRequest) -> Result<SentPart, OriginError> {
        self.inner.put_part(request).await
    }

    async fn complete_upload(&self, request: CompleteRequest) -> Result<PutReply, OriginError> {
        self.inner.complete_upload(request).await
    }

    async fn abort_upload(&self, key: &OriginKey, upload: &UploadId) -> Result<AbortReply, OriginError> {
        self.inner.abort_upload(key, upload).await
    }

    async fn list_uploads(&self, key: &OriginKey) -> Result<Vec<ListedUpload>, OriginError> {
        self.inner.list_uploads(key).await
    }

    async fn read(&self, request: ReadRequest) -> Result<Option<ReadReply>, OriginError> {
        let is_k = request.key.0 == "k";
        let Some(reply) = self.inner.read(request).await?.filter(|_| is_k) else { return Ok(None) };
        let (chunks, mut coming) = mpsc::unbounded_channel();
        self.readings.lock().push(Reading { range: reply.range.clone(), chunks });
        if self.flows {
            return Ok(Some(reply));
        }
        let body = futures_util::stream::poll_fn(move |context| coming.poll_recv(context));
        Ok(Some(ReadReply { body: Box::pin(body), ..reply }))
    }

    async fn head(&self, key: &OriginKey) -> Result<Option<HeadReply>, OriginError> {
        self.inner.head(key).await
    }

    async fn delete(&self, request: DeleteRequest) -> Result<(), OriginError> {
        self.inner.delete(request).await
    }

    async fn list(&self, request: ListRequest) -> Result<ListReply, OriginError> {
        self.inner.list(request).await
    }
}

pub(in crate::fill) async fn node() -> (tempfile::TempDir, Node) {
    let dir = tempfile::tempdir().unwrap();
    let config =
        StorageConfig { map_bytes: 1 << 30, journal_file_bytes: 16 << 20, ..StorageConfig::new(dir.path()) };
    let node = Node::start(config).await.unwrap();
    (dir, node)
}

pub(in crate::fill) fn body_in(origin: &Arc<impl Origin + 'static>, body: &Bytes) -> OriginBody {
    let etag = OriginETag(hex::encode(<md5::Md5 as md5::Digest>::digest(body)));
    let (origin, key) = (origin.clone(), OriginKey("k".to_owned()));
    OriginBody {
        kept: false,
        origin,
        key,
        of: (1, Bytes::from_static(b"k")),
        etag,
        len: body.len() as u64,
        turns: turns(),
        log_limit: Arc::default(),
    }
}

/// A blob that is all of a body.
pub(in crate::fill) fn part(number: u64, body: &Bytes) -> OriginPart {
    let blob = BlobId { a: u64::MAX, b: number };
    OriginPart { blob, in_blob: 0..body.len() as u64, in_body: 0, whole: true, wish: Default::default() }
}

pub(in crate::fill) fn long_body(blocks: u64) -> Bytes {
    // No two blocks are alike: the pattern begins anew at multiples of its own length only.
    let pattern: Vec<u8> = (0..251 * 256).map(|at| (at * 7 + at / 251) as u8).collect();
    let len = (blocks * BLOCK_BYTES) as usize;
    let mut body = pattern.repeat(len.div_ceil(pattern.len()));
    body.truncate(len);
    Bytes::from(body)
}

pub(in crate::fill) fn nth(number: u64) -> Range<u64> {
    number * BLOCK_BYTES..(number + 1) * BLOCK_BYTES
}

pub(in crate::fill) fn slice(body: &Bytes, range: Range<u64>) -> Bytes {
    body.slice(range.start as usize..range.end as usize)
}

pub(in crate::fill) async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let limit = Instant::now() + LIMIT;
    while !is() {
        assert!(Instant::now() < limit, "{what} never came");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn expected(store: &Store) -> usize {
    store.shared().fills.blocks.state.lock().expected.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_does_not_answer_holds_up_its_own_readers_only() {
    let (_dir, node) = node().await;
    let store = node.store();
    let (shared, blocks) = (store.shared(), &store.shared().fills.blocks);
    let (silent, healthy) = (Arc::new(MemoryOrigin::capable()), Arc::new(MemoryOrigin::capable()));
    silent.set_hook(|_| Fault::Stall);
    healthy.put_foreign("k", b"bytes");
    let bytes = Bytes::from_static(b"bytes");
    let (silents, healthys) = (body_in(&silent, &bytes), body_in(&healthy, &bytes));
    let stuck: Vec<Block> =
        (0..FETCHES_MAX as u64).map(|n| blocks.begin(shared, &silents, &part(n, &bytes), 0..5)).collect();
    // Whose turn comes first nobody says.
    until("every turn", || silent.calls() >= FETCHES_MAX as u64).await;
    let late = blocks.get(shared, &silents, &part(100, &bytes), 0..5).await.bytes(0..5).await;
    assert!(matches!(late, Err(Error::Unavailable(_))), "{late:?}");
    assert_eq!(silent.calls(), FETCHES_MAX as u64);
    let read = blocks.get(shared, &healthys, &part(200, &bytes), 0..5).await.bytes(0..5).await.unwrap();
    assert_eq!(read, "bytes");
    drop(stuck);
    drop(store);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_gets_a_piece_while_the_rest_of_its_block_is_on_its_way() {
    let (_dir, node) = node().await;
    let store = node.store();
    let (shared, blocks) = (store.shared(), &store.shared().fills.blocks);
    let body = long_body(1);
    let origin = Fed::of(&body);
    let (of, part) = (body_in(&origin, &body), part(1, &body));
    let mut block = blocks.get(shared, &of, &part, nth(0)).await;
    until("the request", || origin.asked() == [nth(0)]).await;
    origin.send(0, Ok(slice(&body, 0..PIECE_BYTES + 1)));
    assert_eq!(block.bytes(0..PIECE_BYTES).await.unwrap(), slice(&body, 0..PIECE_BYTES));
    let rest = PIECE_BYTES..BLOCK_BYTES;
    // The line breaks: the next try asks for what has not come, and nobody sees a seam.
    origin.end(0);
    until("the second request", || origin.asked() == vec![rest.clone()]).await;
    origin.send(PIECE_BYTES, Ok(slice(&body, rest)));
    origin.end(PIECE_BYTES);
    assert_eq!(block.bytes(0..BLOCK_BYTES).await.unwrap(), body.clone());
    // Whole, it stays for a moment; without another request.
    until("the end of the fetch", || blocks.state.lock().fetches.is_empty()).await;
    assert_eq!(
        blocks.get(shared, &of, &part, 0..BLOCK_BYTES).await.bytes(7..9).await.unwrap(),
        slice(&body, 7..9)
    );
    assert!(origin.asked().is_empty());
    drop(store);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_expected_is_bounded_and_never_in_the_way_of_who_waits() {
    let (_dir, node) = node().await;
    let store = node.store();
    let (shared, blocks) = (store.shared(), &store.shared().fills.blocks);
    let body = long_body(12);
    let origin = Fed::of(&body);
    let (of, part) = (body_in(&origin, &body), part(1, &body));
    let wanted: Vec<bool> = (0..12).map(|number| blocks.expect(shared, &of, &part, nth(number))).collect();
    assert_eq!(wanted, (0..12).map(|number| number < EXPECTED_MAX).collect::<Vec<_>>());
    until("the requests", || origin.asked().len() == EXPECTED_MAX).await;
    // Once more changes nothing.
    assert!(blocks.expect(shared, &of, &part, nth(0)));
    assert_eq!(expected(&store), EXPECTED_MAX);
    // Its reader comes: there is room for the next one.
    let mut first = blocks.get(shared, &of, &part, nth(0)).await;
    assert!(blocks.expect(shared, &of, &part, nth(EXPECTED_MAX as u64)));
    assert!(!blocks.expect(shared, &of, &part, nth(EXPECTED_MAX as u64 + 1)));
    // Somebody who keeps the blob is no reader.
    drop(blocks.begin(shared, &of, &part, nth(1)));
    assert_eq!(expected(&store), EXPECTED_MAX);
    // Who waits is served beside all of them.
    let mut far = blocks.get(shared, &of, &part, nth(11)).await;
    until("the request", || origin.asked().contains(&nth(11))).await;
    origin.send(nth(11).start, Ok(slice(&body, nth(11))));
    origin.end(nth(11).start);
    assert_eq!(far.bytes(0..BLOCK_BYTES).await.unwrap(), slice(&body, nth(11)));
    // What fails is not expected any more, and who comes then asks again.
    for number in 0..=EXPECTED_MAX as u64 {
        origin.inner.delete_foreign("k");
        origin.end(nth(number).start);
    }
    assert!(matches!(first.bytes(0..1).await, Err(Error::ChangedInOrigin(_))));
    until("the end of the fetches", || blocks.state.lock().fetches.is_empty()).await;
    assert_eq!(expected(&store), 0);
    drop(store);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_that_their_reader_never_came_for_make_room_for_others() {
    let (_dir, node) = node().await;
    let store = node.store();
    let (shared, blocks) = (store.shared(), &store.shared().fills.blocks);
    let body = long_body(16);
    let origin = Arc::new(MemoryOrigin::capable());
    origin.put_foreign_with("k", body.clone(), Default::default(), &[]);
    let (of, part) = (body_in(&origin, &body), part(1, &body));
    for number in 0..EXPECTED_MAX as u64 {
        assert!(blocks.expect(shared, &of, &part, nth(number)));
    }
    let kept = RECENT_BYTES_MAX as u64 / BLOCK_BYTES;
    for number in 16 - kept..16 {
        let mut other = blocks.get(shared, &of, &part, nth(number)).await;
        assert_eq!(other.bytes(0..BLOCK_BYTES).await.unwrap(), slice(&body, nth(number)));
    }
    until("the end of the fetches", || blocks.state.lock().fetches.is_empty()).await;
    {
        let state = blocks.state.lock();
        assert!(state.recent_bytes <= RECENT_BYTES_MAX as u64);
        assert_eq!(state.recent.len() as u64, kept);
        let there = state.expected.iter().filter(|name| state.find(name).is_some()).count();
        assert_eq!(there, state.expected.len(), "expected, but nowhere");
    }
    drop(store);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_a_range_has_nothing_else_fetched_and_a_sequential_one_all_of_it_ahead() {
    let dir = tempfile::tempdir().unwrap();
    let body = long_body(20);
    let origin = Fed::that_flows(&body, true);
    let placeholder = Arc::new(MemoryOrigin::capable());
    let mut config = stories::config(dir.path(), &placeholder, 1 << 30);
    config.mounts[0].origin.as_mut().unwrap().backend = OriginBackend::Custom(origin.clone());
    let node = Node::start(config).await.unwrap();
    let store = node.store();
    until("an attached mount", || store.mounts().iter().all(|mount| mount.attached)).await;
    let bucket = store.bucket(b"data").unwrap();
    store.look_up(&[(bucket, b"k")]).await.unwrap();
    let view = store.view().unwrap();
    let row = view.fetch(bucket, b"k").await.unwrap().expect("it was taken over");
    let reader = view.open_body(&row).await.unwrap();
    drop(view);

    let range = BLOCK_BYTES + 1..2 * BLOCK_BYTES + 1;
    reader.expect(range.clone());
    assert_eq!(
        reader.read(range.start..range.start + 9).await.unwrap(),
        slice(&body, range.start..range.start + 9)
    );
    assert_eq!(reader.read(range.end - 9..range.end).await.unwrap(), slice(&body, range.end - 9..range.end));
    assert_eq!(origin.asked(), [nth(1), nth(2)]);

    // Behind its last byte nothing is expected, however often it says so.
    reader.expect(reader.len()..u64::MAX);
    assert_eq!(expected(&store), 0);
    let mut at = 0;
    while at < reader.len() {
        reader.expect(at..reader.len());
        let first = at / BLOCK_BYTES;
        let ahead = (first + 1..20).take(EXPECTED_MAX - 1);
        until("the blocks ahead", || ahead.clone().all(|number| origin.asked().contains(&nth(number)))).await;
        let end = (at + PIECE_BYTES).min(reader.len());
        assert_eq!(reader.read(at..end).await.unwrap(), slice(&body, at..end), "{at}");
        at = end;
    }
    assert_eq!(origin.asked(), (0..20).map(nth).collect::<Vec<_>>(), "each block once");
    drop((reader, store));
    node.stop().await;
}

#[test]
fn readers_wait_for_the_disk_a_fifth_of_the_time() {
    let (mut patience, begun) = (Patience::default(), Instant::now());
    let seconds = Duration::from_secs;
    assert_eq!(patience.left(begun), Patience::MAX);
    patience.take(Patience::MAX + seconds(1));
    let begun = patience.at;
    assert_eq!(patience.left(begun), Duration::ZERO);
    assert_eq!(patience.left(begun + seconds(10)), seconds(2));
    assert_eq!(patience.left(begun + seconds(10)), seconds(2));
    patience.take(seconds(2));
    assert_eq!(patience.left(begun + seconds(15)), seconds(1));
    assert_eq!(patience.left(begun + seconds(10_000)), Patience::MAX);
}
