//! Compares the number of events and the last version of every stream, counted by the servers.

use std::cmp::Ordering;
use std::sync::Arc;

use uuid::Uuid;

use crate::error::{Error, Result, Side};
use crate::row::form::Forms;
use crate::row::layout::fixed;
use crate::server::connect::Connection;
use crate::server::stream::TupleStream;
use crate::verify::config::VerifyConfig;
use crate::verify::counters::VerifyCounters;
use crate::verify::outcome::{Fingerprints, Outcome, Stream};
use crate::verify::recheck::Recheck;
use crate::verify::scan::Selection;

/// Streams that are kept before they are read again.
const SUSPECTS: usize = 10_000;

pub async fn compare(
    config: &Arc<VerifyConfig>,
    source: &Connection,
    counters: &Arc<VerifyCounters>,
) -> Result<Outcome> {
    let fingerprints = Fingerprints { salt: config.salt };
    let mut outcome = Outcome::continuing(config.max_violations, config.before.clone());
    let mut recheck = Recheck::new(config.clone(), fingerprints);
    let mut suspects = Vec::new();
    let target = config.open(Side::Target, "").await?;
    let (mut from, mut to) = tokio::try_join!(
        Counts::start(config, source, counters),
        Counts::start(config, &target, counters),
    )?;
    tokio::try_join!(from.step(), to.step())?;
    loop {
        let order = match (&from.current, &to.current) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(source), Some(target)) => source.stream.cmp(&target.stream),
        };
        let (left, right) = match order {
            Ordering::Less => (from.take().await?, None),
            Ordering::Greater => (None, to.take().await?),
            Ordering::Equal => tokio::try_join!(from.take(), to.take())?,
        };
        match (left, right) {
            (Some(left), Some(right)) if left == right => {
                outcome.counted += 1;
                outcome.source_events += left.events;
                outcome.target_events += right.events;
            }
            (left, right) => suspects.extend(left.or(right).map(|count| count.stream)),
        }
        if suspects.len() >= SUSPECTS {
            recheck.streams(&suspects, &mut outcome).await?;
            suspects.clear();
        }
    }
    recheck.streams(&suspects, &mut outcome).await?;
    target.close().await;
    Ok(outcome)
}

#[derive(Debug, PartialEq, Eq)]
struct Count {
    stream: Stream,
    events: i64,
    version: i64,
}

/// One side's counts, ordered by stream.
struct Counts {
    side: Side,
    stream: TupleStream,
    current: Option<Count>,
    counters: Arc<VerifyCounters>,
}

impl Counts {
    async fn start(
        config: &VerifyConfig,
        connection: &Connection,
        counters: &Arc<VerifyCounters>,
    ) -> Result<Counts> {
        let selection = Selection::of(config, connection.side());
        // Ordered as Rust orders bytes, whatever the databases' collations are.
        let copy = format!(
            "copy (select aggregate_id, aggregate_type, count(*), max(version)::bigint from {} \
                   where {} and {} group by aggregate_id, aggregate_type \
                   order by aggregate_id, aggregate_type collate \"C\") \
             to stdout (format binary)",
            selection.table,
            selection.condition(),
            selection.due(),
        );
        let side = connection.side();
        Ok(Counts {
            side,
            stream: TupleStream::start(side, connection.client(), &copy, &Forms::default()).await?,
            current: None,
            counters: counters.clone(),
        })
    }

    /// Hands out the current count and moves on.
    async fn take(&mut self) -> Result<Option<Count>> {
        let count = self.current.take();
        self.step().await?;
        Ok(count)
    }

    async fn step(&mut self) -> Result<()> {
        while !self.stream.advance()? {
            if !self.stream.fill().await? {
                self.current = None;
                return Ok(());
            }
        }
        let tuple = self.stream.tuple();
        let kind = tuple
            .field(1)
            .and_then(|field| std::str::from_utf8(field).ok())
            .ok_or_else(|| Error::protocol("an aggregate type is not UTF-8 text"))?;
        let count = Count {
            stream: Stream {
                aggregate_id: Uuid::from_bytes(fixed(&tuple, 0)?),
                aggregate_type: kind.to_owned(),
            },
            events: fixed(&tuple, 2).map(i64::from_be_bytes)?,
            version: fixed(&tuple, 3).map(i64::from_be_bytes)?,
        };
        self.counters
            .add(self.side, usize::try_from(count.events).unwrap_or_default());
        self.current = Some(count);
        Ok(())
    }
}
