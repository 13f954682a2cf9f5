//! Gathers single proposals into batches: whatever arrives while one batch is on its way forms the next.
//!
//! Owns the gathering. Does not own what a batch does. Bounded: at most `most` items a batch, and as
//! many waiting; beyond that the submitter waits.

use std::future::Future;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::contract::LogError;

type Answer<R> = oneshot::Sender<Result<R, LogError>>;

/// One end of a batching task; the task ends when all clones of it are gone.
pub(crate) struct Batcher<T, R> {
    items: mpsc::Sender<(T, Answer<R>)>,
}

impl<T, R> Clone for Batcher<T, R> {
    fn clone(&self) -> Batcher<T, R> {
        Batcher { items: self.items.clone() }
    }
}

impl<T: Send + 'static, R: Send + 'static> Batcher<T, R> {
    /// Starts the task. `submit` answers one result for each item, in order.
    pub(crate) fn spawn<F>(
        most: usize,
        submit: impl Fn(Vec<T>) -> F + Send + 'static,
    ) -> (Batcher<T, R>, JoinHandle<()>)
    where
        F: Future<Output = Result<Vec<R>, LogError>> + Send,
    {
        let (items, mut waiting) = mpsc::channel(most);
        let task = tokio::spawn(async move {
            let mut gathered: Vec<(T, Answer<R>)> = Vec::with_capacity(most);
            while waiting.recv_many(&mut gathered, most).await > 0 {
                let (batch, answers): (Vec<T>, Vec<Answer<R>>) = gathered.drain(..).unzip();
                match submit(batch).await {
                    Ok(results) => {
                        for (answer, result) in answers.into_iter().zip(results) {
                            // A submitter that is gone needs no answer.
                            let _ = answer.send(Ok(result));
                        }
                    }
                    Err(error) => {
                        for answer in answers {
                            let _ = answer.send(Err(error.clone()));
                        }
                    }
                }
            }
        });
        (Batcher { items }, task)
    }

    /// Submits one item and waits for its result. Dropping the future does not take the item back.
    pub(crate) async fn submit(&self, item: T) -> Result<R, LogError> {
        let (answer, result) = oneshot::channel();
        if self.items.send((item, answer)).await.is_err() {
            return Err(LogError::NotLeader);
        }
        result.await.unwrap_or(Err(LogError::Unknown))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn what_arrives_during_one_batch_forms_the_next() {
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let gate = Arc::new(Semaphore::new(0));
        let (seen, open) = (sizes.clone(), gate.clone());
        let (batcher, _task) = Batcher::spawn(16, move |batch: Vec<u32>| {
            seen.lock().push(batch.len());
            let open = open.clone();
            async move {
                open.acquire().await.expect("open").forget();
                Ok(batch.into_iter().map(|n| n * 2).collect())
            }
        });
        let submit = |n: u32| {
            let batcher = batcher.clone();
            tokio::spawn(async move { batcher.submit(n).await })
        };
        let first = submit(1);
        while sizes.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        let rest: Vec<_> = (2..8).map(submit).collect();
        while batcher.items.capacity() > 16 - rest.len() {
            tokio::task::yield_now().await;
        }
        gate.add_permits(2);
        assert_eq!(first.await.unwrap(), Ok(2));
        for (n, result) in (2..8).zip(rest) {
            assert_eq!(result.await.unwrap(), Ok(n * 2));
        }
        assert_eq!(*sizes.lock(), [1, 6]);
    }

    #[tokio::test]
    async fn an_error_reaches_every_submitter_of_the_batch() {
        let (batcher, _task) =
            Batcher::<u32, u32>::spawn(4, |_| async { Err::<Vec<u32>, _>(LogError::Unknown) });
        assert_eq!(batcher.submit(1).await, Err(LogError::Unknown));
    }
}
