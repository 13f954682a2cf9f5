//! Config stories: who wins, what is refused, and that nothing secret shows.

use std::os::unix::fs::PermissionsExt;

use super::mount::Endpoint;
use super::*;

type Variables = &'static [(&'static str, &'static str)];

fn parse_with(text: &str, flags: &Flags, variables: &[(&str, &str)]) -> Result<Config, Vec<Problem>> {
    let env =
        |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| Ok((*value).to_owned()));
    Config::parse(text, flags, &env)
}

fn parse(text: &str) -> Result<Config, Vec<Problem>> {
    parse_with(text, &Flags::default(), &[])
}

/// The problems of a bad config, one a line.
#[track_caller]
fn problems_of(text: &str, variables: Variables) -> String {
    let problems = parse_with(text, &Flags::default(), variables).expect_err("a bad config");
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

const MOUNT: &str = r#"
[[mount]]
path = "/photos"
origin = "s3://backup/site-a"
endpoint = "http://127.0.0.1:9100"
access_key_id = "AKIDEXAMPLE"
secret_access_key = "swordfish"
"#;

#[test]
fn an_empty_file_gives_the_documented_defaults() {
    let config = parse("").unwrap();
    assert_eq!(config.resp.listen.to_string(), "127.0.0.1:6379");
    assert_eq!(config.s3.listen.to_string(), "127.0.0.1:9000");
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:19080");
    assert_eq!(config.data_dir, PathBuf::from("forebay-data"));
    assert_eq!((config.sync, config.capacity), (SyncMode::Always, ByteSize::gib(10)));
    assert_eq!((config.dirty_limit, config.disk_reserve), (ByteSize::gib(8), None));
    assert_eq!((config.s3.credentials, config.resp.password), (None, None));
}

#[test]
fn flags_win_over_environment_over_file_over_default() {
    let file = "sync = \"everysec\"\n[resp]\nlisten = \"127.0.0.1:1\"\n";
    let env = [("FOREBAY_RESP_LISTEN", "127.0.0.1:2"), ("FOREBAY_SYNC", "always")];
    let flags = Flags { resp_listen: Some("127.0.0.1:3".into()), ..Flags::default() };
    let port = |config: Config| config.resp.listen.port();
    assert_eq!(port(parse("").unwrap()), 6379);
    assert_eq!(port(parse(file).unwrap()), 1);
    assert_eq!(port(parse_with(file, &Flags::default(), &env).unwrap()), 2);
    assert_eq!(port(parse_with(file, &flags, &env).unwrap()), 3);
    assert_eq!(parse(file).unwrap().sync, SyncMode::EverySec);
    assert_eq!(parse_with(file, &flags, &env).unwrap().sync, SyncMode::Always);
}

#[test]
fn the_data_directory_has_the_same_order() {
    let file = "data_dir = \"/from-file\"";
    let env = [("FOREBAY_DATA_DIR", "/from-env")];
    let flags = Flags { data_dir: Some("/from-flag".into()), ..Flags::default() };
    assert_eq!(parse(file).unwrap().data_dir, PathBuf::from("/from-file"));
    assert_eq!(parse_with(file, &Flags::default(), &env).unwrap().data_dir, PathBuf::from("/from-env"));
    assert_eq!(parse_with(file, &flags, &env).unwrap().data_dir, PathBuf::from("/from-flag"));
}

#[test]
fn a_secret_in_the_environment_wins_over_the_file_and_leaves_its_file_unread() {
    let file = "[resp]\npassword_file = \"/nowhere/at/all\"\n";
    let config = parse_with(file, &Flags::default(), &[("FOREBAY_PASSWORD", "swordfish")]).unwrap();
    assert_eq!(config.resp.password, Some(Secret::new("swordfish")));
    assert!(problems_of(file, &[]).contains("/nowhere/at/all"));
}

#[test]
fn a_secret_comes_from_a_file_named_in_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, "swordfish\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let env = [("FOREBAY_ADMIN_TOKEN_FILE", path.to_str().unwrap())];
    let config = parse_with("", &Flags::default(), &env).unwrap();
    assert_eq!(config.admin.token, Some(Secret::new("swordfish")));
}

#[test]
fn an_unknown_key_is_refused_with_line_and_suggestion() {
    assert_eq!(
        problems_of("sync = \"always\"\n\ncapactiy = \"1GiB\"\n", &[]),
        "line 3: unknown key \"capactiy\"; did you mean \"capacity\"?"
    );
    assert_eq!(
        problems_of("[flush]\nConcurrency = 4\n", &[]),
        "line 2: unknown key \"Concurrency\" in [flush]; did you mean \"concurrency\"?"
    );
    assert!(problems_of("[rasp]\n", &[]).contains("did you mean \"resp\"?"));
    assert!(problems_of("[[mounts]]\n", &[]).contains("did you mean \"mount\"?"));
    assert!(problems_of("[log]\nzzz = 1\n", &[]).contains("known are: format, level"));
}

#[test]
fn every_problem_is_named_at_once_with_its_line() {
    let text = "capacity = \"lots\"\n[resp]\nlisten = 6379\nmaxclients = -1\n[flush]\nattempt_timeout = 30\n";
    let problems = problems_of(text, &[]);
    for line in ["line 1: capacity", "line 3: listen", "line 4: maxclients", "line 6: attempt_timeout"] {
        assert!(problems.contains(line), "{line} in:\n{problems}");
    }
}

#[test]
fn broken_toml_is_refused_with_its_line() {
    assert!(problems_of("sync = \"always\"\ncapacity = = 1\n", &[]).starts_with("line 2: "));
    assert!(problems_of("sync = \"always\"\nsync = \"always\"\n", &[]).starts_with("line 2: "));
}

#[test]
fn deeply_nested_toml_is_refused_without_a_crash() {
    let text = format!("a = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(parse(&text).is_err());
}

#[test]
fn listening_beyond_loopback_needs_credentials_of_each_kind() {
    for (section, what) in
        [("resp", "FOREBAY_PASSWORD"), ("s3", "FOREBAY_ACCESS_KEY_ID"), ("admin", "FOREBAY_ADMIN_TOKEN")]
    {
        for address in ["0.0.0.0:7000", "[::]:7000", "192.0.2.1:7000"] {
            let text = format!("[{section}]\nlisten = \"{address}\"\n");
            let problems = problems_of(&text, &[]);
            assert!(problems.contains(what) && problems.contains(address), "{problems}");
        }
    }
    let credentials = [
        ("FOREBAY_PASSWORD", "a"),
        ("FOREBAY_ACCESS_KEY_ID", "b"),
        ("FOREBAY_SECRET_ACCESS_KEY", "c"),
        ("FOREBAY_ADMIN_TOKEN", "d"),
        ("FOREBAY_RESP_LISTEN", "0.0.0.0:7000"),
        ("FOREBAY_S3_LISTEN", "0.0.0.0:7001"),
        ("FOREBAY_ADMIN_LISTEN", "0.0.0.0:7002"),
    ];
    assert!(parse_with("", &Flags::default(), &credentials).is_ok());
}

#[test]
fn half_a_pair_of_s3_credentials_is_refused() {
    assert!(problems_of("", &[("FOREBAY_ACCESS_KEY_ID", "a")]).contains("no secret access key"));
    assert!(problems_of("[s3]\nsecret_access_key = \"a\"\n", &[]).contains("no access key id"));
}

#[test]
fn an_empty_variable_is_not_taken_for_none() {
    assert!(problems_of("", &[("FOREBAY_PASSWORD", "")]).contains("FOREBAY_PASSWORD: is set but empty"));
}

#[test]
fn two_sources_of_one_secret_are_refused() {
    let both = [("FOREBAY_PASSWORD", "a"), ("FOREBAY_PASSWORD_FILE", "/b")];
    let problems = parse_with("", &Flags::default(), &both).unwrap_err();
    assert_eq!(problems[0].place, Place::Environment("FOREBAY_PASSWORD_FILE"));
    assert!(problems_of("[resp]\npassword = \"a\"\npassword_file = \"b\"\n", &[]).contains("keep one"));
}

#[test]
fn a_mount_is_read_whole() {
    let text = format!("{MOUNT}min_interval = \"3s\"\nflushall = true\n");
    let config = parse(&text).unwrap();
    let [mount] = config.mounts.as_slice() else { panic!("{:?}", config.mounts) };
    let Some(OriginConfig::S3(origin)) = &mount.origin else { panic!("{:?}", mount.origin) };
    assert_eq!((mount.path.bucket.as_str(), mount.path.prefix.as_str()), ("photos", ""));
    assert_eq!((origin.url.bucket.as_str(), origin.url.prefix.as_str()), ("backup", "site-a/"));
    assert_eq!(origin.endpoint.as_ref().map(Endpoint::as_str), Some("http://127.0.0.1:9100"));
    assert_eq!(origin.secret_access_key.reveal(), "swordfish");
    assert_eq!((mount.min_interval, mount.flushall), (Duration::from_secs(3), true));
    assert_eq!(
        (mount.path.to_string(), origin.url.to_string()),
        ("/photos".into(), "s3://backup/site-a".into())
    );
}

#[test]
fn a_mounts_mode_comes_with_what_belongs_to_it() {
    let read = |more: &str| parse(&format!("{MOUNT}{more}")).unwrap().mounts.remove(0);
    let usual = read("");
    assert_eq!((usual.mode, usual.revalidate), (MountMode::WriteBack, Revalidate::Never));
    assert_eq!(usual.write_through_timeout, Duration::from_secs(30));
    let through = read("mode = \"write-through\"\nwrite_through_timeout = \"5s\"\n");
    assert_eq!(through.mode, MountMode::WriteThrough);
    assert_eq!(through.write_through_timeout, Duration::from_secs(5));
    let reading = read("mode = \"read-only\"\nrevalidate = \"5m\"\n");
    assert_eq!(reading.mode, MountMode::ReadOnly);
    assert_eq!(reading.revalidate, Revalidate::After(Duration::from_secs(300)));
    assert_eq!(read("revalidate = \"never\"\n").revalidate, Revalidate::Never);
    assert_eq!((usual.max_lag, read("max_lag = \"off\"\n").max_lag), (MaxLag::Off, MaxLag::Off));
    assert_eq!(read("max_lag = \"1h\"\n").max_lag, MaxLag::Within(Duration::from_secs(3_600)));
}

#[test]
fn mounts_that_cannot_be_together_are_refused() {
    let other = |path: &str, origin: &str| {
        format!(
            "{MOUNT}[[mount]]\npath = \"{path}\"\norigin = \"{origin}\"\nendpoint = \"http://127.0.0.1:9100/\"\n\
             access_key_id = \"a\"\nsecret_access_key = \"b\"\n"
        )
    };
    assert!(parse(&other("/films", "s3://backup/site-b")).is_ok());
    assert!(problems_of(&other("/photos/", "s3://other"), &[]).contains("/photos is mounted twice"));
    assert!(parse(&other("/photos/raw", "s3://other")).is_ok());
    assert!(problems_of(&other("/photos/raw", "s3://backup/site-a/raw"), &[]).contains("same place"));
    assert!(problems_of(&other("/films", "s3://backup"), &[]).contains("same place of the origin"));
    assert!(problems_of(&other("/films", "s3://backup/site-a/x"), &[]).contains("same place of the origin"));
    assert!(parse(&other("/films", "s3://backup/site-ab")).is_ok());
}

#[test]
fn a_directory_is_an_origin_without_keys() {
    let read = |origin: &str| format!("[[mount]]\npath = \"/photos\"\norigin = \"{origin}\"\n");
    let config = parse(&read("file:///mnt/nas/photos/")).unwrap();
    assert_eq!(config.mounts[0].origin, Some(OriginConfig::Directory("/mnt/nas/photos".into())));
    assert_eq!(config.mounts[0].origin.as_ref().unwrap().to_string(), "file:///mnt/nas/photos");
    for bad in ["file://", "file:///", "file://nas/photos", "file:///mnt/../etc"] {
        assert!(problems_of(&read(bad), &[]).contains("not a directory"), "{bad}");
    }
    let keyed = format!("{}access_key_id = \"a\"\n", read("file:///mnt/nas"));
    assert!(problems_of(&keyed, &[]).contains("neither endpoint nor access keys"));
    let nested = format!(
        "{}[[mount]]\npath = \"/films\"\norigin = \"file:///mnt/nas/films\"\nchecksums = \"required\"\n",
        read("file:///mnt/nas")
    );
    assert!(problems_of(&nested, &[]).contains("same place of the origin"));
}

#[test]
fn mounts_say_what_they_lack() {
    let cases = [
        ("origin = \"s3://b-1\"", "needs a path"),
        ("path = \"photos\"", "begin with a slash"),
        ("path = \"/P\"", "not a bucket name"),
        ("path = \"/photos\"", "needs an origin"),
        ("path = \"/photos\"\norigin = \"gs://backup\"", "not an origin"),
        ("path = \"/photos\"\norigin = \"s3://backup\"", "needs access_key_id"),
        ("path = \"/photos\"\nmode = \"write-through\"", "needs an origin"),
        ("path = \"/photos\"\nmode = \"readonly\"", "not a mode; write \"write-back\""),
        ("path = \"/photos\"\nrevalidate = \"always\"", "neither \"never\" nor a duration"),
        ("path = \"/photos\"\nrevalidate = \"1ms\"", "too short"),
        ("path = \"/photos\"\nmax_lag = \"soon\"", "neither \"off\" nor a duration"),
        ("path = \"/photos\"\nmax_lag = \"10ms\"", "too short"),
        ("path = \"/photos\"\nmode = \"read-only\"\nmax_lag = \"1h\"", "remove max_lag"),
        ("path = \"/photos\"\nrevalidate = 5", "expected \"never\", or a duration"),
        ("path = \"/photos\"\nrevalidte = \"5m\"", "did you mean \"revalidate\"?"),
        ("path = \"/photos\"\nmode = \"local\"\nrevalidate = \"5m\"", "nothing to revalidate"),
        ("path = \"/photos\"\nmode = \"read-only\"\nflushall = true", "flushall = true can do nothing"),
        ("path = \"/photos\"\nwrite_through_timeout = \"5s\"", "line 3: mount /photos is write-back"),
        (
            "path = \"/photos\"\nmode = \"write-through\"\nwrite_through_timeout = \"2h\"",
            "line 4: write_through_timeout must be from 100ms to 1h",
        ),
        ("path = \"/photos\"\nmode = \"local\"\norigin = \"s3://backup\"", "is local"),
        ("path = \"/photos\"\nendpoint = \"ftp://host\"", "not an endpoint"),
        ("path = \"/photos\"\nendpoint = \"http://id:key@host\"", "no credentials"),
    ];
    for (text, expected) in cases {
        let problems = problems_of(&format!("[[mount]]\n{text}\n"), &[]);
        assert!(problems.contains(expected), "{text}: {problems}");
    }
}

#[test]
fn the_disks_reserve_is_a_size() {
    let reserve = |text: &str| parse(text).unwrap().disk_reserve;
    assert_eq!(reserve("disk_reserve = \"512MiB\"\n"), Some(ByteSize::mib(512)));
    assert_eq!(reserve("disk_reserve = 0\n"), Some(ByteSize(0)));
    assert!(problems_of("disk_reserve = \"5%\"\n", &[]).starts_with("line 1: disk_reserve: "));
}

#[test]
fn limits_that_contradict_are_refused() {
    assert!(
        problems_of("capacity = \"1GiB\"\ndirty_limit = \"2GiB\"\n", &[]).contains("dirty_limit (2 GiB)")
    );
    assert!(problems_of("[flush]\nretry_min = \"3m\"\n", &[]).contains("retry_min"));
    assert!(problems_of("[scrub]\nbytes_per_second = 1000\n", &[]).contains("at least 64 KiB"));
    assert!(problems_of("[journal]\nalign = 1000\n", &[]).contains("journal.align"));
    assert!(
        problems_of("[s3]\nupload_expiry = \"900ms\"\n", &[]).contains("upload_expiry must be at least 1s")
    );
    assert!(problems_of("[s3]\nlisten = \"127.0.0.1:6379\"\n", &[]).contains("both listen on"));
    assert!(problems_of("[log]\nlevel = \"a=b=c\"\n", &[]).contains("log.level"));
}

#[test]
fn no_secret_shows_in_debug_or_in_a_problem() {
    let variables = [("FOREBAY_PASSWORD", "swordfish"), ("FOREBAY_ADMIN_TOKEN", "swordfish")];
    let config = parse_with(MOUNT, &Flags::default(), &variables).unwrap();
    assert!(!format!("{config:?}").contains("swordfish"));
    for text in
        ["[resp]\npassword = [\"swordfish\"]", "[resp]\npassword = \"swordfish\"\npassword_file = \"x\""]
    {
        assert!(!problems_of(text, &[]).contains("swordfish"), "{text}");
    }
}

#[test]
fn a_missing_file_is_an_error_that_names_it() {
    let error = Config::load(Some(Path::new("/nowhere.toml")), &Flags::default(), &|_| None).unwrap_err();
    assert!(error.to_string().contains("/nowhere.toml"));
}

#[test]
fn buckets_and_s3_domains() {
    let config = parse(
        "[s3]\ndomains = [\"s3.localhost\", \"S3.Example.com\"]\n\
         [[bucket]]\nname = \"logs\"\netag = \"fast\"\n[[bucket]]\nname = \"photos\"\nclass = \"keep\"\n",
    )
    .unwrap();
    assert_eq!(config.s3.domains, ["s3.localhost", "s3.example.com"]);
    let etags: Vec<_> = config.buckets.iter().map(|bucket| (bucket.name.as_str(), bucket.etag)).collect();
    assert_eq!(etags, [("logs", EtagMode::Fast), ("photos", EtagMode::Md5)]);
    let classes: Vec<_> = config.buckets.iter().map(|bucket| bucket.class).collect();
    assert_eq!(classes, [BucketClass::Cache, BucketClass::Keep]);
    assert!(parse("").unwrap().s3.domains.is_empty());
    for (text, problem) in [
        (
            "[s3]\ndomains = [\"s3.localhost:9000\"]\n",
            "line 2: domains: \"s3.localhost:9000\" is no domain name",
        ),
        ("[s3]\ndomains = \"s3.localhost\"\n", "line 2: domains: expected a list"),
        ("[[bucket]]\netag = \"fast\"\n", "line 1: a bucket needs a name"),
        ("[[bucket]]\nname = \"Logs\"\n", "line 2: name: \"Logs\" is no bucket name"),
        ("[[bucket]]\nname = \"logs\"\netag = \"slow\"\n", "line 3: etag: \"slow\" is no way"),
        ("[[bucket]]\nname = \"logs\"\nclass = \"hot\"\n", "line 3: class: \"hot\" is no class"),
        (
            "[[bucket]]\nname = \"logs\"\n[[bucket]]\nname = \"logs\"\n",
            "line 3: bucket logs is configured twice",
        ),
    ] {
        let found = problems_of(text, &[]);
        assert!(found.contains(problem), "{text}: {found}");
    }
}
