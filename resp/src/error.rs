//! What a command answers when it cannot do what was asked, and the one place where the core's errors and
//! refusals become RESP error lines.
//!
//! The first word is the code clients act on: `TRYAGAIN` and `OOM` are worth a retry, `NOPERM` and `ERR` are not.

use std::borrow::Cow;
use std::fmt;

use forebay_storage::error::Error;
use forebay_storage::mutation::Refusal;

/// An error reply: its code and text, without the `-` before and the line end behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CommandError(Cow<'static, [u8]>);

impl CommandError {
    pub(crate) const SYNTAX: CommandError = CommandError::new("ERR syntax error");
    pub(crate) const NOT_AN_INTEGER: CommandError =
        CommandError::new("ERR value is not an integer or out of range");
    pub(crate) const NOT_A_FLOAT: CommandError = CommandError::new("ERR value is not a valid float");
    pub(crate) const STRING_TOO_LONG: CommandError =
        CommandError::new("ERR string exceeds maximum allowed size (proto-max-bulk-len)");
    pub(crate) const DB_INDEX: CommandError = CommandError::new("ERR DB index is out of range");
    pub(crate) const NO_SUCH_KEY: CommandError = CommandError::new("ERR no such key");
    pub(crate) const NO_AUTH: CommandError = CommandError::new("NOAUTH Authentication required.");
    pub(crate) const WRONG_PASS: CommandError =
        CommandError::new("WRONGPASS invalid username-password pair or user is disabled.");
    pub(crate) const EXEC_ABORT: CommandError =
        CommandError::new("EXECABORT Transaction discarded because of previous errors.");
    pub(crate) const REPLY_TOO_LONG: CommandError =
        CommandError::new("ERR forebay: the reply would be too long, ask for less at a time");

    /// A fixed text.
    pub(crate) const fn new(text: &'static str) -> CommandError {
        CommandError(Cow::Borrowed(text.as_bytes()))
    }

    /// A text made for the occasion.
    pub(crate) fn text(text: impl Into<String>) -> CommandError {
        CommandError(Cow::Owned(text.into().into_bytes()))
    }

    /// A text that repeats bytes of the client's.
    pub(crate) fn bytes(text: Vec<u8>) -> CommandError {
        CommandError(Cow::Owned(text))
    }

    /// `ERR wrong number of arguments for 'config|get' command`
    pub(crate) fn wrong_arity(full_name: &str) -> CommandError {
        CommandError::text(format!("ERR wrong number of arguments for '{full_name}' command"))
    }

    /// `ERR invalid expire time in 'set' command`
    pub(crate) fn expire_time(full_name: &str) -> CommandError {
        CommandError::text(format!("ERR invalid expire time in '{full_name}' command"))
    }

    /// The error behind another code and words; its own code goes.
    pub(crate) fn behind(&self, words: &[u8]) -> CommandError {
        let own = self.0.strip_prefix(b"ERR ").unwrap_or(&self.0);
        CommandError::bytes([words, own].concat())
    }

    /// The whole line, code first.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl From<Error> for CommandError {
    fn from(error: Error) -> CommandError {
        let code = match &error {
            Error::Unavailable(_) | Error::Stopping => "TRYAGAIN",
            Error::Full(_) => "OOM",
            Error::Unknown(_)
            | Error::NotInOrigin(_)
            | Error::KeyTooLong(_)
            | Error::BeyondCapacity(..)
            | Error::BodyLength { .. }
            | Error::GroupTooLarge(..)
            | Error::Damaged(_)
            | Error::ChangedInOrigin(_)
            | Error::Disk(_)
            | Error::InvalidBucketName => "ERR",
        };
        // Some texts of the core name it already.
        let text = error.to_string();
        let text = text.strip_prefix("forebay: ").unwrap_or(&text);
        CommandError::text(format!("{code} forebay: {text}"))
    }
}

impl From<&Refusal> for CommandError {
    fn from(refusal: &Refusal) -> CommandError {
        match refusal {
            // Redis's own words, which clients compare.
            Refusal::NotAnInteger => CommandError::NOT_AN_INTEGER,
            Refusal::NotAFloat => CommandError::NOT_A_FLOAT,
            Refusal::Overflow => CommandError::new("ERR increment or decrement would overflow"),
            Refusal::NotFinite => CommandError::new("ERR increment would produce NaN or Infinity"),
            Refusal::NoSuchKey => CommandError::NO_SUCH_KEY,
            Refusal::TooFragmented => {
                CommandError::new("TRYAGAIN forebay: the value is being put together, try again")
            }
            Refusal::Mounted(_) => CommandError::text(format!(
                "ERR forebay: {refusal}, and a mount is emptied only if it says flushall = true"
            )),
            Refusal::Aborted | Refusal::NotHeld => CommandError::text(format!("TRYAGAIN forebay: {refusal}")),
            Refusal::TooLarge(_) => CommandError::STRING_TOO_LONG,
            Refusal::ReadOnly(_) => CommandError::text(format!("NOPERM forebay: {refusal}")),
            Refusal::NoSuchUpload
            | Refusal::Existing(_)
            | Refusal::InvalidPart(_)
            | Refusal::PartTooSmall(..)
            | Refusal::NoSuchBucket
            | Refusal::BucketNotEmpty
            | Refusal::PreconditionFailed
            | Refusal::MountBusy(_)
            | Refusal::OriginKeyTooLong(_)
            | Refusal::OriginMetaTooLarge(_)
            | Refusal::Malformed => CommandError::text(format!("ERR forebay: {refusal}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_errors_carry_the_code_that_clients_act_on() {
        for (error, line) in [
            (Error::Unavailable("no leader"), "TRYAGAIN forebay: not ready: no leader; try again"),
            (Error::Full("dirty 20 of 20 GiB".into()), "OOM forebay: dirty 20 of 20 GiB"),
            (Error::KeyTooLong(1025), "ERR forebay: key is 1025 bytes long, the limit is 1024"),
            (
                Error::Unknown("leadership lost"),
                "ERR forebay: outcome unknown: leadership lost; read before trying again",
            ),
        ] {
            assert_eq!(CommandError::from(error).to_string(), line);
        }
    }

    #[test]
    fn refusals_that_redis_knows_use_its_words() {
        assert_eq!(CommandError::from(&Refusal::NoSuchKey).to_string(), "ERR no such key");
        assert_eq!(
            CommandError::from(&Refusal::Overflow).to_string(),
            "ERR increment or decrement would overflow"
        );
    }
}
