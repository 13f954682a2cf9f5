//! Touches the rows that entries are about to read, while their journal write is under way (PITFALLS 8).
//!
//! With a checkpoint store larger than memory every write would otherwise fault a page in on the one apply
//! thread. Only a hint: a touch that is dropped because the queue is full, or that comes too late, costs
//! time and nothing else.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use crate::apply::entry_keys;
use crate::keyspace::Keyspace;
use crate::keyspace::memtable::RowKey;

/// Threads: as many page faults at once.
const THREADS: usize = 8;
/// Batches that may wait; more are dropped.
const QUEUE: usize = 64;
/// Keys of a batch.
const BATCH: usize = 16;

type Batch = Vec<Vec<u8>>;

/// See the file's head.
pub(crate) struct Prefetcher {
    keyspace: Arc<Keyspace>,
    queue: SyncSender<Batch>,
}

impl Prefetcher {
    /// Starts the threads; they end when the prefetcher is dropped.
    pub(crate) fn start(keyspace: Arc<Keyspace>) -> std::io::Result<(Prefetcher, Vec<JoinHandle<()>>)> {
        let (queue, batches) = sync_channel(QUEUE);
        let batches = Arc::new(Mutex::new(batches));
        let mut threads = Vec::new();
        for number in 0..THREADS {
            let (keyspace, batches) = (keyspace.clone(), batches.clone());
            let run = move || work(&keyspace, &batches);
            threads.push(std::thread::Builder::new().name(format!("prefetch-{number}")).spawn(run)?);
        }
        Ok((Prefetcher { keyspace, queue }, threads))
    }

    /// Touches what the entry's mutations will look up. Never waits.
    pub(crate) fn touch(&self, entry: &[u8]) {
        if !self.keyspace.base.may_block() {
            return;
        }
        let mut batch = Batch::new();
        let mut open = true;
        entry_keys(entry, &mut |row_key| {
            batch.push(row_key);
            if batch.len() == BATCH && open {
                open = self.send(std::mem::take(&mut batch));
            }
        });
        if open && !batch.is_empty() {
            self.send(batch);
        }
    }

    fn send(&self, batch: Batch) -> bool {
        !matches!(self.queue.try_send(batch), Err(TrySendError::Full(_) | TrySendError::Disconnected(_)))
    }
}

fn work(keyspace: &Keyspace, batches: &Mutex<Receiver<Batch>>) {
    loop {
        // The lock is held while waiting: one thread waits for the queue, the others for it.
        let Ok(batch) = batches.lock().recv() else { return };
        for row_key in batch {
            keyspace.touch(RowKey::encoded(&row_key));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Bound;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::apply::EntryHead;
    use crate::keyspace::base::{Base, BaseError, Change, Pair};
    use crate::mutation::Mutation;
    use crate::object::BucketId;

    /// A store that is always cold, and tells which rows were read.
    #[derive(Default)]
    struct Cold {
        read: Mutex<Vec<Vec<u8>>>,
    }

    impl Base for Cold {
        fn get(&self, key: &[u8]) -> Result<Option<Arc<[u8]>>, BaseError> {
            self.read.lock().push(key.to_vec());
            Ok(None)
        }
        fn range(&self, _: Bound<&[u8]>, _: &[u8], _: usize) -> Result<Vec<Pair>, BaseError> {
            Ok(Vec::new())
        }
        fn commit(&self, _: &[Change]) -> Result<(), BaseError> {
            Ok(())
        }
        fn usage(&self) -> (u64, u64) {
            (0, u64::MAX)
        }
        fn may_block(&self) -> bool {
            true
        }
    }

    #[test]
    fn pitfall_8_the_rows_of_an_entry_are_touched_off_the_apply_thread() {
        let cold = Arc::new(Cold::default());
        let keyspace = Arc::new(Keyspace::new(cold.clone(), 1 << 20, 0));
        let (prefetcher, threads) = Prefetcher::start(keyspace).unwrap();
        let mut entry = Vec::new();
        EntryHead { stamp_ms: 1, body_bytes_max: 1 }.encode(&mut entry);
        let keys: Vec<Vec<u8>> = (0..100u32).map(|n| n.to_be_bytes().to_vec()).collect();
        for key in &keys {
            Mutation::Delete { bucket: BucketId(1), key }.encode(&mut entry);
        }
        prefetcher.touch(&entry);
        let until = Instant::now() + Duration::from_secs(10);
        while cold.read.lock().len() < keys.len() {
            assert!(Instant::now() < until, "{} of {} rows touched", cold.read.lock().len(), keys.len());
            std::thread::yield_now();
        }
        drop(prefetcher);
        for thread in threads {
            thread.join().unwrap();
        }
        let mut read = std::mem::take(&mut *cold.read.lock());
        read.sort();
        assert!(read.iter().zip(&keys).all(|(row_key, key)| row_key.ends_with(key)));
    }
}
