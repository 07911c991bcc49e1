//! Copies a chunk of a later pass straight into the table, where nothing of it is there yet.
//!
//! A large transaction that no router mirrors is such a chunk after the other. Through the stage each of
//! its rows would be written twice, and inserted one by one. Here the server takes them as those of a
//! bulk copy, and they are read back and compared in the same transaction, before anything is committed.
//! Whatever is not as expected is left to the stage: it skips what is there, and names what differs.

use std::collections::HashSet;
use std::sync::Arc;

use tokio_postgres::{Client, Statement};

use crate::config::{PassConfig, PassSpec, Totals};
use crate::error::{Error, On, Result, Side};
use crate::pass::chunk::Chunk;
use crate::pass::progress::ProgressRow;
use crate::pass::run::{Run, moments, open_target};
use crate::pass::staged::Found;
use crate::row::form::Forms;
use crate::row::layout::Layout;
use crate::server::connect::Connection;
use crate::server::copy_in::copy_in;
use crate::server::identifier::column_list;
use crate::server::in_order::in_order;
use crate::server::stream::TupleStream;

/// A chunk of fewer rows takes less time through the stage than the questions asked here.
pub const WORTH_IT: usize = 200;

/// One part in so many of a chunk may be other rows of the tenant that lie between its own: they are
/// read back with it.
const BETWEEN: usize = 8;

/// Rows wait for each other at the unique keys. The mirror may wait for a chunk that is being copied
/// and hold a row of the one before it, which commits first: no server sees that circle.
const BEGIN: &str = "begin; set local lock_timeout = '100ms'";

/// How the extra sessions plan: the table may have grown a thousandfold since its last statistics.
const ALONG_THE_KEY: &str = "set enable_seqscan = off; set enable_bitmapscan = off";

/// A connection, and while a chunk is being written its transaction.
pub struct Lane {
    client: Arc<Client>,
    /// Closed at the end of the pass; the pipeline's own connection is not.
    extra: Option<Connection>,
    statements: Arc<Statements>,
    look: Statement,
    copy: Statement,
    advance: Statement,
}

/// What a lane runs.
struct Statements {
    layout: Layout,
    offset: i64,
    forms: Forms,
    columns: String,
    rows: String,
    copy: String,
    advance: String,
}

impl Statements {
    fn of(config: &PassConfig) -> Result<Statements> {
        let columns = column_list(&config.columns);
        let table = config.target.sql();
        Ok(Statements {
            layout: Layout::of(&config.columns)?,
            offset: config.offset,
            forms: config.forms.clone(),
            rows: format!(
                "from {table} where tenant_id = '{}' and global_position between",
                config.tenant_id
            ),
            copy: format!("copy {table} ({columns}) from stdin (format binary)"),
            advance: ProgressRow::of(config).advance_by_all(),
            columns,
        })
    }
}

impl Lane {
    /// On a connection that the lane does not own.
    pub async fn on(connection: &Connection, config: &PassConfig) -> Result<Lane> {
        let statements = Arc::new(Statements::of(config)?);
        let look = format!(
            "select global_position {} $1 and $2 limit $3",
            statements.rows
        );
        let (look, copy, advance) = tokio::try_join!(
            connection.prepare(&look),
            connection.prepare(&statements.copy),
            connection.prepare(&statements.advance),
        )?;
        Ok(Lane {
            client: connection.client().clone(),
            extra: None,
            statements,
            look,
            copy,
            advance,
        })
    }

    /// On a connection of its own.
    pub async fn open(config: &PassConfig) -> Result<Lane> {
        let connection = open_target(config, ALONG_THE_KEY).await?;
        let lane = Lane::on(&connection, config).await?;
        Ok(Lane {
            extra: Some(connection),
            ..lane
        })
    }

    /// The same for another pass, without the connection.
    pub fn again(&self) -> Lane {
        Lane {
            client: self.client.clone(),
            extra: None,
            statements: self.statements.clone(),
            look: self.look.clone(),
            copy: self.copy.clone(),
            advance: self.advance.clone(),
        }
    }

    /// Whether nothing of the chunk is at the target. Begins a transaction.
    pub async fn is_new(&self, chunk: &Chunk) -> Result<bool> {
        let (first, last) = self.bounds(chunk);
        let most = (chunk.rows() / BETWEEN) as i64 + 1;
        let look = async {
            self.client
                .query(&self.look, &[&first, &last, &most])
                .await
                .on(Side::Target)
        };
        let ((), rows) = in_order(self.batch(BEGIN), look).await?;
        if rows.len() as i64 == most {
            return Ok(false);
        }
        let offset = self.statements.offset;
        let between = rows
            .iter()
            .map(|row| Ok(row.try_get::<_, i64>(0).on(Side::Target)? - offset))
            .collect::<Result<HashSet<i64>>>()?;
        Ok(!chunk.keys.iter().any(|key| between.contains(&key.position)))
    }

    /// Copies the chunk and compares what the target has then. True leaves the transaction open, ready
    /// to be committed; after false it has to be rolled back.
    pub async fn write(&self, spec: &PassSpec, chunk: &Chunk) -> Result<bool> {
        let copy = copy_in(Side::Target, &self.client, &self.copy, &chunk.batches);
        match copy.await {
            Ok(taken) if taken == chunk.rows() as u64 => {}
            Ok(_) => return Ok(false),
            Err(error) if is_taken(&error) => return Ok(false),
            Err(error) => return Err(error),
        }
        moments::copied(spec).await?;
        let (first, last) = self.bounds(chunk);
        let Statements {
            layout,
            offset,
            forms,
            columns,
            rows,
            ..
        } = &*self.statements;
        let copy =
            format!("copy (select {columns} {rows} {first} and {last}) to stdout (format binary)");
        let stream = TupleStream::start(Side::Target, &self.client, &copy, forms).await?;
        let found = Found::carried(stream, *layout, *offset).await?;
        Ok(found.wrong(chunk).is_empty())
    }

    /// Records the chunk in the transaction of its rows, and commits.
    pub async fn commit(&self, run: &Run<'_>, before: &Totals, chunk: &Chunk) -> Result<Totals> {
        let number = run.spec.number;
        let (totals, ()) = in_order(
            run.progress
                .record(&self.client, &self.advance, number, before, chunk, None),
            self.batch("set local lock_timeout = 0"),
        )
        .await?;
        moments::proven(run.spec).await?;
        self.batch("commit").await?;
        moments::committed(run.spec).await?;
        Ok(totals)
    }

    pub async fn roll_back(&self) -> Result<()> {
        self.batch("rollback").await
    }

    pub async fn close(self) {
        let Lane { client, extra, .. } = self;
        // The connection ends when nobody has its client any more.
        drop(client);
        if let Some(connection) = extra {
            connection.close().await;
        }
    }

    async fn batch(&self, sql: &str) -> Result<()> {
        self.client.batch_execute(sql).await.on(Side::Target)
    }

    /// The first and the last position of the chunk at the target.
    fn bounds(&self, chunk: &Chunk) -> (i64, i64) {
        let positions = chunk.keys.iter().map(|key| key.position);
        let (first, last) = positions.fold((i64::MAX, i64::MIN), |(first, last), position| {
            (first.min(position), last.max(position))
        });
        let offset = self.statements.offset;
        (first + offset, last + offset)
    }
}

/// Whether somebody else has put a row of the chunk there, or is about to.
fn is_taken(error: &Error) -> bool {
    const LOCK_NOT_AVAILABLE: &str = "55P03";
    const DEADLOCK_DETECTED: &str = "40P01";
    match error {
        Error::UniqueViolation { .. } => true,
        Error::Sql { report, .. } => {
            [LOCK_NOT_AVAILABLE, DEADLOCK_DETECTED].contains(&report.sqlstate.as_str())
        }
        _ => false,
    }
}
