//! The progress row of the target, and the counters that Python polls.

use std::sync::atomic::{AtomicI64, Ordering};

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};
use uuid::Uuid;

use crate::config::{Cursor, PassConfig, PassSpec, Totals};
use crate::error::{Error, On, Result, Side};
use crate::pass::chunk::Chunk;
use crate::row::digest::Digest;
use crate::server::identifier::qualified;
use crate::snapshot::Snapshot;

/// What has been committed in this pass, readable from any thread at any time.
#[derive(Debug, Default)]
pub struct Counters {
    rows: AtomicI64,
    bytes: AtomicI64,
    chunks: AtomicI64,
    last_position: AtomicI64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub rows: i64,
    pub bytes: i64,
    /// Of the current run.
    pub chunks: i64,
    pub last_position: i64,
}

impl Counters {
    pub fn begin(&self, totals: &Totals) {
        self.chunks.store(0, Ordering::Relaxed);
        self.set(totals);
    }

    pub fn committed(&self, totals: &Totals) {
        self.chunks.fetch_add(1, Ordering::Relaxed);
        self.set(totals);
    }

    pub fn read(&self) -> Progress {
        Progress {
            rows: self.rows.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            chunks: self.chunks.load(Ordering::Relaxed),
            last_position: self.last_position.load(Ordering::Relaxed),
        }
    }

    fn set(&self, totals: &Totals) {
        self.rows.store(totals.rows, Ordering::Relaxed);
        self.bytes.store(totals.bytes, Ordering::Relaxed);
        self.last_position
            .store(totals.cursor.position, Ordering::Relaxed);
    }
}

/// Rows of the tenant with source positions in `(after, upto]`, committed in one transaction.
pub struct Range {
    pub after: i64,
    pub upto: i64,
    pub rows: i64,
    pub digest: Digest,
    /// What was written; gone if an earlier driver wrote it.
    pub chunk: Option<Chunk>,
}

impl Range {
    /// The range of a chunk that was committed, after position `after`.
    pub fn written(after: i64, chunk: Chunk) -> Range {
        Range {
            after,
            upto: chunk.last.position,
            rows: chunk.rows() as i64,
            digest: chunk.digest,
            chunk: Some(chunk),
        }
    }
}

/// Reads the row, and moves it on under two conditions: the owner is still this driver, and the
/// cursor is where this driver left it.
#[derive(Clone)]
pub struct ProgressRow {
    table: String,
    ranges: String,
    migration_id: Uuid,
    owner: Uuid,
}

const ADVANCE: &str = "\
    set last_transaction_id = $5::text::xid8, last_position = $6, \
        pass_rows = pass_rows + $7::bigint, pass_bytes = pass_bytes + $8, pass_digest = $9, \
        updated_at = clock_timestamp(), ";
const CONDITION: &str = "\
    where migration_id = $1 and owner = $2 and pass_number = $3 \
      and last_transaction_id is not distinct from $4::text::xid8 and last_position = $10";

impl ProgressRow {
    pub fn of(config: &PassConfig) -> ProgressRow {
        ProgressRow {
            table: qualified(&config.target.schema, "eventsource_copy_progress"),
            ranges: qualified(&config.target.schema, "eventsource_copied_ranges"),
            migration_id: config.migration_id,
            owner: config.owner,
        }
    }

    pub fn select(&self) -> String {
        format!(
            "select owner, pass_number, last_transaction_id::text, last_position, pass_rows, \
                    pass_bytes, pass_inserted, pass_digest, previous_snapshot, snapshot, \
                    proven_position from {} where migration_id = $1",
            self.table
        )
    }

    /// Records a chunk whose rows were all inserted, as a range that is to be proven, and how far
    /// the proof of earlier ones has come.
    pub fn advance(&self) -> String {
        format!(
            "with moved as (\
                 update {} {ADVANCE} pass_inserted = pass_inserted + $7::bigint, \
                     rows_copied = rows_copied + $7::bigint, proven_position = $11 {CONDITION} \
                 returning 1) \
             insert into {} (migration_id, upto_position, rows, digest) \
             select $1, $6, $7::bigint, $12 from moved returning rows",
            self.table, self.ranges
        )
    }

    /// Records a chunk whose rows were all inserted and are proven.
    pub fn advance_by_all(&self) -> String {
        format!(
            "update {} {ADVANCE} pass_inserted = pass_inserted + $7::bigint, \
                 rows_copied = rows_copied + $7::bigint {CONDITION} returning $7::bigint",
            self.table
        )
    }

    /// Runs `insert` and records the chunk with the number of rows it inserted.
    pub fn advance_with(&self, insert: &str) -> String {
        format!(
            "with written as ({insert} returning 1), \
                  counted as (select count(*) as inserted from written) \
             update {} {ADVANCE} pass_inserted = pass_inserted + counted.inserted, \
                 rows_copied = rows_copied + counted.inserted \
             from counted {CONDITION} returning counted.inserted",
            self.table
        )
    }

    /// Whether there is a row and this driver is recorded in it.
    pub async fn is_ours(&self, client: &Client, select: &Statement) -> Result<bool> {
        let row = client
            .query_opt(select, &[&self.migration_id])
            .await
            .on(Side::Target)?;
        match row {
            Some(row) => Ok(self.owner == row.try_get::<_, Uuid>(0).on(Side::Target)?),
            None => Ok(false),
        }
    }

    /// Where the pass stands, by the statement `select`. The snapshots must be the stored ones: with
    /// others, the pass would lose the rows that were in flight at the stored ones.
    pub async fn read(
        &self,
        client: &Client,
        select: &Statement,
        spec: &PassSpec,
    ) -> Result<Totals> {
        let row = client
            .query_opt(select, &[&self.migration_id])
            .await
            .on(Side::Target)?
            .ok_or_else(|| lost("the target has no progress row for it"))?;
        let stored = Stored::of(&row).on(Side::Target)?;
        if stored.owner != self.owner {
            return Err(lost("another driver is recorded in the progress row"));
        }
        if stored.number != spec.number {
            return Err(lost("the progress row is at another pass"));
        }
        if stored.snapshots != [&spec.previous_snapshot, &spec.snapshot].map(text) {
            return Err(lost("the progress row has different snapshots"));
        }
        totals(&row).on(Side::Target)?
    }

    /// The ranges that earlier runs have committed and not proven.
    pub async fn leftover(&self, client: &Client, totals: &Totals) -> Result<Vec<Range>> {
        let sql = format!(
            "select upto_position, rows, digest from {} \
             where migration_id = $1 and upto_position > $2 order by upto_position",
            self.ranges
        );
        let parameters: [&(dyn ToSql + Sync); 2] = [&self.migration_id, &totals.proven];
        let rows = client.query(&sql, &parameters).await.on(Side::Target)?;
        let mut after = totals.proven;
        let mut ranges = Vec::with_capacity(rows.len());
        for row in rows {
            let upto = row.try_get(0).on(Side::Target)?;
            ranges.push(Range {
                after,
                upto,
                rows: row.try_get(1).on(Side::Target)?,
                digest: digest(row.try_get(2).on(Side::Target)?)?,
                chunk: None,
            });
            after = upto;
        }
        Ok(ranges)
    }

    /// Records how far the proof has come when a run ends.
    pub async fn record_proof(&self, client: &Client, number: i32, proven: i64) -> Result<()> {
        let sql = format!(
            "update {} set proven_position = $4, updated_at = clock_timestamp() \
             where migration_id = $1 and owner = $2 and pass_number = $3",
            self.table
        );
        let parameters: [&(dyn ToSql + Sync); 4] =
            [&self.migration_id, &self.owner, &number, &proven];
        match client.execute(&sql, &parameters).await.on(Side::Target)? {
            1 => Ok(()),
            _ => Err(lost("the progress row was moved on by another driver")),
        }
    }

    /// Moves the row to the end of `chunk`, by the statement `advance` (with the proven position),
    /// `advance_by_all` or `advance_with`.
    pub async fn record(
        &self,
        client: &Client,
        statement: &Statement,
        number: i32,
        before: &Totals,
        chunk: &Chunk,
        proven: Option<i64>,
    ) -> Result<Totals> {
        let text = |id: Option<u64>| id.map(|id| id.to_string());
        let (rows, bytes) = (chunk.rows() as i64, chunk.bytes as i64);
        let digest = before.digest.plus(chunk.digest);
        let range = chunk.digest.to_bytes();
        let range = &&range[..];
        let sum = digest.to_bytes();
        let sum = &&sum[..];
        let ids = [before.cursor.transaction_id, chunk.last.transaction_id].map(text);
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![
            &self.migration_id,
            &self.owner,
            &number,
            &ids[0],
            &ids[1],
            &chunk.last.position,
            &rows,
            &bytes,
            sum,
            &before.cursor.position,
        ];
        if let Some(proven) = &proven {
            parameters.extend([proven as &(dyn ToSql + Sync), range]);
        }
        let row = client
            .query_opt(statement, &parameters)
            .await
            .on(Side::Target)?
            .ok_or_else(|| lost("the progress row was moved on by another driver"))?;
        let inserted: i64 = row.try_get(0).on(Side::Target)?;
        Ok(Totals {
            rows: before.rows + rows,
            bytes: before.bytes + bytes,
            inserted: before.inserted + inserted,
            digest,
            cursor: chunk.last,
            proven: proven.unwrap_or(before.proven),
        })
    }
}

fn lost(reason: &'static str) -> Error {
    Error::OwnershipLost {
        side: Side::Target,
        reason,
    }
}

struct Stored {
    owner: Uuid,
    number: i32,
    snapshots: [Option<String>; 2],
}

impl Stored {
    fn of(row: &Row) -> Result<Stored, tokio_postgres::Error> {
        Ok(Stored {
            owner: row.try_get(0)?,
            number: row.try_get(1)?,
            snapshots: [row.try_get(8)?, row.try_get(9)?],
        })
    }
}

fn digest(bytes: &[u8]) -> Result<Digest> {
    let bytes = bytes
        .try_into()
        .map_err(|_| Error::protocol("a stored digest does not have 16 bytes"))?;
    Ok(Digest::from_bytes(bytes))
}

fn text(snapshot: &Option<Snapshot>) -> Option<String> {
    snapshot.as_ref().map(Snapshot::to_string)
}

fn totals(row: &Row) -> Result<Result<Totals>, tokio_postgres::Error> {
    let transaction_id: Option<&str> = row.try_get(2)?;
    let transaction_id = match transaction_id.map(str::parse).transpose() {
        Ok(id) => id,
        Err(_) => return Ok(Err(Error::protocol("the progress row has no valid xid8"))),
    };
    let digest = match digest(row.try_get(7)?) {
        Ok(digest) => digest,
        Err(error) => return Ok(Err(error)),
    };
    Ok(Ok(Totals {
        rows: row.try_get(4)?,
        bytes: row.try_get(5)?,
        inserted: row.try_get(6)?,
        digest,
        cursor: Cursor {
            transaction_id,
            position: row.try_get(3)?,
        },
        proven: row.try_get(10)?,
    }))
}
