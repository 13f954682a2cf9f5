//! CompleteMultipartUpload: the parts become an object; no byte of them moves.
//!
//! The client's list is judged here, where it can be told what is wrong, and again at apply, which takes the
//! parts by number and ETag: a part that was written anew meanwhile is refused there.
//!
//! A client that did not hear the answer sends the request again, and the upload is gone by then: if the object
//! has the ETag that these parts make, and was written after the upload began, it is answered like the first
//! time.

use forebay_storage::encode_meta;
use forebay_storage::multipart::Upload;
use forebay_storage::mutation::{Mutation, Outcome, PART_BYTES_MIN, PART_NUMBER_MAX, PartNames};
use forebay_storage::object::{BucketId, ETag, ObjectMeta};
use forebay_storage::submission::Submission;
use http::HeaderMap;
use md5::{Digest, Md5};
use s3s::{Body, S3Response};

use crate::body::Announced;
use crate::body::checksum::{Checksum, ChecksumAlgorithm, ChecksumState};
use crate::condition::put_condition;
use crate::error::Refused;
use crate::metadata;
use crate::multipart::{ChecksumType, PartFacts, UploadChecksum, no_such_upload, part_facts, upload_id};
use crate::operation::listing::NameCoding;
use crate::request::RequestFacts;
use crate::service::Operations;
use crate::xml::{Record, XmlWriter, malformed, read_records};

/// Longest document: 10,000 parts with ETag and checksums.
const XML_BYTES_MAX: u64 = 8 << 20;

/// A part as the client names it.
#[derive(Debug, PartialEq, Eq)]
struct NamedPart {
    number: u16,
    /// Without quotes.
    etag: String,
    /// By the name of its element.
    checksums: Vec<(ChecksumAlgorithm, String)>,
}

/// Durable when it returns; a dropped future may leave the object written.
pub(crate) async fn run(
    operations: &Operations,
    facts: &RequestFacts,
    headers: &HeaderMap,
    bucket: BucketId,
    key: &[u8],
) -> Result<S3Response<Body>, Refused> {
    let id = upload_id(facts)?;
    let condition = put_condition(headers)?;
    let announced = Announced::read_without_checksum(headers)?;
    let document = operations.receive_document(facts, &announced, XML_BYTES_MAX).await?;
    let named = read_request(&document)?;
    drop(document);
    let etag = etag_of(&named);

    let view = operations.store.view()?;
    let Some(upload) = view.upload(bucket, key, id).await? else {
        let row = view.fetch(bucket, key).await?.filter(|row| row.version() > id);
        let row = row.filter(|row| row.etag(operations.store.cluster_id()).to_string() == etag);
        let row = row.ok_or_else(no_such_upload)?;
        return Ok(answer(operations, facts, key, &etag, &row.meta()));
    };
    let rows = part_facts(operations, &view, id, 0, usize::from(PART_NUMBER_MAX)).await?;
    let parts = find_parts(&named, rows)?;
    drop(view);
    check_size(headers, &parts)?;
    let checksum = object_checksum(headers, &upload, &parts)?;
    let kept = checksum.map(|(algorithm, value)| (algorithm.name().to_owned(), value));
    let meta = ObjectMeta { checksum: kept, ..ObjectMeta::default() };
    let mut names = Vec::new();
    for part in &named {
        PartNames::encode_part(part.number, &part.etag, &mut names);
    }
    let mut submission = Submission::new();
    submission.push(&Mutation::CompleteUpload {
        bucket,
        key,
        upload: id,
        parts: PartNames::of(&names),
        etag: Some(&etag),
        checksum: &encode_meta(&meta),
        condition,
    });
    match operations.store.submit(submission).await?.results.first() {
        Some(Outcome::Done(version)) => {
            let mut response = answer(operations, facts, key, &etag, &meta);
            operations.acknowledge(*version, &mut response.headers);
            Ok(response)
        }
        Some(Outcome::Refused(refusal)) => Err(refusal.clone().into()),
        other => Err(Refused::unexpected(other)),
    }
}

fn answer(
    operations: &Operations,
    facts: &RequestFacts,
    key: &[u8],
    etag: &str,
    meta: &ObjectMeta,
) -> S3Response<Body> {
    let (bucket, name) = (facts.target.bucket(), NameCoding::Plain.key(key));
    let mut xml = XmlWriter::new("CompleteMultipartUploadResult");
    xml.element("Location", &format!("/{bucket}/{}", NameCoding::Url.key(key)));
    xml.element("Bucket", bucket);
    xml.element("Key", &name);
    xml.element("ETag", &format!("\"{etag}\""));
    metadata::checksum_to_xml(meta, &mut xml);
    let mut response = xml.into_response();
    response.headers.insert("x-forebay-ack", operations.ack.clone());
    response
}

/// The parts of the document, in ascending order.
fn read_request(document: &[u8]) -> Result<Vec<NamedPart>, Refused> {
    let records = read_records(document, "CompleteMultipartUpload", usize::from(PART_NUMBER_MAX))?;
    let parts: Vec<NamedPart> = records.iter().map(named_part).collect::<Result<_, _>>()?;
    if parts.is_empty() {
        return Err(malformed());
    }
    if parts.windows(2).any(|pair| pair[0].number >= pair[1].number) {
        return Err(Refused::new(
            "InvalidPartOrder",
            400,
            "The list of parts was not in ascending order. The parts list must be specified in order by part \
             number.",
        ));
    }
    Ok(parts)
}

fn named_part(record: &Record) -> Result<NamedPart, Refused> {
    let number = record.field("PartNumber").and_then(|text| text.trim().parse().ok());
    let number = number.filter(|number| (1..=PART_NUMBER_MAX).contains(number)).ok_or_else(malformed)?;
    let etag = record.field("ETag").ok_or_else(malformed)?.trim().trim_matches('"').to_owned();
    if record.name != "Part" || etag.is_empty() || etag.len() > 64 {
        return Err(malformed());
    }
    let checksum = |algorithm: ChecksumAlgorithm| {
        let value = record.field(&format!("Checksum{}", algorithm.name().to_uppercase()))?;
        Some((algorithm, value.trim().to_owned()))
    };
    let checksums = ChecksumAlgorithm::ALL.into_iter().filter_map(checksum).collect();
    Ok(NamedPart { number, etag, checksums })
}

/// `<MD5 of the parts' MD5s>-<their number>`, as on AWS. An ETag that is no MD5 counts by its digits.
fn etag_of(parts: &[NamedPart]) -> String {
    let mut whole = Md5::new();
    for part in parts {
        match ETag::parse(&part.etag) {
            Some(ETag::Md5(id) | ETag::Derived(id)) => whole.update(id),
            // Of no part of ours: it is refused below.
            _ => whole.update(part.etag.as_bytes()),
        }
    }
    format!("{}-{}", hex::encode(whole.finalize()), parts.len())
}

/// The parts that were named, of those that are there.
fn find_parts(named: &[NamedPart], there: Vec<PartFacts>) -> Result<Vec<PartFacts>, Refused> {
    let mut found = Vec::with_capacity(named.len());
    for (at, part) in named.iter().enumerate() {
        let place = there.binary_search_by_key(&part.number, |facts| facts.number).ok();
        let facts = place.map(|place| &there[place]).filter(|facts| facts.etag == part.etag);
        let facts = facts.ok_or_else(|| invalid_part(part.number))?;
        if let Some((algorithm, value)) = &facts.checksum
            && part.checksums.iter().any(|(a, v)| a.name() == algorithm && v != value)
        {
            return Err(invalid_part(part.number));
        }
        if at + 1 < named.len() && facts.len < PART_BYTES_MIN {
            return Err(part_too_small(part.number, facts.len).with("ETag", part.etag.clone()));
        }
        found.push(facts.clone());
    }
    Ok(found)
}

/// A part is missing, or another than the client thinks.
pub(crate) fn invalid_part(number: u16) -> Refused {
    Refused::new(
        "InvalidPart",
        400,
        "One or more of the specified parts could not be found.  The part may not have been uploaded, or the \
         specified entity tag may not match the part's entity tag.",
    )
    .with("PartNumber", number.to_string())
}

/// Only the last part may be short.
pub(crate) fn part_too_small(number: u16, len: u64) -> Refused {
    Refused::new("EntityTooSmall", 400, "Your proposed upload is smaller than the minimum allowed size")
        .with("ProposedSize", len.to_string())
        .with("MinSizeAllowed", PART_BYTES_MIN.to_string())
        .with("PartNumber", number.to_string())
}

/// Compares `x-amz-mp-object-size`.
fn check_size(headers: &HeaderMap, parts: &[PartFacts]) -> Result<(), Refused> {
    let Some(sent) = headers.get("x-amz-mp-object-size") else { return Ok(()) };
    let len: u64 = parts.iter().map(|part| part.len).sum();
    if sent.to_str().ok().and_then(|text| text.trim().parse().ok()) == Some(len) {
        return Ok(());
    }
    let text = "The provided 'x-amz-mp-object-size' header value does not match what was computed";
    Err(Refused::new("InvalidRequest", 400, text))
}

/// The checksum of the whole, by those of the parts; compared with the one that the client sent.
fn object_checksum(
    headers: &HeaderMap,
    upload: &Upload,
    parts: &[PartFacts],
) -> Result<Option<(ChecksumAlgorithm, String)>, Refused> {
    let begun = UploadChecksum::of(upload);
    let sent_type = ChecksumType::read(headers)?;
    if let (Some(begun), Some(sent)) = (begun, sent_type)
        && begun.kind != sent
    {
        let (expected, sent) = (begun.kind.name(), sent.name());
        return Err(Refused::new(
            "InvalidRequest",
            400,
            format!(
                "The upload was created using the {expected} checksum mode. The complete request must use the same checksum mode. It was {sent}."
            ),
        ));
    }
    let kept = parts.iter().map(|part| Some((parse(part.checksum.as_ref()?)?, part.len)));
    let kept: Option<Vec<(Checksum, u64)>> = kept.collect();
    let computed = kept.and_then(|kept| {
        let algorithm = kept.first()?.0.algorithm;
        let kind = begun.map(|begun| begun.kind).or(sent_type);
        put_together(&kept, kind.unwrap_or(ChecksumType::default_of(algorithm)))
    });
    for algorithm in ChecksumAlgorithm::ALL {
        let Some(sent) = headers.get(algorithm.header()) else { continue };
        // Some clients leave the number of parts away.
        let digest = |value: &str| value.split('-').next().unwrap_or("").to_owned();
        let sent = digest(sent.to_str().unwrap_or(""));
        match &computed {
            Some((computed, value)) if *computed == algorithm && digest(value) == sent => {}
            Some((computed, _)) if *computed == algorithm => {
                let name = algorithm.name().to_uppercase();
                return Err(Refused::new(
                    "BadDigest",
                    400,
                    format!("The {name} you specified did not match the calculated checksum."),
                ));
            }
            _ => {
                let name = algorithm.name();
                return Err(Refused::new(
                    "InvalidRequest",
                    400,
                    format!(
                        "The object's {name} checksum cannot be verified: its parts were not uploaded with it"
                    ),
                ));
            }
        }
    }
    Ok(computed)
}

fn parse((algorithm, value): &(String, String)) -> Option<Checksum> {
    Checksum::parse(ChecksumAlgorithm::from_name(algorithm)?, value).ok()
}

/// `None` if the parts' checksums are of different kinds.
fn put_together(parts: &[(Checksum, u64)], kind: ChecksumType) -> Option<(ChecksumAlgorithm, String)> {
    let algorithm = parts.first()?.0.algorithm;
    if parts.iter().any(|(part, _)| part.algorithm != algorithm) {
        return None;
    }
    match (kind, algorithm.crc()) {
        (ChecksumType::FullObject, Some(crc)) => {
            let number =
                |checksum: &Checksum| checksum.digest().iter().fold(0, |n, b| n << 8 | u64::from(*b));
            let mut parts = parts.iter();
            let first = number(&parts.next()?.0);
            let whole = parts
                .fold(first, |whole, (part, len)| crc_fast::checksum_combine(crc, whole, number(part), *len));
            let digest = whole.to_be_bytes()[8 - algorithm.digest_len()..].to_vec();
            Some((algorithm, Checksum::computed(algorithm, digest).base64))
        }
        (ChecksumType::FullObject, None) => None,
        (ChecksumType::Composite, _) => {
            let mut whole = ChecksumState::new(algorithm);
            parts.iter().for_each(|(part, _)| whole.update(part.digest()));
            let value = Checksum::computed(algorithm, whole.finish()).base64;
            Some((algorithm, format!("{value}-{}", parts.len())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code<T: std::fmt::Debug>(result: Result<T, Refused>) -> String {
        result.expect_err("refused").code().to_owned()
    }

    fn read(inside: &str) -> Result<Vec<NamedPart>, Refused> {
        read_request(format!("<CompleteMultipartUpload>{inside}</CompleteMultipartUpload>").as_bytes())
    }

    #[test]
    fn parts_are_read_in_order() {
        let part = |number: &str, etag: &str| {
            format!("<Part><ETag>{etag}</ETag><PartNumber>{number}</PartNumber></Part>")
        };
        let parts = read(&[part("2", "\"ab\""), part("10000", "cd-1")].concat()).expect("parts");
        assert_eq!((parts[0].number, parts[0].etag.as_str()), (2, "ab"));
        assert_eq!((parts[1].number, parts[1].etag.as_str()), (10_000, "cd-1"));
        assert_eq!(code(read(&[part("2", "a"), part("1", "b")].concat())), "InvalidPartOrder");
        assert_eq!(code(read(&[part("2", "a"), part("2", "a")].concat())), "InvalidPartOrder");
        for bad in [
            String::new(),
            part("0", "a"),
            part("10001", "a"),
            part("x", "a"),
            part("1", ""),
            "<Part><PartNumber>1</PartNumber></Part>".to_owned(),
            "<Other><ETag>a</ETag><PartNumber>1</PartNumber></Other>".to_owned(),
        ] {
            assert_eq!(code(read(&bad)), "MalformedXML", "{bad}");
        }
        let with = "<Part><ETag>a</ETag><PartNumber>1</PartNumber><ChecksumCRC32>AAAA</ChecksumCRC32></Part>";
        let parts = read(with).expect("a part");
        assert_eq!(parts[0].checksums, [(ChecksumAlgorithm::Crc32, "AAAA".to_owned())]);
    }

    #[test]
    fn the_etag_is_the_md5_of_the_md5s() {
        let part = |bytes: &[u8]| NamedPart {
            number: 1,
            etag: hex::encode(Md5::digest(bytes)),
            checksums: Vec::new(),
        };
        let both = [Md5::digest(b"a").to_vec(), Md5::digest(b"b").to_vec()].concat();
        let expected = format!("{}-2", hex::encode(Md5::digest(&both)));
        assert_eq!(etag_of(&[part(b"a"), part(b"b")]), expected);
    }

    #[test]
    fn checksums_of_parts_make_one_of_the_whole() {
        let whole: Vec<u8> = (0..1_000u32).flat_map(u32::to_le_bytes).collect();
        let cuts = [&whole[..1], &whole[1..1000], &[], &whole[1000..]];
        let digest = |algorithm, bytes: &[u8]| {
            let mut state = ChecksumState::new(algorithm);
            state.update(bytes);
            state.finish()
        };
        for algorithm in ChecksumAlgorithm::ALL {
            let parts: Vec<_> = cuts
                .iter()
                .map(|cut| (Checksum::computed(algorithm, digest(algorithm, cut)), cut.len() as u64))
                .collect();
            let full = put_together(&parts, ChecksumType::FullObject);
            let expected = Checksum::computed(algorithm, digest(algorithm, &whole)).base64;
            assert_eq!(full, algorithm.crc().map(|_| (algorithm, expected)), "{algorithm:?}");
            let digests: Vec<u8> = cuts.iter().flat_map(|cut| digest(algorithm, cut)).collect();
            let expected = Checksum::computed(algorithm, digest(algorithm, &digests)).base64;
            let composite = put_together(&parts, ChecksumType::Composite);
            assert_eq!(composite, Some((algorithm, format!("{expected}-4"))), "{algorithm:?}");
        }
        let mixed = [ChecksumAlgorithm::Crc32, ChecksumAlgorithm::Sha1]
            .map(|algorithm| (Checksum::computed(algorithm, digest(algorithm, b"x")), 1));
        assert_eq!(put_together(&mixed, ChecksumType::Composite), None);
    }
}
