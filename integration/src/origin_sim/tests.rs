//! The simulator judged from outside, by aws-sdk-s3.

use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::ByteStream;

use super::fault::{Calls, Fault, Keys, Op, Rule};
use super::record::{ChangeKind, Source};
use super::{ACCESS_KEY_ID, OriginSim, SECRET_ACCESS_KEY};
use crate::s3_client;
use crate::wait;

const LIMIT: Duration = Duration::from_secs(20);

fn origin() -> (OriginSim, Client) {
    let origin = OriginSim::start(&["bkt"]).unwrap();
    let client = s3_client::client(&origin.endpoint(), ACCESS_KEY_ID, SECRET_ACCESS_KEY);
    (origin, client)
}

async fn put(client: &Client, key: &str, body: &str) -> Result<(), String> {
    let body = ByteStream::from(body.as_bytes().to_vec());
    let sent = client.put_object().bucket("bkt").key(key).body(body).send().await;
    sent.map(|_| ()).map_err(|error| error.code().unwrap_or("no answer").to_owned())
}

#[tokio::test]
async fn an_object_comes_back_with_its_headers_and_metadata() {
    let (_origin, client) = origin();
    let body = ByteStream::from_static(b"hello");
    let put = client.put_object().bucket("bkt").key("a/ü +%").body(body).content_type("text/x");
    put.metadata("forebay-version", "c-1.2").cache_control("no-store").send().await.unwrap();
    let got = client.get_object().bucket("bkt").key("a/ü +%").range("bytes=1-3").send().await.unwrap();
    assert_eq!(got.content_type(), Some("text/x"));
    assert_eq!(got.cache_control(), Some("no-store"));
    assert_eq!(got.metadata().unwrap()["forebay-version"], "c-1.2");
    assert_eq!(got.e_tag(), Some("\"5d41402abc4b2a76b9719d911017c592\""));
    assert_eq!(&got.body.collect().await.unwrap().into_bytes()[..], b"ell");
}

#[tokio::test]
async fn one_of_many_racing_creates_wins() {
    let (_origin, client) = origin();
    let races = (0..16).map(|_| {
        let put = client.put_object().bucket("bkt").key("k").if_none_match("*");
        async move { put.body(ByteStream::from_static(b"x")).send().await }
    });
    let results = futures_util::future::join_all(races).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    let codes = results.iter().filter_map(|result| result.as_ref().err()?.code());
    assert!(codes.into_iter().all(|code| code == "PreconditionFailed"));
}

#[tokio::test]
async fn a_wrong_checksum_stores_nothing() {
    let (origin, client) = origin();
    let put = client.put_object().bucket("bkt").key("k").checksum_crc32_c("AAAAAA==");
    let error = put.body(ByteStream::from_static(b"x")).send().await.unwrap_err();
    assert_eq!(error.code(), Some("BadDigest"));
    assert!(origin.object("bkt", "k").is_none());
}

#[tokio::test]
async fn listing_and_multipart_work_for_a_foreign_client() {
    let (origin, client) = origin();
    for key in ["a/1", "a/2", "bkt", "c"] {
        put(&client, key, "x").await.unwrap();
    }
    let page = client.list_objects_v2().bucket("bkt").delimiter("/").max_keys(2).send().await.unwrap();
    assert_eq!(page.common_prefixes()[0].prefix(), Some("a/"));
    let token = page.next_continuation_token().unwrap();
    let rest =
        client.list_objects_v2().bucket("bkt").delimiter("/").continuation_token(token).send().await.unwrap();
    assert_eq!(rest.contents().iter().map(|object| object.key().unwrap()).collect::<Vec<_>>(), ["c"]);

    let upload = client.create_multipart_upload().bucket("bkt").key("big").send().await.unwrap();
    let id = upload.upload_id().unwrap();
    let part = client.upload_part().bucket("bkt").key("big").upload_id(id).part_number(1);
    let part = part.body(ByteStream::from_static(b"part")).send().await.unwrap();
    let done =
        aws_sdk_s3::types::CompletedPart::builder().part_number(1).e_tag(part.e_tag().unwrap()).build();
    let list = aws_sdk_s3::types::CompletedMultipartUpload::builder().parts(done).build();
    let complete = client.complete_multipart_upload().bucket("bkt").key("big").upload_id(id);
    complete.multipart_upload(list).send().await.unwrap();
    assert!(origin.object("bkt", "big").unwrap().etag.ends_with("-1"));
}

#[tokio::test]
async fn each_answer_of_the_plan_reaches_the_client_and_nothing_is_applied() {
    let (origin, client) = origin();
    for (status, code) in
        [(500, "InternalError"), (503, "SlowDown"), (400, "ExpiredToken"), (403, "AccessDenied")]
    {
        let rule = origin.add_fault(Rule::new(&[Op::Put], Fault::Answer(status, code)));
        assert_eq!(put(&client, "k", "x").await, Err(code.to_owned()));
        assert_eq!(origin.strikes(rule), 1);
        origin.clear_faults();
    }
    assert!(origin.object("bkt", "k").is_none());
    assert_eq!(put(&client, "k", "x").await, Ok(()));
}

#[tokio::test]
async fn a_hang_after_applying_leaves_the_object_and_no_answer() {
    let (origin, client) = origin();
    origin.add_fault(Rule::new(&[Op::Put], Fault::HangAfter).calls(Calls::First(1)));
    let sent = tokio::time::timeout(Duration::from_millis(300), put(&client, "k", "1")).await;
    assert!(sent.is_err(), "an answer came: {sent:?}");
    assert!(origin.object("bkt", "k").is_some());
    origin.record().assert_clean();
}

#[tokio::test]
async fn a_late_request_lands_after_its_sender_left_and_counts_as_in_flight() {
    let (origin, client) = origin();
    origin.add_fault(
        Rule::new(&[Op::Put], Fault::ApplyLate(Duration::from_millis(400))).calls(Calls::First(1)),
    );
    let sent = tokio::time::timeout(Duration::from_millis(100), put(&client, "k", "old")).await;
    assert!(sent.is_err(), "an answer came: {sent:?}");
    assert!(origin.object("bkt", "k").is_none());
    put(&client, "k", "new").await.unwrap();
    wait::until_true("both were applied", LIMIT, || origin.changes() == 2).unwrap();
    assert_eq!(&origin.object("bkt", "k").unwrap().body[..], b"old");
    let record = origin.record();
    assert_eq!(record.changes()[1].source, Source::Late);
    assert_eq!(record.violations().len(), 1, "two in flight must be seen");
}

#[tokio::test]
async fn resets_and_outages_give_no_answer() {
    let (origin, client) = origin();
    for fault in [Fault::ResetBefore, Fault::ResetMidBody] {
        origin.add_fault(Rule::new(&[Op::Put], fault));
        assert_eq!(put(&client, "k", "x").await, Err("no answer".to_owned()));
        origin.clear_faults();
    }
    assert!(origin.object("bkt", "k").is_none());
    origin.add_fault(Rule::new(&[Op::Put], Fault::ResetAfter));
    assert_eq!(put(&client, "k", "x").await, Err("no answer".to_owned()));
    assert!(origin.object("bkt", "k").is_some());
    origin.clear_faults();
    origin.set_outage(true);
    assert_eq!(put(&client, "k", "x").await, Err("no answer".to_owned()));
    origin.set_outage(false);
    assert_eq!(put(&client, "k", "x").await, Ok(()));
}

#[tokio::test]
async fn conditions_may_be_ignored_and_checksums_refused() {
    let (origin, client) = origin();
    put(&client, "k", "x").await.unwrap();
    origin.add_fault(Rule::new(&[Op::Put], Fault::IgnoreConditions));
    let again = client.put_object().bucket("bkt").key("k").if_none_match("*");
    assert!(again.body(ByteStream::from_static(b"y")).send().await.is_ok());
    origin.clear_faults();
    origin.add_fault(Rule::new(&[Op::Put], Fault::RefuseChecksums));
    assert_eq!(put(&client, "k", "z").await, Err("NotImplemented".to_owned()));
}

#[tokio::test]
async fn a_get_can_be_corrupted_or_cut() {
    let (origin, client) = origin();
    put(&client, "k", "0123456789").await.unwrap();
    let rule = origin.add_fault(Rule::new(&[Op::Get], Fault::CorruptBody));
    let got = client.get_object().bucket("bkt").key("k").send().await.unwrap();
    assert_ne!(&got.body.collect().await.unwrap().into_bytes()[..], b"0123456789");
    origin.remove_fault(rule);
    origin.add_fault(Rule::new(&[Op::Get], Fault::TruncateBody));
    let got = client.get_object().bucket("bkt").key("k").send().await.unwrap();
    assert!(got.body.collect().await.is_err());
}

#[tokio::test]
async fn a_foreign_write_is_recorded_as_such() {
    let (origin, client) = origin();
    origin.add_fault(Rule::new(&[Op::Head], Fault::ForeignWriteBefore).on(Keys::Exactly("k".into())));
    assert!(client.head_object().bucket("bkt").key("k").send().await.is_ok());
    let record = origin.record();
    assert_eq!(record.changes()[0].source, Source::Foreign);
    assert!(matches!(record.changes()[0].kind, ChangeKind::Put { version: None, .. }));
}
