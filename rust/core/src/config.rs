//! What a pass is asked to do and what it reports.

use std::sync::Arc;

use uuid::Uuid;

use crate::error::{Error, Result};
use crate::row::digest::Digest;
use crate::row::form::Forms;
use crate::row::layout::{KEY_COLUMNS, require_columns};
use crate::server::identifier::TableAddress;
use crate::server::kept::KeptSessions;
use crate::snapshot::Snapshot;

/// The most bytes on their way from the source to the target; a single row may be wider.
pub const BYTES_IN_FLIGHT: usize = 32 * 1024 * 1024;

/// Committed ranges that may wait for their proof. Their rows are kept, so that a difference can be
/// named down to the field.
pub const RANGES_WAITING: usize = 1;

/// Everything that stays the same for all passes of one migration.
#[derive(Clone)]
pub struct PassConfig {
    pub migration_id: Uuid,
    pub tenant_id: Uuid,
    /// Token of the driver; every commit checks that it is still the owner's.
    pub owner: Uuid,
    pub source: TableAddress,
    /// Its schema also holds `eventsource_copy_progress`.
    pub target: TableAddress,
    pub control_dsn: String,
    pub control_schema: String,
    /// The carried columns, in order.
    pub columns: Vec<String>,
    pub forms: Forms,
    /// Target position minus source position.
    pub offset: i64,
    /// The last target position that this tenant may use.
    pub last_target_position: i64,
    pub chunk_rows: usize,
    pub chunk_bytes: usize,
    pub max_events_per_second: Option<f64>,
    /// Chunks of a direct pass that are written at the same time, each on a connection of its own.
    pub jobs: usize,
    /// The control table that names the owner.
    pub journal: String,
    /// Rows get the next positions of the target and are known by their event id; they are carried
    /// in the order of their source positions, by one session. For staged passes only.
    pub fresh_positions: bool,
    /// Whether each row gets a row in the mapping; the offset says the same where there is one.
    pub mapping_rows: bool,
    /// Nobody before this owner has had sessions of the migration: there are none to end.
    pub is_first: bool,
    /// Where sessions of this process are kept for a moment.
    pub kept: Option<Arc<KeptSessions>>,
}

/// One pass: the rows visible in `snapshot` and not in `previous_snapshot`.
#[derive(Clone, Debug)]
pub struct PassSpec {
    pub number: i32,
    /// `None`: the first pass, which also takes the rows older than every snapshot.
    pub previous_snapshot: Option<Snapshot>,
    /// `None`: everything committed, for the pass under the fence.
    pub snapshot: Option<Snapshot>,
    /// Whether rows may already be on the target, put there by the mirror or an earlier attempt.
    pub staged: bool,
}

/// The last row that is committed on the target. Passes over a difference of snapshots go by
/// transaction and position; the first goes by position alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    pub transaction_id: Option<u64>,
    pub position: i64,
}

/// What a pass has done, over all its runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub rows: i64,
    pub bytes: i64,
    pub inserted: i64,
    pub digest: Digest,
    pub cursor: Cursor,
    /// Of a first pass: everything up to this source position was read back and compared.
    pub proven: i64,
}

#[derive(Clone, Copy, Debug)]
pub struct PassResult {
    pub totals: Totals,
    /// False if a stop was asked for before the end.
    pub finished: bool,
    /// Of this run.
    pub seconds: f64,
}

impl PassConfig {
    pub fn validate(&self) -> Result<()> {
        if self.chunk_rows == 0 || self.chunk_bytes == 0 || self.jobs == 0 {
            return Err(Error::protocol(
                "chunk_rows, chunk_bytes and jobs must be positive",
            ));
        }
        if self.fresh_positions && self.offset != 0 {
            return Err(Error::protocol("fresh positions have no offset"));
        }
        if self.fresh_positions && !self.mapping_rows {
            return Err(Error::protocol("fresh positions need mapping_rows"));
        }
        crate::throttle::check(self.max_events_per_second)?;
        require_columns(&self.columns, &KEY_COLUMNS)?;
        if self.columns.iter().any(|column| column == "transaction_id") {
            return Err(Error::protocol(
                "the columns must not include transaction_id",
            ));
        }
        Ok(())
    }
}
