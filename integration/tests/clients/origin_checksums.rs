//! What an origin can check of the bytes that reach it. Aim: the checksum that a client's upload was verified with goes on
//! to the origin; `checksums` is obeyed; an origin that knows fewer algorithms gets everything all the same. Method: a
//! simulated origin that verifies what it gets, keeps it, and refuses on command.

use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ChecksumAlgorithm;
use forebay_integration::node::{Node, NodeOptions};
use forebay_integration::origin_sim::OriginSim;
use forebay_integration::origin_sim::fault::{Fault, Op, Rule};
use forebay_integration::wait;

const LIMIT: Duration = Duration::from_secs(60);
const CRC32C: &str = "x-amz-checksum-crc32c";

fn start(origin: &OriginSim, options: NodeOptions) -> Node {
    Node::start(options.mount("/photos", origin, "cloud/pics")).unwrap()
}

/// The checksums that came with an object, by header name.
fn sums(origin: &OriginSim, key: &str) -> Vec<(&'static str, String)> {
    let object = origin.object("cloud", &format!("pics/{key}")).unwrap_or_else(|| panic!("no {key}"));
    object.sums.into_iter().collect()
}

/// Puts an object with each algorithm; the key and the checksum that the client was told.
async fn put_with_each(node: &Node) -> Vec<(String, &'static str, String)> {
    let mut put = Vec::new();
    for algorithm in [
        ChecksumAlgorithm::Crc32,
        ChecksumAlgorithm::Crc32C,
        ChecksumAlgorithm::Crc64Nvme,
        ChecksumAlgorithm::Sha1,
        ChecksumAlgorithm::Sha256,
    ] {
        let key = algorithm.as_str().to_lowercase();
        let request = node.s3().put_object().bucket("photos").key(&key);
        let request = request.body(ByteStream::from_static(b"verified on its way in"));
        let told = request.checksum_algorithm(algorithm.clone()).send().await.unwrap();
        let (name, sum) = match algorithm {
            ChecksumAlgorithm::Crc32 => ("x-amz-checksum-crc32", told.checksum_crc32()),
            ChecksumAlgorithm::Crc32C => (CRC32C, told.checksum_crc32_c()),
            ChecksumAlgorithm::Crc64Nvme => ("x-amz-checksum-crc64nvme", told.checksum_crc64_nvme()),
            ChecksumAlgorithm::Sha1 => ("x-amz-checksum-sha1", told.checksum_sha1()),
            _ => ("x-amz-checksum-sha256", told.checksum_sha256()),
        };
        put.push((key, name, sum.expect("the checksum is told").to_owned()));
    }
    put
}

#[tokio::test]
async fn the_checksum_of_an_upload_is_passed_on_whatever_its_algorithm() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let node = start(&origin, NodeOptions::default());
    node.attach_mounts(&["photos"], LIMIT);
    let put = put_with_each(&node).await;
    let plain = node.s3_wire().put("/photos/plain", b"no checksum came with it").unwrap();
    assert_eq!(plain.status, 200, "{plain:?}");
    node.flush_wait(LIMIT);
    for (key, name, sum) in put {
        assert_eq!(sums(&origin, &key), [(name, sum)], "{key}");
    }
    let computed = sums(&origin, "plain");
    assert!(matches!(computed[..], [(CRC32C, _)]), "{computed:?}");
    node.finish(&[]);
}

#[tokio::test]
async fn an_origin_that_knows_crc32c_alone_gets_that() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    origin.add_fault(Rule::new(&[Op::Put], Fault::RefuseOtherChecksums));
    let node = start(&origin, NodeOptions::default());
    node.attach_mounts(&["photos"], LIMIT);
    let probed = origin.requests(Op::Put);
    put_with_each(&node).await;
    node.flush_wait(LIMIT);
    let before = origin.requests(Op::Put);
    assert!(before - probed > 5, "nothing was refused");
    put_with_each(&node).await;
    node.flush_wait(LIMIT);
    assert_eq!(origin.requests(Op::Put) - before, 5, "the origin is not asked again what it does not know");
    for key in ["crc32", "crc32c", "crc64nvme", "sha1", "sha256"] {
        let found = sums(&origin, key);
        assert!(matches!(found[..], [(CRC32C, _)]), "{key}: {found:?}");
    }
    origin.record().assert_clean();
    node.finish(&["origin", "flush"]);
}

#[test]
fn an_origin_that_refuses_checksums_gets_everything_without_them() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    origin.add_fault(Rule::new(&[Op::Put], Fault::RefuseChecksums));
    let node = start(&origin, NodeOptions::default());
    node.attach_mounts(&["photos"], LIMIT);
    let mut wire = node.s3_wire();
    for key in 0..20 {
        assert_eq!(wire.put(&format!("/photos/k{key}"), b"v").unwrap().status, 200);
    }
    node.flush_wait(LIMIT);
    assert_eq!(origin.objects("cloud", "pics/k").len(), 20);
    origin.record().assert_clean();
    node.finish(&["origin", "flush"]);
}

#[tokio::test]
async fn checksums_none_sends_content_md5_alone() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let node = Node::start(
        NodeOptions::default()
            .mount("/photos", &origin, "cloud/pics")
            .last_mount_set("checksums", "\"none\""),
    )
    .unwrap();
    node.attach_mounts(&["photos"], LIMIT);
    put_with_each(&node).await;
    node.flush_wait(LIMIT);
    for key in ["crc32", "crc32c", "crc64nvme", "sha1", "sha256"] {
        let found = sums(&origin, key);
        assert!(matches!(found[..], [("content-md5", _)]), "{key}: {found:?}");
    }
    node.finish(&[]);
}

#[test]
fn checksums_required_takes_no_origin_without_them_and_says_so_until_it_has() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let refuses = origin.add_fault(Rule::new(&[Op::Put], Fault::RefuseChecksums));
    let node = Node::start(
        NodeOptions::default()
            .mount("/photos", &origin, "cloud/pics")
            .last_mount_set("checksums", "\"required\""),
    )
    .unwrap();
    let listed = wait::until("the mount says why it waits", LIMIT, || {
        let listed = String::from_utf8_lossy(&node.forebay(&["mount", "ls"]).stdout).into_owned();
        let says = listed.contains("does not check checksums, and the mount requires it");
        if says { Ok(()) } else { Err(listed) }
    });
    listed.unwrap();
    node.create_bucket("photos");
    let put = node.s3_wire().put("/photos/k", b"kept here meanwhile").unwrap();
    assert_eq!(put.status, 200, "{put:?}");
    assert_eq!(origin.objects("cloud", "pics/k").len(), 0);
    origin.remove_fault(refuses);
    node.attach_mounts(&["photos"], LIMIT);
    node.flush_wait(LIMIT);
    let found = sums(&origin, "k");
    assert!(matches!(found[..], [(CRC32C, _)]), "{found:?}");
    node.finish(&["origin", "mount"]);
}
