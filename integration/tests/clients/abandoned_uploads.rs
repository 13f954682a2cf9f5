//! Multipart uploads whose client has died. Aim: after `upload_expiry` they are gone, with the room of their parts, and
//! nothing else is. Method: a real node with a short expiry, parts that were sent and never completed.

use std::time::{Duration, Instant};

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use forebay_integration::node::{Node, NodeOptions};
use forebay_integration::wait;

const LIMIT: Duration = Duration::from_secs(60);
const EXPIRY: Duration = Duration::from_secs(15);

#[tokio::test]
async fn an_upload_that_nobody_completes_is_given_up_at_its_age_and_its_parts_with_it() {
    let node = Node::start(NodeOptions::plain().set("s3.upload_expiry", "\"15s\"")).unwrap();
    let s3 = node.s3();
    s3.create_bucket().bucket("photos").send().await.unwrap();
    let begin = async |key: &str| {
        let begun = s3.create_multipart_upload().bucket("photos").key(key).send().await.unwrap();
        let upload = begun.upload_id.unwrap();
        let part = s3.upload_part().bucket("photos").key(key).upload_id(&upload).part_number(1);
        let part = part.body(ByteStream::from(vec![7; 6 << 20])).send().await.unwrap();
        (upload, part.e_tag.unwrap())
    };
    let begun = Instant::now();
    let (abandoned, _) = begin("abandoned").await;
    let (completed, etag) = begin("completed").await;
    let parts = CompletedMultipartUpload::builder()
        .parts(CompletedPart::builder().part_number(1).e_tag(etag).build())
        .build();
    let complete = s3.complete_multipart_upload().bucket("photos").key("completed").upload_id(completed);
    complete.multipart_upload(parts).send().await.unwrap();
    let part_bytes = (6 << 20) as f64;
    let stored = node.metric("stored_bytes");
    assert!(stored > 2.0 * part_bytes, "{stored} bytes stored");

    loop {
        let listed = s3.list_multipart_uploads().bucket("photos").send().await.unwrap();
        let age = begun.elapsed();
        if listed.uploads().is_empty() {
            assert!(age >= EXPIRY, "given up after {age:?}");
            break;
        }
        assert!(age < LIMIT, "never given up");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let part = s3.upload_part().bucket("photos").key("abandoned").upload_id(&abandoned).part_number(2);
    let part = part.body(ByteStream::from_static(b"late")).send().await.unwrap_err();
    assert_eq!(part.code(), Some("NoSuchUpload"));
    wait::until("its parts take no room any more", LIMIT, || {
        let left = node.metric("stored_bytes");
        let one_part = left > part_bytes && left < stored - part_bytes / 2.0;
        if one_part { Ok(()) } else { Err(format!("{left} of {stored} bytes")) }
    })
    .unwrap();
    let body = s3.get_object().bucket("photos").key("completed").send().await.unwrap().body;
    assert!(body.collect().await.unwrap().into_bytes() == vec![7; 6 << 20]);
    node.finish(&[]);
}
