//! What origins say of bytes that they are said to hold.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::runtime::Handle;

use super::pace::Pace;
use super::rows::Owner;
use crate::error::Error;
use crate::keyspace::view::View;
use crate::read::ReadView;
use crate::store::Shared;

/// Requests at once.
pub(super) const REQUESTS_MAX: usize = 8;

/// Pause between looks at the word to stop while an answer is waited for.
const CANCEL_LOOK: Duration = Duration::from_millis(50);

/// What the origin holds under an object's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// What the tables say: the same ETag and length.
    Held,
    /// Something else, or nothing.
    Other(String),
    /// Nobody knows: it gave no answer.
    Silent(String),
    /// The object is another one by now, or gone.
    Moot,
    /// The tables do not say that an origin holds it.
    Unknown,
}

/// Who asks. Blocks.
pub(super) trait Ask {
    /// For each of at most [`REQUESTS_MAX`] objects, as the version that was seen. Comes back early, without an answer,
    /// once the scrub is told to stop.
    fn ask(&self, shared: &Arc<Shared>, pace: &Pace, objects: &[Owner]) -> Vec<Answer>;
}

/// Asks the origins of the mounts.
pub(super) struct AskOrigins(pub(super) Handle);

impl Ask for AskOrigins {
    fn ask(&self, shared: &Arc<Shared>, pace: &Pace, objects: &[Owner]) -> Vec<Answer> {
        let canceled = async {
            while !pace.is_canceled() {
                tokio::time::sleep(CANCEL_LOOK).await;
            }
        };
        self.0.block_on(async {
            tokio::select! {
                answers = join_all(objects.iter().map(|object| ask_one(shared, object))) => answers,
                () = canceled => vec![Answer::Silent("the scrub was told to stop".to_owned()); objects.len()],
            }
        })
    }
}

/// Looks twice at what is not as it should be: the object may have been replaced, here and there, between two looks.
async fn ask_one(shared: &Arc<Shared>, object: &Owner) -> Answer {
    match look(shared, object).await {
        Answer::Other(_) => look(shared, object).await,
        answer => answer,
    }
}

async fn look(shared: &Arc<Shared>, object: &Owner) -> Answer {
    let view = ReadView::new(shared.clone(), View::latest(&shared.keyspace));
    let row = match view.fetch(object.bucket, &object.key).await {
        Ok(Some(row)) if row.version() == object.version => row,
        Ok(_) => return Answer::Moot,
        Err(error) => return Answer::Silent(error.to_string()),
    };
    let body = match shared.fills.locate(&view, &row).await {
        Ok(body) => body,
        Err(Error::Damaged(_)) => return Answer::Unknown,
        Err(error) => return Answer::Silent(error.to_string()),
    };
    // A request must not hold old versions of rows.
    drop((view, row));
    match body.differs().await {
        Ok(None) => Answer::Held,
        Ok(Some(what)) => Answer::Other(what),
        Err(error) => Answer::Silent(error.to_string()),
    }
}
