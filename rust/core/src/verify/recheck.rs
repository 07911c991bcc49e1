//! Reads suspected rows again, the target before the source, and says what is wrong with them.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::sync::Arc;

use uuid::Uuid;

use crate::error::{Error, On, Result, Side};
use crate::row::frame::Tuple;
use crate::row::layout::fixed;
use crate::server::connect::Connection;
use crate::server::stream::TupleStream;
use crate::verify::config::{Level, VerifyConfig};
use crate::verify::outcome::{Fingerprints, Outcome, Stream, Violation, ViolationKind};
use crate::verify::scan::Selection;

/// Positions, or streams, of one statement.
const AT_ONCE: usize = 1000;

pub struct Recheck {
    config: Arc<VerifyConfig>,
    fingerprints: Fingerprints,
    /// Opened for the first suspect; usually there is none.
    connections: Option<(Connection, Connection)>,
}

/// Which side's suspected rows are counted here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counting {
    /// The scan has counted the source's.
    Target,
    /// Nothing is counted yet.
    Both,
}

impl Recheck {
    pub fn new(config: Arc<VerifyConfig>, fingerprints: Fingerprints) -> Recheck {
        Recheck {
            config,
            fingerprints,
            connections: None,
        }
    }

    /// Rows at these source positions.
    pub async fn positions(&mut self, positions: &[i64], outcome: &mut Outcome) -> Result<()> {
        for positions in positions.chunks(AT_ONCE) {
            let condition = |offset: i64| {
                let list: Vec<String> = positions
                    .iter()
                    .map(|position| (position + offset).to_string())
                    .collect();
                format!("global_position = any ('{{{}}}'::bigint[])", list.join(","))
            };
            self.compare(condition, Counting::Target, outcome).await?;
        }
        Ok(())
    }

    /// All rows of these streams.
    pub async fn streams(&mut self, streams: &[Stream], outcome: &mut Outcome) -> Result<()> {
        for streams in streams.chunks(AT_ONCE) {
            let list: Vec<String> = streams
                .iter()
                .map(|stream| {
                    let kind = stream.aggregate_type.replace('\'', "''");
                    format!(
                        "('{}'::uuid, E'{}')",
                        stream.aggregate_id,
                        kind.replace('\\', "\\\\")
                    )
                })
                .collect();
            let condition = |_| {
                format!(
                    "(aggregate_id, aggregate_type) in (values {})",
                    list.join(", ")
                )
            };
            self.compare(condition, Counting::Both, outcome).await?;
            outcome.settle_streams();
        }
        Ok(())
    }

    async fn compare(
        &mut self,
        condition: impl Fn(i64) -> String,
        counting: Counting,
        outcome: &mut Outcome,
    ) -> Result<()> {
        let config = self.config.clone();
        let (source, target) = self.connected().await?;
        // In this order. The answer to the first shows that its snapshot is taken.
        let mut target = Rows::start(&config, target, &condition).await?;
        let mut source = Rows::start(&config, source, &condition).await?;
        source.step().await?;
        target.step().await?;
        let mut strays = HashSet::new();
        loop {
            let order = match (source.position, target.position) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(source), Some(target)) => source.cmp(&target),
            };
            let mut judge = Judge {
                config: &config,
                fingerprints: self.fingerprints,
                counting,
                outcome,
                strays: &mut strays,
            };
            match order {
                Ordering::Less => {
                    judge.source_only(&source)?;
                    source.step().await?;
                }
                Ordering::Greater => {
                    judge.target_only(&target)?;
                    target.step().await?;
                }
                Ordering::Equal => {
                    judge.both(&source, &target)?;
                    source.step().await?;
                    target.step().await?;
                }
            }
        }
        drop((source, target));
        match counting {
            Counting::Target => self.only_there(strays, outcome).await,
            Counting::Both => Ok(()),
        }
    }

    /// Notes which of these streams the source has nothing of that was to be compared: a count at
    /// the source lacks them.
    async fn only_there(
        &mut self,
        mut strays: HashSet<Stream>,
        outcome: &mut Outcome,
    ) -> Result<()> {
        if strays.is_empty() {
            return Ok(());
        }
        let config = self.config.clone();
        let (source, _) = self.connected().await?;
        let selection = Selection::of(&config, Side::Source);
        let sql = format!(
            "select distinct aggregate_id, aggregate_type::text from {} \
             where {} and {} and aggregate_id = any ($1)",
            selection.table,
            selection.condition_of_all(config.began_after),
            selection.due(),
        );
        let ids: Vec<Uuid> = strays.iter().map(|stream| stream.aggregate_id).collect();
        let rows = source.client().query(&sql, &[&ids]).await;
        for row in rows.on(Side::Source)? {
            strays.remove(&Stream {
                aggregate_id: row.try_get(0).on(Side::Source)?,
                aggregate_type: row.try_get(1).on(Side::Source)?,
            });
        }
        for stream in strays {
            let id = stream.aggregate_id.as_bytes();
            let name = self.fingerprints.of(id, stream.aggregate_type.as_bytes());
            outcome.seen.only_there.insert(name);
        }
        Ok(())
    }

    async fn connected(&mut self) -> Result<(&Connection, &Connection)> {
        if self.connections.is_none() {
            self.connections = Some(tokio::try_join!(
                self.config.open(Side::Source, ""),
                self.config.open(Side::Target, ""),
            )?);
        }
        match &self.connections {
            Some((source, target)) => Ok((source, target)),
            None => Err(Error::protocol("no connection to read again with")),
        }
    }
}

/// A stream of rows, one at a time.
struct Rows {
    stream: TupleStream,
    columns: Columns,
    offset: i64,
    /// Source position of the current row; `None` at the end.
    position: Option<i64>,
}

#[derive(Clone, Copy)]
struct Columns {
    count: usize,
    position: usize,
    event_id: usize,
    aggregate_id: usize,
    aggregate_type: usize,
    version: usize,
}

impl Rows {
    async fn start(
        config: &VerifyConfig,
        connection: &Connection,
        condition: impl Fn(i64) -> String,
    ) -> Result<Rows> {
        let side = connection.side();
        let selection = Selection::of(config, side);
        let copy = format!(
            "copy (select {} from {} where {} and {} order by global_position) \
             to stdout (format binary)",
            selection.output(),
            selection.table,
            selection.condition(),
            condition(selection.offset),
        );
        let stream = TupleStream::start(side, connection.client(), &copy, &config.forms).await?;
        Ok(Rows::new(stream, config, selection.offset))
    }

    fn new(stream: TupleStream, config: &VerifyConfig, offset: i64) -> Rows {
        let find = |name: &str| {
            let found = config.columns.iter().position(|column| column == name);
            // Their presence was checked before the start.
            found.unwrap_or_default()
        };
        Rows {
            stream,
            columns: Columns {
                count: config.columns.len(),
                position: find("global_position"),
                event_id: find("event_id"),
                aggregate_id: find("aggregate_id"),
                aggregate_type: find("aggregate_type"),
                version: find("version"),
            },
            offset,
            position: None,
        }
    }

    async fn step(&mut self) -> Result<()> {
        while !self.stream.advance()? {
            if !self.stream.fill().await? {
                self.position = None;
                return Ok(());
            }
        }
        let tuple = self.stream.tuple();
        let position = fixed(&tuple, self.columns.position).map(i64::from_be_bytes)?;
        self.position = Some(position - self.offset);
        Ok(())
    }

    fn tuple(&self) -> Tuple<'_> {
        self.stream.tuple()
    }

    fn due(&self) -> Result<bool> {
        fixed(&self.tuple(), self.columns.count).map(|[flag]: [u8; 1]| flag != 0)
    }

    fn stream(&self) -> Result<Stream> {
        let tuple = self.tuple();
        let kind = tuple.field(self.columns.aggregate_type).unwrap_or_default();
        Ok(Stream {
            aggregate_id: Uuid::from_bytes(fixed(&tuple, self.columns.aggregate_id)?),
            aggregate_type: String::from_utf8_lossy(kind).into_owned(),
        })
    }

    fn violation(&self, kind: ViolationKind, detail: String) -> Result<Violation> {
        let tuple = self.tuple();
        Ok(Violation {
            kind,
            stream: self.stream()?,
            version: self.version()?,
            position: self.position.unwrap_or_default(),
            event_id: Uuid::from_bytes(fixed(&tuple, self.columns.event_id)?),
            field: None,
            detail,
        })
    }

    /// Whether it is an `integer` or a `bigint`.
    fn version(&self) -> Result<i64> {
        let tuple = self.tuple();
        let index = self.columns.version;
        fixed(&tuple, index)
            .map(i64::from_be_bytes)
            .or_else(|_| fixed(&tuple, index).map(|bytes| i32::from_be_bytes(bytes).into()))
    }
}

struct Judge<'a> {
    config: &'a VerifyConfig,
    fingerprints: Fingerprints,
    counting: Counting,
    outcome: &'a mut Outcome,
    /// Streams with a difference in a row that the source did not have to have carried.
    strays: &'a mut HashSet<Stream>,
}

impl Judge<'_> {
    fn source_only(&mut self, source: &Rows) -> Result<()> {
        if !source.due()? {
            return Ok(());
        }
        self.outcome.source_events += i64::from(self.counting == Counting::Both);
        let detail = "the target does not have the event".to_owned();
        self.violate(source.violation(ViolationKind::Missing, detail)?);
        Ok(())
    }

    fn target_only(&mut self, target: &Rows) -> Result<()> {
        self.outcome.target_events += 1;
        let detail = "the source does not have the event".to_owned();
        self.strays.insert(target.stream()?);
        self.violate(target.violation(ViolationKind::Unexpected, detail)?);
        Ok(())
    }

    fn both(&mut self, source: &Rows, target: &Rows) -> Result<()> {
        let due = source.due()?;
        if due {
            self.outcome.source_events += i64::from(self.counting == Counting::Both);
            self.outcome.target_events += 1;
            let stream = source.stream()?;
            let name = self.fingerprint(&stream);
            self.outcome.seen.compared.insert(name);
        }
        let (sent, found) = (source.tuple(), target.tuple());
        for index in 0..source.columns.count {
            let (sent, found) = (sent.field(index), found.field(index));
            if sent == found || !self.compares(index, source.columns) {
                continue;
            }
            let mut violation =
                source.violation(ViolationKind::Different, describe(sent, found))?;
            violation.field = Some(self.config.columns[index].clone());
            if !due {
                self.strays.insert(source.stream()?);
            }
            self.violate(violation);
        }
        Ok(())
    }

    /// The position is carried, so it differs by the offset. Counting sees versions and no content.
    fn compares(&self, index: usize, columns: Columns) -> bool {
        index != columns.position && (self.config.level != Level::Count || index == columns.version)
    }

    fn violate(&mut self, violation: Violation) {
        let fingerprint = self.fingerprint(&violation.stream);
        self.outcome.violate(fingerprint, violation);
    }

    fn fingerprint(&self, stream: &Stream) -> u64 {
        self.fingerprints.of(
            stream.aggregate_id.as_bytes(),
            stream.aggregate_type.as_bytes(),
        )
    }
}

fn describe(source: Option<&[u8]>, target: Option<&[u8]>) -> String {
    match (source, target) {
        (None, _) => "NULL on the source, a value on the target".to_owned(),
        (_, None) => "a value on the source, NULL on the target".to_owned(),
        (Some(source), Some(target)) if source.len() == target.len() => {
            format!("two different values of {} bytes", source.len())
        }
        (Some(source), Some(target)) => format!(
            "{} bytes on the source, {} on the target",
            source.len(),
            target.len()
        ),
    }
}
