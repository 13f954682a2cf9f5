//! redis-cli, redis-benchmark, redis-py and redis-rs, each from its own hello to its own pipelines.

use std::process::{Command, Stdio};

use forebay_integration::node::{Node, NodeOptions};
use forebay_integration::python;
use redis::AsyncCommands;

fn node() -> Node {
    Node::start(NodeOptions::default()).unwrap()
}

fn redis_cli(node: &Node, arguments: &[&str]) -> String {
    let port = node.endpoints().resp.port().to_string();
    let mut command = Command::new("redis-cli");
    python::run(command.args(["-p", &port]).args(arguments).stdin(Stdio::null()))
}

#[test]
fn redis_py_with_resp2_resp3_and_pipelines() {
    let node = node();
    let port = node.endpoints().resp.port().to_string();
    let said = python::run(python::script("redis_client.py").arg(port));
    assert!(said.contains("ok"), "{said}");
    node.finish(&[]);
}

#[test]
fn redis_cli_in_both_protocols_and_reading_commands_from_a_file() {
    let node = node();
    assert_eq!(redis_cli(&node, &["SET", "greeting", "hello world"]), "OK\n");
    assert_eq!(redis_cli(&node, &["GET", "greeting"]), "hello world\n");
    assert_eq!(redis_cli(&node, &["-3", "MGET", "greeting", "nothing"]), "hello world\n\n");
    assert_eq!(redis_cli(&node, &["--no-raw", "TTL", "greeting"]), "(integer) -1\n");
    assert_eq!(redis_cli(&node, &["-n", "1", "DBSIZE"]), "0\n");
    assert!(redis_cli(&node, &["--no-raw", "INCR", "greeting"]).contains("ERR value is not an integer"));
    let scanned = redis_cli(&node, &["--scan", "--pattern", "gr*"]);
    assert_eq!(scanned, "greeting\n");
    node.finish(&[]);
}

#[test]
fn redis_cli_pipe_mode_gets_every_reply() {
    let node = node();
    let mut commands = String::new();
    for number in 0..10_000 {
        commands.push_str(&format!("SET pipe:{number} {number}\r\n"));
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), commands).unwrap();
    let port = node.endpoints().resp.port().to_string();
    let input = std::fs::File::open(file.path()).unwrap();
    let said = python::run(Command::new("redis-cli").args(["-p", &port, "--pipe"]).stdin(input));
    assert!(said.contains("errors: 0, replies: 10000"), "{said}");
    assert_eq!(redis_cli(&node, &["DBSIZE"]), "10000\n");
    node.finish(&[]);
}

#[test]
fn redis_benchmark_runs_without_a_warning() {
    let node = node();
    let port = node.endpoints().resp.port().to_string();
    let output = Command::new("redis-benchmark")
        .args(["-p", &port, "-n", "2000", "-c", "20", "-P", "8", "-t", "ping,set,get,incr,mset", "-q"])
        .stdin(Stdio::null())
        .output()
        .expect("redis-benchmark is installed");
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complaints}");
    assert_eq!(said.matches("requests per second").count(), 6, "{said}");
    assert!(!said.contains("WARN") && complaints.is_empty(), "{said}{complaints}");
    node.finish(&[]);
}

#[tokio::test]
async fn redis_rs_with_a_transaction_and_a_pipeline() {
    let node = node();
    for suffix in ["", "?protocol=resp3"] {
        let client = redis::Client::open(format!("redis://{}/{suffix}", node.endpoints().resp)).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let () = connection.set("rs", b"\x00\xff".as_slice()).await.unwrap();
        let got: Vec<u8> = connection.get("rs").await.unwrap();
        assert_eq!(got, b"\x00\xff");
        let missing: Option<Vec<u8>> = connection.get("nothing").await.unwrap();
        assert_eq!(missing, None);
        let () = connection.set("n", 40).await.unwrap();
        let replies: (i64, i64) =
            redis::pipe().atomic().incr("n", 1).incr("n", 1).query_async(&mut connection).await.unwrap();
        assert_eq!(replies, (41, 42));
        let keys: Vec<String> = redis::cmd("KEYS").arg("r*").query_async(&mut connection).await.unwrap();
        assert_eq!(keys, ["rs"]);
    }
    node.finish(&[]);
}

#[test]
fn a_password_is_asked_for_and_accepted() {
    let node = Node::start(NodeOptions::default().env("FOREBAY_PASSWORD", "correct horse")).unwrap();
    let mut resp = node.resp();
    assert_eq!(resp.call(&["GET", "k"]).unwrap(), b"-NOAUTH Authentication required.\r\n");
    let wrong = resp.call(&["AUTH", "wrong"]).unwrap();
    assert!(wrong.starts_with(b"-WRONGPASS "), "{}", wrong.escape_ascii());
    assert_eq!(resp.call(&["AUTH", "correct horse"]).unwrap(), b"+OK\r\n");
    assert_eq!(resp.call(&["GET", "k"]).unwrap(), b"$-1\r\n");
    let log = node.log();
    assert!(!log.contains("correct horse"), "a secret in the log");
    node.finish(&["authentication failed"]);
}
