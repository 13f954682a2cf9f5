//! The admin handlers against a node that is made of values.

use std::collections::BTreeSet;
use std::sync::Mutex;

use forebay_storage::store::Stats;
use http_body_util::Full;
use serde_json::Value;

use super::core::{CoreError, Identity, OriginTraffic, RowState, Uploads, Which};
use super::status::exposure;
use super::*;
use crate::api::{
    Endpoints, FlushPage, FlushRow, Import, ImportState, Mount, RecordedMount, Scrub, ScrubRequest,
    ScrubState,
};

/// A node whose queue is a list.
struct FakeNode {
    identity: Identity,
    stats: Stats,
    down: Option<String>,
    rows: Mutex<Vec<FlushRow>>,
    waits: (u64, u64),
    scrub: Mutex<Option<ScrubRequest>>,
}

impl Core for FakeNode {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn stats(&self) -> Stats {
        self.stats.clone()
    }

    fn now_ms(&self) -> u64 {
        10_000
    }

    fn ready(&self) -> Result<(), String> {
        self.down.clone().map_or(Ok(()), Err)
    }

    fn uploads(&self) -> Uploads {
        Uploads {
            errors: vec![("auth", 2), ("network", 3)],
            leftovers: 7,
            unreachable: 4,
            ..Uploads::default()
        }
    }

    fn origin_traffic(&self) -> Vec<OriginTraffic> {
        vec![OriginTraffic {
            mount: "/photos".into(),
            requests: vec![("PutObject", "200", 7), ("HeadObject", "network", 1)],
            sent_bytes: 70,
            received_bytes: 3,
        }]
    }

    fn mounts(&self) -> Vec<Mount> {
        vec![Mount {
            path: "/photos".into(),
            mode: "write-back".into(),
            origin: Some("s3://backup".into()),
            up: Some(true),
            state: Some("up".into()),
            last_success_ms: Some(5_000),
        }]
    }

    async fn flush_list(
        &self,
        state: RowState,
        after: Option<&str>,
        limit: usize,
    ) -> Result<FlushPage, CoreError> {
        let wanted = |row: &FlushRow| match state {
            RowState::Any => true,
            RowState::Pending => row.state == "pending",
            RowState::Parked => row.state == "parked",
        };
        let rows = self.rows.lock().unwrap();
        let mut rows =
            rows.iter().filter(|row| wanted(row) && after.is_none_or(|after| row.key.as_str() > after));
        let page: Vec<FlushRow> = rows.by_ref().take(limit).cloned().collect();
        let next = rows.next().and(page.last()).map(|row| row.key.clone());
        Ok(FlushPage { rows: page, next })
    }

    async fn flush_wait(&self, timeout: Duration) -> Result<(u64, u64), CoreError> {
        assert_eq!(timeout, Duration::from_millis(1_500));
        Ok(self.waits)
    }

    async fn flush_retry(&self, which: Which<'_>) -> Result<u64, CoreError> {
        let mut rows = self.rows.lock().unwrap();
        let mut changed = 0;
        for row in rows.iter_mut().filter(|row| row.state == "parked") {
            if which == Which::All || which == (Which::Key { bucket: &row.bucket, key: row.key.as_bytes() }) {
                row.state = "pending".into();
                changed += 1;
            }
        }
        Ok(changed)
    }

    async fn flush_abandon(&self, bucket: &str, key: &[u8], _: &str) -> Result<u64, CoreError> {
        let mut rows = self.rows.lock().unwrap();
        let before = rows.len();
        rows.retain(|row| row.bucket != bucket || row.key.as_bytes() != key);
        match before - rows.len() {
            0 => Err(CoreError::NotFound("no parked row of that key".into())),
            gone => Ok(gone as u64),
        }
    }

    fn recorded_mounts(&self) -> Vec<RecordedMount> {
        vec![RecordedMount {
            path: "/photos".into(),
            mode: "write-back".into(),
            origin: Some("s3://backup".into()),
            attached: true,
            existing: true,
            leaving: false,
            queued: self.rows.lock().unwrap().len() as u64,
            state: Some("up".into()),
        }]
    }

    async fn forget_mount(
        &self,
        bucket: &str,
        prefix: &str,
        abandon: Option<&str>,
    ) -> Result<u64, CoreError> {
        let mut rows = self.rows.lock().unwrap();
        match (bucket, prefix) {
            ("photos", "") if abandon.is_none() => Err(CoreError::Conflict("3 changes wait".into())),
            ("photos", "") => Ok(rows.drain(..).count() as u64),
            _ => Err(CoreError::NotFound("no such mount".into())),
        }
    }

    async fn imports(&self) -> Result<Vec<Import>, CoreError> {
        Ok(vec![import("/films", ImportState::Done), import("/photos", ImportState::Running)])
    }

    async fn start_import(&self, bucket: &str, prefix: &str) -> Result<Import, CoreError> {
        match (bucket, prefix) {
            ("photos", "2026/") => Ok(import("/photos/2026", ImportState::Running)),
            _ => Err(CoreError::NotFound("no such mount".into())),
        }
    }

    async fn cancel_import(&self, bucket: &str, prefix: &str) -> Result<Import, CoreError> {
        match (bucket, prefix) {
            ("photos", "") => Ok(import("/photos", ImportState::Cancelled)),
            _ => Err(CoreError::NotFound("no import is under way".into())),
        }
    }

    fn start_scrub(&self, request: &ScrubRequest) -> Result<Scrub, CoreError> {
        let before = self.scrub.lock().unwrap().replace(request.clone());
        if before.is_some() { Err(CoreError::Conflict("one runs".into())) } else { Ok(self.scrub()) }
    }

    fn scrub(&self) -> Scrub {
        let request = self.scrub.lock().unwrap().clone();
        Scrub {
            state: if request.is_some() { ScrubState::Running } else { ScrubState::Never },
            trouble: None,
            phase: "extents".into(),
            started_ms: 0,
            ended_ms: None,
            bytes_per_second: request.as_ref().and_then(|it| it.bytes_per_second).unwrap_or(7),
            ask_origins: request.is_some_and(|it| it.ask_origins),
            bytes_total: 0,
            bytes_done: 0,
            extents_done: 0,
            objects_total: 0,
            rows_done: 0,
            asked: 0,
            findings_total: 0,
            mended_total: 0,
            findings: Vec::new(),
        }
    }

    fn cancel_scrub(&self) -> Scrub {
        *self.scrub.lock().unwrap() = None;
        self.scrub()
    }
}

fn import(path: &str, state: ImportState) -> Import {
    let path = path.to_owned();
    Import { path, state, listed_objects: 20, adopted_objects: 18, after: "k".into(), trouble: None }
}

fn row(key: &str, state: &str) -> FlushRow {
    FlushRow {
        bucket: "photos".into(),
        key: key.into(),
        version: "0000000000000001".into(),
        kind: "put".into(),
        barrier: false,
        bytes: 5,
        age_ms: 1,
        state: state.into(),
        failures: 0,
        reason: None,
    }
}

fn admin() -> Admin<FakeNode> {
    let listen =
        Endpoints { resp: "127.0.0.1:1".into(), s3: "127.0.0.1:2".into(), admin: "127.0.0.1:3".into() };
    let identity = Identity { cluster_id: "c1".into(), node_id: 1, sync: "always".into(), listen };
    let stats = Stats {
        voters: 1,
        is_leader: true,
        started_ms: 1_000,
        objects: 3,
        writes_throttled: vec![("max_lag", 3)],
        writes_rejected: vec![("dirty_limit", 2), ("max_lag", 0)],
        ..Stats::default()
    };
    let rows = Mutex::new(vec![row("a", "pending"), row("b", "parked"), row("c", "parked")]);
    let core = FakeNode { identity, stats, down: None, rows, waits: (0, 0), scrub: Mutex::new(None) };
    Admin { core, token: None, stopping: CancellationToken::new() }
}

async fn ask_with(
    admin: &Admin<FakeNode>,
    request: http::request::Builder,
    body: &str,
) -> (StatusCode, String) {
    let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap();
    let reply = answer(admin, request).await;
    let status = reply.status();
    let body = reply.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn get(admin: &Admin<FakeNode>, path: &str) -> (StatusCode, String) {
    ask_with(admin, Request::get(path), "").await
}

async fn post(admin: &Admin<FakeNode>, path: &str, body: &str) -> (StatusCode, String) {
    ask_with(admin, Request::post(path).header("content-type", "application/json"), body).await
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[tokio::test]
async fn livez_is_ok_even_when_the_node_cannot_serve() {
    let mut admin = admin();
    assert_eq!(get(&admin, "/readyz").await.0, StatusCode::OK);
    admin.core.down = Some("no leader".into());
    assert_eq!(get(&admin, "/livez").await.0, StatusCode::OK);
    let (status, body) = get(&admin, "/readyz").await;
    assert_eq!((status, body.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "not ready: no leader\n"));
    let (status, body) = get(&admin, "/_/api/v1/healthz").await;
    assert_eq!((status, &json(&body)["cause"]), (StatusCode::SERVICE_UNAVAILABLE, &Value::from("no leader")));
}

#[tokio::test]
async fn readyz_says_no_as_soon_as_a_stop_begins() {
    let admin = admin();
    admin.stopping.cancel();
    assert_eq!(get(&admin, "/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(get(&admin, "/livez").await.0, StatusCode::OK);
}

#[tokio::test]
async fn with_a_token_only_livez_and_readyz_are_open() {
    let mut admin = admin();
    admin.token = Some(Secret::new("swordfish"));
    for path in ["/livez", "/readyz"] {
        assert_eq!(get(&admin, path).await.0, StatusCode::OK, "{path}");
    }
    for path in ["/metrics", "/_/api/v1/status", "/_/api/v1/flush", "/nowhere"] {
        let (status, body) = get(&admin, path).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
        assert!(!body.contains("swordfish") && body.contains("FOREBAY_ADMIN_TOKEN"), "{body}");
        let asked = Request::get(path).header("authorization", "Bearer swordfish");
        assert_ne!(ask_with(&admin, asked, "").await.0, StatusCode::UNAUTHORIZED, "{path}");
    }
}

#[tokio::test]
async fn status_puts_the_exposure_first() {
    let (status, body) = get(&admin(), "/_/api/v1/status").await;
    assert_eq!(status, StatusCode::OK);
    assert!(body.starts_with("{\"exposure\":\"Exposure: nothing waits"), "{body}");
    let status: crate::api::Status = serde_json::from_str(&body).unwrap();
    assert_eq!((status.node.uptime_ms, status.copies, status.sync.as_str()), (9_000, 1, "always"));
}

#[test]
fn exposure_says_what_waits_and_what_would_lose_it() {
    let mut stats = Stats { voters: 1, objects: 9, bytes: 2048, ..Stats::default() };
    assert_eq!(
        exposure(&stats, false, None, "always"),
        "Exposure: 9 objects / 2 KiB exist only on this site (no bucket is mounted); 1 copy: would be lost with \
         this node's disk."
    );
    stats.dirty_objects = 412;
    stats.dirty_bytes = 1_288_490_189;
    stats.oldest_dirty_age_ms = 192_000;
    stats.parked_objects = 2;
    stats.voters = 3;
    assert_eq!(
        exposure(&stats, true, Some(Duration::from_secs(48)), "always"),
        "Exposure: 412 objects / 1.2 GiB wait for their upload and exist only on this site; oldest 3 min 12 s; \
         at the present rate clear in 48 s; 2 parked, see forebay flush ls --state parked; would be lost only if 2 of 3 nodes die."
    );
    assert!(exposure(&stats, true, None, "everysec").contains("a power loss may cost the last second"));
}

#[tokio::test]
async fn metrics_read_back_with_one_help_and_type_before_each_family() {
    let (status, body) = get(&admin(), "/metrics").await;
    assert_eq!(status, StatusCode::OK);
    let mut families = BTreeSet::new();
    let mut current = String::new();
    let mut lines = body.lines();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            current = help.split(' ').next().unwrap().to_owned();
            assert!(families.insert(current.clone()), "{current} twice");
            assert!(lines.next().unwrap().starts_with(&format!("# TYPE {current} ")), "{current}");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let name = series.split('{').next().unwrap();
        assert!(
            name == current || name == format!("{current}_sum") || name == format!("{current}_count"),
            "{line}"
        );
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    assert!(body.contains("forebay_flush_errors_total{reason=\"auth\"} 2"), "{body}");
    for sample in [
        "requests_total{mount=\"/photos\",op=\"PutObject\",code=\"200\"} 7",
        "requests_total{mount=\"/photos\",op=\"HeadObject\",code=\"network\"} 1",
        "bytes_total{mount=\"/photos\",direction=\"sent\"} 70",
        "bytes_total{mount=\"/photos\",direction=\"received\"} 3",
    ] {
        assert!(body.contains(&format!("forebay_origin_{sample}\n")), "{sample}: {body}");
    }
    assert!(body.contains("forebay_origin_up{mount=\"/photos\",origin=\"s3://backup\"} 1"), "{body}");
    assert!(body.contains("forebay_flush_leftover_uploads 7\n"), "{body}");
    assert!(body.contains("forebay_flush_unreachable_uploads 4\n"), "{body}");
    assert!(body.contains("forebay_writes_throttled_total{reason=\"max_lag\"} 3\n"), "{body}");
    assert!(body.contains("forebay_writes_rejected_total{reason=\"dirty_limit\"} 2\n"), "{body}");
    for name in ["build_info", "flush_pending_objects", "flush_oldest_pending_age_seconds", "lmdb_used_bytes"]
    {
        assert!(families.contains(&format!("forebay_{name}")), "{name}");
    }
}

#[tokio::test]
async fn slots_are_those_of_redis_divided_by_eight() {
    // CRC16/XMODEM of "123456789" is 0x31C3; slots 12739 of 16384 and 1592 of 2048.
    let (status, body) = get(&admin(), "/_/api/v1/slots/resolve?path=/photos/123456789").await;
    assert_eq!((status, &json(&body)["slot"]), (StatusCode::OK, &Value::from(1592)));
    let tagged = get(&admin(), "/_/api/v1/slots/resolve?path=/photos/a%7B123456789%7D%FF").await.1;
    assert_eq!(json(&tagged)["slot"], Value::from(1592));
    for path in ["", "?path=", "?path=/photos", "?path=photos/a", "?path=//a", "?paht=/photos/a"] {
        let (status, _) = get(&admin(), &format!("/_/api/v1/slots/resolve{path}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
    }
}

#[tokio::test]
async fn the_queue_is_listed_by_state_in_pages() {
    let admin = admin();
    let (_, body) = get(&admin, "/_/api/v1/flush?state=parked&limit=1").await;
    let page: FlushPage = serde_json::from_str(&body).unwrap();
    assert_eq!((page.rows, page.next.as_deref()), (vec![row("b", "parked")], Some("b")));
    let (_, body) = get(&admin, "/_/api/v1/flush?state=parked&limit=1&after=b").await;
    let page: FlushPage = serde_json::from_str(&body).unwrap();
    assert_eq!((page.rows, page.next), (vec![row("c", "parked")], None));
    for bad in ["state=lost", "limit=0", "limit=1001", "limit=x", "lmit=1"] {
        let (status, _) = get(&admin, &format!("/_/api/v1/flush?{bad}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{bad}");
    }
}

#[tokio::test]
async fn wait_names_its_outcome() {
    let mut admin = admin();
    for (numbers, outcome) in [((0, 0), "done"), ((4, 0), "timeout"), ((4, 1), "parked"), ((1, 1), "parked")]
    {
        admin.core.waits = numbers;
        let asked = Request::post("/_/api/v1/flush/wait?timeout_ms=1500");
        let (status, body) = ask_with(&admin, asked, "").await;
        assert_eq!((status, &json(&body)["outcome"]), (StatusCode::OK, &Value::from(outcome)));
    }
}

#[tokio::test]
async fn retry_takes_up_all_or_one_key() {
    let admin = admin();
    let (_, body) = post(&admin, "/_/api/v1/flush/retry", r#"{"bucket":"photos","key":"b"}"#).await;
    assert_eq!(json(&body)["rows"], Value::from(1));
    let (_, body) = post(&admin, "/_/api/v1/flush/retry", r#"{"all":true}"#).await;
    assert_eq!(json(&body)["rows"], Value::from(1));
    for bad in ["", "{}", r#"{"all":true,"key":"b"}"#, r#"{"bucket":"photos"}"#, r#"{"al":true}"#, "[[[["] {
        assert_eq!(post(&admin, "/_/api/v1/flush/retry", bad).await.0, StatusCode::BAD_REQUEST, "{bad}");
    }
}

#[tokio::test]
async fn abandon_needs_a_reason_and_a_row() {
    let admin = admin();
    let path = "/_/api/v1/flush/abandon";
    let (status, body) = post(&admin, path, r#"{"bucket":"photos","key":"b","reason":" "}"#).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    let (status, _) = post(&admin, path, r#"{"bucket":"photos","key":"b","reason":"test"}"#).await;
    assert_eq!(status, StatusCode::OK);
    let (status, body) = post(&admin, path, r#"{"bucket":"photos","key":"b","reason":"test"}"#).await;
    assert_eq!(
        (status, &json(&body)["error"]),
        (StatusCode::NOT_FOUND, &Value::from("no parked row of that key"))
    );
}

#[tokio::test]
async fn a_mount_is_forgotten_by_path_and_its_rows_only_with_a_reason() {
    let admin = admin();
    let (_, body) = get(&admin, "/_/api/v1/mounts").await;
    assert_eq!(json(&body)["mounts"][0]["queued"], Value::from(3));
    let path = "/_/api/v1/mounts/forget";
    for bad in [
        r#"{"path":"photos"}"#,
        r#"{"path":"/photos","abandon":true}"#,
        r#"{"path":"/photos","reason":"x"}"#,
        r#"{"path":"/photos","abandon":true,"reason":" "}"#,
    ] {
        assert_eq!(post(&admin, path, bad).await.0, StatusCode::BAD_REQUEST, "{bad}");
    }
    assert_eq!(post(&admin, path, r#"{"path":"/photos/x"}"#).await.0, StatusCode::NOT_FOUND);
    assert_eq!(post(&admin, path, r#"{"path":"/photos"}"#).await.0, StatusCode::CONFLICT);
    let (status, body) = post(&admin, path, r#"{"path":"/photos/","abandon":true,"reason":"old"}"#).await;
    assert_eq!((status, &json(&body)["abandoned"]), (StatusCode::OK, &Value::from(3)));
}

#[tokio::test]
async fn imports_are_begun_listed_and_ended_by_path() {
    let admin = admin();
    let paths = |body: &str| {
        let imports = json(body)["imports"].as_array().unwrap().clone();
        imports.iter().map(|import| import["path"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(paths(&get(&admin, "/_/api/v1/import").await.1), ["/films", "/photos"]);
    assert_eq!(paths(&get(&admin, "/_/api/v1/import?path=%2Fphotos").await.1), ["/photos"]);
    assert!(paths(&get(&admin, "/_/api/v1/import?path=/nowhere").await.1).is_empty());
    let (status, body) = post(&admin, "/_/api/v1/import/start", r#"{"path":"/photos/2026"}"#).await;
    assert_eq!((status, &json(&body)["state"]), (StatusCode::OK, &Value::from("running")));
    let (status, body) = post(&admin, "/_/api/v1/import/cancel", r#"{"path":"/photos/"}"#).await;
    assert_eq!((status, &json(&body)["state"]), (StatusCode::OK, &Value::from("cancelled")));
    for verb in ["start", "cancel"] {
        let path = format!("/_/api/v1/import/{verb}");
        assert_eq!(post(&admin, &path, r#"{"path":"photos"}"#).await.0, StatusCode::BAD_REQUEST);
        assert_eq!(post(&admin, &path, r#"{"path":"/films"}"#).await.0, StatusCode::NOT_FOUND);
    }
    let (_, body) = get(&admin, "/metrics").await;
    assert!(body.contains("forebay_import_adopted_objects{mount=\"/photos\"} 18"), "{body}");
    assert!(body.contains("forebay_import_running{mount=\"/films\"} 0"), "{body}");
}

#[tokio::test]
async fn a_web_page_cannot_abandon_anything() {
    let admin = admin();
    let body = r#"{"bucket":"photos","key":"b","reason":"x"}"#;
    let simple = Request::post("/_/api/v1/flush/abandon").header("content-type", "text/plain");
    assert_eq!(ask_with(&admin, simple, body).await.0, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let rebound = Request::get("/_/api/v1/status").header("host", "evil.example:19080");
    assert_eq!(ask_with(&admin, rebound, "").await.0, StatusCode::FORBIDDEN);
    assert_eq!(admin.core.rows.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn wrong_methods_paths_and_sizes_get_their_status() {
    let admin = admin();
    assert_eq!(get(&admin, "/_/api/v1/flush/abandon").await.0, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(post(&admin, "/metrics", "").await.0, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(get(&admin, "/").await.0, StatusCode::NOT_FOUND);
    let long = "x".repeat(BODY_BYTES_MAX + 1);
    assert_eq!(post(&admin, "/_/api/v1/flush/retry", &long).await.0, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_client_that_sends_rubbish_or_nothing_does_not_hold_up_the_others() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(serve(listener, Arc::new(admin()), shutdown.clone()));
    let mut silent = TcpStream::connect(address).await.unwrap();
    silent.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
    for rubbish in [&b"\0\xff\r\n\r\n"[..], &[b'A'; 2 * HEAD_BYTES_MAX]] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The server may close while this is still writing.
        let _ = stream.write_all(rubbish).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    let mut good = TcpStream::connect(address).await.unwrap();
    good.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut reply = Vec::new();
    good.read_to_end(&mut reply).await.unwrap();
    assert!(reply.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&reply));
    drop(silent);
    shutdown.cancel();
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn one_scrub_is_begun_shown_and_ended() {
    let admin = admin();
    let (status, body) = get(&admin, "/_/api/v1/scrub").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(json(&body)["state"], "never");
    let start = "/_/api/v1/scrub/start";
    let (status, body) = post(&admin, start, r#"{"bytes_per_second": 65536, "ask_origins": true}"#).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    let shown = json(&body);
    assert_eq!((&shown["state"], &shown["bytes_per_second"]), (&"running".into(), &65_536.into()));
    assert_eq!(post(&admin, start, "{}").await.0, StatusCode::CONFLICT);
    assert_eq!(post(&admin, start, r#"{"rate": 1}"#).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(get(&admin, start).await.0, StatusCode::METHOD_NOT_ALLOWED);
    let (status, body) = post(&admin, "/_/api/v1/scrub/cancel", "{}").await;
    assert_eq!((status, &json(&body)["state"]), (StatusCode::OK, &"never".into()));
}
