//! Everything arrives at a real S3 endpoint that is not ours (moto), as plain objects a foreign client reads.

use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use forebay_integration::node::{Node, NodeOptions};
use forebay_integration::origin_sim::{ACCESS_KEY_ID, SECRET_ACCESS_KEY};
use forebay_integration::python::Moto;
use forebay_integration::s3_client;

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn redis_and_s3_writes_arrive_in_moto_with_their_metadata() {
    let moto = Moto::start().unwrap();
    let cloud = s3_client::client(&moto.endpoint(), ACCESS_KEY_ID, SECRET_ACCESS_KEY);
    cloud.create_bucket().bucket("cloud").send().await.unwrap();
    let options = NodeOptions::default().mount_at("/redis-0", &moto.endpoint(), "cloud/redis").mount_at(
        "/photos",
        &moto.endpoint(),
        "cloud/photos",
    );
    let mut node = Node::start(options).unwrap();
    let s3 = node.s3();
    let mut resp = node.resp();
    for number in 0..200 {
        let (key, value) = (format!("k{number}"), format!("v{number}"));
        assert_eq!(resp.call(&["SET", &key, &value]).unwrap(), b"+OK\r\n");
    }
    assert_eq!(resp.call(&["DEL", "k7"]).unwrap(), b":1\r\n");
    let put = s3.put_object().bucket("photos").key("2026/ü 1.jpg").body(ByteStream::from_static(b"jpeg"));
    put.content_type("image/jpeg").metadata("camera", "box").send().await.unwrap();

    node.kill();
    node.restart().unwrap();
    node.flush_wait(LIMIT);

    let got = cloud.get_object().bucket("cloud").key("photos/2026/ü 1.jpg").send().await.unwrap();
    assert_eq!(got.content_type(), Some("image/jpeg"));
    assert_eq!(got.metadata().unwrap()["camera"], "box");
    assert_eq!(&got.body.collect().await.unwrap().into_bytes()[..], b"jpeg");
    let mut keys = Vec::new();
    let mut pages = cloud.list_objects_v2().bucket("cloud").prefix("redis/").into_paginator().send();
    while let Some(page) = pages.next().await {
        keys.extend(page.unwrap().contents().iter().filter_map(|object| object.key().map(str::to_owned)));
    }
    let mut expected: Vec<String> =
        (0..200).filter(|number| *number != 7).map(|number| format!("redis/k{number}")).collect();
    expected.sort_unstable();
    assert_eq!(keys, expected);
    node.finish(&[]);
}
