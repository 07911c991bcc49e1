//! What a comparison compares, and where.

use std::sync::Arc;

use uuid::Uuid;

use crate::error::{Error, Result, Side};
use crate::row::form::Forms;
use crate::row::layout::require_columns;
use crate::server::claim;
use crate::server::connect::Connection;
use crate::server::identifier::TableAddress;
use crate::server::kept::KeptSessions;
use crate::snapshot::Snapshot;
use crate::verify::outcome::Seen;

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
            _ => Err(Error::protocol("the level must be count, hash or full")),
        }
    }
}

#[derive(Clone)]
pub struct VerifyConfig {
    /// Of a driver that compares for a migration: its sessions carry the migration's mark, so that
    /// the next driver ends them.
    pub migration_id: Option<Uuid>,
    pub source: TableAddress,
    pub target: TableAddress,
    pub tenant_id: Uuid,
    pub columns: Vec<String>,
    pub forms: Forms,
    /// Target position minus source position.
    pub offset: i64,
    pub level: Level,
    /// Source rows that it shows have to be on the target; `None`: those visible at the start.
    pub snapshot: Option<Snapshot>,
    /// Rows after it are left out on both sides.
    pub last_source_position: Option<i64>,
    /// Source positions in `(after, upto]`; `None` is without end. Not for `Level::Count`.
    pub after: Option<i64>,
    pub upto: Option<i64>,
    /// Where the first of the ranges began.
    pub began_after: Option<i64>,
    /// What a comparison of the ranges before has seen, with the same salt; it also says how many
    /// streams are counted by their names.
    pub before: Seen,
    /// Makes the fingerprints of streams differ between comparisons.
    pub salt: u64,
    /// Share of the streams to compare, above 0 and at most 100.
    pub sample_percentage: f64,
    /// How many violations and how many streams the report names.
    pub max_violations: usize,
    /// Ranges of positions that are compared at the same time, each on two connections.
    pub parallelism: usize,
    /// Where sessions of this process are kept for a moment.
    pub kept: Option<Arc<KeptSessions>>,
}

impl VerifyConfig {
    pub(super) fn validate(&self) -> Result<()> {
        require_columns(&self.columns, &NAMING_COLUMNS)?;
        if !(self.sample_percentage > 0.0 && self.sample_percentage <= 100.0) {
            return Err(Error::protocol(
                "sample_percentage must be above 0 and at most 100",
            ));
        }
        let ranged = self.after.is_some() || self.upto.is_some();
        if ranged && self.level == Level::Count {
            return Err(Error::protocol(
                "level count compares no ranges; leave after and upto unset",
            ));
        }
        if self.parallelism == 0 {
            return Err(Error::protocol("parallelism must be at least 1"));
        }
        Ok(())
    }

    /// A connection to one side, marked if it is for a migration; `also` are settings of its own.
    pub(super) async fn open(&self, side: Side, also: &str) -> Result<Connection> {
        let dsn = match side {
            Side::Source | Side::Control => &self.source.dsn,
            Side::Target => &self.target.dsn,
        };
        let mark = self.migration_id.map(|id| claim::mark(id, side));
        let settings = format!("{also}; {}", mark.unwrap_or_default());
        Connection::open(side, dsn, self.kept.as_ref(), &settings).await
    }
}
