//! Secrets: where they come from, and a type that does not show them.
//!
//! Owns the rule that a secret's file is readable by its owner alone. Secrets enter by a file, the
//! environment or the config file, never by a flag: command lines are visible to every user.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Largest secret file that is read, in bytes.
const SECRET_BYTES_MAX: u64 = 4096;

/// A value that must not appear in a log, an error, a dump or an API.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    /// Wraps a value.
    pub(crate) fn new(value: impl Into<String>) -> Secret {
        Secret(value.into())
    }

    /// The value itself: for the code that checks or sends it, never for a message.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<hidden>")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<hidden>")
    }
}

/// Where a secret was said to be. Only the source that wins is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SecretSource {
    /// Given directly.
    Value(Secret),
    /// The first line of this file.
    File(PathBuf),
}

impl SecretSource {
    /// The secret, read from its file if need be. The error names the file and what to do, never content.
    pub(crate) fn read(self) -> Result<Secret, String> {
        match self {
            SecretSource::Value(secret) => Ok(secret),
            SecretSource::File(path) => read_file(&path),
        }
    }
}

fn read_file(path: &Path) -> Result<Secret, String> {
    let shown = path.display();
    let cannot = |error: std::io::Error| format!("cannot read the secret file {shown}: {error}");
    let file = File::open(path).map_err(cannot)?;
    // Judged on the opened file, so that it cannot be exchanged between the check and the read.
    let mode = file.metadata().map_err(cannot)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!(
            "the secret file {shown} has mode {mode:03o}, so other users may read it; run: chmod 600 {shown}"
        ));
    }
    let mut text = String::new();
    file.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text).map_err(cannot)?;
    if text.len() as u64 > SECRET_BYTES_MAX {
        return Err(format!("the secret file {shown} is longer than {SECRET_BYTES_MAX} bytes"));
    }
    let value = text.strip_suffix('\n').unwrap_or(&text);
    let value = value.strip_suffix('\r').unwrap_or(value);
    if value.is_empty() {
        return Err(format!("the secret file {shown} is empty"));
    }
    if value.contains('\n') {
        return Err(format!("the secret file {shown} has more than one line"));
    }
    Ok(Secret::new(value))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file_with(content: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    #[test]
    fn a_secret_shows_in_neither_debug_nor_display() {
        let secret = Some(Secret::new("swordfish"));
        assert!(!format!("{secret:?} {}", Secret::new("swordfish")).contains("swordfish"));
    }

    #[test]
    fn a_private_file_is_read_without_its_line_end() {
        let (_dir, path) = file_with("swordfish\n", 0o600);
        assert_eq!(SecretSource::File(path).read(), Ok(Secret::new("swordfish")));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_the_chmod() {
        for mode in [0o644, 0o640, 0o604] {
            let (_dir, path) = file_with("swordfish\n", mode);
            let error = SecretSource::File(path.clone()).read().unwrap_err();
            assert!(error.contains(&format!("chmod 600 {}", path.display())), "{error}");
            assert!(!error.contains("swordfish"), "{error}");
        }
    }

    #[test]
    fn empty_long_and_many_line_files_are_refused() {
        for content in ["", "\n", "a\nb\n", &"x".repeat(5000)] {
            let (_dir, path) = file_with(content, 0o600);
            assert!(SecretSource::File(path).read().is_err(), "{} bytes", content.len());
        }
    }
}
