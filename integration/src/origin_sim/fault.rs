//! The fault plan: which call fails, and how. Pure: it decides, `http` acts.

use std::time::Duration;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// PutObject.
    Put,
    /// GetObject.
    Get,
    /// HeadObject.
    Head,
    /// DeleteObject.
    Delete,
    /// DeleteObjects.
    DeleteMany,
    /// ListObjectsV2.
    List,
    /// CreateMultipartUpload.
    BeginUpload,
    /// UploadPart.
    Part,
    /// CompleteMultipartUpload.
    Complete,
    /// AbortMultipartUpload.
    AbortUpload,
    /// ListMultipartUploads.
    ListUploads,
    /// Everything on buckets.
    Bucket,
}

impl Op {
    /// Whether it may change objects.
    pub fn mutates(self) -> bool {
        matches!(self, Self::Put | Self::Delete | Self::DeleteMany | Self::Complete)
    }
}

/// How a call fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Answers this status with this S3 error code; nothing is applied.
    Answer(u16, &'static str),
    /// Reads the request, applies nothing, never answers.
    HangBefore,
    /// Applies the request, never answers: the outcome is unknown to the sender.
    HangAfter,
    /// Closes the connection after the head, with the body unread.
    ResetBefore,
    /// Closes the connection after the first bytes of the request's body.
    ResetMidBody,
    /// Applies the request and closes the connection without an answer.
    ResetAfter,
    /// Never answers, and applies the request after the delay even if its sender is long gone.
    ApplyLate(Duration),
    /// Finds a PUT, a DELETE or a completion authentic, never answers, and applies it after the delay: as one that has
    /// passed the origin's door when its signature expires.
    TakeLate(Duration),
    /// Accepts a completion, works on it for so long without an answer, and only then makes the object, if the upload is
    /// still there.
    Assemble(Duration),
    /// Answers only after the delay.
    Slow(Duration),
    /// Treats conditional headers as if they were not there, and says 200.
    IgnoreConditions,
    /// Refuses requests that carry a checksum, as some services do (501).
    RefuseChecksums,
    /// The same with checksums other than CRC32C.
    RefuseOtherChecksums,
    /// Says 200 to a PUT or DELETE without applying it.
    LieApplied,
    /// Flips a byte of the body that a GET returns.
    CorruptBody,
    /// Ends the body that a GET returns half-way.
    TruncateBody,
    /// Somebody else overwrites the key just before the request is handled.
    ForeignWriteBefore,
}

/// Which keys a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keys {
    /// All, calls without a key too.
    Any,
    /// One key.
    Exactly(String),
    /// Keys that contain the text.
    Containing(String),
}

impl Keys {
    fn match_key(&self, key: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exactly(wanted) => key == wanted,
            Self::Containing(part) => key.contains(part.as_str()),
        }
    }
}

/// Which of the matching calls a rule strikes; counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    /// All.
    Every,
    /// The first n.
    First(u64),
    /// The n-th alone.
    Nth(u64),
    /// Every n-th.
    EachNth(u64),
    /// A share in thousandths, drawn from the seed.
    Share(u32, u64),
}

/// One line of the plan.
#[derive(Debug, Clone)]
pub struct Rule {
    ops: Vec<Op>,
    keys: Keys,
    calls: Calls,
    fault: Fault,
}

impl Rule {
    /// Strikes every call of these operations (none given: of all operations).
    pub fn new(ops: &[Op], fault: Fault) -> Self {
        Self { ops: ops.to_vec(), keys: Keys::Any, calls: Calls::Every, fault }
    }

    /// Only these keys.
    pub fn on(mut self, keys: Keys) -> Self {
        self.keys = keys;
        self
    }

    /// Only these of the matching calls.
    pub fn calls(mut self, calls: Calls) -> Self {
        self.calls = calls;
        self
    }
}

/// Names a rule for removal and counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleId(u64);

#[derive(Debug)]
struct Active {
    id: RuleId,
    rule: Rule,
    seen: u64,
    struck: u64,
    random: fastrand::Rng,
}

impl Active {
    fn strike(&mut self, op: Op, key: &str) -> Option<Fault> {
        let wanted = self.rule.ops.is_empty() || self.rule.ops.contains(&op);
        if !wanted || !self.rule.keys.match_key(key) {
            return None;
        }
        self.seen += 1;
        let hit = match self.rule.calls {
            Calls::Every => true,
            Calls::First(n) => self.seen <= n,
            Calls::Nth(n) => self.seen == n,
            Calls::EachNth(n) => self.seen.is_multiple_of(n.max(1)),
            Calls::Share(thousandths, _) => self.random.u32(0..1000) < thousandths,
        };
        hit.then(|| {
            self.struck += 1;
            self.rule.fault.clone()
        })
    }
}

/// All rules in force.
#[derive(Debug, Default)]
pub struct FaultPlan {
    /// Nothing can be reached at all.
    pub outage: bool,
    active: Vec<Active>,
    next_id: u64,
}

impl FaultPlan {
    /// Adds a rule; it is asked before older ones.
    pub fn add(&mut self, rule: Rule) -> RuleId {
        self.next_id += 1;
        let id = RuleId(self.next_id);
        let seed = if let Calls::Share(_, seed) = rule.calls { seed } else { 0 };
        self.active.push(Active { id, rule, seen: 0, struck: 0, random: fastrand::Rng::with_seed(seed) });
        id
    }

    /// Removes a rule.
    pub fn remove(&mut self, id: RuleId) {
        self.active.retain(|active| active.id != id);
    }

    /// Removes all rules.
    pub fn clear(&mut self) {
        self.active.clear();
    }

    /// How often a rule struck; zero for one that was removed.
    pub fn strikes(&self, id: RuleId) -> u64 {
        self.active.iter().find(|active| active.id == id).map_or(0, |active| active.struck)
    }

    /// The fault for this call: the newest rule that strikes decides. Older ones do not count such a call.
    pub fn decide(&mut self, op: Op, key: &str) -> Option<Fault> {
        let mut decided = None;
        for active in self.active.iter_mut().rev() {
            if decided.is_none() {
                decided = active.strike(op, key);
            }
        }
        decided
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn five_calls(calls: Calls) -> Vec<bool> {
        let mut plan = FaultPlan::default();
        plan.add(Rule::new(&[Op::Put], Fault::HangBefore).calls(calls));
        (0..5).map(|_| plan.decide(Op::Put, "k").is_some()).collect()
    }

    #[test]
    fn calls_are_counted_from_one() {
        assert_eq!(five_calls(Calls::First(2)), [true, true, false, false, false]);
        assert_eq!(five_calls(Calls::Nth(3)), [false, false, true, false, false]);
        assert_eq!(five_calls(Calls::EachNth(2)), [false, true, false, true, false]);
    }

    #[test]
    fn a_share_repeats_with_its_seed() {
        assert_eq!(five_calls(Calls::Share(500, 7)), five_calls(Calls::Share(500, 7)));
    }

    #[test]
    fn other_operations_and_keys_pass() {
        let mut plan = FaultPlan::default();
        plan.add(Rule::new(&[Op::Put], Fault::HangBefore).on(Keys::Containing("bad".into())));
        assert_eq!(plan.decide(Op::Get, "bad"), None);
        assert_eq!(plan.decide(Op::Put, "good"), None);
        assert_eq!(plan.decide(Op::Put, "very-bad"), Some(Fault::HangBefore));
    }
}
