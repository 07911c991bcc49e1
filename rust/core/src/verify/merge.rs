//! Merges the two sides by position; what does not match is read again.

use std::cmp::Ordering;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_postgres::types::ToSql;

use crate::error::{Error, On, Result, Side};
use crate::pass::source::BY_INDEX;
use crate::server::connect::Connection;
use crate::task::Task;
use crate::verify::config::VerifyConfig;
use crate::verify::counters::VerifyCounters;
use crate::verify::counting::Counting;
use crate::verify::outcome::{Fingerprints, Outcome, Seen};
use crate::verify::recheck::Recheck;
use crate::verify::scan::{Batch, Entry, Range, Scanner, Selection};

/// Batches that the faster side may be ahead.
const AHEAD: usize = 16;
/// Suspects that are kept before they are read again.
const SUSPECTS: usize = 10_000;

/// Compares all ranges, each in a task of its own. Streams that are too many to be named are counted
/// beside them.
pub async fn compare(
    config: &Arc<VerifyConfig>,
    source: &Connection,
    counters: &Arc<VerifyCounters>,
    counting: &Arc<Counting>,
) -> Result<Outcome> {
    let fingerprints = Fingerprints { salt: config.salt };
    let mut tasks = Vec::new();
    for range in ranges(config, source).await? {
        let counting = counting.clone();
        let merge = Merge::start(config.clone(), range, fingerprints, counters, counting).await?;
        tasks.push(Task::spawn(merge.run()));
    }
    let mut outcome = Outcome::continuing(config.max_violations, config.before.clone());
    if outcome.seen.compared.is_full() {
        counting.begin();
    }
    for task in tasks {
        outcome.add(task.join().await?);
    }
    if outcome.seen.compared.is_full() {
        counting.begin();
    }
    Ok(outcome)
}

/// Cuts the source's positions into equal ranges; the outermost end where the comparison does.
async fn ranges(config: &VerifyConfig, source: &Connection) -> Result<Vec<Range>> {
    let mut after = config.after.unwrap_or(i64::MIN / 2);
    let mut ranges = Vec::new();
    if config.parallelism > 1 && config.after.is_none() && config.upto.is_none() {
        let selection = Selection::of(config, Side::Source);
        let sql = format!(
            "select coalesce(min(global_position), 0), coalesce(max(global_position), 0) \
             from {} where tenant_id = $1",
            selection.table
        );
        let parameters: [&(dyn ToSql + Sync); 1] = [&config.tenant_id];
        let row = source
            .client()
            .query_one(&sql, &parameters)
            .await
            .on(Side::Source)?;
        let low: i64 = row.try_get(0).on(Side::Source)?;
        let high: i64 = row.try_get(1).on(Side::Source)?;
        let parts = config.parallelism as i64;
        for part in 1..parts {
            let upto = low + (high - low) / parts * part;
            ranges.push(Range {
                after,
                upto: Some(upto),
            });
            after = upto;
        }
    }
    ranges.push(Range {
        after,
        upto: config.upto,
    });
    Ok(ranges)
}

struct Merge {
    source: Lane,
    target: Lane,
    suspects: Vec<i64>,
    recheck: Recheck,
    outcome: Outcome,
    counting: Arc<Counting>,
}

impl Merge {
    async fn start(
        config: Arc<VerifyConfig>,
        range: Range,
        fingerprints: Fingerprints,
        counters: &Arc<VerifyCounters>,
        counting: Arc<Counting>,
    ) -> Result<Merge> {
        let lane = async |side| {
            let connection = config.open(side, BY_INDEX).await?;
            let scanner = Scanner::new(&config, side, fingerprints, counters.clone())?;
            Ok::<Lane, Error>(Lane::start(scanner, connection, range))
        };
        let (source, target) = tokio::try_join!(lane(Side::Source), lane(Side::Target))?;
        Ok(Merge {
            source,
            target,
            suspects: Vec::new(),
            outcome: Outcome::continuing(
                config.max_violations,
                Seen::new(config.before.compared.most()),
            ),
            recheck: Recheck::new(config, fingerprints),
            counting,
        })
    }

    async fn run(mut self) -> Result<Outcome> {
        loop {
            tokio::try_join!(self.source.fill(), self.target.fill())?;
            let order = match (self.source.peek(), self.target.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(source), Some(target)) => source.position.cmp(&target.position),
            };
            match order {
                Ordering::Less => self.source_only(),
                Ordering::Greater => self.target_only(),
                Ordering::Equal => self.run_of_pairs(),
            }
            if self.suspects.len() >= SUSPECTS {
                self.settle().await?;
            }
            if self.outcome.seen.compared.is_full() {
                self.counting.begin();
            }
        }
        self.settle().await?;
        self.source.finish().await?;
        self.target.finish().await?;
        Ok(self.outcome)
    }

    fn source_only(&mut self) {
        if let Some(row) = self.source.next() {
            // A row that is not due yet may well be on its way.
            if row.due {
                self.outcome.source_events += 1;
                self.outcome.seen.compared.insert(row.stream);
                self.suspects.push(row.position);
            }
        }
    }

    fn target_only(&mut self) {
        if let Some(row) = self.target.next() {
            self.suspects.push(row.position);
        }
    }

    /// Pairs as long as both sides have the same positions: the usual case, kept tight.
    fn run_of_pairs(&mut self) {
        while let (Some(source), Some(target)) = (self.source.peek(), self.target.peek()) {
            if source.position != target.position {
                return;
            }
            let same = self.source.same(&self.target);
            if !same {
                self.suspects.push(source.position);
            }
            if source.due {
                // A suspect is counted on the target when it is read again.
                self.outcome.source_events += 1;
                self.outcome.target_events += i64::from(same);
                self.outcome.seen.compared.insert(source.stream);
            }
            self.source.skip();
            self.target.skip();
        }
    }

    async fn settle(&mut self) -> Result<()> {
        let suspects = std::mem::take(&mut self.suspects);
        self.recheck.positions(&suspects, &mut self.outcome).await
    }
}

/// One side of a merge: its scanner's batches, and how far they are used up.
struct Lane {
    batches: mpsc::Receiver<Batch>,
    current: Batch,
    at: usize,
    ended: bool,
    scanner: Option<Task<()>>,
}

impl Lane {
    fn start(scanner: Scanner, connection: Connection, range: Range) -> Lane {
        let (sender, batches) = mpsc::channel(AHEAD);
        Lane {
            batches,
            current: Batch::default(),
            at: 0,
            ended: false,
            scanner: Some(Task::spawn(scanner.run(connection, range, sender))),
        }
    }

    /// Waits for a batch if `peek` has no row and there are more.
    async fn fill(&mut self) -> Result<()> {
        if self.at < self.current.rows.len() || self.ended {
            return Ok(());
        }
        // The next one may need its room.
        self.current = Batch::default();
        self.at = 0;
        match self.batches.recv().await {
            Some(batch) => {
                self.current = batch;
                Ok(())
            }
            None => {
                self.ended = true;
                self.finish().await
            }
        }
    }

    /// Fails if the scanner did: its rows ended early then.
    async fn finish(&mut self) -> Result<()> {
        match self.scanner.take() {
            Some(scanner) => scanner.join().await,
            None => Ok(()),
        }
    }

    fn peek(&self) -> Option<Entry> {
        self.current.rows.get(self.at).copied()
    }

    fn skip(&mut self) {
        self.at += 1;
    }

    fn next(&mut self) -> Option<Entry> {
        let row = self.peek();
        self.skip();
        row
    }

    fn same(&self, other: &Lane) -> bool {
        self.current.same(self.at, &other.current, other.at)
    }
}
