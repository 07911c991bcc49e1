//! Reads one side of a comparison in the order of its positions.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::error::{Error, Result, Side};
use crate::pass::source;
use crate::row::digest::Digest;
use crate::row::form::Forms;
use crate::row::frame::Tuple;
use crate::row::layout::{Layout, fixed};
use crate::server::connect::Connection;
use crate::server::identifier::{TableAddress, column_list};
use crate::server::stream::TupleStream;
use crate::verify::config::{Level, VerifyConfig};
use crate::verify::counters::VerifyCounters;
use crate::verify::outcome::Fingerprints;

/// Rows of one short statement.
const STATEMENT_ROWS: usize = 20_000;
/// Bytes of fields that wait for the merge, and a row that is wider.
const WAITING_BYTES: usize = 4 * 1024 * 1024;
/// Rows and bytes that go to the merge at once.
const BATCH_ROWS: usize = 512;
const BATCH_BYTES: usize = 256 * 1024;

/// Which of a side's rows to compare, as SQL that both sides share but for the offset.
#[derive(Clone, Debug)]
pub struct Selection {
    pub side: Side,
    pub table: String,
    pub offset: i64,
    columns: String,
    tenant: String,
    last: Option<i64>,
    sample: Option<u32>,
    /// Whether the row has to be on the other side.
    due: String,
}

impl Selection {
    pub fn of(config: &VerifyConfig, side: Side) -> Selection {
        let (address, offset): (&TableAddress, i64) = match side {
            Side::Source | Side::Control => (&config.source, 0),
            Side::Target => (&config.target, config.offset),
        };
        let due = match (&config.snapshot, side) {
            (Some(snapshot), Side::Source) => format!(
                "(transaction_id is null \
                  or pg_catalog.pg_visible_in_snapshot(transaction_id, '{snapshot}'::pg_snapshot))"
            ),
            _ => "true".to_owned(),
        };
        Selection {
            side,
            table: address.sql(),
            offset,
            columns: column_list(&config.columns),
            tenant: config.tenant_id.to_string(),
            last: config.last_source_position,
            sample: sample_threshold(config.sample_percentage),
            due,
        }
    }

    /// The carried columns and whether the row is due.
    pub fn output(&self) -> String {
        format!("{}, {}", self.columns, self.due)
    }

    pub fn due(&self) -> &str {
        &self.due
    }

    /// The rows in question, all of them.
    pub fn condition(&self) -> String {
        format!("tenant_id = '{}'{}", self.tenant, self.narrowed())
    }

    /// The rows of all ranges, of which the first began after a source position.
    pub fn condition_of_all(&self, began_after: Option<i64>) -> String {
        let Some(after) = began_after else {
            return self.condition();
        };
        let (after, _) = self.rows_after(after);
        format!("{after}{}", self.narrowed())
    }

    /// The rows of a statement: after a position, in an order that an index has.
    fn rows_after(&self, after: i64) -> (String, &'static str) {
        let after = after.saturating_add(self.offset);
        match self.side {
            Side::Source | Side::Control => {
                (source::rows_after(&self.tenant, after), source::IN_ORDER)
            }
            // The tenant's positions are a block of its own there, also while indexes are missing.
            Side::Target => (
                format!(
                    "tenant_id = '{}' and global_position > {after}",
                    self.tenant
                ),
                "global_position",
            ),
        }
    }

    fn narrowed(&self) -> String {
        let mut text = String::new();
        if let Some(last) = self.last {
            let last = last.saturating_add(self.offset);
            text.push_str(&format!(" and global_position <= {last}"));
        }
        if let Some(threshold) = self.sample {
            // The end of a UUID is random in every version in use; streams stay whole.
            text.push_str(&format!(
                " and pg_catalog.get_byte(pg_catalog.uuid_send(aggregate_id), 14) * 256 \
                  + pg_catalog.get_byte(pg_catalog.uuid_send(aggregate_id), 15) < {threshold}"
            ));
        }
        text
    }

    fn statement(&self, range: Range) -> String {
        let upto = match range.upto {
            Some(upto) => format!(
                " and global_position <= {}",
                upto.saturating_add(self.offset)
            ),
            None => String::new(),
        };
        let (after, order) = self.rows_after(range.after);
        format!(
            "copy (select {output} from {table} where {after}{upto}{narrowed} \
                   order by {order} limit {STATEMENT_ROWS}) to stdout (format binary)",
            output = self.output(),
            table = self.table,
            narrowed = self.narrowed(),
        )
    }
}

/// Of 65,536 equally likely endings; `None` is all of them.
fn sample_threshold(percentage: f64) -> Option<u32> {
    if percentage >= 100.0 {
        return None;
    }
    Some(((percentage / 100.0 * 65_536.0).round() as u32).max(1))
}

/// Source positions in `(after, upto]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub after: i64,
    pub upto: Option<i64>,
}

/// A row as the merge needs it.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Source position.
    pub position: i64,
    pub stream: u64,
    pub due: bool,
    digest: Digest,
    /// Where its fields are in the batch, if they are kept.
    start: usize,
    end: usize,
}

#[derive(Debug, Default)]
pub struct Batch {
    pub rows: Vec<Entry>,
    bytes: Vec<u8>,
    /// Of its bytes, until it is dropped.
    room: Option<OwnedSemaphorePermit>,
}

impl Batch {
    pub fn same(&self, row: usize, other: &Batch, other_row: usize) -> bool {
        let (a, b) = (&self.rows[row], &other.rows[other_row]);
        a.digest == b.digest && self.bytes[a.start..a.end] == other.bytes[b.start..b.end]
    }
}

/// Finds the columns that name a stream, and turns tuples into entries.
#[derive(Clone)]
pub struct Scanner {
    selection: Selection,
    forms: Forms,
    layout: Layout,
    aggregate_id: usize,
    aggregate_type: usize,
    fingerprints: Fingerprints,
    keep_bytes: bool,
    counters: Arc<VerifyCounters>,
}

impl Scanner {
    pub fn new(
        config: &VerifyConfig,
        side: Side,
        fingerprints: Fingerprints,
        counters: Arc<VerifyCounters>,
    ) -> Result<Scanner> {
        let find = |name: &str| config.columns.iter().position(|column| column == name);
        let missing = || Error::protocol("the columns do not name a stream");
        Ok(Scanner {
            selection: Selection::of(config, side),
            forms: config.forms.clone(),
            layout: Layout::of(&config.columns)?,
            aggregate_id: find("aggregate_id").ok_or_else(missing)?,
            aggregate_type: find("aggregate_type").ok_or_else(missing)?,
            fingerprints,
            keep_bytes: config.level == Level::Full,
            counters,
        })
    }

    /// Sends every row of the range, or until the channel is closed.
    pub async fn run(
        self,
        connection: Connection,
        mut range: Range,
        batches: mpsc::Sender<Batch>,
    ) -> Result<()> {
        let side = self.selection.side;
        let room = Arc::new(Semaphore::new(WAITING_BYTES));
        let mut scratch = Vec::new();
        loop {
            let copy = self.selection.statement(range);
            let mut stream =
                TupleStream::start(side, connection.client(), &copy, &self.forms).await?;
            let mut rows = 0;
            let mut batch = Batch::default();
            while stream.fill().await? {
                while stream.advance()? {
                    let entry = self.entry(&stream.tuple(), &mut batch.bytes, &mut scratch)?;
                    range.after = entry.position;
                    batch.rows.push(entry);
                    rows += 1;
                    let full = batch.rows.len() >= BATCH_ROWS || batch.bytes.len() >= BATCH_BYTES;
                    if full && self.send(&mut batch, &room, &batches).await.is_err() {
                        return Ok(());
                    }
                }
            }
            if self.send(&mut batch, &room, &batches).await.is_err() {
                return Ok(());
            }
            if rows < STATEMENT_ROWS {
                connection.close().await;
                return Ok(());
            }
        }
    }

    async fn send(
        &self,
        batch: &mut Batch,
        room: &Arc<Semaphore>,
        batches: &mpsc::Sender<Batch>,
    ) -> Result<(), ()> {
        if batch.rows.is_empty() {
            return Ok(());
        }
        let bytes = batch.bytes.len().min(WAITING_BYTES) as u32;
        batch.room = room.clone().acquire_many_owned(bytes).await.ok();
        self.counters.add(self.selection.side, batch.rows.len());
        let next = Batch {
            rows: Vec::with_capacity(BATCH_ROWS),
            bytes: Vec::with_capacity(batch.bytes.len().min(2 * BATCH_BYTES)),
            room: None,
        };
        let full = std::mem::replace(batch, next);
        batches.send(full).await.map_err(drop)
    }

    fn entry(
        &self,
        tuple: &Tuple<'_>,
        bytes: &mut Vec<u8>,
        scratch: &mut Vec<u8>,
    ) -> Result<Entry> {
        let count = self.layout.count;
        if tuple.fields.len() != count + 1 {
            return Err(Error::protocol(
                "a server sent an unexpected number of columns",
            ));
        }
        let position = self.layout.position_of(tuple)? - self.selection.offset;
        let due = fixed(tuple, count).map(|[flag]: [u8; 1]| flag != 0)?;
        let stream = self.fingerprints.of(
            tuple.field(self.aggregate_id).unwrap_or_default(),
            tuple.field(self.aggregate_type).unwrap_or_default(),
        );
        let carried = self.layout.carried(tuple, position);
        let start = bytes.len();
        let digest = if self.keep_bytes {
            for part in carried.parts() {
                bytes.extend_from_slice(part);
            }
            Digest::ZERO
        } else {
            Digest::of_parts(&carried.parts(), scratch)
        };
        Ok(Entry {
            position,
            stream,
            due,
            digest,
            start,
            end: bytes.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::sample_threshold;

    #[test]
    fn a_sample_is_never_empty_and_the_whole_is_no_sample() {
        assert_eq!(sample_threshold(100.0), None);
        assert_eq!(sample_threshold(50.0), Some(32_768));
        assert_eq!(sample_threshold(0.000_01), Some(1));
    }
}
