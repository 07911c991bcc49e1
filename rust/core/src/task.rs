//! A spawned task that ends when its owner drops it.

use std::future::Future;

use tokio::task::JoinHandle;

use crate::error::{Error, Result};

pub struct Task<T>(JoinHandle<Result<T>>);

impl<T: Send + 'static> Task<T> {
    pub fn spawn(work: impl Future<Output = Result<T>> + Send + 'static) -> Task<T> {
        Task(tokio::spawn(work))
    }

    pub async fn join(mut self) -> Result<T> {
        self.wait().await
    }

    /// As `join`, for a caller that may be dropped while it waits without ending the task.
    pub async fn wait(&mut self) -> Result<T> {
        match (&mut self.0).await {
            Ok(result) => result,
            Err(error) if error.is_cancelled() => Err(Error::Cancelled),
            Err(error) => Err(Error::protocol(format!("a task failed: {error}"))),
        }
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
