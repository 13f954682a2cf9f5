//! boto3, aws-cli and aws-sdk-rust.

use std::process::{Command, Stdio};

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::ByteStream;
use forebay_integration::node::{ACCESS_KEY_ID, Node, NodeOptions, SECRET_ACCESS_KEY};
use forebay_integration::python;

fn node() -> Node {
    Node::start(NodeOptions::default()).unwrap()
}

/// aws-cli, told of the node.
pub(crate) fn aws(node: &Node) -> Command {
    let mut command = Command::new(python::program("aws"));
    command
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID)
        .env("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY)
        .env("AWS_DEFAULT_REGION", "us-east-1")
        .env("AWS_MAX_ATTEMPTS", "1")
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        .arg("--endpoint-url")
        .arg(node.s3_endpoint())
        .stdin(Stdio::null());
    command
}

#[test]
fn boto3_from_create_bucket_to_delete_bucket() {
    let node = node();
    let mut script = python::script("s3_client.py");
    let said = python::run(script.arg(node.s3_endpoint()).args([ACCESS_KEY_ID, SECRET_ACCESS_KEY]));
    assert!(said.contains("ok"), "{said}");
    node.finish(&[]);
}

#[test]
fn aws_cli_copies_small_files_there_and_back() {
    let node = node();
    let directory = tempfile::tempdir().unwrap();
    let (there, back) = (directory.path().join("there.bin"), directory.path().join("back.bin"));
    let bytes: Vec<u8> = (0..40_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    std::fs::write(&there, &bytes).unwrap();
    python::run(aws(&node).args(["s3", "mb", "s3://cli-bucket"]));
    python::run(aws(&node).args(["s3", "cp"]).arg(&there).arg("s3://cli-bucket/dir/file.bin"));
    let listed = python::run(aws(&node).args(["s3", "ls", "s3://cli-bucket/dir/"]));
    assert!(listed.contains("40000 file.bin"), "{listed}");
    python::run(aws(&node).args(["s3", "cp", "s3://cli-bucket/dir/file.bin"]).arg(&back));
    assert_eq!(std::fs::read(&back).unwrap(), bytes);
    python::run(aws(&node).args(["s3", "rm", "s3://cli-bucket/dir/file.bin"]));
    python::run(aws(&node).args(["s3", "rb", "s3://cli-bucket"]));
    node.finish(&[]);
}

#[test]
fn s3api_puts_with_metadata_and_heads_it() {
    let node = node();
    python::run(aws(&node).args(["s3api", "create-bucket", "--bucket", "api-bucket"]));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "body").unwrap();
    let mut put = aws(&node);
    put.args(["s3api", "put-object", "--bucket", "api-bucket", "--key", "k", "--metadata", "a=b", "--body"]);
    python::run(put.arg(file.path()));
    let head = python::run(aws(&node).args(["s3api", "head-object", "--bucket", "api-bucket", "--key", "k"]));
    let head: serde_json::Value = serde_json::from_str(&head).unwrap();
    assert_eq!(head["ContentLength"], 4);
    assert_eq!(head["Metadata"]["a"], "b");
    let listed = python::run(aws(&node).args(["s3api", "list-objects-v2", "--bucket", "api-bucket"]));
    assert!(listed.contains("\"Key\": \"k\""), "{listed}");
    node.finish(&[]);
}

#[tokio::test]
async fn aws_sdk_rust_races_for_one_key_and_one_wins() {
    let node = node();
    let s3 = node.s3();
    s3.create_bucket().bucket("race").send().await.unwrap();
    let attempts = (0..64).map(|number| {
        let body = ByteStream::from(format!("writer {number}").into_bytes());
        s3.put_object().bucket("race").key("lock").if_none_match("*").body(body).send()
    });
    let results = futures_util::future::join_all(attempts).await;
    let won: Vec<_> = results.iter().enumerate().filter(|(_, result)| result.is_ok()).collect();
    assert_eq!(won.len(), 1);
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        assert_eq!(error.code(), Some("PreconditionFailed"));
    }
    let got = s3.get_object().bucket("race").key("lock").send().await.unwrap();
    let body = got.body.collect().await.unwrap().into_bytes();
    assert_eq!(body, format!("writer {}", won[0].0));
    node.finish(&[]);
}

#[tokio::test]
async fn operations_of_later_releases_answer_501_and_leave_the_object() {
    let node = node();
    let s3 = node.s3();
    s3.create_bucket().bucket("later").send().await.unwrap();
    s3.put_object().bucket("later").key("k").body(ByteStream::from_static(b"body")).send().await.unwrap();
    let copy = s3.copy_object().bucket("later").key("k").copy_source("later/k").send().await.unwrap_err();
    assert_eq!(copy.code(), Some("NotImplemented"));
    assert!(copy.message().is_some_and(|text| text.contains("CopyObject")), "{:?}", copy.message());
    let upload = s3.create_multipart_upload().bucket("later").key("k").send().await.unwrap_err();
    assert_eq!(upload.code(), Some("NotImplemented"));
    let tag = aws_sdk_s3::types::Tag::builder().key("a").value("b").build().unwrap();
    let tagging = aws_sdk_s3::types::Tagging::builder().tag_set(tag).build().unwrap();
    let tags = s3.put_object_tagging().bucket("later").key("k").tagging(tagging).send().await.unwrap_err();
    assert_eq!(tags.code(), Some("NotImplemented"));
    let got = s3.get_object().bucket("later").key("k").send().await.unwrap();
    assert_eq!(&got.body.collect().await.unwrap().into_bytes()[..], b"body");
    node.finish(&[]);
}

#[tokio::test]
async fn bodies_up_to_the_inline_threshold_are_kept_and_larger_ones_refused_by_name() {
    let node = node();
    let s3 = node.s3();
    s3.create_bucket().bucket("sizes").send().await.unwrap();
    for size in [0, 1, 512, 513, 4_096, 65_536] {
        let body: Vec<u8> = (0..size).map(|at: usize| at.to_le_bytes()[0]).collect();
        let put = s3.put_object().bucket("sizes").key(format!("k{size}"));
        put.body(ByteStream::from(body.clone())).send().await.unwrap();
        let got = s3.get_object().bucket("sizes").key(format!("k{size}")).send().await.unwrap();
        assert_eq!(got.body.collect().await.unwrap().into_bytes(), body, "{size} bytes");
    }
    let large = ByteStream::from(vec![0; 65_537]);
    let error = s3.put_object().bucket("sizes").key("large").body(large).send().await.unwrap_err();
    assert!(error.code().is_some(), "no clear answer: {error:?}");
    assert!(s3.head_object().bucket("sizes").key("large").send().await.is_err());
    node.finish(&[]);
}
