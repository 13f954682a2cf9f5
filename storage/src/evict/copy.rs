//! What stays of a segment goes to other segments: short extents many at a time, long ones one by one.
//!
//! Owns the copies until the tables name them: each is synced and pinned. Does not own what stays (`segment.rs`).

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use crate::blob::{BlobError, FoundExtent, Pointer, SegmentPin};
use crate::store::Shared;

use super::EvictError;

/// Extents up to this length are copied many at a time.
const SMALL_BYTES: u64 = 1 << 20;
/// Bytes of small extents that are copied under one sync.
const SPILL_BYTES: u64 = 8 << 20;
/// Bytes read at a time of longer ones.
const COPY_BYTES: u64 = 1 << 20;

/// A copy, durable, and what keeps it.
pub(super) type Copied = (Pointer, SegmentPin);

/// Whether an extent is copied by itself.
pub(super) fn is_long(pointer: &Pointer) -> bool {
    pointer.length > SMALL_BYTES
}

/// Copies extents to other segments, each checked while it is read; the copies, in the same order, are synced and
/// pinned. After an error nothing of it is left but room that is free again.
pub(super) fn copy<'x>(
    shared: &Arc<Shared>,
    extents: impl ExactSizeIterator<Item = &'x FoundExtent>,
) -> Result<Vec<Copied>, EvictError> {
    let mut copies: Vec<Option<Copied>> = Vec::new();
    copies.resize_with(extents.len(), || None);
    let mut small: Vec<(usize, FoundExtent)> = Vec::new();
    let mut small_bytes = 0;
    for (number, extent) in extents.enumerate() {
        if is_long(&extent.pointer) {
            copies[number] = Some(wait_for(copy_long(shared, extent))?);
            continue;
        }
        small.push((number, *extent));
        small_bytes += extent.pointer.length;
        if small_bytes > SPILL_BYTES {
            copy_small(shared, &small, &mut copies)?;
            small.clear();
            small_bytes = 0;
        }
    }
    copy_small(shared, &small, &mut copies)?;
    Ok(copies.into_iter().flatten().collect())
}

fn copy_small(
    shared: &Shared,
    extents: &[(usize, FoundExtent)],
    copies: &mut [Option<Copied>],
) -> Result<(), EvictError> {
    if extents.is_empty() {
        return Ok(());
    }
    // Read before the spill begins: a checkpoint waits for it.
    let mut bodies = Vec::with_capacity(extents.len());
    for (_, FoundExtent { blob, pointer }) in extents {
        let body = shared.segments.read(*pointer, *blob, 0..pointer.length, true)?;
        bodies.push(body.ok_or(BlobError::Stale { pointer: *pointer })?);
    }
    let mut spill = shared.segments.spill();
    for ((number, extent), body) in extents.iter().zip(&bodies) {
        let pointer = spill.push(extent.blob, body)?;
        copies[*number] = Some((pointer, shared.segments.pin(pointer)?));
    }
    spill.finish()?;
    Ok(())
}

async fn copy_long(shared: &Arc<Shared>, extent: &FoundExtent) -> Result<Copied, EvictError> {
    let FoundExtent { blob, pointer } = *extent;
    let mut writer = shared.stager.begin_extent(blob, pointer.length)?;
    let mut at = 0;
    while at < pointer.length {
        let end = pointer.length.min(at + COPY_BYTES);
        let bytes = shared.segments.read(pointer, blob, at..end, true)?;
        writer.write(bytes.ok_or(BlobError::Stale { pointer })?.into()).await?;
        at = end;
    }
    let (pointer, pin) = writer.finish_extent().await?;
    Ok((pointer, pin.for_reading()))
}

/// Waits on this thread, which is no worker of a runtime.
pub(super) fn wait_for<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(result) => return result,
            Poll::Pending => std::thread::park(),
        }
    }
}
