//! What `/metrics` says of the requests to origins. Aim: an operator pays for each request, so the node's count of them
//! is the origin's own, errors and silence included. Method: a workload of uploads, look-ups, reads, listings, an
//! import and a scrub against a simulated origin that fails on command and keeps its own count.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use forebay_integration::http_wire;
use forebay_integration::node::{Node, NodeOptions};
use forebay_integration::origin_sim::OriginSim;
use forebay_integration::origin_sim::fault::{Calls, Fault, Op, Rule};
use forebay_integration::resp_wire::bulk;
use forebay_integration::wait;

const LIMIT: Duration = Duration::from_secs(60);

/// Requests by operation and by status; those without an answer under "none", whatever the node calls them.
type Counts = BTreeMap<(String, String), u64>;

fn metrics(node: &Node) -> String {
    http_wire::get(node.endpoints().admin, "/metrics", &[]).unwrap().text()
}

fn label<'t>(labels: &'t str, name: &str) -> &'t str {
    let rest = labels.split_once(&format!("{name}=\"")).unwrap_or_else(|| panic!("no {name} in {labels}")).1;
    rest.split('"').next().unwrap()
}

/// The samples of a family: labels and value.
fn samples(text: &str, family: &str) -> Vec<(String, u64)> {
    let begins = format!("forebay_{family}{{");
    let lines = text.lines().filter_map(|line| line.strip_prefix(&begins));
    let split = lines.map(|line| line.rsplit_once("} ").unwrap());
    split.map(|(labels, value)| (labels.to_owned(), value.parse().unwrap())).collect()
}

fn counted_by_node(node: &Node) -> Counts {
    let mut counts = Counts::new();
    for (labels, count) in samples(&metrics(node), "origin_requests_total") {
        assert_eq!(label(&labels, "mount"), "/photos", "{labels}");
        let code = label(&labels, "code");
        let code = if ["network", "fenced"].contains(&code) { "none" } else { code };
        *counts.entry((label(&labels, "op").to_owned(), code.to_owned())).or_default() += count;
    }
    counts
}

fn counted_by_origin(origin: &OriginSim) -> Counts {
    let mut counts = Counts::new();
    for ((op, status), count) in origin.answers() {
        let name = match op {
            Op::Put => "PutObject",
            Op::Get => "GetObject",
            Op::Head => "HeadObject",
            Op::Delete => "DeleteObject",
            Op::List => "ListObjectsV2",
            Op::BeginUpload => "CreateMultipartUpload",
            Op::Part => "UploadPart",
            Op::Complete => "CompleteMultipartUpload",
            Op::AbortUpload => "AbortMultipartUpload",
            Op::ListUploads => "ListMultipartUploads",
            Op::DeleteMany | Op::Bucket => panic!("the node asked for {op:?}"),
        };
        let code = status.map_or("none".to_owned(), |status| status.to_string());
        *counts.entry((name.to_owned(), code)).or_default() += count;
    }
    counts
}

/// Whether both counted the same answers. Of requests without one the origin may have seen fewer: a sender may give up
/// before they arrive.
fn is_same(ours: &Counts, theirs: &Counts) -> bool {
    let answered = |counts: &Counts| -> Counts {
        counts
            .iter()
            .filter(|((_, code), _)| code != "none")
            .map(|(name, count)| (name.clone(), *count))
            .collect()
    };
    let mut silent = theirs.iter().filter(|((_, code), _)| code == "none");
    answered(ours) == answered(theirs) && silent.all(|(name, count)| ours.get(name) >= Some(count))
}

fn bytes(node: &Node, direction: &str) -> u64 {
    let samples = samples(&metrics(node), "origin_bytes_total");
    samples.into_iter().filter(|(labels, _)| label(labels, "direction") == direction).map(|(_, n)| n).sum()
}

#[tokio::test]
async fn the_nodes_count_of_requests_is_the_origins_own() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    origin.foreign_put("cloud", "pics/was-here", "before");
    for number in 0..40 {
        origin.foreign_put("cloud", &format!("pics/old/{number}"), vec![number as u8; 1_000]);
    }
    let options = NodeOptions::default()
        .set("flush.part_size", "\"5MiB\"")
        .set("flush.attempt_timeout", "\"2s\"")
        .mount("/photos", &origin, "cloud/pics");
    let node = Node::start(options).unwrap();
    node.attach_mounts(&["photos"], LIMIT);
    let mut resp = node.resp();
    resp.set_reply_limit(LIMIT).unwrap();
    assert_eq!(resp.call(&["FB.USE", "photos"]).unwrap(), b"+OK\r\n");
    let is_equal = || {
        wait::until("both counts are equal", LIMIT, || {
            let (ours, theirs) = (counted_by_node(&node), counted_by_origin(&origin));
            if is_same(&ours, &theirs) { Ok(()) } else { Err(format!("ours {ours:?}\ntheirs {theirs:?}")) }
        })
        .unwrap();
    };
    is_equal();

    // Bytes each way, while nothing fails.
    let (sent, received) = (bytes(&node, "sent"), bytes(&node, "received"));
    for number in 0..20 {
        let value = vec![b'v'; 100 + number];
        assert_eq!(resp.call(&[b"SET", format!("new/{number}").as_bytes(), &value]).unwrap(), b"+OK\r\n");
    }
    let s3 = node.s3();
    let long = vec![7; 12 << 20];
    let put = s3.put_object().bucket("photos").key("long").body(ByteStream::from(long));
    put.send().await.unwrap();
    node.flush_wait(LIMIT);
    let values: u64 = (0..20).map(|number| 100 + number).sum();
    assert_eq!(bytes(&node, "sent") - sent, values + (12 << 20));
    let read = origin.bodies_read();
    for number in 0..10 {
        let value = resp.call(&["GET", &format!("old/{number}")]).unwrap();
        assert_eq!(bulk(&value).map(<[u8]>::len), Some(1_000));
    }
    assert_eq!(bytes(&node, "received") - received, 1_000 * (origin.bodies_read() - read));
    is_equal();

    // Everything else that asks, and each kind of failure.
    origin.add_fault(Rule::new(&[Op::Put], Fault::Answer(503, "SlowDown")).calls(Calls::First(3)));
    origin.add_fault(Rule::new(&[Op::Put], Fault::HangBefore).calls(Calls::Nth(9)));
    origin.add_fault(Rule::new(&[Op::Put], Fault::ResetAfter).calls(Calls::Nth(12)));
    origin.add_fault(Rule::new(&[Op::Part], Fault::ResetMidBody).calls(Calls::First(1)));
    origin.add_fault(Rule::new(&[Op::Delete], Fault::Answer(500, "InternalError")).calls(Calls::First(2)));
    origin.add_fault(Rule::new(&[Op::Head], Fault::ResetBefore).calls(Calls::Nth(2)));
    for number in 0..20 {
        assert_eq!(resp.call(&["SET", &format!("more/{number}"), "v"]).unwrap(), b"+OK\r\n");
    }
    for number in 0..5 {
        assert_eq!(resp.call(&["DEL", &format!("new/{number}")]).unwrap(), b":1\r\n");
        assert_eq!(resp.call(&["GET", &format!("absent/{number}")]).unwrap(), b"$-1\r\n");
    }
    let put = s3.put_object().bucket("photos").key("longer").body(ByteStream::from(vec![8; 11 << 20]));
    put.send().await.unwrap();
    s3.list_objects_v2().bucket("photos").send().await.unwrap();
    let missing = s3.head_object().bucket("photos").key("nothing").send().await.unwrap_err();
    assert_eq!(missing.raw_response().map(|raw| raw.status().as_u16()), Some(404));
    for command in [&["fs", "import", "/photos", "--wait"][..], &["scrub", "--origin"]] {
        let output = node.forebay(command);
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    node.flush_wait(LIMIT);
    is_equal();
    let counts = counted_by_node(&node);
    for (op, code) in [
        ("PutObject", "200"),
        ("PutObject", "503"),
        ("PutObject", "none"),
        ("UploadPart", "none"),
        ("CompleteMultipartUpload", "200"),
        ("DeleteObject", "500"),
        ("HeadObject", "404"),
        ("GetObject", "404"),
        ("ListObjectsV2", "200"),
    ] {
        assert!(counts.contains_key(&(op.to_owned(), code.to_owned())), "{op} {code}: {counts:?}");
    }
    node.finish(&["origin", "flush", "look-up"]);
}
