//! Writes a chunk of rows of which some are already on the target: the mirror puts them there.
//!
//! The rows go through a temporary table, those that are missing are inserted, and then every one
//! is read back and compared with what the source sent, before anything is committed.

use std::collections::HashMap;

use tokio::sync::OnceCell;
use tokio_postgres::Statement;

use crate::config::{PassConfig, Totals};
use crate::error::{Error, Result, Side};
use crate::pass::chunk::{Chunk, Key};
use crate::pass::difference;
use crate::pass::positions::Positions;
use crate::pass::progress::ProgressRow;
use crate::pass::run::{Run, moments};
use crate::row::digest::Digest;
use crate::row::form::Forms;
use crate::row::frame::Tuple;
use crate::row::layout::{Layout, fixed};
use crate::server::connect::Connection;
use crate::server::copy_in::copy_in;
use crate::server::identifier::{column_list, quote};
use crate::server::in_order::in_order;
use crate::server::stream::TupleStream;

const STAGE: &str = "pg_temp.eventsource_stage";

/// How the session plans that has the stage: of a temporary table the planner knows nothing, and must
/// not scan the target for it.
pub const BY_KEY: &str = "set enable_seqscan = off; set enable_bitmapscan = off; \
                          set enable_hashjoin = off; set enable_mergejoin = off";

/// The stage of a pipeline, made with the first chunk that a pass before the fence carries: a tenant
/// at rest has none, and to make the table takes longer than all else that such a pass does. Only
/// where the last pass is the first with a chunk do writers wait until it is made.
#[derive(Default)]
pub struct Stage(OnceCell<Staged>);

impl Stage {
    pub async fn ready(&self, target: &Connection, config: &PassConfig) -> Result<&Staged> {
        let prepare = || Staged::prepare(target, config);
        self.0.get_or_try_init(prepare).await
    }
}

pub struct Staged {
    layout: Layout,
    offset: i64,
    fresh: bool,
    columns: Vec<String>,
    forms: Forms,
    copy: Statement,
    read_back: Statement,
    insert_and_advance: Statement,
}

impl Staged {
    /// Makes the temporary table. Its columns have the target's types, nothing else of it.
    async fn prepare(target: &Connection, config: &PassConfig) -> Result<Staged> {
        let columns = column_list(&config.columns);
        let table = config.target.sql();
        // Nobody needs it after a crash, so nobody waits until it is on the disk.
        let create = format!(
            "begin; set local synchronous_commit = off; \
             create temporary table eventsource_stage on commit delete rows as \
                 select {columns} from {table} with no data; \
             commit"
        );
        target.batch(&create).await?;
        let copy = format!("copy {STAGE} ({columns}) from stdin (format binary)");
        let read_back = read_back(config);
        let insert = insert(config);
        let insert_and_advance = ProgressRow::of(config).advance_with(&insert);
        let (copy, read_back, insert_and_advance) = tokio::try_join!(
            target.prepare(&copy),
            target.prepare(&read_back),
            target.prepare(&insert_and_advance),
        )?;
        Ok(Staged {
            layout: Layout::of(&config.columns)?,
            offset: config.offset,
            fresh: config.fresh_positions,
            columns: config.columns.clone(),
            forms: config.forms.clone(),
            copy,
            read_back,
            insert_and_advance,
        })
    }

    /// Writes, proves and commits a chunk; its mapping is committed before its rows.
    pub async fn carry(
        &self,
        run: &Run<'_>,
        target: &Connection,
        positions: &Positions,
        chunk: &Chunk,
        before: &Totals,
    ) -> Result<Totals> {
        let mapped = async |written: Option<&Written>| {
            match written {
                Some(written) => positions.insert_at(&chunk.keys, &written.targets).await?,
                None => positions.insert(&chunk.keys).await?,
            }
            moments::mapped(run.spec).await?;
            Ok::<(), Error>(())
        };
        let rows = self.write(target, run, before, chunk);
        let written = if self.fresh {
            // Only the target knows the positions.
            let written = rows.await?;
            mapped(Some(&written)).await?;
            written
        } else {
            tokio::try_join!(rows, mapped(None))?.0
        };
        moments::proven(run.spec).await?;
        target.batch("commit").await?;
        moments::committed(run.spec).await?;
        Ok(written.totals)
    }

    /// Leaves the transaction open, ready to be committed.
    async fn write(
        &self,
        target: &Connection,
        run: &Run<'_>,
        before: &Totals,
        chunk: &Chunk,
    ) -> Result<Written> {
        let client = target.client();
        let copy = copy_in(Side::Target, client, &self.copy, &chunk.batches);
        in_order(target.batch("begin"), copy).await?;
        moments::copied(run.spec).await?;
        let (totals, stream) = in_order(
            run.progress.record(
                client,
                &self.insert_and_advance,
                run.spec.number,
                before,
                chunk,
                None,
            ),
            TupleStream::start(Side::Target, client, &self.read_back, &self.forms),
        )
        .await?;
        let found = match self.fresh {
            true => Found::renumbered(stream, self.layout).await?,
            false => Found::carried(stream, self.layout, self.offset).await?,
        };
        let wrong = found.wrong(chunk);
        if wrong.is_empty() {
            let targets = found.targets(chunk);
            return Ok(Written { totals, targets });
        }
        let reread = TupleStream::start(Side::Target, client, &self.read_back, &self.forms).await?;
        let differences = difference::name(
            &self.columns,
            self.layout,
            self.offset,
            chunk,
            &self.forms,
            &wrong,
            reread,
        )
        .await?;
        Err(Error::Inconsistent {
            total: wrong.len() as u64,
            differences,
        })
    }
}

/// What the target has: digest and position of its rows by source position.
pub struct Found(HashMap<i64, (Digest, i64)>);

impl Found {
    /// Rows at their carried positions.
    pub async fn carried(stream: TupleStream, layout: Layout, offset: i64) -> Result<Found> {
        Found::read(stream, layout, offset, |_, position| Ok(position)).await
    }

    /// Rows with the source's position in its place, and the target's as the last field.
    async fn renumbered(stream: TupleStream, layout: Layout) -> Result<Found> {
        Found::read(stream, layout, 0, |tuple, _| {
            fixed(tuple, layout.count).map(i64::from_be_bytes)
        })
        .await
    }

    async fn read(
        mut stream: TupleStream,
        layout: Layout,
        offset: i64,
        target: impl Fn(&Tuple<'_>, i64) -> Result<i64>,
    ) -> Result<Found> {
        let mut found = HashMap::new();
        let mut scratch = Vec::new();
        while stream.fill().await? {
            while stream.advance()? {
                let tuple = stream.tuple();
                let position = layout.position_of(&tuple)?;
                let target = target(&tuple, position)?;
                let digest = layout.digest_of(&tuple, offset, &mut scratch)?;
                found.insert(position - offset, (digest, target));
            }
        }
        Ok(Found(found))
    }

    /// The rows of the chunk that are not there, or not as they were sent.
    pub fn wrong(&self, chunk: &Chunk) -> Vec<usize> {
        (0..chunk.rows())
            .filter(|&row| {
                let there = self.0.get(&chunk.keys[row].position);
                there.map(|(digest, _)| digest) != Some(&chunk.digests[row])
            })
            .collect()
    }

    /// The position of each row of the chunk, all of which are there.
    fn targets(&self, chunk: &Chunk) -> Vec<i64> {
        let position = |key: &Key| self.0[&key.position].1;
        chunk.keys.iter().map(position).collect()
    }
}

/// What a chunk has become, before its commit.
struct Written {
    totals: Totals,
    /// The position of each of its rows at the target.
    targets: Vec<i64>,
}

/// The rows of the stage as the target has them. Those with fresh positions are found by their event
/// id; in place of the position stands the source's, and the target's comes last.
fn read_back(config: &PassConfig) -> String {
    let fresh = config.fresh_positions;
    let mut columns: Vec<String> = config
        .columns
        .iter()
        .map(|column| match column.as_str() {
            "global_position" if fresh => "stage.global_position".to_owned(),
            column => format!("event.{}", quote(column)),
        })
        .collect();
    if fresh {
        columns.push("event.global_position".to_owned());
    }
    let key = match fresh {
        true => "event_id",
        false => "global_position",
    };
    format!(
        "copy (select {columns} from {STAGE} as stage \
               join {table} as event on event.{key} = stage.{key}) \
         to stdout (format binary)",
        columns = columns.join(", "),
        table = config.target.sql(),
    )
}

/// Inserts what is missing. Fresh positions are drawn in the order of the source, and only for rows
/// that are missing; another event at the same place of a stream is an error of the server.
fn insert(config: &PassConfig) -> String {
    let table = config.target.sql();
    if !config.fresh_positions {
        let columns = column_list(&config.columns);
        return format!(
            "insert into {table} ({columns}) overriding system value \
             select {columns} from {STAGE} on conflict do nothing"
        );
    }
    let carried: Vec<String> = config
        .columns
        .iter()
        .filter(|column| *column != "global_position")
        .cloned()
        .collect();
    let columns = column_list(&carried);
    format!(
        "insert into {table} ({columns}) overriding system value \
         select {columns} from {STAGE} as stage \
         where not exists (select from {table} as event where event.event_id = stage.event_id) \
         order by stage.global_position"
    )
}
