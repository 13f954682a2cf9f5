//! Bytes that are away come from the origin that the config names now.

use std::path::Path;
use std::sync::Arc;

use super::stories::{CAPACITY, away, body, config, down, fill_up, get};
use crate::node::{Node, StorageConfig};
use crate::origin::memory::MemoryOrigin;

fn under(prefix: &str, dir: &Path, origin: &Arc<MemoryOrigin>) -> StorageConfig {
    let mut config = config(dir, origin, CAPACITY);
    let named = config.mounts[0].origin.as_mut().unwrap();
    (named.url, named.prefix) = (format!("memory://origin/{prefix}"), prefix.to_owned());
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_was_never_reached_may_be_named_anew() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Arc::new(MemoryOrigin::capable()));
    down(&origin);
    Node::start(under("mistyped/", dir.path(), &origin)).await.unwrap().stop().await;
    origin.clear_hook();
    let node = Node::start(under("right/", dir.path(), &origin)).await.unwrap();
    let store = node.store();
    let bucket = store.bucket(b"data").unwrap();
    let (count, len) = fill_up(&store, bucket).await;
    let number = away(&store, bucket, count).await;
    let found = get(&store, bucket, &format!("k{number}")).await.unwrap().unwrap();
    assert!(found == body(number, len));
    drop(store);
    node.stop().await;
}
