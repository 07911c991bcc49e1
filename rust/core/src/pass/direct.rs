//! Writes chunks straight into the target table: for rows that are certainly not there yet.
//!
//! Maintaining the table's indexes is most of the work of a bulk copy, and one server process does
//! it on one core. So several connections write at the same time, each a chunk, and commit in the
//! order of the chunks: the progress row moves only from one to the next.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_postgres::{Client, Statement};

use crate::config::{PassConfig, Totals};
use crate::error::{Error, Result, Side};
use crate::pass::chunk::Chunk;
use crate::pass::positions::Positions;
use crate::pass::progress::{ProgressRow, Range};
use crate::pass::proof::Prover;
use crate::pass::run::{Run, open_target};
use crate::server::connect::Connection;
use crate::server::copy_in::copy_in;
use crate::server::identifier::column_list;
use crate::server::in_order::in_order;
use crate::task::Task;

/// The rows of a chunk wait for its mapping, which a slow control database may take in slowly, and for
/// the chunks before it. Nobody else writes rows of the tenant yet, so nobody waits for these.
const BEGIN: &str = "begin; set local idle_in_transaction_session_timeout = '300s'";

pub struct Direct {
    idle: Vec<Lane>,
    /// How many more there may be: a small tenant's only chunk needs one.
    unopened: usize,
    pending: VecDeque<Task<(Lane, Chunk)>>,
    positions: Arc<Positions>,
}

/// A connection, and while a chunk is being written its transaction.
struct Lane {
    target: Connection,
    copy: Statement,
    advance: Statement,
}

impl Direct {
    pub fn new(config: &PassConfig, positions: Arc<Positions>) -> Direct {
        Direct {
            idle: Vec::new(),
            unopened: config.jobs,
            pending: VecDeque::new(),
            positions,
        }
    }

    /// Writes and proves all chunks, or those up to a requested stop.
    pub async fn run(
        mut self,
        run: &Run<'_>,
        client: &Client,
        chunks: &mut mpsc::Receiver<Chunk>,
        mut totals: Totals,
    ) -> Result<Totals> {
        let mut prover = Prover::start(run.config, totals.proven)?;
        for range in run.progress.leftover(client, &totals).await? {
            prover.prove(range).await?;
        }
        let mut open = true;
        loop {
            let free = self.unopened > 0 || !self.idle.is_empty();
            let room = open && free && !run.throttle.stopping();
            tokio::select! {
                biased;
                chunk = chunks.recv(), if room => match chunk {
                    Some(chunk) => self.begin(run.config, chunk),
                    None => open = false,
                },
                written = first(&mut self.pending), if !self.pending.is_empty() => {
                    let (lane, chunk) = written?;
                    self.pending.pop_front();
                    let after = totals.cursor.position;
                    totals.proven = prover.proven();
                    totals = lane.commit(run, &totals, &chunk).await?;
                    run.counters.committed(&totals);
                    self.idle.push(lane);
                    prover.prove(Range::written(after, chunk)).await?;
                }
                else => break,
            }
        }
        totals.proven = prover.finish().await?;
        run.progress
            .record_proof(client, run.spec.number, totals.proven)
            .await?;
        for lane in self.idle {
            lane.target.close().await;
        }
        Ok(totals)
    }

    fn begin(&mut self, config: &PassConfig, chunk: Chunk) {
        let lane = self.idle.pop().ok_or_else(|| {
            self.unopened -= 1;
            config.clone()
        });
        let positions = self.positions.clone();
        self.pending.push_back(Task::spawn(async move {
            let write = async {
                let lane = match lane {
                    Ok(lane) => lane,
                    Err(config) => Lane::open(&config).await?,
                };
                lane.write(&chunk).await?;
                Ok(lane)
            };
            let (lane, ()) = tokio::try_join!(write, positions.copy(&chunk.keys))?;
            Ok((lane, chunk))
        }));
    }
}

async fn first<T: Send + 'static>(pending: &mut VecDeque<Task<T>>) -> Result<T> {
    match pending.front_mut() {
        Some(task) => task.wait().await,
        None => std::future::pending().await,
    }
}

impl Lane {
    async fn open(config: &PassConfig) -> Result<Lane> {
        let target = open_target(config, "").await?;
        let copy = format!(
            "copy {} ({}) from stdin (format binary)",
            config.target.sql(),
            column_list(&config.columns)
        );
        let advance = ProgressRow::of(config).advance();
        let (copy, advance) = tokio::try_join!(target.prepare(&copy), target.prepare(&advance))?;
        Ok(Lane {
            target,
            copy,
            advance,
        })
    }

    /// Leaves the transaction open.
    async fn write(&self, chunk: &Chunk) -> Result<()> {
        let client = self.target.client();
        let copy = copy_in(Side::Target, client, &self.copy, &chunk.batches);
        let ((), taken) = in_order(self.target.batch(BEGIN), copy).await?;
        if taken != chunk.rows() as u64 {
            return Err(Error::protocol(format!(
                "the target took {taken} of {} rows; check whether a trigger drops some",
                chunk.rows()
            )));
        }
        failpoint!("bulk.chunk.copied");
        Ok(())
    }

    async fn commit(&self, run: &Run<'_>, before: &Totals, chunk: &Chunk) -> Result<Totals> {
        let client = self.target.client();
        let totals = run
            .progress
            .record(
                client,
                &self.advance,
                run.spec.number,
                before,
                chunk,
                Some(before.proven),
            )
            .await?;
        failpoint!("bulk.chunk.recorded");
        self.target.batch("commit").await?;
        failpoint!("bulk.chunk.committed");
        Ok(totals)
    }
}
