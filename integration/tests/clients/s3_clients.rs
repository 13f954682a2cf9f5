//! boto3, aws-cli and aws-sdk-rust.

use std::io::Write;
use std::path::Path;
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
    let tag = aws_sdk_s3::types::Tag::builder().key("a").value("b").build().unwrap();
    let tagging = aws_sdk_s3::types::Tagging::builder().tag_set(tag).build().unwrap();
    let tags = s3.put_object_tagging().bucket("later").key("k").tagging(tagging).send().await.unwrap_err();
    assert_eq!(tags.code(), Some("NotImplemented"));
    let retention = s3.put_object_legal_hold().bucket("later").key("k").send().await.unwrap_err();
    assert_eq!(retention.code(), Some("NotImplemented"));
    let got = s3.get_object().bucket("later").key("k").send().await.unwrap();
    assert_eq!(&got.body.collect().await.unwrap().into_bytes()[..], b"body");
    node.finish(&[]);
}

#[tokio::test]
async fn aws_sdk_rust_puts_bodies_of_any_size() {
    let node = node();
    let s3 = node.s3();
    s3.create_bucket().bucket("sizes").send().await.unwrap();
    for size in [0, 1, 512, 513, 4_096, 65_536, 65_537, 1 << 20, 9_000_000] {
        let body: Vec<u8> = (0..size).map(|at: usize| at.to_le_bytes()[0]).collect();
        let put = s3.put_object().bucket("sizes").key(format!("k{size}"));
        put.body(ByteStream::from(body.clone())).send().await.unwrap();
        let got = s3.get_object().bucket("sizes").key(format!("k{size}")).send().await.unwrap();
        assert_eq!(got.body.collect().await.unwrap().into_bytes(), body, "{size} bytes");
    }
    node.finish(&[]);
}

#[test]
fn boto3_transfer_manager_copies_and_batches() {
    let node = Node::start(NodeOptions::default().set("s3.domains", "[\"s3.test\"]")).unwrap();
    let mut script = python::script("s3_transfer.py");
    let long = if std::env::var_os("FOREBAY_LONG").is_some() { "long" } else { "short" };
    let said = python::run(script.arg(node.s3_endpoint()).args([ACCESS_KEY_ID, SECRET_ACCESS_KEY, long]));
    assert!(said.contains("ok"), "{said}");
    node.finish(&[]);
}

/// Files of many sizes in a directory with a subdirectory.
fn tree() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut sizes: Vec<u64> = vec![1, 511, 65_536, 65_537, (8 << 20) - 1, (8 << 20) + 1, 64 << 20];
    if std::env::var_os("FOREBAY_LONG").is_some() {
        sizes.push(2 << 30);
    }
    std::fs::create_dir(directory.path().join("sub dir")).unwrap();
    for (at, size) in sizes.into_iter().enumerate() {
        let name = if at % 2 == 0 { format!("file-{size}") } else { format!("sub dir/f\u{fc}r+{size}") };
        write_file(&directory.path().join(name), size);
    }
    directory
}

fn write_file(path: &Path, size: u64) {
    let mut rng = fastrand::Rng::with_seed(size);
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).unwrap());
    let mut piece = vec![0; 1 << 20];
    let mut left = size;
    while left > 0 {
        rng.fill(&mut piece);
        let take = left.min(piece.len() as u64);
        file.write_all(&piece[..take as usize]).unwrap();
        left -= take;
    }
    file.flush().unwrap();
}

/// The same files with the same bytes.
fn assert_same(there: &Path, back: &Path) {
    python::run(Command::new("diff").arg("-r").arg(there).arg(back));
}

#[test]
fn aws_cli_syncs_a_tree_there_and_back() {
    let node = node();
    let (there, back) = (tree(), tempfile::tempdir().unwrap());
    python::run(aws(&node).args(["s3", "mb", "s3://tree"]));
    python::run(aws(&node).args(["s3", "cp", "--recursive"]).arg(there.path()).arg("s3://tree/a"));
    python::run(aws(&node).args(["s3", "sync", "s3://tree/a"]).arg(back.path()));
    assert_same(there.path(), back.path());
    let again = python::run(aws(&node).args(["s3", "sync"]).arg(there.path()).arg("s3://tree/a"));
    assert_eq!(again, "", "nothing has changed");
    // A copy between keys: in parts where it is large.
    python::run(aws(&node).args(["s3", "cp", "--recursive", "s3://tree/a", "s3://tree/b"]));
    let copied = tempfile::tempdir().unwrap();
    python::run(aws(&node).args(["s3", "cp", "--recursive", "s3://tree/b"]).arg(copied.path()));
    assert_same(there.path(), copied.path());
    python::run(aws(&node).args(["s3", "mv", "s3://tree/b/file-1", "s3://tree/c"]));
    python::run(aws(&node).args(["s3", "rm", "--recursive", "s3://tree/a"]));
    python::run(aws(&node).args(["s3", "rb", "--force", "s3://tree"]));
    node.finish(&[]);
}

#[test]
fn s3api_uploads_in_parts() {
    let node = node();
    let file = tempfile::NamedTempFile::new().unwrap();
    write_file(file.path(), 5 << 20);
    let api = |args: &[&str]| {
        let said = python::run(aws(&node).arg("s3api").args(args).args(["--bucket", "api-bucket"]));
        serde_json::from_str::<serde_json::Value>(&said).unwrap_or_default()
    };
    api(&["create-bucket"]);
    let upload = api(&["create-multipart-upload", "--key", "k", "--content-type", "text/x"]);
    let id = upload["UploadId"].as_str().unwrap();
    let mut parts = Vec::new();
    for number in ["1", "2"] {
        let body = file.path().to_str().unwrap();
        let part = ["upload-part", "--key", "k", "--upload-id", id, "--part-number", number, "--body", body];
        parts.push(format!("{{ETag={},PartNumber={number}}}", api(&part)["ETag"].as_str().unwrap()));
    }
    let listed = api(&["list-parts", "--key", "k", "--upload-id", id]);
    assert_eq!(listed["Parts"].as_array().map(Vec::len), Some(2), "{listed}");
    let uploads = api(&["list-multipart-uploads"]);
    assert_eq!(uploads["Uploads"][0]["UploadId"], id, "{uploads}");
    let named = format!("Parts=[{}]", parts.join(","));
    let complete =
        ["complete-multipart-upload", "--key", "k", "--upload-id", id, "--multipart-upload", &named];
    let completed = api(&complete);
    assert!(completed["ETag"].as_str().unwrap().ends_with("-2\""), "{completed}");
    let head = api(&["head-object", "--key", "k", "--part-number", "2"]);
    assert_eq!((&head["PartsCount"], &head["ContentLength"]), (&2.into(), &(5 << 20).into()), "{head}");
    assert_eq!(api(&["head-object", "--key", "k"])["ContentType"], "text/x");
    let attributes = api(&[
        "get-object-attributes",
        "--key",
        "k",
        "--object-attributes",
        "ETag",
        "ObjectSize",
        "ObjectParts",
    ]);
    assert_eq!(attributes["ObjectSize"], 10 << 20, "{attributes}");
    assert_eq!(attributes["ObjectParts"]["TotalPartsCount"], 2, "{attributes}");
    let upload = api(&["create-multipart-upload", "--key", "k2"]);
    api(&["abort-multipart-upload", "--key", "k2", "--upload-id", upload["UploadId"].as_str().unwrap()]);
    assert_eq!(api(&["list-multipart-uploads"])["Uploads"], serde_json::Value::Null);
    let versions = api(&["list-object-versions"]);
    assert_eq!(versions["Versions"][0]["VersionId"], "null", "{versions}");
    assert_eq!(api(&["list-objects"])["Contents"][0]["Key"], "k");
    assert_eq!(api(&["get-bucket-versioning"]), serde_json::Value::Null);
    assert_eq!(api(&["get-object-tagging", "--key", "k"])["TagSet"].as_array().map(Vec::len), Some(0));
    assert_eq!(api(&["get-object-acl", "--key", "k"])["Grants"][0]["Permission"], "FULL_CONTROL");
    let deleted = api(&["delete-objects", "--delete", "Objects=[{Key=k},{Key=missing}]"]);
    assert_eq!(deleted["Deleted"].as_array().map(Vec::len), Some(2), "{deleted}");
    node.finish(&[]);
}

fn rclone(node: &Node) -> Command {
    let mut command = Command::new("rclone");
    // Its S3 client takes no bundle of certificates from the environment.
    command.env_remove("AWS_CA_BUNDLE");
    for (name, value) in [
        ("TYPE", "s3"),
        ("PROVIDER", "Other"),
        ("ACCESS_KEY_ID", ACCESS_KEY_ID),
        ("SECRET_ACCESS_KEY", SECRET_ACCESS_KEY),
        ("REGION", "us-east-1"),
        ("ENDPOINT", &node.s3_endpoint()),
    ] {
        command.env(format!("RCLONE_CONFIG_FB_{name}"), value);
    }
    command
        .args(["--config", "/dev/null", "--retries", "1", "--low-level-retries", "1"])
        .stdin(Stdio::null());
    command
}

#[test]
fn rclone_syncs_and_checks_a_tree() {
    let node = node();
    let (there, back) = (tree(), tempfile::tempdir().unwrap());
    python::run(rclone(&node).args(["mkdir", "fb:clone"]));
    python::run(rclone(&node).arg("sync").arg(there.path()).arg("fb:clone/dir"));
    python::run(rclone(&node).arg("check").arg(there.path()).arg("fb:clone/dir"));
    python::run(rclone(&node).args(["check", "--download"]).arg(there.path()).arg("fb:clone/dir"));
    let again = python::run(rclone(&node).args(["sync", "-v"]).arg(there.path()).arg("fb:clone/dir"));
    assert!(!again.contains("Copied"), "{again}");
    // The server copies; a new time is a copy onto itself with other metadata.
    python::run(rclone(&node).args(["sync", "fb:clone/dir", "fb:clone/copy"]));
    python::run(rclone(&node).args(["check", "fb:clone/dir", "fb:clone/copy"]));
    python::run(rclone(&node).args(["touch", "-t", "2020-01-02T03:04:05", "fb:clone/copy/file-1"]));
    let listed = python::run(rclone(&node).args(["lsl", "fb:clone/copy"]));
    assert!(listed.contains("2020-01-02 03:04:05"), "{listed}");
    python::run(rclone(&node).args(["touch", "-t", "2021-01-02T03:04:05", "fb:clone/dir/file-1"]));
    python::run(rclone(&node).args(["copy", "fb:clone/dir"]).arg(back.path()));
    assert_same(there.path(), back.path());
    let piped = python::run(rclone(&node).args(["cat", "fb:clone/dir/file-65536"]));
    assert!(!piped.is_empty());
    python::run(rclone(&node).args(["purge", "fb:clone/copy"]));
    python::run(rclone(&node).args(["delete", "fb:clone"]));
    python::run(rclone(&node).args(["rmdir", "fb:clone"]));
    node.finish(&[]);
}

#[test]
fn s3cmd_puts_gets_and_syncs() {
    let node = node();
    let (there, back) = (tree(), tempfile::tempdir().unwrap());
    let host = node.endpoints().s3.to_string();
    let config = tempfile::NamedTempFile::new().unwrap();
    let settings = format!(
        "[default]\naccess_key = {ACCESS_KEY_ID}\nsecret_key = {SECRET_ACCESS_KEY}\nhost_base = {host}\n\
         host_bucket = {host}\nuse_https = False\nmax_retries = 1\nmultipart_chunk_size_mb = 5\n"
    );
    std::fs::write(config.path(), settings).unwrap();
    let s3cmd = || {
        let mut command = Command::new("s3cmd");
        command.arg("-c").arg(config.path()).stdin(Stdio::null()).env("LC_ALL", "C.UTF-8");
        command
    };
    python::run(s3cmd().args(["mb", "s3://commands"]));
    python::run(s3cmd().arg("sync").arg(format!("{}/", there.path().display())).arg("s3://commands/a/"));
    python::run(s3cmd().args(["sync", "s3://commands/a/"]).arg(format!("{}/", back.path().display())));
    assert_same(there.path(), back.path());
    let info = python::run(s3cmd().args(["info", "s3://commands/a/file-1"]));
    assert!(info.contains("File size: 1"), "{info}");
    python::run(s3cmd().args(["info", "s3://commands"]));
    python::run(s3cmd().args(["cp", "s3://commands/a/file-65536", "s3://commands/copy"]));
    python::run(s3cmd().args(["modify", "--add-header=x-amz-meta-a:b", "s3://commands/copy"]));
    python::run(s3cmd().args(["mv", "s3://commands/copy", "s3://commands/moved"]));
    let listed = python::run(s3cmd().args(["ls", "s3://commands"]));
    assert!(listed.contains("s3://commands/moved") && listed.contains("s3://commands/a/"), "{listed}");
    python::run(s3cmd().args(["multipart", "s3://commands"]));
    python::run(s3cmd().args(["del", "--recursive", "--force", "s3://commands"]));
    python::run(s3cmd().args(["rb", "s3://commands"]));
    node.finish(&[]);
}
