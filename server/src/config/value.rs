//! How one option's value is read from text (flag, environment) and from TOML.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use super::units::{ByteSize, parse_duration};

/// A type that an option can have.
pub(crate) trait OptionValue: Sized {
    /// What a TOML value of another type is told, as in "write a string".
    const EXPECTED: &'static str = "a string";

    /// Reads the text of a flag, an environment variable or a TOML string. The error says what is wrong
    /// and what is right.
    fn from_text(text: &str) -> Result<Self, String>;

    /// Reads a TOML value; by default only strings.
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        match value.as_str() {
            Some(text) => Self::from_text(text),
            None => Err(wrong_type::<Self>(value)),
        }
    }
}

fn wrong_type<T: OptionValue>(value: &DeValue<'_>) -> String {
    format!("expected {}, found {}", T::EXPECTED, value.type_str())
}

impl OptionValue for String {
    fn from_text(text: &str) -> Result<String, String> {
        if text.is_empty() { Err("must not be empty".into()) } else { Ok(text.into()) }
    }
}

/// Domain names, lower case, without ports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DomainNames(pub(crate) Vec<String>);

impl OptionValue for DomainNames {
    const EXPECTED: &'static str = "a list such as [\"s3.localhost\"]";

    fn from_text(text: &str) -> Result<DomainNames, String> {
        let names = text.split(',').map(|name| name.trim().to_ascii_lowercase());
        names.map(domain_name).collect::<Result<_, _>>().map(DomainNames)
    }

    fn from_toml(value: &DeValue<'_>) -> Result<DomainNames, String> {
        let names = value.as_array().ok_or_else(|| wrong_type::<DomainNames>(value))?;
        let name = |name: &toml::Spanned<DeValue<'_>>| match name.get_ref().as_str() {
            Some(name) => domain_name(name.to_ascii_lowercase()),
            None => Err(wrong_type::<DomainNames>(name.get_ref())),
        };
        names.iter().map(name).collect::<Result<_, _>>().map(DomainNames)
    }
}

fn domain_name(name: String) -> Result<String, String> {
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    match name.len() <= 253 && name.split('.').all(label) {
        true => Ok(name),
        false => Err(format!("\"{name}\" is no domain name; write as in \"s3.localhost\", without a port")),
    }
}

impl OptionValue for PathBuf {
    fn from_text(text: &str) -> Result<PathBuf, String> {
        String::from_text(text).map(PathBuf::from)
    }
}

impl OptionValue for bool {
    const EXPECTED: &'static str = "true or false";

    fn from_text(text: &str) -> Result<bool, String> {
        text.parse().map_err(|_| format!("\"{text}\" is neither true nor false"))
    }

    fn from_toml(value: &DeValue<'_>) -> Result<bool, String> {
        value.as_bool().ok_or_else(|| wrong_type::<bool>(value))
    }
}

impl OptionValue for u32 {
    const EXPECTED: &'static str = "a whole number";

    fn from_text(text: &str) -> Result<u32, String> {
        text.parse().map_err(|_| format!("\"{text}\" is not a whole number from 0 to {}", u32::MAX))
    }

    fn from_toml(value: &DeValue<'_>) -> Result<u32, String> {
        let DeValue::Integer(integer) = value else { return Err(wrong_type::<u32>(value)) };
        u32::from_str_radix(integer.as_str(), integer.radix())
            .map_err(|_| format!("{integer} is not a whole number from 0 to {}", u32::MAX))
    }
}

impl OptionValue for ByteSize {
    const EXPECTED: &'static str = "a size such as \"10GiB\"";

    fn from_text(text: &str) -> Result<ByteSize, String> {
        ByteSize::parse(text)
    }

    fn from_toml(value: &DeValue<'_>) -> Result<ByteSize, String> {
        match value {
            DeValue::String(text) => ByteSize::parse(text),
            DeValue::Integer(integer) if integer.radix() == 10 => ByteSize::parse(integer.as_str()),
            _ => Err(wrong_type::<ByteSize>(value)),
        }
    }
}

impl OptionValue for Duration {
    const EXPECTED: &'static str = "a duration such as \"2s\"";

    fn from_text(text: &str) -> Result<Duration, String> {
        parse_duration(text)
    }
}

impl OptionValue for SocketAddr {
    const EXPECTED: &'static str = "an address such as \"127.0.0.1:6379\"";

    /// An IP address and a port. `localhost` is taken as 127.0.0.1; other names are not looked up, since
    /// what a name means may change and the rule of who may listen where depends on it.
    fn from_text(text: &str) -> Result<SocketAddr, String> {
        let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
        numeric.as_deref().unwrap_or(text).parse().map_err(|_| {
            format!(
                "\"{text}\" is not an address and port; write as in \"127.0.0.1:6379\", or \"[::1]:6379\" for IPv6"
            )
        })
    }
}
