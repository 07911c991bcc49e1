//! Compares a tenant's rows in two tables while both may be written to.
//!
//! Both sides are read at the same time in the order of their positions and merged. What does not
//! match there is only suspected, because the two sides were not read at the same moment: it is
//! read again, the target before the source. The mirror writes to the source first, so a mirrored
//! row that the target shows is then certainly on the source, and what still differs is wrong.

mod count;
mod merge;
mod outcome;
mod recheck;
mod scan;
mod streams;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::sync::Mutex;
use uuid::Uuid;

use crate::error::{Error, On, Result, Side};
use crate::pass::source::IN_RECOVERY;
use crate::row::layout::require_columns;
use crate::server::claim;
use crate::server::connect::Connection;
use crate::server::identifier::TableAddress;
use crate::snapshot::Snapshot;
use crate::task::Task;

pub use outcome::{Seen, StreamResult, VerifyResult, Violation, ViolationKind};

/// Columns that name an event in a report.
const NAMING_COLUMNS: [&str; 5] = [
    "global_position",
    "event_id",
    "aggregate_id",
    "aggregate_type",
    "version",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Number of events and last version of every stream.
    Count,
    /// A digest of every row.
    Hash,
    /// Every field of every row.
    Full,
}

impl Level {
    pub fn parse(text: &str) -> Result<Level> {
        match text {
            "count" => Ok(Level::Count),
            "hash" => Ok(Level::Hash),
            "full" => Ok(Level::Full),
            _ => Err(Error::protocol("the level is count, hash or full")),
        }
    }
}

#[derive(Clone)]
pub struct VerifyConfig {
    /// Of a driver that compares for a migration: the sessions bear its mark, so that the next driver
    /// ends them.
    pub migration_id: Option<Uuid>,
    pub source: TableAddress,
    pub target: TableAddress,
    pub tenant_id: Uuid,
    pub columns: Vec<String>,
    /// Target position minus source position.
    pub offset: i64,
    pub level: Level,
    /// Source rows that it shows have to be on the target; `None`: those visible at the start.
    pub snapshot: Option<Snapshot>,
    /// Rows behind it are left out on both sides.
    pub last_source_position: Option<i64>,
    /// Source positions in `(after, upto]`; `None` is without end. Not for `Level::Count`.
    pub after: Option<i64>,
    pub upto: Option<i64>,
    /// What a comparison of the ranges before has seen, with the same salt.
    pub before: Seen,
    /// Makes the fingerprints of streams differ between comparisons.
    pub salt: u64,
    /// Share of the streams to compare, above 0 and at most 100.
    pub sample_percentage: f64,
    /// How many violations and how many streams the report names.
    pub max_violations: usize,
    /// Ranges of positions that are compared at the same time, each on two connections.
    pub parallelism: usize,
}

/// Rows read so far; those that are read again count once.
#[derive(Debug, Default)]
pub struct VerifyCounters {
    source: AtomicI64,
    target: AtomicI64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyProgress {
    pub source_rows: i64,
    pub target_rows: i64,
}

impl VerifyCounters {
    fn add(&self, side: Side, rows: usize) {
        let counter = match side {
            Side::Source => &self.source,
            Side::Target | Side::Control => &self.target,
        };
        counter.fetch_add(rows as i64, Ordering::Relaxed);
    }
}

/// A comparison that runs on its own until it is dropped.
pub struct Verification {
    task: Mutex<Option<Task<VerifyResult>>>,
    counters: Arc<VerifyCounters>,
}

impl Verification {
    /// Needs a runtime around it.
    pub fn start(config: VerifyConfig) -> Result<Verification> {
        config.validate()?;
        let counters = Arc::new(VerifyCounters::default());
        let task = Task::spawn(run(config, counters.clone()));
        Ok(Verification {
            task: Mutex::new(Some(task)),
            counters,
        })
    }

    /// Waits for the end; the result is handed out once.
    pub async fn result(&self) -> Result<VerifyResult> {
        let mut slot = self.task.lock().await;
        let task = slot
            .as_mut()
            .ok_or_else(|| Error::protocol("the result was handed out already"))?;
        let result = task.wait().await;
        *slot = None;
        result
    }

    pub fn progress(&self) -> VerifyProgress {
        VerifyProgress {
            source_rows: self.counters.source.load(Ordering::Relaxed),
            target_rows: self.counters.target.load(Ordering::Relaxed),
        }
    }
}

impl VerifyConfig {
    fn validate(&self) -> Result<()> {
        require_columns(&self.columns, &NAMING_COLUMNS)?;
        if !(self.sample_percentage > 0.0 && self.sample_percentage <= 100.0) {
            return Err(Error::protocol(
                "sample_percentage is above 0 and at most 100",
            ));
        }
        let ranged = self.after.is_some() || self.upto.is_some();
        if ranged && self.level == Level::Count {
            return Err(Error::protocol("level count has no ranges of positions"));
        }
        if self.parallelism == 0 {
            return Err(Error::protocol("parallelism is at least 1"));
        }
        Ok(())
    }

    async fn open(&self, side: Side) -> Result<Connection> {
        let dsn = match side {
            Side::Source | Side::Control => &self.source.dsn,
            Side::Target => &self.target.dsn,
        };
        let connection = Connection::open(side, dsn).await?;
        if let Some(migration_id) = self.migration_id {
            claim::mark(&connection, migration_id).await?;
        }
        Ok(connection)
    }
}

async fn run(mut config: VerifyConfig, counters: Arc<VerifyCounters>) -> Result<VerifyResult> {
    let source = config.open(Side::Source).await?;
    let recovery = source.prepare(IN_RECOVERY).await?;
    source.refuse_standby(&recovery).await?;
    if config.snapshot.is_none() {
        config.snapshot = Some(current_snapshot(&source).await?);
    }
    let config = Arc::new(config);
    let mut outcome = match config.level {
        Level::Count => count::compare(&config, &source, &counters).await?,
        Level::Hash | Level::Full => merge::compare(&config, &source, &counters).await?,
    };
    source.close().await;
    let inconsistent = streams::describe(&config, outcome.take_named_streams()).await?;
    Ok(outcome.into_result(inconsistent))
}

async fn current_snapshot(source: &Connection) -> Result<Snapshot> {
    let sql = "select pg_catalog.pg_current_snapshot()::text";
    let row = source.client().query_one(sql, &[]).await.on(Side::Source)?;
    Snapshot::parse(row.try_get(0).on(Side::Source)?)
}
