//! DeleteObjects: up to 1,000 keys in one submission, each answered by itself.
//!
//! As on S3 the batch is not atomic, and a key that is not there counts as deleted. Where deletes are written through,
//! one that does not reach its origin in time is an error of its own. The document must come
//! with Content-MD5 or a checksum, which is compared before a key is read out of it.

use std::borrow::Cow;

use forebay_storage::Arrival;
use forebay_storage::mutation::{Mutation, Outcome};
use forebay_storage::object::{BucketId, KEY_BYTES_MAX};
use forebay_storage::object_name;
use forebay_storage::submission::{MutationSlot, Submission};
use http::HeaderMap;
use s3s::{Body, S3Response};

use crate::body::Announced;
use crate::error::Refused;
use crate::request::RequestFacts;
use crate::service::Operations;
use crate::xml::{Record, XmlWriter, malformed, read_records};

/// Most keys of one request, as on AWS.
const KEYS_MAX: usize = 1000;
/// Longest document: 1,000 of the longest keys, each byte written as an entity of five.
const XML_BYTES_MAX: u64 = 6 << 20;

/// One key of the request.
struct Wanted {
    name: String,
    version_id: Option<String>,
    fate: Fate,
}

enum Fate {
    Submitted(MutationSlot),
    Refused(Refused),
}

/// Durable when it returns; a dropped future may leave any of the objects deleted.
pub(crate) async fn run(
    operations: &Operations,
    facts: &RequestFacts,
    headers: &HeaderMap,
    bucket: BucketId,
) -> Result<S3Response<Body>, Refused> {
    let announced = Announced::read(headers, u64::MAX)?;
    if !announced.has_digest() {
        let text = "Missing required header for this request: Content-MD5 OR x-amz-checksum-*";
        return Err(Refused::new("InvalidRequest", 400, text));
    }
    let document = operations.receive_document(facts, &announced, XML_BYTES_MAX).await?;
    let (records, quiet) = read_request(&document)?;
    drop(document);
    let mut submission = Submission::new();
    let wanted: Vec<Wanted> =
        records.into_iter().map(|record| want(record, bucket, &mut submission)).collect::<Result<_, _>>()?;
    let (outcomes, mut arrival) = match submission.is_empty() {
        true => (Vec::new(), Arrival::default()),
        false => {
            let (outcomes, arrival) = operations.store.submit_reading(submission).await?;
            (outcomes.results, arrival)
        }
    };

    let mut xml = XmlWriter::new("DeleteResult");
    for wanted in wanted {
        let refused = match wanted.fate {
            Fate::Refused(refused) => Some(refused),
            Fate::Submitted(slot) => match outcomes.get(slot.0) {
                Some(Outcome::Done(_) | Outcome::Unmet) => {
                    arrival.of(slot.0..slot.0 + 1).await.err().map(Refused::from)
                }
                Some(Outcome::Refused(refusal)) => Some(refusal.clone().into()),
                other => Some(Refused::unexpected(other)),
            },
        };
        match refused {
            None if quiet => {}
            None => xml.group("Deleted", |xml| {
                xml.element("Key", &wanted.name);
                xml.optional("VersionId", wanted.version_id.as_deref());
            }),
            Some(refused) => xml.group("Error", |xml| {
                xml.element("Key", &wanted.name);
                xml.optional("VersionId", wanted.version_id.as_deref());
                xml.element("Code", refused.code());
                xml.element("Message", refused.message());
            }),
        }
    }
    let mut response = xml.into_response();
    response.headers.insert("x-forebay-ack", operations.ack.clone());
    Ok(response)
}

/// The keys, and whether only errors are to be answered.
fn read_request(document: &[u8]) -> Result<(Vec<Record>, bool), Refused> {
    let mut records = read_records(document, "Delete", KEYS_MAX + 1)?;
    let mut quiet = false;
    if let Some(at) = records.iter().position(|record| record.name == "Quiet") {
        quiet = match records.remove(at).text.trim() {
            "true" | "1" => true,
            "false" | "0" => false,
            _ => return Err(malformed()),
        };
    }
    let objects_only = records.iter().all(|record| record.name == "Object");
    if !objects_only || records.is_empty() || records.len() > KEYS_MAX {
        return Err(malformed());
    }
    Ok((records, quiet))
}

fn want(record: Record, bucket: BucketId, submission: &mut Submission) -> Result<Wanted, Refused> {
    let name = record.field("Key").filter(|name| !name.is_empty()).ok_or_else(malformed)?.to_owned();
    let version_id = record.field("VersionId").filter(|version| !version.is_empty()).map(str::to_owned);
    let condition = ["ETag", "LastModifiedTime", "Size"].iter().find(|name| record.field(name).is_some());
    let key = object_name::decode_key(&name).map(Cow::into_owned);
    let fate = match (key, version_id.as_deref(), condition) {
        (_, Some(version), _) if version != "null" => {
            Fate::Refused(Refused::new("NoSuchVersion", 404, "The specified version does not exist."))
        }
        (_, _, Some(_)) => Fate::Refused(Refused::not_implemented("a conditional delete")),
        (None, ..) => Fate::Refused(Refused::new("InvalidURI", 400, "the key is no valid name of an object")),
        (Some(key), ..) if key.len() > KEY_BYTES_MAX => {
            Fate::Refused(Refused::new("KeyTooLongError", 400, "Your key is too long"))
        }
        (Some(key), ..) => Fate::Submitted(submission.push(&Mutation::Delete { bucket, key: &key })),
    };
    Ok(Wanted { name, version_id, fate })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_keys_and_perhaps_quiet() {
        let object = "<Object><Key>k</Key></Object>";
        let read = |inside: &str| read_request(format!("<Delete>{inside}</Delete>").as_bytes());
        assert!(matches!(read(object), Ok((records, false)) if records.len() == 1));
        assert!(matches!(read(&format!("{object}<Quiet>true</Quiet>")), Ok((_, true))));
        assert!(matches!(read(&format!("<Quiet>false</Quiet>{object}")), Ok((_, false))));
        assert!(read(&object.repeat(1000)).is_ok());
        for bad in [
            String::new(),
            "<Quiet>true</Quiet>".to_owned(),
            format!("{object}<Quiet>maybe</Quiet>"),
            format!("{object}<Other/>"),
            object.repeat(1001),
        ] {
            assert_eq!(read(&bad).expect_err("malformed").code(), "MalformedXML");
        }
    }
}
