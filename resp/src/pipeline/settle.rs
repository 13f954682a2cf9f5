//! Replies that are not final when the log has answered: of writes that must reach their origin first, and of commands
//! that are tried again.
//!
//! Owns the second half of a batch's end. When it begins, every read of the batch is answered and no view is held, so
//! that it may take as long as an origin does. What must hold: replies stay in their order; each write to a
//! write-through mount has an answer of its own (PITFALLS 29), and waits for no other's origin longer than its own
//! time. A transaction has one answer: an error if any of its writes is not there.

use std::ops::Range;

use forebay_storage::Arrival;
use forebay_storage::mutation::Refusal;

use super::step::Step;
use super::{Pipeline, reply_error};
use crate::parse::Parser;

/// A step whose reply is not final.
pub(super) struct Unsettled {
    /// Where its reply lies in `out`, as far as there is one.
    pub(super) reply: Range<usize>,
    pub(super) step: Step,
    pub(super) wait: Wait,
}

/// What decides on a reply.
pub(super) enum Wait {
    /// It holds if what led to these outcomes is in its origin.
    Arrival(Range<usize>),
    /// The command was refused for a cause that may be removed.
    Again(Refusal),
}

impl Pipeline {
    /// Makes the replies of these steps final; what stands between and behind them stays as it is. Commands are tried
    /// again first, so that none comes later because of another's origin.
    pub(super) async fn settle(&mut self, unsettled: Vec<Unsettled>, mut arrival: Arrival, parser: &Parser) {
        if unsettled.is_empty() {
            return;
        }
        let mut pieces = Vec::with_capacity(unsettled.len());
        for Unsettled { reply, step, wait } in unsettled.into_iter().rev() {
            let behind = self.out.split_off(reply.end);
            let own = self.out.split_off(reply.start);
            pieces.push((own, step, wait, behind));
        }
        pieces.reverse();
        let before = self.out.len();
        for (own, step, wait, _) in &mut pieces {
            if let Wait::Again(refusal) = wait {
                self.run_alone(step, parser.args(step.args.clone()), Some(refusal.clone())).await;
                *own = self.out.split_off(before);
            }
        }
        for (own, step, wait, behind) in pieces {
            let from = self.out.len();
            match wait {
                Wait::Again(_) => self.out.append(own),
                Wait::Arrival(outcomes) => match arrival.of(outcomes).await {
                    Ok(()) => self.out.append(own),
                    Err(error) => reply_error(&mut self.out, &mut self.tally, from, &error.into()),
                },
            }
            if step.silent {
                self.out.truncate(from);
            }
            self.out.append(behind);
        }
    }
}
