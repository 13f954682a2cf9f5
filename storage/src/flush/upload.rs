//! One attempt.

use super::contract::OriginRow;
use crate::origin::{Capabilities, Condition, OriginETag};

/// The strictest condition that the origin honours for what it should hold now.
pub(crate) fn condition_for(known: Option<&OriginRow>, capabilities: Capabilities) -> Condition {
    match known {
        None if capabilities.if_none_match => Condition::IfAbsent,
        Some(row) if capabilities.if_match => Condition::IfMatch(OriginETag(row.etag.clone())),
        _ => Condition::None,
    }
}
