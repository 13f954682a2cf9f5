//! The shell of README's two commands, where it can be tested without installing anything.

use std::path::Path;
use std::process::{Command, Output};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Runs `platform_need` for a command that does not exist, on a system that calls itself `os_release`.
fn need(os_release: &str, id: &str) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("os-release");
    std::fs::write(&file, os_release).unwrap();
    // `id` decides whether we are root, and there is no sudo on this path.
    let tools = directory.path().join("bin");
    std::fs::create_dir(&tools).unwrap();
    write_program(&tools.join("id"), &format!("#!/bin/sh\necho {id}\n"));
    write_program(&tools.join("apt-get"), "#!/bin/sh\necho apt-get \"$@\"\n");
    for tool in ["tee", "chmod", "rm", "env", "cat", "sh"] {
        let found = ["/bin", "/usr/bin"].map(|place| Path::new(place).join(tool));
        let source = found.iter().find(|path| path.exists()).expect("a base system");
        std::os::unix::fs::symlink(source, tools.join(tool)).unwrap();
    }
    Command::new("/bin/bash")
        .args(["-c", ". integration/platform.sh; platform_need no-such-tool:its-package; echo went on"])
        .current_dir(ROOT)
        .env("PATH", &tools)
        .env("FOREBAY_OS_RELEASE", &file)
        .output()
        .unwrap()
}

fn write_program(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn another_system_is_told_what_is_missing_and_the_script_ends_with_2() {
    let output = need("ID=fedora\nVERSION_ID=43\n", "0");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("fedora-43") && said.contains("no-such-tool"), "{said}");
}

#[test]
fn debian_without_root_is_told_what_to_install_and_the_script_ends_with_2() {
    let output = need("ID=debian\nVERSION_ID=\"12\"\n", "1000");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("apt-get install its-package"), "{said}");
}

#[test]
fn the_scripts_are_valid_and_ci_runs_the_test_command() {
    for script in ["start", "test", ".ci/run", "integration/platform.sh", "integration/bench/run"] {
        let output = Command::new("/bin/bash").arg("-n").arg(script).current_dir(ROOT).output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let ci = std::fs::read_to_string(Path::new(ROOT).join(".ci/run")).unwrap();
    assert!(ci.contains("/../test"), "{ci}");
}
