//! One pass: a reader ahead of a writer, the mapping beside it.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio_postgres::Statement;

use crate::chunk::{Carrier, Chunk, Layout};
use crate::config::{PassConfig, PassResult, PassSpec, Totals};
use crate::connect::Connection;
use crate::direct::Direct;
use crate::error::{Result, Side};
use crate::positions::Positions;
use crate::progress::{Counters, ProgressRow};
use crate::source::{IN_RECOVERY, Reader};
use crate::staged::Staged;
use crate::task::Task;
use crate::throttle::Throttle;

/// The connections of a migration with everything prepared on them, so that a pass under the fence
/// spends no round trip on that. Dropped, all three transactions are rolled back.
pub struct Pipeline {
    pub(crate) source: Connection,
    pub(crate) target: Connection,
    control: Connection,
    recovery: Statement,
    direct: Direct,
    staged: Staged,
    progress: ProgressRow,
    positions: Positions,
}

impl Pipeline {
    pub async fn open(config: &PassConfig) -> Result<Pipeline> {
        let (source, target, control) = tokio::try_join!(
            Connection::open(Side::Source, &config.source.dsn),
            Connection::open(Side::Target, &config.target.dsn),
            Connection::open(Side::Control, &config.control_dsn),
        )?;
        // The guard of the target lets this migration's own sessions pass.
        let announce = format!("set eventsource.migration = '{}'", config.migration_id);
        let prepare_target = async {
            target.batch(&announce).await?;
            let staged = Staged::prepare(&target, config).await?;
            let direct = Direct::prepare(&target, config).await?;
            let insert = Staged::insert(config);
            let progress = ProgressRow::prepare(&target, config, &insert).await?;
            Ok((staged, direct, progress))
        };
        let ((staged, direct, progress), recovery, positions) = tokio::try_join!(
            prepare_target,
            source.prepare(IN_RECOVERY),
            Positions::prepare(&control, config),
        )?;
        source.refuse_standby(&recovery).await?;
        Ok(Pipeline {
            source,
            target,
            control,
            recovery,
            direct,
            staged,
            progress,
            positions,
        })
    }

    /// Runs a pass from where its progress row stands.
    pub async fn run(
        &self,
        config: &PassConfig,
        spec: &PassSpec,
        throttle: &Arc<Throttle>,
        counters: &Counters,
    ) -> Result<PassResult> {
        let started = Instant::now();
        let (mut totals, ()) = tokio::try_join!(
            self.progress.read(self.target.client(), spec.number),
            self.source.refuse_standby(&self.recovery),
        )?;
        counters.begin(&totals);
        if !spec.staged {
            let position = totals.cursor.position;
            self.positions.forget_after(&self.control, position).await?;
        }
        let (mut chunks, reader) = self.read_ahead(config, spec, throttle, &totals)?;
        while let Some(chunk) = chunks.recv().await {
            totals = self.write(spec, &totals, &chunk).await?;
            counters.committed(&totals);
            if throttle.stopping() {
                break;
            }
        }
        drop(chunks);
        let finished = reader.join().await?;
        Ok(PassResult {
            totals,
            finished,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// Starts the reader. It is at most one chunk ahead of the one that waits to be written.
    fn read_ahead(
        &self,
        config: &PassConfig,
        spec: &PassSpec,
        throttle: &Arc<Throttle>,
        totals: &Totals,
    ) -> Result<(mpsc::Receiver<Chunk>, Task<bool>)> {
        let carrier = Carrier {
            layout: Layout::of(&config.columns)?,
            offset: config.offset,
            last_target_position: config.last_target_position,
            by_transaction: spec.previous_snapshot.is_some(),
            keep_digests: spec.staged,
        };
        let client = self.source.client().clone();
        let reader = Reader::new(client, config, spec, carrier, throttle.clone());
        let (sender, receiver) = mpsc::channel(1);
        let task = Task::spawn(reader.run(totals.cursor, sender));
        Ok((receiver, task))
    }

    /// Writes and commits one chunk, its mapping first.
    async fn write(&self, spec: &PassSpec, before: &Totals, chunk: &Chunk) -> Result<Totals> {
        let (target, progress) = (&self.target, &self.progress);
        let rows = async {
            if spec.staged {
                self.staged
                    .write(target, progress, spec.number, before, chunk)
                    .await
            } else {
                self.direct
                    .write(target, progress, spec.number, before, chunk)
                    .await
            }
        };
        let mapping = async {
            if spec.staged {
                self.positions.insert(&self.control, &chunk.keys).await
            } else {
                self.positions.copy(&self.control, &chunk.keys).await
            }
        };
        let (totals, ()) = tokio::try_join!(rows, mapping)?;
        target.batch("commit").await?;
        Ok(totals)
    }

    pub async fn close(self) {
        tokio::join!(
            self.source.close(),
            self.target.close(),
            self.control.close()
        );
    }
}
