//! The mark that every object of ours carries in the origin, and what a HEAD says by it.
//!
//! `x-amz-meta-forebay-version: <cluster id, 32 hex>-<version, 16 hex>`. Whatever carries no such mark,
//! or another cluster's, is foreign: somebody else's data, never overwritten or deleted by us after an
//! unknown outcome (PITFALLS 23).

use std::fmt;

use super::contract::{FlushKind, OriginRow};
use crate::object::{ClusterId, Version};
use crate::origin::HeadReply;

/// Name of the mark, without `x-amz-meta-`.
pub const VERSION_META: &str = "forebay-version";
/// Name of the metadata that carries the ETag clients know, without `x-amz-meta-`.
pub const ETAG_META: &str = "forebay-etag";

/// The mark's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OriginTag {
    /// Whose object it is.
    pub cluster: ClusterId,
    /// Which version of it.
    pub version: Version,
}

impl OriginTag {
    /// Parses a mark; `None` for anything that we never wrote.
    pub fn parse(text: &str) -> Option<OriginTag> {
        let (cluster_hex, version_hex) = text.split_once('-')?;
        let (mut cluster, mut version) = ([0; 16], [0; 8]);
        hex::decode_to_slice(cluster_hex, &mut cluster).ok()?;
        hex::decode_to_slice(version_hex, &mut version).ok()?;
        Some(OriginTag { cluster: ClusterId(cluster), version: Version(u64::from_be_bytes(version)) })
    }
}

impl fmt::Display for OriginTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", hex::encode(self.cluster.0), self.version.0)
    }
}

/// What the origin holds under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// Nothing.
    Nothing,
    /// An object of this cluster.
    Ours {
        /// Its version.
        version: Version,
        /// Its ETag in the origin.
        etag: String,
    },
    /// An object of somebody else.
    Foreign {
        /// Its ETag in the origin.
        etag: String,
    },
}

impl Held {
    /// Reads a HEAD.
    pub fn of(head: Option<&HeadReply>, cluster: ClusterId) -> Held {
        let Some(head) = head else { return Held::Nothing };
        let etag = head.etag.0.clone();
        match head.user(VERSION_META).and_then(OriginTag::parse) {
            Some(tag) if tag.cluster == cluster => Held::Ours { version: tag.version, etag },
            _ => Held::Foreign { etag },
        }
    }
}

/// What follows from a HEAD of a key whose requests are all provably dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The row's own version is there.
    Landed {
        /// Its ETag in the origin.
        etag: String,
    },
    /// The attempt may be made. `record` corrects the origin row first: version, and ETag or nothing.
    GoOn {
        /// What the origin row must say from now on, if it says something else.
        record: Option<(Version, Option<String>)>,
    },
    /// Somebody else's data, or ours from a future that this log does not know: park, keep both.
    Conflict {
        /// For people.
        reason: String,
    },
}

/// Judges a HEAD for the oldest flush row of a key.
///
/// A delete never counts as landed by absence: it is cheaper to repeat it than to trust a 404 that a
/// missing bucket gives as well.
pub fn judge(
    held: &Held,
    row_version: Version,
    row_kind: FlushKind,
    origin_row: Option<&OriginRow>,
) -> Verdict {
    match held {
        Held::Nothing => Verdict::GoOn { record: origin_row.map(|known| (known.version, None)) },
        Held::Ours { version, etag } if *version == row_version && row_kind == FlushKind::Put => {
            Verdict::Landed { etag: etag.clone() }
        }
        Held::Ours { version, .. } if *version >= row_version => Verdict::Conflict {
            reason: format!(
                "the origin holds version {version} of this cluster, the queue only {row_version}"
            ),
        },
        Held::Ours { version, etag } => {
            // What was found there may carry an older mark of ours than the version that it got here.
            let known = origin_row.is_some_and(|row| row.version >= *version && row.etag == *etag);
            Verdict::GoOn { record: (!known).then(|| (*version, Some(etag.clone()))) }
        }
        // What was found there is still as it was found.
        Held::Foreign { etag } if origin_row.is_some_and(|row| row.etag == *etag) => {
            Verdict::GoOn { record: None }
        }
        Held::Foreign { etag } => Verdict::Conflict {
            reason: format!("the origin holds an object that this cluster did not write (ETag {etag})"),
        },
    }
}

/// Judges a HEAD for a row that wins over whatever nobody here knows of: only a newer version of ours is in its way.
pub fn judge_blind(held: &Held, row_version: Version, row_kind: FlushKind) -> Verdict {
    match held {
        Held::Ours { version, .. } if *version >= row_version => judge(held, row_version, row_kind, None),
        Held::Nothing | Held::Ours { .. } | Held::Foreign { .. } => Verdict::GoOn { record: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId([7; 16]);

    fn ours(version: u64) -> Held {
        Held::Ours { version: Version(version), etag: "e".to_owned() }
    }

    fn known(version: u64) -> OriginRow {
        OriginRow { version: Version(version), etag: "e".to_owned() }
    }

    #[test]
    fn tags_round_trip_and_strangers_do_not_parse() {
        let tag = OriginTag { cluster: CLUSTER, version: Version(0x1234) };
        assert_eq!(tag.to_string(), format!("{}-0000000000001234", "07".repeat(16)));
        assert_eq!(OriginTag::parse(&tag.to_string()), Some(tag));
        let short = "07".repeat(16) + "-1234";
        for text in ["", "-", "x", short.as_str(), "07-0000000000001234"] {
            assert_eq!(OriginTag::parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_held_is_read_from_the_mark() {
        let head = |mark: Option<String>| HeadReply {
            etag: crate::origin::OriginETag("e".to_owned()),
            content_length: 0,
            modified_ms: 0,
            headers: Default::default(),
            user_metadata: mark.map(|mark| (VERSION_META.to_owned(), mark)).into_iter().collect(),
        };
        let tag = |cluster| OriginTag { cluster, version: Version(5) }.to_string();
        assert_eq!(Held::of(None, CLUSTER), Held::Nothing);
        assert_eq!(Held::of(Some(&head(Some(tag(CLUSTER)))), CLUSTER), ours(5));
        let foreign = Held::Foreign { etag: "e".to_owned() };
        assert_eq!(Held::of(Some(&head(Some(tag(ClusterId([8; 16]))))), CLUSTER), foreign);
        assert_eq!(Held::of(Some(&head(None)), CLUSTER), foreign);
    }

    #[test]
    fn the_own_version_has_landed() {
        let verdict = judge(&ours(9), Version(9), FlushKind::Put, Some(&known(4)));
        assert_eq!(verdict, Verdict::Landed { etag: "e".to_owned() });
    }

    #[test]
    fn an_older_version_is_recorded_if_it_is_news() {
        let go_on = |record| Verdict::GoOn { record };
        let news = Some((Version(4), Some("e".to_owned())));
        assert_eq!(judge(&ours(4), Version(9), FlushKind::Put, None), go_on(news.clone()));
        assert_eq!(judge(&ours(4), Version(9), FlushKind::Delete, Some(&known(2))), go_on(news));
        assert_eq!(judge(&ours(4), Version(9), FlushKind::Put, Some(&known(4))), go_on(None));
    }

    #[test]
    fn absence_lets_the_attempt_go_on_and_corrects_the_origin_row() {
        let gone = Verdict::GoOn { record: Some((Version(4), None)) };
        assert_eq!(judge(&Held::Nothing, Version(9), FlushKind::Put, Some(&known(4))), gone);
        let plain = Verdict::GoOn { record: None };
        assert_eq!(judge(&Held::Nothing, Version(9), FlushKind::Put, None), plain);
    }

    #[test]
    fn what_was_adopted_is_no_conflict_until_it_changes() {
        let foreign = |etag: &str| Held::Foreign { etag: etag.to_owned() };
        let go_on = Verdict::GoOn { record: None };
        for kind in [FlushKind::Put, FlushKind::Delete] {
            assert_eq!(judge(&foreign("e"), Version(9), kind, Some(&known(4))), go_on);
            // With a mark of ours, from a mount that was forgotten.
            assert_eq!(judge(&ours(2), Version(9), kind, Some(&known(4))), go_on);
            let changed = judge(&foreign("x"), Version(9), kind, Some(&known(4)));
            assert!(matches!(changed, Verdict::Conflict { .. }), "{changed:?}");
        }
    }

    #[test]
    fn a_blind_row_wins_over_all_but_a_newer_version_of_ours() {
        let go_on = Verdict::GoOn { record: None };
        let foreign = Held::Foreign { etag: "x".to_owned() };
        for kind in [FlushKind::Put, FlushKind::Delete] {
            for held in [&foreign, &ours(4), &Held::Nothing] {
                assert_eq!(judge_blind(held, Version(9), kind), go_on);
            }
            let newer = judge_blind(&ours(10), Version(9), kind);
            assert!(matches!(newer, Verdict::Conflict { .. }), "{newer:?}");
        }
        let landed = Verdict::Landed { etag: "e".to_owned() };
        assert_eq!(judge_blind(&ours(9), Version(9), FlushKind::Put), landed);
    }

    #[test]
    fn foreign_objects_and_newer_versions_are_conflicts() {
        let foreign = Held::Foreign { etag: "x".to_owned() };
        for (held, kind) in [
            (&foreign, FlushKind::Put),
            (&foreign, FlushKind::Delete),
            (&ours(10), FlushKind::Put),
            (&ours(9), FlushKind::Delete),
        ] {
            let verdict = judge(held, Version(9), kind, None);
            assert!(matches!(verdict, Verdict::Conflict { .. }), "{held:?} {kind:?}");
        }
    }
}
