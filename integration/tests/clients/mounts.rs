//! Mounts within mounts, and what reads cost their origins. Aim: a key belongs to the mount with the longest path that
//! covers it, and is on the site, in the queue and in an origin as that one's mode says; whatever many clients read at
//! once is fetched once. Method: one bucket in four modes, an origin that refuses for a while and is looked into.

use std::time::Duration;

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::ByteStream;
use forebay_integration::node::{Node, NodeOptions};
use forebay_integration::origin_sim::OriginSim;
use forebay_integration::origin_sim::fault::{Fault, Op, Rule};
use futures_util::future::join_all;

const LIMIT: Duration = Duration::from_secs(60);

fn names(origin: &OriginSim) -> Vec<String> {
    origin.objects("cloud", "").into_iter().map(|(key, _)| key).collect()
}

/// Keys of the queue.
fn queued(node: &Node) -> String {
    String::from_utf8(node.forebay(&["flush", "ls"]).stdout).unwrap()
}

#[tokio::test]
async fn a_key_lies_where_the_longest_of_its_mounts_says() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    origin.foreign_put("cloud", "ro/theirs", "before");
    let options = NodeOptions::default()
        .mount("/photos", &origin, "cloud/all")
        .mount("/photos/through", &origin, "cloud/wt")
        .last_mount_set("mode", "\"write-through\"")
        .last_mount_set("write_through_timeout", "\"500ms\"")
        .mount("/photos/through/back", &origin, "cloud/inner")
        .mount("/photos/theirs", &origin, "cloud/ro")
        .last_mount_set("mode", "\"read-only\"")
        .local("/photos/here");
    let node = Node::start(options).unwrap();
    let s3 = node.s3();
    node.wait_origins(4, LIMIT);
    let put = async |key: &str| {
        let put = s3.put_object().bucket("photos").key(key).body(ByteStream::from_static(b"bytes"));
        put.send().await.map_err(|error| error.code().unwrap_or("no code").to_owned())
    };
    let origin_of = |key: &str| {
        let head = node.s3_wire().head(&format!("/photos/{key}")).unwrap();
        head.header("x-forebay-origin").unwrap_or_default().to_owned()
    };

    // The origin takes nothing.
    let refuses = origin.add_fault(Rule::new(&[Op::Put], Fault::Answer(503, "ServiceUnavailable")));
    put("through").await.unwrap();
    put("through/back/a").await.unwrap();
    put("here/a").await.unwrap();
    assert_eq!(put("through/a").await.unwrap_err(), "ServiceUnavailable");
    assert_eq!(put("theirs/a").await.unwrap_err(), "AccessDenied");
    let before = queued(&node);
    for key in ["photos/through ", "photos/through/back/a ", "photos/through/a "] {
        assert!(before.contains(key), "{key} is not in the queue:\n{before}");
    }
    assert!(!before.contains("here/a") && !before.contains("theirs/a"), "{before}");
    assert_eq!(names(&origin), ["ro/theirs"]);
    for (key, state) in [("through", "pending"), ("through/back/a", "pending"), ("here/a", "local")] {
        let found = origin_of(key);
        assert!(found.starts_with(state), "{key}: {found}");
    }

    origin.remove_fault(refuses);
    put("through/b").await.unwrap();
    assert!(names(&origin).contains(&"wt/b".to_owned()), "acknowledged before the origin had it");
    node.flush_wait(LIMIT);
    assert_eq!(names(&origin), ["all/through", "inner/a", "ro/theirs", "wt/a", "wt/b"]);
    let listed = s3.list_objects_v2().bucket("photos").send().await.unwrap();
    let listed: Vec<&str> = listed.contents().iter().filter_map(|object| object.key()).collect();
    let all = ["here/a", "theirs/theirs", "through", "through/a", "through/b", "through/back/a"];
    assert_eq!(listed, all);
    for (key, body) in [("theirs/theirs", &b"before"[..]), ("here/a", b"bytes"), ("through/back/a", b"bytes")]
    {
        let got = s3.get_object().bucket("photos").key(key).send().await.unwrap();
        assert_eq!(&got.body.collect().await.unwrap().into_bytes()[..], body, "{key}");
    }
    node.finish(&["origin", "flush"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_cold_readers_of_a_block_cost_one_get_of_its_origin() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let body: Vec<u8> = (0..3 << 20).map(|at: usize| (at / 3) as u8).collect();
    origin.foreign_put("cloud", "pics/cold", body.clone());
    // Slow enough for all of them to come while it is on its way.
    origin.add_fault(Rule::new(&[Op::Get], Fault::Slow(Duration::from_millis(500))));
    let node = Node::start(NodeOptions::default().mount("/photos", &origin, "cloud/pics")).unwrap();
    node.wait_origins(1, LIMIT);
    let (gets, heads) = (origin.requests(Op::Get), origin.requests(Op::Head));
    let readers = (0..100).map(async |number: usize| {
        let range =
            (number % 2 == 1).then(|| format!("bytes={}-{}", number * 10_000, number * 10_000 + 99_999));
        let get = node.s3().get_object().bucket("photos").key("cold").set_range(range);
        let got = get.send().await.unwrap().body.collect().await.unwrap().into_bytes();
        let from = if number % 2 == 1 { number * 10_000 } else { 0 };
        let right = got.len() == if number % 2 == 1 { 100_000 } else { body.len() };
        assert!(right && got == body[from..from + got.len()], "reader {number}: {} bytes", got.len());
    });
    join_all(readers).await;
    assert_eq!((origin.requests(Op::Get) - gets, origin.requests(Op::Head) - heads), (1, 1));
    node.finish(&[]);
}
