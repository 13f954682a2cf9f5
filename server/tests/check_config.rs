//! The binary itself: exit codes and what it says, where nothing has to run for it.

use std::path::PathBuf;
use std::process::{Command, Output};

struct Case {
    directory: tempfile::TempDir,
}

impl Case {
    fn new() -> Case {
        Case { directory: tempfile::tempdir().unwrap() }
    }

    fn file(&self, text: &str) -> PathBuf {
        let path = self.directory.path().join("forebay.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    fn run(&self, arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("FOREBAY_")) {
            command.env_remove(name);
        }
        command.args(arguments).envs(variables.iter().copied()).current_dir(self.directory.path());
        let Output { status, stdout, stderr } = command.output().unwrap();
        (status.code(), format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)))
    }
}

#[test]
fn a_good_config_exits_with_0() {
    let case = Case::new();
    let file = case.file("capacity = \"1GiB\"\n[[mount]]\npath = \"/notes\"\nmode = \"local\"\n");
    let (code, said) = case.run(&["check-config", file.to_str().unwrap()], &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("1 mounts"), "{said}");
}

#[test]
fn a_bad_config_exits_with_78_and_names_file_and_line() {
    let case = Case::new();
    let file = case.file("# comment\ncapacty = \"1GiB\"\n");
    for command in [&["check-config"][..], &["start", "--config"]] {
        let arguments = [command, &[file.to_str().unwrap()]].concat();
        let (code, said) = case.run(&arguments, &[]);
        assert_eq!(code, Some(78), "{said}");
        assert!(
            said.contains("forebay.toml:2: unknown key \"capacty\"; did you mean \"capacity\"?"),
            "{said}"
        );
    }
}

#[test]
fn the_environment_counts_and_its_secrets_stay_hidden() {
    let case = Case::new();
    let file = case.file("[resp]\nlisten = \"0.0.0.0:6379\"\n");
    let file = file.to_str().unwrap();
    assert_eq!(case.run(&["check-config", file], &[]).0, Some(78));
    let (code, said) = case.run(&["check-config", file], &[("FOREBAY_PASSWORD", "swordfish")]);
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("swordfish"), "{said}");
}

#[test]
fn a_missing_config_exits_with_78() {
    assert_eq!(Case::new().run(&["check-config", "nowhere.toml"], &[]).0, Some(78));
}

#[test]
fn usage_exits_with_2_and_a_node_that_is_not_there_with_69() {
    let case = Case::new();
    assert_eq!(case.run(&["flush", "wait", "--timeout", "soon"], &[]).0, Some(2));
    assert_eq!(case.run(&["flush", "abandon", "--reason", "x", "bucket", "key"], &[]).0, Some(2));
    assert_eq!(case.run(&["status", "--admin", "not-a-url"], &[]).0, Some(2));
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (code, said) = case.run(&["status"], &[("FOREBAY_ADMIN", &format!("http://{nobody}"))]);
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains(&nobody.to_string()), "{said}");
}

#[test]
fn version_is_printed() {
    let (code, said) = Case::new().run(&["--version"], &[]);
    assert_eq!((code, said.trim()), (Some(0), concat!("forebay ", env!("CARGO_PKG_VERSION"))));
}
