//! A comparison as one task, from the first connection to its result.

use std::sync::Arc;

use tokio::sync::Mutex;

use crate::error::{Error, On, Result, Side};
use crate::pass::source::IN_RECOVERY;
use crate::server::connect::Connection;
use crate::snapshot::Snapshot;
use crate::task::Task;
use crate::verify::config::{Level, VerifyConfig};
use crate::verify::counters::{VerifyCounters, VerifyProgress};
use crate::verify::counting::Counting;
use crate::verify::outcome::VerifyResult;
use crate::verify::{count, merge, streams};

/// A comparison that runs on its own until it is dropped.
pub struct Verification {
    task: Mutex<Option<Task<VerifyResult>>>,
    counters: Arc<VerifyCounters>,
}

impl Verification {
    /// Has to be called within a tokio runtime.
    pub fn start(config: VerifyConfig) -> Result<Verification> {
        config.validate()?;
        let counters = Arc::new(VerifyCounters::default());
        let task = Task::spawn(run(config, counters.clone()));
        Ok(Verification {
            task: Mutex::new(Some(task)),
            counters,
        })
    }

    /// Waits for the end. Returns the result once; a second call fails.
    pub async fn result(&self) -> Result<VerifyResult> {
        let mut slot = self.task.lock().await;
        let task = slot.as_mut().ok_or_else(|| {
            Error::protocol("the result was already returned; keep it from the first call")
        })?;
        let result = task.wait().await;
        *slot = None;
        result
    }

    pub fn progress(&self) -> VerifyProgress {
        self.counters.read()
    }
}

async fn run(mut config: VerifyConfig, counters: Arc<VerifyCounters>) -> Result<VerifyResult> {
    let source = config.open(Side::Source, "").await?;
    let recovery = source.prepare(IN_RECOVERY).await?;
    source.refuse_standby(&recovery).await?;
    if config.snapshot.is_none() {
        config.snapshot = Some(current_snapshot(&source).await?);
    }
    let config = Arc::new(config);
    let counting = Counting::new(config.clone());
    let mut outcome = match config.level {
        Level::Count => count::compare(&config, &source, &counters).await?,
        Level::Hash | Level::Full => merge::compare(&config, &source, &counters, &counting).await?,
    };
    source.close().await;
    let inconsistent = streams::describe(&config, outcome.take_named_streams()).await?;
    Ok(outcome.into_result(counting.finish().await, inconsistent))
}

async fn current_snapshot(source: &Connection) -> Result<Snapshot> {
    let sql = "select pg_catalog.pg_current_snapshot()::text";
    let row = source.client().query_one(sql, &[]).await.on(Side::Source)?;
    Snapshot::parse(row.try_get(0).on(Side::Source)?)
}
