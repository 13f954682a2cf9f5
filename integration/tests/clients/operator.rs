//! What an operator types and scrapes: the command line, the admin API, the credentials of a first start.

use std::process::{Command, Stdio};

use forebay_integration::http_wire;
use forebay_integration::node::{Node, NodeOptions, forebay_program};
use forebay_integration::origin_sim::OriginSim;
use forebay_integration::wait;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn health_metrics_and_slots_answer_over_http() {
    let node = Node::start(NodeOptions::default()).unwrap();
    let admin = node.endpoints().admin;
    for path in ["/livez", "/readyz", "/_/api/v1/healthz", "/_/api/v1/nodes"] {
        assert_eq!(http_wire::get(admin, path, &[]).unwrap().status, 200, "{path}");
    }
    assert_eq!(http_wire::get(admin, "/nothing", &[]).unwrap().status, 404);
    let metrics = http_wire::get(admin, "/metrics", &[]).unwrap().text();
    for name in
        ["flush_pending_objects", "flush_oldest_pending_age_seconds", "build_info", "dirty_limit_bytes"]
    {
        assert!(metrics.contains(name), "{name} is missing in\n{metrics}");
    }
    // Redis: CLUSTER KEYSLOT foo = 12182, eight Redis slots to one of ours.
    let slot = http_wire::get(admin, "/_/api/v1/slots/resolve?path=/redis-0/foo", &[]).unwrap();
    assert!(slot.text().contains("1522"), "{}", slot.text());
    node.finish(&[]);
}

#[test]
fn status_and_flush_find_the_node_and_use_their_exit_codes() {
    let node = Node::start(NodeOptions::default()).unwrap();
    let status = node.forebay(&["status"]);
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(said.contains("1 copy"), "one node says so: {said}");
    assert_eq!(node.forebay(&["flush", "wait", "--timeout", "5s"]).status.code(), Some(0));
    assert_eq!(node.forebay(&["flush", "wait", "--timeout", "soon"]).status.code(), Some(2));
    assert_eq!(node.forebay(&["no-such-command"]).status.code(), Some(2));
    assert_eq!(node.resp().call(&["FB.FLUSHWAIT", "1000"]).unwrap(), b":0\r\n");
    node.finish(&[]);
}

#[test]
fn a_disk_below_its_reserve_refuses_writes_by_name() {
    let node = Node::start(NodeOptions::default().set("disk_reserve", "\"1000TiB\"")).unwrap();
    let refused = node.resp().call(&["SET", "k", "v"]).unwrap();
    let said = String::from_utf8_lossy(&refused).into_owned();
    assert!(said.starts_with("-OOM forebay: ") && said.contains("disk_reserve"), "{said}");
    assert_eq!(node.resp().call(&["GET", "k"]).unwrap(), b"$-1\r\n");
    node.finish(&[]);
}

#[test]
fn a_bad_config_ends_with_78_and_a_suggestion() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("forebay.toml");
    std::fs::write(&file, "capacty = \"1GiB\"\n").unwrap();
    for arguments in [vec!["check-config"], vec!["start", "--config"]] {
        let output = Command::new(forebay_program()).args(arguments).arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains("capacity") && said.contains(":1"), "{said}");
    }
}

#[test]
fn a_first_start_without_credentials_makes_some_and_prints_no_secret_to_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let log = std::fs::File::create(directory.path().join("log")).unwrap();
    let mut child = Command::new(forebay_program())
        .args(["start", "--resp-listen", "127.0.0.1:0", "--s3-listen", "127.0.0.1:0"])
        .args(["--admin-listen", "127.0.0.1:0", "--data-dir"])
        .arg(&data)
        .env_remove("FOREBAY_ACCESS_KEY_ID")
        .env_remove("FOREBAY_SECRET_ACCESS_KEY")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let ready = wait::until_true("endpoints.json is there", Duration::from_secs(60), || {
        data.join("endpoints.json").exists()
    });
    child.kill().unwrap();
    child.wait().unwrap();
    ready.unwrap();
    let said = std::fs::read_to_string(directory.path().join("log")).unwrap();
    let mut found = 0;
    for entry in std::fs::read_dir(&data).unwrap().map(Result::unwrap) {
        if entry.file_name().to_string_lossy().contains("credentials") {
            found += 1;
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            assert!(said.contains(&*entry.file_name().to_string_lossy()), "the file is not named:\n{said}");
            let text = std::fs::read_to_string(entry.path()).unwrap();
            let words = text.split(|c: char| !c.is_ascii_alphanumeric() && !"+/_-".contains(c));
            for word in words.filter(|word| word.len() >= 30) {
                assert!(!said.contains(word), "a secret was printed to a file");
            }
        }
    }
    assert_eq!(found, 1, "no credentials file in {}", data.display());
}

#[test]
fn the_listeners_refuse_to_leave_loopback_without_credentials() {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(forebay_program())
        .args(["start", "--resp-listen", "0.0.0.0:0", "--s3-listen", "127.0.0.1:0"])
        .args(["--admin-listen", "127.0.0.1:0", "--data-dir"])
        .arg(directory.path())
        .env_remove("FOREBAY_PASSWORD")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(78));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("FOREBAY_PASSWORD"), "{said}");
}

#[test]
fn two_daemons_do_not_share_a_directory() {
    let node = Node::start(NodeOptions::default()).unwrap();
    let output = Command::new(forebay_program())
        .args(["start", "--resp-listen", "127.0.0.1:0", "--s3-listen", "127.0.0.1:0"])
        .args(["--admin-listen", "127.0.0.1:0", "--data-dir"])
        .arg(node.data_dir())
        .output()
        .unwrap();
    assert!(!output.status.success());
    node.finish(&[]);
}

#[test]
fn a_mount_is_listed_forgotten_and_put_elsewhere_or_given_up() {
    let origin = OriginSim::start(&["cloud"]).unwrap();
    let data = tempfile::tempdir().unwrap();
    let to = |place: &str| NodeOptions::default().data_dir(data.path()).mount("/redis-0", &origin, place);
    let node = Node::start(to("cloud/old")).unwrap();
    node.attach_mounts(&["redis-0"], LIMIT);
    let mut resp = node.resp();
    resp.call(&["SET", "a", "1"]).unwrap();
    node.flush_wait(LIMIT);
    let text = |output: &std::process::Output| {
        String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
    };
    let listed = text(&node.forebay(&["mount", "ls"]));
    assert!(listed.contains("/redis-0 -> s3://cloud/old, write-back, 0 changes wait: up"), "{listed}");
    assert_eq!(node.forebay(&["mount", "forget", "/redis-0"]).status.code(), Some(2), "--yes is missing");
    assert_eq!(node.forebay(&["mount", "forget", "--yes", "/photos"]).status.code(), Some(1));

    origin.set_outage(true);
    resp.call(&["SET", "b", "2"]).unwrap();
    let busy = node.forebay(&["mount", "forget", "--yes", "/redis-0"]);
    assert_eq!(busy.status.code(), Some(1));
    assert!(text(&busy).contains("1 changes wait"), "{}", text(&busy));
    let given_up = node.forebay(&["mount", "forget", "--yes", "--abandon", "--reason", "moved", "/redis-0"]);
    assert!(
        given_up.status.success() && text(&given_up).contains("1 changes given up"),
        "{}",
        text(&given_up)
    );
    assert_eq!(text(&node.forebay(&["mount", "ls"])), "nothing is mounted\n");
    resp.call(&["SET", "c", "3"]).unwrap();
    node.finish(&["origin", "forgotten", "flush"]);

    origin.set_outage(false);
    let node = Node::start(to("cloud/new")).unwrap();
    node.flush_wait(LIMIT);
    let keys =
        |prefix: &str| origin.objects("cloud", prefix).into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    assert_eq!(keys("new/"), ["new/a", "new/b", "new/c"]);
    assert_eq!(keys("old/"), ["old/a"], "the old origin keeps what it has");
    node.finish(&["origin"]);
}
