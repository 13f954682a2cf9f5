//! Small files beside the data: written whole or not at all.
//!
//! Owns: `credentials.json` (mode 600, made at most once) and `endpoints.json` (made at each start). A
//! crash leaves the old file, the new one, or a `.tmp` that the next start overwrites. `endpoints.json` keeps its
//! block between runs, under its `.tmp` name: a node must start on a full disk, too.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::api::Endpoints;
use crate::config::{S3Credentials, Secret};

/// Largest credentials file that is read, in bytes.
const CREDENTIALS_BYTES_MAX: u64 = 4096;

/// S3 credentials of a node that was given none, and where they are kept.
#[derive(Debug)]
pub(crate) struct KeptCredentials {
    /// The credentials.
    pub(crate) credentials: S3Credentials,
    /// Their file.
    pub(crate) path: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CredentialsFile {
    access_key_id: String,
    secret_access_key: String,
}

/// The credentials in `directory`, made from the system's randomness if there are none. Durable on return.
pub(crate) fn kept_credentials(directory: &Path) -> io::Result<KeptCredentials> {
    let path = directory.join("credentials.json");
    let file = match File::open(&path) {
        Ok(file) => read_credentials(&file, &path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made = make_credentials()?;
            let text = serde_json::to_vec_pretty(&made)?;
            write_atomically(&path, &text, 0o600)?;
            made
        }
        Err(error) => return Err(error),
    };
    let credentials = S3Credentials {
        access_key_id: Secret::new(file.access_key_id),
        secret_access_key: Secret::new(file.secret_access_key),
    };
    Ok(KeptCredentials { credentials, path })
}

fn read_credentials(file: &File, path: &Path) -> io::Result<CredentialsFile> {
    use std::io::Read;
    let shown = path.display();
    let mode = file.metadata()?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(io::Error::other(format!(
            "{shown} has mode {mode:03o}, so other users may read it; run: chmod 600 {shown}"
        )));
    }
    let mut text = String::new();
    file.take(CREDENTIALS_BYTES_MAX).read_to_string(&mut text)?;
    let parsed: Result<CredentialsFile, _> = serde_json::from_str(&text);
    match parsed {
        Ok(parsed) if !parsed.access_key_id.is_empty() && !parsed.secret_access_key.is_empty() => Ok(parsed),
        // Not serde's message: it may quote a value.
        _ => Err(io::Error::other(format!(
            "{shown} does not hold access_key_id and secret_access_key; repair it, or remove it to have new \
             credentials made"
        ))),
    }
}

fn make_credentials() -> io::Result<CredentialsFile> {
    let random =
        |bytes: &mut [u8]| getrandom::fill(bytes).map_err(|error| io::Error::other(error.to_string()));
    let (mut id, mut secret) = ([0; 9], [0; 20]);
    random(&mut id)?;
    random(&mut secret)?;
    Ok(CredentialsFile {
        access_key_id: format!("FB{}", hex::encode_upper(id)),
        secret_access_key: hex::encode(secret),
    })
}

/// The file that tells scripts what was bound; gone after a clean stop.
#[derive(Debug)]
pub(crate) struct EndpointsFile {
    path: PathBuf,
}

impl EndpointsFile {
    /// Writes it, replacing what a crash left.
    pub(crate) fn write(directory: &Path, endpoints: &Endpoints) -> io::Result<EndpointsFile> {
        let path = directory.join("endpoints.json");
        write_atomically(&path, &serde_json::to_vec(endpoints)?, 0o644)?;
        Ok(EndpointsFile { path })
    }

    /// Takes away what an earlier run left. Only for the owner of the directory's lock.
    pub(crate) fn remove_stale(directory: &Path) -> io::Result<()> {
        let path = directory.join("endpoints.json");
        match fs::rename(&path, temporary(&path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Takes it away.
    pub(crate) fn remove(self) -> io::Result<()> {
        fs::rename(&self.path, temporary(&self.path))
    }
}

fn temporary(path: &Path) -> PathBuf {
    path.with_extension("json.tmp")
}

/// Writes a file beside its place, syncs it, and moves it there.
fn write_atomically(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let temporary = temporary(path);
    // In place, where there is one: its block may be the only one that can be had.
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(mode).open(&temporary)?;
    // A file that a crash left keeps its mode at open.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.set_len(content.len() as u64)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_made_once_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let made = kept_credentials(directory.path()).unwrap();
        assert_eq!(fs::metadata(&made.path).unwrap().mode() & 0o777, 0o600);
        let again = kept_credentials(directory.path()).unwrap();
        assert_eq!(again.credentials, made.credentials);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(kept_credentials(other.path()).unwrap().credentials, made.credentials);
        assert_eq!(made.credentials.access_key_id.reveal().len(), 20);
        assert_eq!(made.credentials.secret_access_key.reveal().len(), 40);
    }

    #[test]
    fn credentials_that_others_can_read_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let made = kept_credentials(directory.path()).unwrap();
        fs::set_permissions(&made.path, Permissions::from_mode(0o640)).unwrap();
        assert!(kept_credentials(directory.path()).unwrap_err().to_string().contains("chmod 600"));
    }

    #[test]
    fn damaged_credentials_are_named_and_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let made = kept_credentials(directory.path()).unwrap();
        for text in ["", "{\"access_key_id\":\"swordfish\"}", "{\"access_key_id\":7}", "swordfish"] {
            fs::write(&made.path, text).unwrap();
            let error = kept_credentials(directory.path()).unwrap_err().to_string();
            assert!(error.contains("credentials.json") && !error.contains("swordfish"), "{error}");
            assert_eq!(fs::read_to_string(&made.path).unwrap(), text);
        }
    }

    #[test]
    fn endpoints_replace_stale_ones_and_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("endpoints.json");
        fs::write(&path, "stale").unwrap();
        let endpoints =
            Endpoints { resp: "127.0.0.1:1".into(), s3: "127.0.0.1:2".into(), admin: "127.0.0.1:3".into() };
        let file = EndpointsFile::write(directory.path(), &endpoints).unwrap();
        let read: Endpoints = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(read, endpoints);
        file.remove().unwrap();
        assert!(!path.exists());
        EndpointsFile::remove_stale(directory.path()).unwrap();
    }
}
