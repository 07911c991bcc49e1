//! One pass: a reader ahead of the writers, the mapping beside them.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio_postgres::Statement;

use crate::config::{PassConfig, PassResult, Totals};
use crate::error::Result;
use crate::pass::chunk::{Carrier, Chunk};
use crate::pass::direct::Direct;
use crate::pass::later::Later;
use crate::pass::positions::Positions;
use crate::pass::progress::ProgressRow;
use crate::pass::run::{Run, open_source, open_target};
use crate::pass::source::{IN_RECOVERY, Reader};
use crate::pass::staged::{BY_KEY, Stage};
use crate::pass::straight::Lane;
use crate::row::layout::Layout;
use crate::server::claim;
use crate::server::connect::Connection;
use crate::task::Task;

/// The connections of a migration with everything prepared on them but the stage, so that a pass under
/// the fence spends no round trip on that. Dropping it rolls all transactions back.
pub struct Pipeline {
    source: Connection,
    target: Connection,
    recovery: Statement,
    read_progress: Statement,
    stage: Stage,
    /// None for fresh positions: one session draws them, in the order of the source.
    lane: Option<Lane>,
    positions: Arc<Positions>,
}

impl Pipeline {
    pub async fn open(config: &PassConfig) -> Result<Pipeline> {
        let (source, target, positions) = tokio::try_join!(
            open_source(config),
            open_target(config, BY_KEY),
            Positions::open(config),
        )?;
        let select = ProgressRow::of(config).select();
        let straight = async {
            match config.fresh_positions {
                true => Ok(None),
                false => Lane::on(&target, config).await.map(Some),
            }
        };
        let (recovery, read_progress, lane) = tokio::try_join!(
            source.prepare(IN_RECOVERY),
            target.prepare(&select),
            straight,
        )?;
        source.refuse_standby(&recovery).await?;
        let progress = ProgressRow::of(config);
        if !config.is_first && progress.is_ours(target.client(), &read_progress).await? {
            tokio::try_join!(
                claim::end_others(&source, config.migration_id),
                claim::end_others(&target, config.migration_id),
                claim::end_others(positions.control(), config.migration_id),
            )?;
        }
        Ok(Pipeline {
            source,
            target,
            recovery,
            read_progress,
            stage: Stage::default(),
            lane,
            positions: Arc::new(positions),
        })
    }

    /// Runs a pass from where its progress row stands.
    pub async fn run(&self, run: &Run<'_>) -> Result<PassResult> {
        let started = Instant::now();
        let client = self.target.client();
        let (totals, ()) = tokio::try_join!(
            run.progress.read(client, &self.read_progress, run.spec),
            self.source.refuse_standby(&self.recovery),
        )?;
        run.counters.begin(&totals);
        let (mut chunks, reader) = self.read_ahead(run, &totals)?;
        let totals = if run.spec.staged || run.config.fresh_positions {
            self.later(run).run(run, &mut chunks, totals).await?
        } else {
            self.positions.forget_after(totals.cursor.position).await?;
            let direct = Direct::new(run.config, self.positions.clone());
            direct.run(run, client, &mut chunks, totals).await?
        };
        // The reader may be at its end while its last chunk still waits in the channel, unwritten.
        chunks.close();
        let unwritten = chunks.recv().await.is_some();
        drop(chunks);
        let finished = reader.join().await? && !unwritten;
        Ok(PassResult {
            totals,
            finished,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// What writes a pass that is not the first. Under the fence no connection is opened.
    fn later(&self, run: &Run<'_>) -> Later<'_> {
        let lane = self.lane.as_ref().map(Lane::again);
        let extra = match &run.spec.snapshot {
            Some(_) if lane.is_some() => run.config.jobs - 1,
            _ => 0,
        };
        Later::new(&self.stage, &self.target, &self.positions, lane, extra)
    }

    /// Starts the reader. It is at most one chunk ahead of the one that waits to be written.
    fn read_ahead(
        &self,
        run: &Run<'_>,
        totals: &Totals,
    ) -> Result<(mpsc::Receiver<Chunk>, Task<bool>)> {
        let Run { config, spec, .. } = run;
        let carrier = Carrier {
            layout: Layout::of(&config.columns)?,
            offset: config.offset,
            last_target_position: config.last_target_position,
            by_transaction: spec.previous_snapshot.is_some() && !config.fresh_positions,
            row_by_row: spec.staged,
        };
        let client = self.source.client().clone();
        let reader = Reader::new(client, config, spec, carrier, run.throttle.clone());
        let (sender, receiver) = mpsc::channel(1);
        let task = Task::spawn(reader.run(totals.cursor, sender));
        Ok((receiver, task))
    }

    pub async fn close(self) {
        // It is on the target's connection, which ends when nobody has it any more.
        drop(self.lane);
        let positions = Arc::into_inner(self.positions);
        let mapping = async {
            if let Some(positions) = positions {
                positions.close().await;
            }
        };
        tokio::join!(self.source.close(), self.target.close(), mapping);
    }
}
