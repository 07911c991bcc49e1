//! Reads the rows of a pass from the source, in key-set order, each chunk a short statement.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::config::{BYTES_IN_FLIGHT, Cursor, PassConfig, PassSpec, RANGES_WAITING};
use crate::error::{Result, Side};
use crate::pass::chunk::{Carrier, Chunk, ChunkBuilder};
use crate::row::form::Forms;
use crate::server::identifier::column_list;
use crate::server::stream::TupleStream;
use crate::snapshot::Snapshot;
use crate::throttle::{Pace, Throttle};

/// Whether the server is a standby. Its snapshots show running transactions as finished.
pub const IN_RECOVERY: &str = "select pg_catalog.pg_is_in_recovery()";

/// The most bytes of one chunk. `jobs` chunks are being written; before them one is being read and
/// one waits, after them one is being proven and [`RANGES_WAITING`] wait.
fn fair_share(jobs: usize) -> usize {
    BYTES_IN_FLIGHT / (jobs + 3 + RANGES_WAITING)
}

/// How the sessions that read a pass plan. Without statistics of the table, the planner would collect
/// and sort the whole rest of the tenant for every chunk.
pub const BY_INDEX: &str = "set enable_seqscan = off; set enable_bitmapscan = off";

/// The order that goes with [`rows_after`].
pub const IN_ORDER: &str = "tenant_id, global_position";

/// The condition for the tenant's rows after a position. Not an equality: if the tenant were a
/// constant, the planner might follow the primary key and skip the rows of every other tenant.
pub fn rows_after(tenant: &impl std::fmt::Display, after: i64) -> String {
    format!("(tenant_id, global_position) > ('{tenant}', {after}) and tenant_id <= '{tenant}'")
}

/// The rows of one tenant in one table.
#[derive(Clone, Debug)]
pub struct TenantRows {
    pub table: String,
    pub columns: String,
    pub tenant_id: Uuid,
    /// Whether a difference of snapshots is read in the order of positions alone.
    pub by_position: bool,
}

impl TenantRows {
    pub fn new(table: String, columns: &[String], tenant_id: Uuid) -> TenantRows {
        TenantRows {
            table,
            columns: column_list(columns),
            tenant_id,
            by_position: false,
        }
    }

    /// The next rows of `spec` after `cursor`, as a COPY.
    pub fn statement(&self, spec: &PassSpec, cursor: Cursor, limit: usize) -> String {
        let select = match &spec.previous_snapshot {
            None => self.first_pass(spec.snapshot.as_ref(), cursor.position, limit),
            Some(previous) => self.difference(previous, spec.snapshot.as_ref(), cursor, limit),
        };
        format!("copy ({select}) to stdout (format binary)")
    }

    fn first_pass(&self, snapshot: Option<&Snapshot>, after: i64, limit: usize) -> String {
        let visible = match snapshot {
            Some(snapshot) => {
                format!(" and (transaction_id is null or {})", visible_in(snapshot))
            }
            None => String::new(),
        };
        format!(
            "select {columns}, transaction_id from {table} \
             where {after}{visible} order by {IN_ORDER} limit {limit}",
            columns = self.columns,
            table = self.table,
            after = rows_after(&self.tenant_id, after),
        )
    }

    /// Rows whose transaction the previous snapshot does not show: those that it lists as in flight,
    /// all below its xmax, and everything from its xmax on. Two index ranges, so that an old foreign
    /// transaction, which holds xmin back, does not widen what is read.
    fn difference(
        &self,
        previous: &Snapshot,
        upper: Option<&Snapshot>,
        cursor: Cursor,
        limit: usize,
    ) -> String {
        let seen = cursor.transaction_id.unwrap_or(0);
        let waiting: Vec<String> = previous
            .in_flight
            .iter()
            .filter(|id| **id >= seen)
            .map(u64::to_string)
            .collect();
        let later = self.range(
            &format!("transaction_id >= '{}'::xid8", previous.xmax),
            upper,
            cursor,
            limit,
        );
        if waiting.is_empty() {
            return later;
        }
        let order = self.order();
        let listed = format!("transaction_id = any ('{{{}}}'::xid8[])", waiting.join(","));
        let earlier = self.range(&listed, upper, cursor, limit);
        format!("({earlier}) union all ({later}) order by {order} limit {limit}")
    }

    fn order(&self) -> &'static str {
        match self.by_position {
            true => "global_position",
            false => "transaction_id, global_position",
        }
    }

    /// Not in one query level: for the order the planner would go along the positions, from the
    /// tenant's first event on.
    fn range_by_position(
        &self,
        transactions: &str,
        upper: Option<&Snapshot>,
        after: i64,
        limit: usize,
    ) -> String {
        format!(
            "select * from (select {columns}, transaction_id from {table} \
             where tenant_id = '{tenant}' and {transactions}{below} offset 0) as found \
             where global_position > {after} order by global_position limit {limit}",
            columns = self.columns,
            table = self.table,
            tenant = self.tenant_id,
            below = below(upper),
        )
    }

    fn range(
        &self,
        transactions: &str,
        upper: Option<&Snapshot>,
        cursor: Cursor,
        limit: usize,
    ) -> String {
        if self.by_position {
            return self.range_by_position(transactions, upper, cursor.position, limit);
        }
        let beyond = match cursor.transaction_id {
            Some(id) => format!(
                " and (transaction_id, global_position) > ('{id}'::xid8, {})",
                cursor.position
            ),
            None => String::new(),
        };
        let below = below(upper);
        format!(
            "select {columns}, transaction_id from {table} \
             where tenant_id = '{tenant}' and {transactions}{beyond}{below} \
             order by transaction_id, global_position limit {limit}",
            columns = self.columns,
            table = self.table,
            tenant = self.tenant_id,
        )
    }
}

fn below(upper: Option<&Snapshot>) -> String {
    match upper {
        Some(upper) => format!(
            " and transaction_id < '{}'::xid8 and {}",
            upper.xmax,
            visible_in(upper)
        ),
        None => String::new(),
    }
}

fn visible_in(snapshot: &Snapshot) -> String {
    format!("pg_catalog.pg_visible_in_snapshot(transaction_id, '{snapshot}'::pg_snapshot)")
}

/// Reads a pass to its end, or until a stop is asked for.
pub struct Reader {
    client: Arc<Client>,
    rows: TenantRows,
    forms: Forms,
    spec: PassSpec,
    carrier: Carrier,
    throttle: Arc<Throttle>,
    most_rows: usize,
    most_bytes: usize,
}

impl Reader {
    pub fn new(
        client: Arc<Client>,
        config: &PassConfig,
        spec: &PassSpec,
        carrier: Carrier,
        throttle: Arc<Throttle>,
    ) -> Reader {
        Reader {
            client,
            rows: TenantRows {
                by_position: config.fresh_positions,
                ..TenantRows::new(config.source.sql(), &config.columns, config.tenant_id)
            },
            forms: config.forms.clone(),
            spec: spec.clone(),
            carrier,
            throttle,
            most_rows: config.chunk_rows,
            most_bytes: config.chunk_bytes.min(fair_share(config.jobs)),
        }
    }

    /// Sends chunk after chunk. True once the last row is sent; false if a stop or a closed channel
    /// ends it before.
    pub async fn run(self, mut cursor: Cursor, chunks: mpsc::Sender<Chunk>) -> Result<bool> {
        let mut pace: Pace = self.throttle.pace();
        let mut fitting = self.most_rows;
        loop {
            pace.settle().await;
            if self.throttle.stopping() {
                return Ok(false);
            }
            let limit = self.throttle.chunk_rows(fitting.min(self.most_rows));
            let read = self.read(cursor, limit, &chunks).await?;
            let Some(read) = read else { return Ok(false) };
            pace.take(read.rows);
            if read.rows < limit {
                return Ok(true);
            }
            cursor = read.last;
            fitting = self.rows_that_fit(&read);
        }
    }

    /// One statement. It ends after `limit` rows; wide rows leave it in several chunks.
    async fn read(
        &self,
        cursor: Cursor,
        limit: usize,
        chunks: &mpsc::Sender<Chunk>,
    ) -> Result<Option<Read>> {
        let sql = self.rows.statement(&self.spec, cursor, limit);
        let mut stream = TupleStream::start(Side::Source, &self.client, &sql, &self.forms).await?;
        let mut builder = ChunkBuilder::new(self.carrier);
        let mut read = Read {
            rows: 0,
            bytes: 0,
            last: cursor,
        };
        while stream.fill().await? {
            while stream.advance()? {
                builder.push(&stream.tuple(), stream.sent(), || stream.shared())?;
                let full = builder.bytes() >= self.most_bytes || builder.rows() >= self.most_rows;
                if full && !self.send(builder.take(), &mut read, chunks).await? {
                    return Ok(None);
                }
            }
        }
        if builder.rows() > 0 && !self.send(builder.take(), &mut read, chunks).await? {
            return Ok(None);
        }
        Ok(Some(read))
    }

    /// False if the channel is closed.
    async fn send(
        &self,
        chunk: Chunk,
        read: &mut Read,
        chunks: &mpsc::Sender<Chunk>,
    ) -> Result<bool> {
        failpoint!(
            &self.spec,
            bulk: "bulk.chunk.read",
            pass: "pass.chunk.read",
            last: "cutover.delta.read"
        );
        read.count(&chunk);
        Ok(chunks.send(chunk).await.is_ok())
    }

    /// How many rows of the size just seen make a chunk; a little less, so that rows that vary in
    /// size do not leave a second, tiny one.
    fn rows_that_fit(&self, read: &Read) -> usize {
        let row = (read.bytes / read.rows.max(1)).max(1);
        (self.most_bytes / row * 9 / 10).max(1)
    }
}

struct Read {
    rows: usize,
    bytes: usize,
    last: Cursor,
}

impl Read {
    fn count(&mut self, chunk: &Chunk) {
        self.rows += chunk.rows();
        self.bytes += chunk.bytes;
        self.last = chunk.last;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> TenantRows {
        let columns = ["global_position", "event_id"].map(str::to_owned);
        TenantRows::new("\"s\".\"t\"".to_owned(), &columns, Uuid::nil())
    }

    fn spec(previous: Option<&str>, upper: Option<&str>) -> PassSpec {
        let parse = |text: Option<&str>| text.map(|text| Snapshot::parse(text).unwrap());
        PassSpec {
            number: 1,
            previous_snapshot: parse(previous),
            snapshot: parse(upper),
            staged: true,
        }
    }

    #[test]
    fn the_first_pass_takes_rows_older_than_every_snapshot() {
        let sql = rows().statement(&spec(None, Some("5:9:6")), Cursor::default(), 10);
        assert!(sql.contains("transaction_id is null or"), "{sql}");
        assert!(sql.contains("'5:9:6'::pg_snapshot"), "{sql}");
    }

    #[test]
    fn an_old_foreign_transaction_does_not_widen_the_range() {
        let previous = Some("5:900:5,600");
        let sql = rows().statement(&spec(previous, None), Cursor::default(), 10);
        assert!(sql.contains("transaction_id >= '900'::xid8"), "{sql}");
        assert!(sql.contains("any ('{5,600}'::xid8[])"), "{sql}");
    }

    #[test]
    fn fresh_positions_are_read_in_the_order_of_the_source_alone() {
        let rows = TenantRows {
            by_position: true,
            ..rows()
        };
        let cursor = Cursor {
            transaction_id: None,
            position: 7,
        };
        let sql = rows.statement(&spec(Some("5:900:5,600"), None), cursor, 10);
        assert_eq!(sql.matches("where global_position > 7").count(), 2, "{sql}");
        assert!(!sql.contains("order by transaction_id"), "{sql}");
        assert!(sql.contains("any ('{5,600}'::xid8[])"), "{sql}");
    }

    #[test]
    fn transactions_that_the_cursor_has_passed_are_not_read_again() {
        let previous = spec(Some("5:900:5,600"), None);
        let at = |id| Cursor {
            transaction_id: Some(id),
            position: 3,
        };
        let sql = rows().statement(&previous, at(600), 10);
        assert!(sql.contains("any ('{600}'::xid8[])"), "{sql}");
        assert!(sql.contains("> ('600'::xid8, 3)"), "{sql}");
        let sql = rows().statement(&previous, at(901), 10);
        assert!(!sql.contains("any ("), "{sql}");
    }
}
