//! Access control lists: there is one owner, and everything is its own. Reads say so; a write that says the
//! same is taken, every other one is refused, because nobody else would be let in.

use forebay_storage::object::BucketId;
use http::{HeaderMap, StatusCode};
use s3s::{Body, S3Response};

use crate::body::RequestBody;
use crate::error::Refused;
use crate::operation::listing::owner_to_xml;
use crate::request::RequestFacts;
use crate::service::Operations;
use crate::xml::XmlWriter;

/// Canned lists under which the owner alone has access.
const PRIVATE: [&str; 3] = ["private", "bucket-owner-full-control", "bucket-owner-read"];

pub(crate) async fn get_object(
    operations: &Operations,
    bucket: BucketId,
    key: &[u8],
) -> Result<S3Response<Body>, Refused> {
    operations.object(bucket, key).await?;
    Ok(owned())
}

pub(crate) fn get_bucket() -> S3Response<Body> {
    owned()
}

pub(crate) async fn put_object(
    operations: &Operations,
    facts: &RequestFacts,
    headers: &HeaderMap,
    bucket: BucketId,
    key: &[u8],
) -> Result<S3Response<Body>, Refused> {
    check_private(headers, &facts.body)?;
    operations.object(bucket, key).await?;
    Ok(S3Response::with_status(Body::empty(), StatusCode::OK))
}

pub(crate) fn put_bucket(facts: &RequestFacts, headers: &HeaderMap) -> Result<S3Response<Body>, Refused> {
    check_private(headers, &facts.body)?;
    Ok(S3Response::with_status(Body::empty(), StatusCode::OK))
}

/// Lets pass a canned list that leaves things as they are.
fn check_private(headers: &HeaderMap, body: &RequestBody) -> Result<(), Refused> {
    let canned = headers.get("x-amz-acl").and_then(|value| value.to_str().ok());
    let grants = headers.keys().any(|name| name.as_str().starts_with("x-amz-grant-"));
    match canned {
        Some(canned) if PRIVATE.contains(&canned) && !grants && body.is_empty() => Ok(()),
        _ => Err(Refused::not_implemented("an ACL other than the canned private")),
    }
}

fn owned() -> S3Response<Body> {
    let mut xml = XmlWriter::new("AccessControlPolicy");
    xml.group("Owner", owner_to_xml);
    xml.group("AccessControlList", |xml| {
        xml.group("Grant", |xml| {
            xml.raw(
                "<Grantee xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" \
                 xsi:type=\"CanonicalUser\">",
            );
            owner_to_xml(xml);
            xml.raw("</Grantee>");
            xml.element("Permission", "FULL_CONTROL");
        });
    });
    xml.into_response()
}
