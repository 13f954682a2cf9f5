//! XML as S3 speaks it: small documents in, text out.
//!
//! Owns the bounds of what is read: a root, records under it, fields under those, and nothing deeper, so
//! that what a document costs is bounded by its length. A document with a DTD is refused unread; entities
//! are the five that XML names and characters by number.

use std::fmt::Write;

use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::Event;
use s3s::{Body, S3Response};

use crate::error::Refused;

/// The namespace of S3's documents.
const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";
/// Most fields of one record; S3's own have up to nine.
const FIELDS_MAX: usize = 32;

/// One element under the root: text, or fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// Without a prefix.
    pub(crate) name: String,
    pub(crate) text: String,
    /// Names and texts, in the order sent.
    pub(crate) fields: Vec<(String, String)>,
}

impl Record {
    /// The text of the first field of that name.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, text)| text.as_str())
    }
}

/// Reads a document whose root is `root`, with at most `records_max` records.
pub(crate) fn read_records(document: &[u8], root: &str, records_max: usize) -> Result<Vec<Record>, Refused> {
    let mut reader = Reader::from_reader(document);
    reader.config_mut().expand_empty_elements = true;
    let mut records: Vec<Record> = Vec::new();
    let mut depth = 0;
    let mut seen_root = false;
    loop {
        match reader.read_event().map_err(|_| malformed())? {
            Event::Start(start) => {
                let name = start.local_name();
                let name = std::str::from_utf8(name.as_ref()).map_err(|_| malformed())?;
                depth += 1;
                let room = records.len() < records_max;
                match (depth, records.last_mut()) {
                    (1, None) if !seen_root && name == root => seen_root = true,
                    (2, _) if room => {
                        records.push(Record { name: name.to_owned(), ..Record::default() });
                    }
                    (3, Some(record)) if record.fields.len() < FIELDS_MAX => {
                        record.fields.push((name.to_owned(), String::new()));
                    }
                    _ => return Err(malformed()),
                }
            }
            Event::End(_) => depth -= 1,
            Event::Text(text) => {
                append(&mut records, depth, &text.xml10_content().map_err(|_| malformed())?)?
            }
            Event::CData(text) => {
                append(&mut records, depth, &text.xml10_content().map_err(|_| malformed())?)?
            }
            Event::GeneralRef(reference) => {
                let mut buffer = [0; 4];
                let text: &str = match reference.resolve_char_ref().map_err(|_| malformed())? {
                    Some(c) => c.encode_utf8(&mut buffer),
                    None => {
                        let name = reference.decode().map_err(|_| malformed())?;
                        resolve_predefined_entity(&name).ok_or_else(malformed)?
                    }
                };
                append(&mut records, depth, text)?;
            }
            Event::Decl(_) | Event::Comment(_) | Event::PI(_) => {}
            Event::Eof if depth == 0 && seen_root => return Ok(records),
            Event::Eof | Event::DocType(_) | Event::Empty(_) => return Err(malformed()),
        }
    }
}

/// Adds text to the innermost open element. Between elements only white space may stand.
fn append(records: &mut [Record], depth: usize, text: &str) -> Result<(), Refused> {
    match (depth, records.last_mut()) {
        (2, Some(record)) if record.fields.is_empty() => record.text.push_str(text),
        (3, Some(record)) => match record.fields.last_mut() {
            Some((_, field)) => field.push_str(text),
            None => return Err(malformed()),
        },
        _ if text.chars().all(char::is_whitespace) => {}
        _ => return Err(malformed()),
    }
    Ok(())
}

/// What S3 answers to a document that is not of its schema.
pub(crate) fn malformed() -> Refused {
    Refused::new(
        "MalformedXML",
        400,
        "The XML you provided was not well-formed or did not validate against our published schema",
    )
}

/// A document on its way out.
pub(crate) struct XmlWriter {
    text: String,
    root: &'static str,
}

impl XmlWriter {
    /// Begins a document in S3's namespace.
    pub(crate) fn new(root: &'static str) -> XmlWriter {
        let mut text = String::with_capacity(512);
        // Writing to a String cannot fail.
        let _ = write!(text, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{root} xmlns=\"{NAMESPACE}\">");
        XmlWriter { text, root }
    }

    /// `<name>text</name>`
    pub(crate) fn element(&mut self, name: &str, text: &str) {
        element(&mut self.text, name, text);
    }

    /// As [`XmlWriter::element`], if there is a text.
    pub(crate) fn optional(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.element(name, text);
        }
    }

    /// `<name>` with what `inside` writes.
    pub(crate) fn group(&mut self, name: &str, inside: impl FnOnce(&mut XmlWriter)) {
        let _ = write!(self.text, "<{name}>");
        inside(self);
        let _ = write!(self.text, "</{name}>");
    }

    /// Text that is XML already.
    pub(crate) fn raw(&mut self, xml: &str) {
        self.text.push_str(xml);
    }

    /// The whole document.
    pub(crate) fn finish(mut self) -> String {
        let _ = write!(self.text, "</{}>", self.root);
        self.text
    }

    /// The whole document as a 200.
    pub(crate) fn into_response(self) -> S3Response<Body> {
        let mut response = S3Response::with_status(Body::from(self.finish()), StatusCode::OK);
        response.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
        response
    }
}

/// Appends `<name>text</name>`, escaped.
pub(crate) fn element(xml: &mut String, name: &str, text: &str) {
    let _ = write!(xml, "<{name}>");
    for c in text.chars() {
        match c {
            '&' => xml.push_str("&amp;"),
            '<' => xml.push_str("&lt;"),
            '>' => xml.push_str("&gt;"),
            '"' => xml.push_str("&quot;"),
            // A parser would read a bare one as a line feed.
            '\r' => xml.push_str("&#13;"),
            // XML 1.0 has no way to write these.
            c if c.is_control() && !matches!(c, '\t' | '\n') => xml.push('\u{FFFD}'),
            c => xml.push(c),
        }
    }
    let _ = write!(xml, "</{name}>");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(document: &str) -> Result<Vec<Record>, Refused> {
        read_records(document.as_bytes(), "Delete", 3)
    }

    #[test]
    fn records_with_fields_and_with_text() {
        let records = read(
            "<?xml version=\"1.0\"?>\n<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\n\
             <Quiet>true</Quiet> <!-- a comment -->\n\
             <Object>\n <Key> a&amp;&lt;b&#x20AC;&#13;</Key><VersionId/>\n</Object>\
             <s3:Object xmlns:s3=\"x\"><s3:Key><![CDATA[<k>]]></s3:Key></s3:Object></Delete>\n",
        )
        .expect("well formed");
        assert_eq!((records[0].name.as_str(), records[0].text.as_str()), ("Quiet", "true"));
        assert_eq!(records[1].field("Key"), Some(" a&<b\u{20AC}\r"));
        assert_eq!(records[1].field("VersionId"), Some(""));
        assert_eq!((records[2].name.as_str(), records[2].field("Key")), ("Object", Some("<k>")));
    }

    #[test]
    fn what_is_not_of_the_schema_is_malformed() {
        for document in [
            "",
            "Delete",
            "<Other/>",
            "<Delete>",
            "<Delete><Object></Delete>",
            "<Delete></Delete><Delete></Delete>",
            "<Delete>text</Delete>",
            "<Delete><Object>text<Key>k</Key>text</Object></Delete>",
            "<Delete><Object><Key><b/></Key></Object></Delete>",
            "<Delete><Object><Key>&unknown;</Key></Object></Delete>",
            "<Delete><Object><Key>&#xD800;</Key></Object></Delete>",
            "<Delete><a/><a/><a/><a/></Delete>",
            "<!DOCTYPE Delete [<!ENTITY a \"aaaa\">]><Delete><Object><Key>&a;</Key></Object></Delete>",
        ] {
            assert_eq!(read(document).expect_err(document).code(), "MalformedXML", "{document}");
        }
        let wide = format!("<Delete><Object>{}</Object></Delete>", "<a/>".repeat(FIELDS_MAX + 1));
        assert!(read(&wide).is_err());
    }

    #[test]
    fn any_bytes_are_read_or_refused() {
        let mut rng = fastrand::Rng::with_seed(7);
        let good = b"<Delete><Object><Key>a&amp;b</Key></Object><Quiet>true</Quiet></Delete>";
        for _ in 0..20_000 {
            let mut bytes = good.to_vec();
            for _ in 0..rng.usize(1..4) {
                let at = rng.usize(0..bytes.len());
                match rng.u8(0..3) {
                    0 => bytes[at] = rng.u8(..),
                    1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, b"<>/&;![]-\"?"[rng.usize(0..11)]),
                }
            }
            let _ = read_records(&bytes, "Delete", 3);
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let text = "a&<b>\"'\r\n\t\u{20AC}";
        let mut writer = XmlWriter::new("Delete");
        writer.group("Object", |w| w.element("Key", text));
        let records = read(&writer.finish()).expect("well formed");
        assert_eq!(records[0].field("Key"), Some(text));
        let mut xml = String::new();
        element(&mut xml, "Key", "a\u{1}b");
        assert_eq!(xml, "<Key>a\u{FFFD}b</Key>");
    }
}
