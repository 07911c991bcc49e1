//! Writes the chunks of a pass that is not the first: straight into the table where nothing of a chunk
//! is there yet, several at the same time; otherwise through the stage, one after the other.
//!
//! Either way the chunks commit in their order, each proven before and each with the progress row.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::config::Totals;
use crate::error::Result;
use crate::pass::chunk::Chunk;
use crate::pass::positions::Positions;
use crate::pass::run::{Run, moments};
use crate::pass::staged::Stage;
use crate::pass::straight::{Lane, WORTH_IT};
use crate::server::connect::Connection;
use crate::task::Task;

pub struct Later<'a> {
    stage: &'a Stage,
    target: &'a Connection,
    positions: &'a Arc<Positions>,
    idle: Vec<Lane>,
    /// How many more there may be.
    unopened: usize,
    pending: VecDeque<Task<Tried>>,
    /// Chunks for the stage, in their order, once nothing is pending.
    refused: VecDeque<Chunk>,
    /// A chunk for the stage that comes after all of these.
    small: Option<Chunk>,
}

/// A chunk, and whether its lane is ready to commit it.
struct Tried {
    lane: Lane,
    chunk: Chunk,
    ready: bool,
}

impl<'a> Later<'a> {
    /// `lane` is the one on the pipeline's own connection; `extra` is how many more may be opened.
    pub fn new(
        stage: &'a Stage,
        target: &'a Connection,
        positions: &'a Arc<Positions>,
        lane: Option<Lane>,
        extra: usize,
    ) -> Later<'a> {
        Later {
            stage,
            target,
            positions,
            idle: lane.into_iter().collect(),
            unopened: extra,
            pending: VecDeque::new(),
            refused: VecDeque::new(),
            small: None,
        }
    }

    /// Writes and commits all chunks, or those up to a requested stop; the mapping of each is
    /// committed before its rows.
    pub async fn run(
        mut self,
        run: &Run<'_>,
        chunks: &mut mpsc::Receiver<Chunk>,
        mut totals: Totals,
    ) -> Result<Totals> {
        let (mut open, before) = (true, totals.rows);
        loop {
            if self.pending.is_empty()
                && let Some(chunk) = self.refused.pop_front().or_else(|| self.small.take())
            {
                let (target, positions) = (self.target, self.positions);
                let staged = self.stage.ready(target, run.config).await?;
                totals = staged
                    .carry(run, target, positions, &chunk, &totals)
                    .await?;
                run.counters.committed(&totals);
                continue;
            }
            let waits = !self.refused.is_empty() || self.small.is_some();
            let room = open && !waits && self.has_room() && !run.throttle.stopping();
            tokio::select! {
                biased;
                chunk = chunks.recv(), if room => match chunk {
                    Some(chunk) => self.begin(run, chunk),
                    None => open = false,
                },
                tried = first(&mut self.pending), if !self.pending.is_empty() => {
                    self.pending.pop_front();
                    totals = self.end(run, tried?, totals).await?;
                }
                else => break,
            }
        }
        if totals.rows > before && run.spec.snapshot.is_some() {
            // A tenant that is being written to: there will be a chunk under the fence.
            self.stage.ready(self.target, run.config).await?;
        }
        for lane in self.idle {
            lane.close().await;
        }
        Ok(totals)
    }

    fn has_room(&self) -> bool {
        // Without lanes there is the stage.
        self.unopened > 0 || !self.idle.is_empty() || self.pending.is_empty()
    }

    fn begin(&mut self, run: &Run<'_>, chunk: Chunk) {
        let has_lane = self.unopened > 0 || !self.idle.is_empty();
        if chunk.rows() < WORTH_IT || !has_lane {
            self.small = Some(chunk);
            return;
        }
        let lane = self.idle.pop().ok_or_else(|| {
            self.unopened -= 1;
            run.config.clone()
        });
        let (spec, positions) = (run.spec.clone(), self.positions.clone());
        self.pending.push_back(Task::spawn(async move {
            let lane = match lane {
                Ok(lane) => lane,
                Err(config) => Lane::open(&config).await?,
            };
            let mut ready = lane.is_new(&chunk).await?;
            if ready {
                let mapped = async {
                    positions.copy_or_insert(&chunk.keys).await?;
                    moments::mapped(&spec).await?;
                    Ok(())
                };
                let (written, ()) = tokio::try_join!(lane.write(&spec, &chunk), mapped)?;
                ready = written;
            }
            Ok(Tried { lane, chunk, ready })
        }));
    }

    /// Commits the chunk, or leaves it to the stage with all that come after it: a lane that holds
    /// their rows could hold up the stage.
    async fn end(&mut self, run: &Run<'_>, tried: Tried, totals: Totals) -> Result<Totals> {
        let Tried { lane, chunk, ready } = tried;
        if ready && self.refused.is_empty() {
            let totals = lane.commit(run, &totals, &chunk).await?;
            run.counters.committed(&totals);
            self.idle.push(lane);
            return Ok(totals);
        }
        lane.roll_back().await?;
        self.idle.push(lane);
        self.refused.push_back(chunk);
        Ok(totals)
    }
}

async fn first<T: Send + 'static>(pending: &mut VecDeque<Task<T>>) -> Result<T> {
    match pending.front_mut() {
        Some(task) => task.wait().await,
        None => std::future::pending().await,
    }
}
