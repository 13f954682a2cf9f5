//! Tests of the decoder: every cut, every omission, seeded damage.

use super::*;
use crate::config::SecretAccessKey;
use crate::testing::{ChunkedBody, claim};

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

fn key() -> SigningKey {
    SigningKey::derive(&SecretAccessKey::new(SECRET), "20130524", "us-east-1")
}

fn signer() -> ChunkSigner {
    ChunkSigner::new(key(), &claim())
}

/// A body that is whole.
#[derive(Debug, PartialEq, Eq)]
struct Decoded {
    body: Vec<u8>,
    trailers: Trailers,
}

fn decode(signer: Option<ChunkSigner>, length: u64, pieces: &[&[u8]]) -> Result<Decoded, Refused> {
    let mut decoder = ChunkDecoder::new(signer, length);
    let mut data = Vec::new();
    for piece in pieces {
        decoder.push(Bytes::copy_from_slice(piece), &mut data)?;
        assert!(data.iter().map(Bytes::len).sum::<usize>() as u64 <= length, "more than announced");
    }
    let trailers = decoder.finish()?;
    Ok(Decoded { body: data.concat(), trailers })
}

fn code(result: Result<Decoded, Refused>) -> String {
    result.expect_err("must be refused").code().to_owned()
}

fn unsigned(chunks: &[&[u8]], trailers: &[(&str, &str)]) -> Vec<u8> {
    ChunkedBody { chunks, trailers, signed: None }.encode()
}

fn signed(chunks: &[&[u8]], trailers: &[(&str, &str)]) -> Vec<u8> {
    ChunkedBody { chunks, trailers, signed: Some((&key(), &claim())) }.encode()
}

#[test]
fn unsigned_body_split_at_every_byte() {
    let wire = unsigned(&[b"hello ", b"world"], &[("x-amz-checksum-crc32", "DUoRhQ==")]);
    for cut in 0..=wire.len() {
        let decoded = decode(None, 11, &[&wire[..cut], &wire[cut..]]).expect("whole");
        assert_eq!(decoded.body, b"hello world");
        assert_eq!(decoded.trailers, [("x-amz-checksum-crc32".to_owned(), "DUoRhQ==".to_owned())]);
    }
}

#[test]
fn signed_body_split_at_every_byte_with_and_without_trailer() {
    for trailers in [&[][..], &[("x-amz-checksum-crc32", "DUoRhQ==")]] {
        let wire = signed(&[b"hello ", b"world"], trailers);
        for cut in 0..=wire.len() {
            let decoded = decode(Some(signer()), 11, &[&wire[..cut], &wire[cut..]]).expect("whole");
            assert_eq!(
                (decoded.body.as_slice(), decoded.trailers.len()),
                (&b"hello world"[..], trailers.len())
            );
        }
        let bytes: Vec<&[u8]> = wire.chunks(1).collect();
        assert_eq!(decode(Some(signer()), 11, &bytes).expect("byte by byte").body, b"hello world");
    }
}

#[test]
fn empty_body_is_a_final_chunk_alone() {
    assert_eq!(decode(None, 0, &[b"0\r\n\r\n"]).expect("empty").body, b"");
    assert_eq!(decode(Some(signer()), 0, &[&signed(&[], &[])]).expect("empty").body, b"");
}

#[test]
fn every_prefix_is_incomplete() {
    let wire = signed(&[b"hello ", b"world"], &[("x-amz-checksum-crc32", "DUoRhQ==")]);
    for cut in 0..wire.len() {
        assert_eq!(code(decode(Some(signer()), 11, &[&wire[..cut]])), "IncompleteBody", "cut at {cut}");
    }
}

#[test]
fn missing_final_chunk_is_incomplete() {
    assert_eq!(code(decode(None, 5, &[b"5\r\nhello\r\n"])), "IncompleteBody");
}

#[test]
fn length_other_than_announced_is_incomplete() {
    let wire = unsigned(&[b"hello"], &[]);
    assert_eq!(code(decode(None, 4, &[&wire])), "IncompleteBody");
    assert_eq!(code(decode(None, 6, &[&wire])), "IncompleteBody");
}

#[test]
fn a_chunk_larger_than_the_whole_body_is_refused_before_its_data() {
    let mut decoder = ChunkDecoder::new(None, 10);
    let mut data = Vec::new();
    assert!(decoder.push(Bytes::from_static(b"ffffffffffffffff\r\nx"), &mut data).is_err());
    assert!(data.is_empty());
}

#[test]
fn malformed_framing_is_refused() {
    for wire in [
        &b"5\nhello\r\n0\r\n\r\n"[..],
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"\r\nhello\r\n0\r\n\r\n",
        b"00000000000000005\r\nhello\r\n0\r\n\r\n",
        b"5;name=value\r\nhello\r\n0\r\n\r\n",
        b"5;chunk-signature=abc\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\n\r\nX",
        b"\xff\r\nhello\r\n0\r\n\r\n",
    ] {
        let refused = decode(None, 5, &[wire]).expect_err("malformed");
        assert_eq!(refused.status(), 400, "{}", String::from_utf8_lossy(wire));
    }
    let endless = vec![b'0'; 10_000];
    assert_eq!(code(decode(None, 5, &[&endless])), "InvalidRequest");
}

#[test]
fn malformed_trailers_are_refused() {
    let long = format!("0\r\n{}\r\n", "a:b\r\n".repeat(600));
    for wire in [
        "0\r\nno colon\r\n\r\n".to_owned(),
        "0\r\na:1\r\na:2\r\n\r\n".to_owned(),
        (0..600).fold("0\r\n".to_owned(), |text, i| format!("{text}n{i}:x\r\n")) + "\r\n",
        long,
    ] {
        assert_eq!(code(decode(None, 0, &[wire.as_bytes()])), "MalformedTrailerError");
    }
}

#[test]
fn any_changed_byte_of_a_signed_body_is_refused() {
    let wire = signed(&[b"hello ", b"world"], &[("x-amz-checksum-crc32", "DUoRhQ==")]);
    for at in 0..wire.len() {
        let mut damaged = wire.clone();
        damaged[at] ^= 0x01;
        if let Ok(decoded) = decode(Some(signer()), 11, &[&damaged]) {
            // What hex, names and white space allow is the same body.
            assert_eq!(decoded.body, b"hello world", "byte {at}");
        }
    }
}

#[test]
fn chunks_cannot_be_reordered_dropped_or_taken_from_another_request() {
    let wire = signed(&[b"aaaa", b"bbbb"], &[]);
    let head = wire.iter().position(|&b| b == b'\n').expect("a line") + 1;
    let chunk = head + 4 + 2;
    let swapped = [&wire[chunk..2 * chunk], &wire[..chunk], &wire[2 * chunk..]].concat();
    assert_eq!(code(decode(Some(signer()), 8, &[&swapped])), "SignatureDoesNotMatch");
    let dropped = [&wire[..chunk], &wire[2 * chunk..]].concat();
    assert_eq!(code(decode(Some(signer()), 4, &[&dropped])), "SignatureDoesNotMatch");
    let mut other = claim();
    other.signature = "0".repeat(64);
    let other = ChunkSigner::new(key(), &other);
    assert_eq!(code(decode(Some(other), 8, &[&wire])), "SignatureDoesNotMatch");
}

#[test]
fn unsigned_trailer_behind_signed_chunks_is_refused() {
    let wire = signed(&[b"hello"], &[]);
    let wire = [&wire[..wire.len() - 2], b"x-amz-checksum-crc32:NhCmhg==\r\n\r\n"].concat();
    assert_eq!(code(decode(Some(signer()), 5, &[&wire])), "MalformedTrailerError");
}

#[test]
fn unsigned_chunks_where_signed_ones_are_due_are_refused() {
    assert_eq!(code(decode(Some(signer()), 5, &[&unsigned(&[b"hello"], &[])])), "InvalidRequest");
    assert_eq!(code(decode(None, 5, &[&signed(&[b"hello"], &[])])), "InvalidRequest");
}

/// Seeded damage on random bodies with random cuts: never a panic, never more memory than announced, and
/// the same verdict however the bytes are cut.
#[test]
fn seeded_fuzz_gives_the_same_verdict_for_every_cut() {
    for seed in 0..3_000u64 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let chunks: Vec<Vec<u8>> = (0..rng.usize(0..4))
            .map(|_| {
                let len = rng.usize(1..40);
                (0..len).map(|_| rng.u8(..)).collect()
            })
            .collect();
        let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
        let length: usize = chunks.iter().map(|chunk| chunk.len()).sum();
        let trailers: &[(&str, &str)] =
            if rng.bool() { &[("x-amz-checksum-crc32", "AAAAAA==")] } else { &[] };
        let is_signed = rng.bool();
        let mut wire = if is_signed { signed(&chunks, trailers) } else { unsigned(&chunks, trailers) };
        let damage = rng.usize(0..4);
        for _ in 0..damage {
            let at = rng.usize(0..wire.len());
            match rng.u8(0..4) {
                0 => wire[at] = rng.u8(..),
                1 => wire.truncate(at.max(1)),
                2 => wire.insert(at, *b"\r\n;0:f".get(rng.usize(0..6)).expect("in range")),
                _ => drop(wire.remove(at)),
            }
            if wire.is_empty() {
                wire.push(b'0');
            }
        }
        let make = || is_signed.then(signer);
        let whole = decode(make(), length as u64, &[&wire]);
        let mut pieces = Vec::new();
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(rng.usize(1..=rest.len()));
            pieces.push(piece);
            rest = tail;
        }
        let cut = decode(make(), length as u64, &pieces);
        assert_eq!(whole, cut, "seed {seed}");
        match whole {
            Ok(decoded) => {
                assert_eq!(decoded.body.len(), length, "seed {seed}");
                assert!(!is_signed || decoded.body == chunks.concat(), "seed {seed}");
            }
            Err(_) => assert!(damage > 0, "seed {seed}: an undamaged body was refused"),
        }
    }
}
