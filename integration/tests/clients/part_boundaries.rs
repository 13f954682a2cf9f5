//! What a client uploaded in parts goes to the origin in the same parts. Aim: the ETag that a client was given, which
//! says into how many parts the body was cut and where, is the ETag that the origin's own object has, and stays what
//! GET and HEAD say after the upload, after the local copy is given up, and after it was read back. Method: boto3
//! with uneven parts and aws-cli with its own, a small site, and two origins that make the ETag themselves.

use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use forebay_integration::node::{ACCESS_KEY_ID, Node, NodeOptions, SECRET_ACCESS_KEY};
use forebay_integration::origin_sim::OriginSim;
use forebay_integration::origin_sim::buckets::md5_hex;
use forebay_integration::{origin_sim, python, s3_client, wait};
use sha2::{Digest, Sha256};

use crate::s3_clients::aws;

const LIMIT: Duration = Duration::from_secs(120);
const MIB: usize = 1 << 20;
const BUCKET: &str = "parts";
const CAPACITY_MIB: usize = 128;
/// What aws-cli cuts at if nobody says otherwise.
const AWS_CLI_PART: usize = 8 * MIB;

/// An object as its client knows it.
struct Uploaded {
    key: String,
    etag: String,
    sha256: String,
    bytes: usize,
}

fn options() -> NodeOptions {
    NodeOptions::default()
        .set("capacity", &format!("\"{CAPACITY_MIB}MiB\""))
        .set("dirty_limit", &format!("\"{CAPACITY_MIB}MiB\""))
}

/// Uneven parts, parts over 16 MiB, and what aws-cli makes of a file.
fn upload(node: &Node) -> Vec<Uploaded> {
    let shapes: [(&str, &[usize]); 3] = [
        ("uneven", &[5 * MIB, 7 * MIB, 5 * MIB + 1, 3]),
        ("long", &[17 * MIB, 20 * MIB + 7, MIB]),
        ("even", &[6 * MIB, 6 * MIB]),
    ];
    let arguments = shapes.iter().map(|(key, parts)| {
        let lengths: Vec<String> = parts.iter().map(ToString::to_string).collect();
        format!("{key}={}", lengths.join("+"))
    });
    let mut script = python::script("s3_parts.py");
    script.arg(node.s3_endpoint()).args([ACCESS_KEY_ID, SECRET_ACCESS_KEY, BUCKET]).args(arguments);
    let said = python::run(&mut script);
    let mut uploaded: Vec<Uploaded> = said
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let (_, parts) = shapes.iter().find(|(key, _)| *key == words[0]).expect("a key of ours");
            Uploaded {
                key: words[0].to_owned(),
                etag: words[1].to_owned(),
                sha256: words[2].to_owned(),
                bytes: parts.iter().sum(),
            }
        })
        .collect();
    assert_eq!(uploaded.len(), shapes.len(), "{said}");
    assert!(uploaded[0].etag.ends_with("-4"), "{}", uploaded[0].etag);

    let mut body = vec![0; 3 * AWS_CLI_PART + MIB];
    fastrand::Rng::with_seed(6).fill(&mut body);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &body).unwrap();
    python::run(aws(node).args(["s3", "cp"]).arg(file.path()).arg(format!("s3://{BUCKET}/cli")));
    let digests: Vec<u8> =
        body.chunks(AWS_CLI_PART).flat_map(|part| hex::decode(md5_hex(part)).unwrap()).collect();
    uploaded.push(Uploaded {
        key: "cli".to_owned(),
        etag: format!("{}-4", md5_hex(&digests)),
        sha256: hex::encode(Sha256::digest(&body)),
        bytes: body.len(),
    });
    uploaded
}

async fn check(client: &aws_sdk_s3::Client, bucket: &str, prefix: &str, uploaded: &[Uploaded], when: &str) {
    for object in uploaded {
        let key = format!("{prefix}{}", object.key);
        let head = client.head_object().bucket(bucket).key(&key).send().await.unwrap();
        let etag = Some(format!("\"{}\"", object.etag));
        assert_eq!(head.e_tag(), etag.as_deref(), "{when}: HEAD {key}");
        let got = client.get_object().bucket(bucket).key(&key).send().await.unwrap();
        assert_eq!(got.e_tag(), etag.as_deref(), "{when}: GET {key}");
        let body = got.body.collect().await.unwrap().into_bytes();
        let found = (body.len(), hex::encode(Sha256::digest(&body)));
        assert_eq!(found, (object.bytes, object.sha256.clone()), "{when}: {key}");
    }
}

/// Other objects take the room of what is in the origin.
async fn evict(node: &Node, uploaded: &[Uploaded]) {
    let before = node.metric("evicted_capacity_bytes_total");
    let wanted: usize = uploaded.iter().map(|object| object.bytes).sum();
    for number in 0..2 * CAPACITY_MIB / 4 {
        let mut body = vec![0; 4 * MIB];
        fastrand::Rng::with_seed(number as u64).fill(&mut body);
        let put = node.s3().put_object().bucket(BUCKET).key(format!("filler/{number}"));
        put.body(ByteStream::from(body)).send().await.unwrap();
        node.flush_wait(LIMIT);
        if node.metric("evicted_capacity_bytes_total") - before > 1.5 * wanted as f64 {
            break;
        }
    }
    wait::until_true("what was uploaded has been given up", LIMIT, || {
        node.metric("evicted_capacity_bytes_total") - before >= wanted as f64
    })
    .unwrap();
}

#[tokio::test]
async fn the_origin_gets_the_clients_parts_and_the_etag_stays() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let mut node = Node::start(options().mount("/parts", &origin, "cloud/p")).unwrap();
    node.attach_mounts(&[BUCKET], LIMIT);
    origin.set_outage(true);
    let uploaded = upload(&node);
    // The cut is remembered over a crash, too.
    node.kill();
    node.restart().unwrap();
    check(&node.s3(), BUCKET, "", &uploaded, "before the flush").await;
    origin.set_outage(false);
    node.flush_wait(LIMIT);
    for object in &uploaded {
        let stored = origin.object("cloud", &format!("p/{}", object.key)).unwrap();
        assert_eq!(stored.etag, object.etag, "{} in the origin", object.key);
        assert_eq!(stored.metadata.get("forebay-etag"), Some(&object.etag));
        assert_eq!(hex::encode(Sha256::digest(&stored.body)), object.sha256);
    }
    check(&node.s3(), BUCKET, "", &uploaded, "after the flush").await;
    evict(&node, &uploaded).await;
    let fills = node.metric("fills_total");
    check(&node.s3(), BUCKET, "", &uploaded, "after they were given up").await;
    assert!(node.metric("fills_total") > fills, "nothing was read back from the origin");
    check(&node.s3(), BUCKET, "", &uploaded, "read again").await;
    origin.record().assert_clean();
    assert_eq!(origin.uploads(), []);
    node.finish(&["origin", "flush"]);
}

#[tokio::test]
async fn moto_gets_the_clients_parts_too() {
    let moto = python::Moto::start().unwrap();
    let cloud = s3_client::client(&moto.endpoint(), origin_sim::ACCESS_KEY_ID, origin_sim::SECRET_ACCESS_KEY);
    cloud.create_bucket().bucket("cloud").send().await.unwrap();
    let node = Node::start(options().mount_at("/parts", &moto.endpoint(), "cloud/p")).unwrap();
    node.attach_mounts(&[BUCKET], LIMIT);
    let uploaded = upload(&node);
    node.flush_wait(LIMIT);
    check(&cloud, "cloud", "p/", &uploaded, "in moto").await;
    evict(&node, &uploaded).await;
    check(&node.s3(), BUCKET, "", &uploaded, "after they were given up").await;
    node.finish(&["origin", "flush"]);
}
