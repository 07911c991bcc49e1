//! Reads back from the target what the first pass has committed, range after range, and compares it
//! with what the source sent.
//!
//! It follows the writers closely, so that the rows are still in the server's memory. Later, the
//! server would have to fetch every page, mark its rows as visible and write it a second time, after a
//! checkpoint also to the write-ahead log.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::sync::mpsc;

use crate::config::{PassConfig, RANGES_WAITING};
use crate::error::{Difference, DifferenceKind, Error, Result, Side};
use crate::pass::chunk::Chunk;
use crate::pass::difference;
use crate::pass::progress::Range;
use crate::pass::run::open_target;
use crate::row::digest::Sequence;
use crate::row::form::Forms;
use crate::row::layout::Layout;
use crate::server::connect::Connection;
use crate::server::identifier::column_list;
use crate::server::stream::TupleStream;
use crate::task::Task;

/// The planner has no statistics of a table that is being filled. It would collect a range from the
/// heap and sort it, on disk if there are many rows, although the primary key has it in order.
const ALONG_THE_KEY: &str =
    "set enable_seqscan = off; set enable_bitmapscan = off; set enable_sort = off";

/// Proves ranges in the order of their positions, in a task of its own.
pub struct Prover {
    ranges: mpsc::Sender<Range>,
    task: Task<()>,
    proven: Arc<AtomicI64>,
}

impl Prover {
    /// `from` is the position up to which everything is proven.
    pub fn start(config: &PassConfig, from: i64) -> Result<Prover> {
        let reader = Reader {
            table: config.target.sql(),
            columns: config.columns.clone(),
            forms: config.forms.clone(),
            tenant: config.tenant_id.to_string(),
            layout: Layout::of(&config.columns)?,
            offset: config.offset,
        };
        let proven = Arc::new(AtomicI64::new(from));
        let (ranges, waiting) = mpsc::channel(RANGES_WAITING);
        let task = Task::spawn(reader.run(config.clone(), waiting, proven.clone()));
        Ok(Prover {
            ranges,
            task,
            proven,
        })
    }

    /// Everything up to this source position is proven.
    pub fn proven(&self) -> i64 {
        self.proven.load(Ordering::Acquire)
    }

    /// Hands a range over; waits while too many are waiting.
    pub async fn prove(&mut self, range: Range) -> Result<()> {
        if self.ranges.send(range).await.is_ok() {
            return Ok(());
        }
        // The task has ended: its error says why.
        self.task.wait().await?;
        Err(Error::protocol("the proof ended before the copy"))
    }

    /// Waits until everything that was handed over is proven; returns `proven`.
    pub async fn finish(self) -> Result<i64> {
        let Prover {
            ranges,
            task,
            proven,
        } = self;
        drop(ranges);
        task.join().await?;
        Ok(proven.load(Ordering::Acquire))
    }
}

struct Reader {
    table: String,
    columns: Vec<String>,
    forms: Forms,
    tenant: String,
    layout: Layout,
    offset: i64,
}

impl Reader {
    async fn run(
        self,
        config: PassConfig,
        mut ranges: mpsc::Receiver<Range>,
        proven: Arc<AtomicI64>,
    ) -> Result<()> {
        let target = open_target(&config, ALONG_THE_KEY).await?;
        while let Some(range) = ranges.recv().await {
            self.prove(&target, &range).await?;
            proven.store(range.upto, Ordering::Release);
            failpoint!("bulk.range.proven");
        }
        target.close().await;
        Ok(())
    }

    async fn prove(&self, target: &Connection, range: &Range) -> Result<()> {
        let (mut rows, mut sequence) = (0, Sequence::default());
        let mut stream = self.read(target, range).await?;
        while stream.fill().await? {
            while stream.advance()? {
                let tuple = stream.tuple();
                let position = self.layout.position_of(&tuple)?.wrapping_sub(self.offset);
                sequence.push(&self.layout.carried(&tuple, position).parts());
                rows += 1;
            }
        }
        if (rows, sequence.finish()) == (range.rows, range.digest) {
            return Ok(());
        }
        Err(match &range.chunk {
            Some(chunk) => self.name(target, range, chunk).await?,
            None => Error::Inconsistent {
                total: range.rows.abs_diff(rows).max(1),
                differences: Vec::new(),
            },
        })
    }

    /// Names the rows of a range that are not what was sent.
    async fn name(&self, target: &Connection, range: &Range, chunk: &Chunk) -> Result<Error> {
        let mut found = HashMap::new();
        let mut scratch = Vec::new();
        let mut stream = self.read(target, range).await?;
        while stream.fill().await? {
            while stream.advance()? {
                let tuple = stream.tuple();
                let position = self.layout.position_of(&tuple)? - self.offset;
                let event_id = self.layout.event_id_of(&tuple)?;
                let digest = self.layout.digest_of(&tuple, self.offset, &mut scratch)?;
                found.insert(position, (digest, event_id));
            }
        }
        let mut wrong = Vec::new();
        let sent = difference::sent_digests(chunk, &self.forms, self.layout, self.offset)?;
        for (row, key) in chunk.keys.iter().enumerate() {
            if found.remove(&key.position).map(|(digest, _)| digest) != Some(sent[row]) {
                wrong.push(row);
            }
        }
        let stream = self.read(target, range).await?;
        let (columns, offset, forms) = (&self.columns, self.offset, &self.forms);
        let mut differences =
            difference::name(columns, self.layout, offset, chunk, forms, &wrong, stream).await?;
        let total = (wrong.len() + found.len()).max(1) as u64;
        let unexpected = |(position, (_, event_id))| Difference {
            kind: DifferenceKind::Unexpected,
            position,
            event_id,
            field: None,
        };
        differences.extend(found.into_iter().map(unexpected).take(difference::MOST));
        Ok(Error::Inconsistent { total, differences })
    }

    async fn read(&self, target: &Connection, range: &Range) -> Result<TupleStream> {
        let copy = format!(
            "copy (select {columns} from {table} where tenant_id = '{tenant}' \
                   and global_position > {after} and global_position <= {upto} \
                   order by global_position) to stdout (format binary)",
            columns = column_list(&self.columns),
            table = self.table,
            tenant = self.tenant,
            after = range.after.saturating_add(self.offset),
            upto = range.upto.saturating_add(self.offset),
        );
        TupleStream::start(Side::Target, target.client(), &copy, &self.forms).await
    }
}
