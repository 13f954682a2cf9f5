//! A signed S3 client of raw bytes on one connection that stays: no SDK, no retry, little work for the sender.
//!
//! Owns: signing, and a new connection where the server has closed the one before. Keys are sent as they are:
//! give it none that a URL would encode.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::http_wire::{Answer, HttpWire, Signer, Unsigned};

/// See the file's head.
pub struct S3Wire {
    addr: SocketAddr,
    access_key_id: String,
    secret_access_key: String,
    wire: Option<HttpWire>,
    limit: Option<Duration>,
}

impl S3Wire {
    /// Connects with the first request.
    pub fn new(addr: SocketAddr, access_key_id: &str, secret_access_key: &str) -> Self {
        Self {
            addr,
            access_key_id: access_key_id.to_owned(),
            secret_access_key: secret_access_key.to_owned(),
            wire: None,
            limit: None,
        }
    }

    /// Another limit for answers than the usual one.
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// PutObject with MD5 and checksums left out.
    pub fn put(&mut self, path: &str, body: &[u8]) -> io::Result<Answer> {
        self.call("PUT", path, &[], body)
    }

    /// GetObject, the whole body.
    pub fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.call("GET", path, &[], b"")
    }

    /// HeadObject.
    pub fn head(&mut self, path: &str) -> io::Result<Answer> {
        self.call("HEAD", path, &[], b"")
    }

    /// DeleteObject, or DeleteBucket.
    pub fn delete(&mut self, path: &str) -> io::Result<Answer> {
        self.call("DELETE", path, &[], b"")
    }

    /// One request with extra headers. An error means that no answer was read: the outcome is unknown.
    pub fn call(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Answer> {
        let mut signed: Vec<(&str, String)> =
            headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        if method == "PUT" || method == "POST" {
            signed.push(("content-length", body.len().to_string()));
        }
        let request =
            Unsigned { method, path, signed, content_sha256: "UNSIGNED-PAYLOAD", ..Unsigned::default() };
        let signer = Signer::now(&self.access_key_id, &self.secret_access_key);
        let mut bytes = signer.sign(self.addr, &request).head;
        bytes.extend_from_slice(body);
        let mut wire = match self.wire.take() {
            Some(wire) => wire,
            None => {
                let wire = HttpWire::connect(self.addr)?;
                self.limit.map_or(Ok(()), |limit| wire.set_answer_limit(limit))?;
                wire
            }
        };
        // Who refuses a body may close before all of it was sent; the answer is there all the same.
        let sent = wire.send(&bytes);
        let answer = wire.answer(method == "HEAD").map_err(|error| sent.err().unwrap_or(error))?;
        if answer.header("connection") != Some("close") {
            self.wire = Some(wire);
        }
        Ok(answer)
    }
}

/// The code of an S3 error answer.
pub fn error_code(answer: &Answer) -> String {
    let text = answer.text();
    let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
    code.map_or_else(String::new, |(code, _)| code.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin_sim::{ACCESS_KEY_ID, OriginSim, SECRET_ACCESS_KEY};

    #[test]
    fn requests_share_a_connection_and_errors_have_a_code() {
        let origin = OriginSim::start(&["bkt"]).unwrap();
        let mut s3 = S3Wire::new(origin.addr(), ACCESS_KEY_ID, SECRET_ACCESS_KEY);
        assert_eq!(s3.put("/bkt/k", b"abc").unwrap().status, 200);
        assert_eq!(s3.get("/bkt/k").unwrap().body, b"abc");
        assert_eq!(s3.head("/bkt/k").unwrap().header("content-length"), Some("3"));
        assert_eq!(s3.delete("/bkt/k").unwrap().status, 204);
        let missing = s3.get("/bkt/k").unwrap();
        assert_eq!((missing.status, error_code(&missing).as_str()), (404, "NoSuchKey"));
        let conditional = s3.call("PUT", "/bkt/k", &[("if-none-match", "*")], b"x").unwrap();
        assert_eq!(conditional.status, 200);
        assert_eq!(s3.call("PUT", "/bkt/k", &[("if-none-match", "*")], b"y").unwrap().status, 412);
    }
}
