//! Writes a chunk of rows of which some may already be on the target: the mirror puts them there.
//!
//! The rows go through a temporary table, those that are missing are inserted, and then every one
//! is read back and compared with what the source sent, before anything is committed.

use std::collections::HashMap;

use tokio::sync::mpsc;
use tokio_postgres::Statement;

use crate::config::{PassConfig, Totals};
use crate::error::{Error, Result, Side};
use crate::pass::chunk::Chunk;
use crate::pass::difference;
use crate::pass::positions::Positions;
use crate::pass::progress::ProgressRow;
use crate::pass::run::Run;
use crate::row::digest::Digest;
use crate::row::layout::Layout;
use crate::server::connect::Connection;
use crate::server::copy_in::copy_in;
use crate::server::identifier::{column_list, quote};
use crate::server::stream::TupleStream;

const STAGE: &str = "pg_temp.eventsource_stage";

pub struct Staged {
    layout: Layout,
    offset: i64,
    columns: Vec<String>,
    copy: Statement,
    read_back: Statement,
    insert_and_advance: Statement,
}

impl Staged {
    /// Makes the temporary table. Its columns have the target's types, nothing else of it.
    pub async fn prepare(target: &Connection, config: &PassConfig) -> Result<Staged> {
        let columns = column_list(&config.columns);
        let table = config.target.sql();
        // The planner knows nothing about the temporary table and must not scan the target for it.
        let create = format!(
            "create temporary table eventsource_stage on commit delete rows as \
                 select {columns} from {table} with no data; \
             set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off"
        );
        target.batch(&create).await?;
        let qualified: Vec<String> = config
            .columns
            .iter()
            .map(|column| format!("event.{}", quote(column)))
            .collect();
        let copy = format!("copy {STAGE} ({columns}) from stdin (format binary)");
        let read_back = format!(
            "copy (select {} from {STAGE} as stage \
                   join {table} as event on event.global_position = stage.global_position) \
             to stdout (format binary)",
            qualified.join(", ")
        );
        let insert = format!(
            "insert into {table} ({columns}) overriding system value \
             select {columns} from {STAGE} on conflict do nothing"
        );
        let insert_and_advance = ProgressRow::of(config).advance_with(&insert);
        let (copy, read_back, insert_and_advance) = tokio::try_join!(
            target.prepare(&copy),
            target.prepare(&read_back),
            target.prepare(&insert_and_advance),
        )?;
        Ok(Staged {
            layout: Layout::of(&config.columns)?,
            offset: config.offset,
            columns: config.columns.clone(),
            copy,
            read_back,
            insert_and_advance,
        })
    }

    /// Writes and commits all chunks, or those up to a requested stop; the mapping of each is
    /// committed before its rows.
    pub async fn run(
        &self,
        run: &Run<'_>,
        target: &Connection,
        positions: &Positions,
        chunks: &mut mpsc::Receiver<Chunk>,
        mut totals: Totals,
    ) -> Result<Totals> {
        while let Some(chunk) = chunks.recv().await {
            let rows = self.write(target, run, &totals, &chunk);
            let mapping = async {
                positions.insert(&chunk.keys).await?;
                failpoint!(
                    run.spec,
                    pass: "pass.mapping.committed",
                    last: "cutover.mapping.committed"
                );
                Ok(())
            };
            (totals, ()) = tokio::try_join!(rows, mapping)?;
            failpoint!(run.spec, pass: "pass.chunk.proven", last: "cutover.delta.proven");
            target.batch("commit").await?;
            failpoint!(run.spec, pass: "pass.chunk.committed", last: "cutover.delta.committed");
            run.counters.committed(&totals);
            if run.throttle.stopping() {
                break;
            }
        }
        Ok(totals)
    }

    /// Leaves the transaction open, ready to be committed.
    async fn write(
        &self,
        target: &Connection,
        run: &Run<'_>,
        before: &Totals,
        chunk: &Chunk,
    ) -> Result<Totals> {
        let client = target.client();
        let copy = copy_in(Side::Target, client, &self.copy, &chunk.batches);
        tokio::try_join!(target.batch("begin"), copy)?;
        failpoint!(run.spec, pass: "pass.chunk.copied", last: "cutover.delta.copied");
        let (totals, stream) = tokio::try_join!(
            run.progress.record(
                client,
                &self.insert_and_advance,
                run.spec.number,
                before,
                chunk,
                None
            ),
            TupleStream::start(Side::Target, client, &self.read_back),
        )?;
        let found = self.read_back(stream).await?;
        let wrong: Vec<usize> = (0..chunk.rows())
            .filter(|&row| found.get(&chunk.keys[row].position) != Some(&chunk.digests[row]))
            .collect();
        if wrong.is_empty() {
            return Ok(totals);
        }
        let reread = TupleStream::start(Side::Target, client, &self.read_back).await?;
        let differences = difference::name(
            &self.columns,
            self.layout,
            self.offset,
            chunk,
            &wrong,
            reread,
        )
        .await?;
        Err(Error::Inconsistent {
            total: wrong.len() as u64,
            differences,
        })
    }

    /// The digests of the target's rows by source position.
    async fn read_back(&self, mut stream: TupleStream) -> Result<HashMap<i64, Digest>> {
        let mut found = HashMap::new();
        let mut scratch = Vec::new();
        while stream.fill().await? {
            while stream.advance()? {
                let tuple = stream.tuple();
                let position = self.layout.position_of(&tuple)? - self.offset;
                let digest = self.layout.digest_of(&tuple, self.offset, &mut scratch)?;
                found.insert(position, digest);
            }
        }
        Ok(found)
    }
}
