//! The `aws-chunked` body coding: a push decoder that hands data on as it comes and judges at the end.
//!
//! Owns framing, chunk signatures, the trailer section and its signature, and the count of decoded bytes
//! (protocol: AWS, "Signature Calculations for the Authorization Header: Transferring Payload in Multiple
//! Chunks"). Does not own comparing trailers with the body (`body`), nor the request's own signature (s3s).
//!
//! Invariants: it holds one line and one trailer section, never data; never more data is handed on than was
//! announced; a body without its final chunk, with another length than announced, or with anything behind its
//! end is an error; it makes no difference how the bytes are cut into pushes. What it hands on is only to be
//! believed once `finish` has agreed: a chunk's signature comes to be known wrong after its data is out.
//!
//! ```text
//! chunk     size-in-hex [";chunk-signature=" 64-hex] CRLF  bytes  CRLF
//! body      chunk*  "0" [";chunk-signature=" 64-hex] CRLF  trailer*  CRLF
//! trailer   name ":" value CRLF
//! ```

use bytes::{Buf, Bytes};
use sha2::{Digest, Sha256};

use crate::auth::{ClaimedSignature, SigningKey, sha256_hex};
use crate::error::Refused;

/// Longest line of a chunk's head: 16 digits, the signature and its name, with room.
const HEAD_LINE_BYTES_MAX: usize = 128;
/// Largest trailer section.
const TRAILER_BYTES_MAX: usize = 2048;
/// Name of the trailer that signs the others.
const TRAILER_SIGNATURE: &str = "x-amz-trailer-signature";
/// SHA-256 of nothing.
const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// How the chunks of a body are signed.
pub(crate) struct ChunkSigner {
    key: SigningKey,
    timestamp: String,
    scope: String,
    /// The signature before: the request's own, then each chunk's.
    previous: String,
}

impl ChunkSigner {
    /// Begins the chain at the request's signature, which s3s has verified.
    pub(crate) fn new(key: SigningKey, claim: &ClaimedSignature) -> ChunkSigner {
        ChunkSigner {
            key,
            timestamp: claim.timestamp.clone(),
            scope: claim.scope(),
            previous: claim.signature.clone(),
        }
    }

    fn string_to_sign(&self, kind: &str, hashes: &str) -> String {
        format!("{kind}\n{}\n{}\n{}\n{hashes}", self.timestamp, self.scope, self.previous)
    }

    fn verify_chunk(&mut self, data_sha256: &str, signature: &str) -> Result<(), Refused> {
        let text = self.string_to_sign("AWS4-HMAC-SHA256-PAYLOAD", &format!("{EMPTY_SHA256}\n{data_sha256}"));
        self.verify(&text, signature, "a chunk")
    }

    fn verify_trailers(&mut self, canonical: &str, signature: &str) -> Result<(), Refused> {
        let text = self.string_to_sign("AWS4-HMAC-SHA256-TRAILER", &sha256_hex(canonical.as_bytes()));
        self.verify(&text, signature, "the trailer")
    }

    fn verify(&mut self, text: &str, signature: &str, of: &str) -> Result<(), Refused> {
        if !self.key.verify(text, signature.as_bytes()) {
            return Err(Refused::new(
                "SignatureDoesNotMatch",
                403,
                format!("The signature of {of} does not match what we calculated"),
            ));
        }
        signature.clone_into(&mut self.previous);
        Ok(())
    }
}

/// The decoder of one body.
pub(crate) struct ChunkDecoder {
    state: State,
    signer: Option<ChunkSigner>,
    /// What `x-amz-decoded-content-length` says.
    length: u64,
    /// Of it, announced by the heads of the chunks so far.
    promised: u64,
    /// The unfinished line of a chunk's head or of the trailer section.
    line: Vec<u8>,
    chunk: Chunk,
    /// Bytes of the trailer section so far.
    trailer_bytes: usize,
    trailers: Vec<(String, String)>,
}

/// The chunk being read.
#[derive(Default)]
struct Chunk {
    signature: Option<String>,
    hash: Sha256,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the line with a chunk's size.
    Head,
    /// This many bytes of data are to come.
    Data(u64),
    /// This many bytes of the CRLF behind the data have come.
    DataEnd(u8),
    /// Behind the final chunk.
    Trailers,
    /// Behind the empty line.
    Done,
}

/// A trailer section; names in lower case, without the trailer signature.
pub(crate) type Trailers = Vec<(String, String)>;

impl ChunkDecoder {
    /// A decoder for a body of exactly `length` decoded bytes.
    pub(crate) fn new(signer: Option<ChunkSigner>, length: u64) -> ChunkDecoder {
        ChunkDecoder {
            state: State::Head,
            signer,
            length,
            promised: 0,
            line: Vec::new(),
            chunk: Chunk::default(),
            trailer_bytes: 0,
            trailers: Vec::new(),
        }
    }

    /// Takes the next bytes of the coded body; appends what they hold of the data to `data`, without a copy.
    pub(crate) fn push(&mut self, mut input: Bytes, data: &mut Vec<Bytes>) -> Result<(), Refused> {
        while !input.is_empty() {
            match self.state {
                State::Head => {
                    if self.take_line(&mut input, HEAD_LINE_BYTES_MAX)? {
                        self.begin_chunk()?;
                    }
                }
                State::Data(left) => {
                    let take = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                    let piece = input.split_to(take);
                    if self.signer.is_some() {
                        self.chunk.hash.update(&piece);
                    }
                    data.push(piece);
                    let left = left - take as u64;
                    self.state = if left == 0 { State::DataEnd(0) } else { State::Data(left) };
                }
                State::DataEnd(seen) => {
                    if input[0] != b"\r\n"[usize::from(seen)] {
                        return Err(malformed("a chunk is longer than its size"));
                    }
                    input.advance(1);
                    if seen == 0 {
                        self.state = State::DataEnd(1);
                    } else {
                        self.end_chunk()?;
                        self.state = State::Head;
                    }
                }
                State::Trailers => {
                    if self.take_line(&mut input, TRAILER_BYTES_MAX)? {
                        self.take_trailer()?;
                    }
                }
                State::Done => return Err(malformed("bytes behind the end of the body")),
            }
        }
        Ok(())
    }

    /// The end of the coded body was reached: the body is whole and, if it was signed, authentic.
    pub(crate) fn finish(mut self) -> Result<Trailers, Refused> {
        if self.state != State::Done {
            return Err(incomplete("the final chunk is missing"));
        }
        if self.promised != self.length {
            return Err(incomplete("the body is shorter than x-amz-decoded-content-length"));
        }
        let signature = self.trailers.iter().position(|(name, _)| name == TRAILER_SIGNATURE);
        let signature = signature.map(|at| self.trailers.remove(at).1);
        if let Some(signer) = &mut self.signer {
            match (signature, self.trailers.is_empty()) {
                (None, true) => {}
                (None, false) => return Err(malformed_trailer("the trailer is not signed")),
                (Some(signature), _) => {
                    signer.verify_trailers(&canonical_trailers(&self.trailers), &signature)?;
                }
            }
        }
        Ok(self.trailers)
    }

    /// Moves bytes up to and including CRLF into `line`, without the CRLF; whether the line is complete.
    fn take_line(&mut self, input: &mut Bytes, max: usize) -> Result<bool, Refused> {
        let end = input.iter().position(|&b| b == b'\n');
        let part = end.map_or(input.len(), |end| end + 1);
        if self.line.len() + part > max {
            return Err(malformed("a line is too long"));
        }
        self.line.extend_from_slice(&input[..part]);
        input.advance(part);
        if end.is_none() {
            return Ok(false);
        }
        if !self.line.ends_with(b"\r\n") {
            return Err(malformed("a line does not end in CRLF"));
        }
        self.line.truncate(self.line.len() - 2);
        Ok(true)
    }

    fn begin_chunk(&mut self) -> Result<(), Refused> {
        let line = std::mem::take(&mut self.line);
        let line = std::str::from_utf8(&line).map_err(|_| malformed("the head of a chunk is not ASCII"))?;
        let (size, signature) = match line.split_once(';') {
            None => (line, None),
            Some((size, extension)) => {
                let signature = extension
                    .strip_prefix("chunk-signature=")
                    .ok_or_else(|| malformed("unknown chunk extension"))?;
                (size, Some(signature.to_owned()))
            }
        };
        // from_str_radix would take a sign.
        if size.is_empty() || size.len() > 16 || !size.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(malformed("the size of a chunk is not a hexadecimal number"));
        }
        let size =
            u64::from_str_radix(size, 16).map_err(|_| malformed("the size of a chunk is too large"))?;
        if self.signer.is_some() != signature.is_some() {
            return Err(malformed("chunks must be signed exactly if the request says so"));
        }
        if size > self.length - self.promised {
            return Err(incomplete("the body is longer than x-amz-decoded-content-length"));
        }
        self.promised += size;
        self.chunk = Chunk { signature, hash: Sha256::new() };
        if size == 0 {
            self.end_chunk()?;
            self.state = State::Trailers;
        } else {
            self.state = State::Data(size);
        }
        Ok(())
    }

    fn end_chunk(&mut self) -> Result<(), Refused> {
        let chunk = std::mem::take(&mut self.chunk);
        match (&mut self.signer, chunk.signature) {
            (Some(signer), Some(signature)) => {
                signer.verify_chunk(&hex::encode(chunk.hash.finalize()), &signature)
            }
            _ => Ok(()),
        }
    }

    fn take_trailer(&mut self) -> Result<(), Refused> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            self.state = State::Done;
            return Ok(());
        }
        self.trailer_bytes += line.len() + 2;
        if self.trailer_bytes > TRAILER_BYTES_MAX {
            return Err(malformed_trailer("it is too long"));
        }
        let line = std::str::from_utf8(&line).map_err(|_| malformed_trailer("it is not UTF-8"))?;
        let (name, value) = line.split_once(':').ok_or_else(|| malformed_trailer("a line has no colon"))?;
        let name = name.trim().to_ascii_lowercase();
        if self.trailers.iter().any(|(seen, _)| *seen == name) {
            return Err(malformed_trailer("a name occurs twice"));
        }
        self.trailers.push((name, value.trim().to_owned()));
        Ok(())
    }
}

fn canonical_trailers(trailers: &[(String, String)]) -> String {
    let mut sorted: Vec<_> = trailers.iter().collect();
    sorted.sort();
    sorted.iter().map(|(name, value)| format!("{name}:{value}\n")).collect()
}

fn malformed(what: &str) -> Refused {
    Refused::new("InvalidRequest", 400, format!("The aws-chunked body is malformed: {what}"))
}

fn malformed_trailer(what: &str) -> Refused {
    Refused::new("MalformedTrailerError", 400, format!("The trailer of the body is malformed: {what}"))
}

fn incomplete(what: &str) -> Refused {
    Refused::new("IncompleteBody", 400, format!("The request body terminated unexpectedly: {what}"))
}

#[cfg(test)]
#[path = "chunked_tests.rs"]
mod tests;
