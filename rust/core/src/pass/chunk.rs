//! Carries tuples over: the position moved by the offset, everything else byte for byte.

use bytes::{Bytes, BytesMut};
use uuid::Uuid;

use crate::config::Cursor;
use crate::error::{Error, Result};
use crate::row::digest::{Digest, Sequence};
use crate::row::frame::Tuple;

/// Columns that the data plane itself looks at.
pub const KEY_COLUMNS: [&str; 2] = ["global_position", "event_id"];

/// Large enough that neither system calls nor wake-ups count, small enough to stay in the cache.
const BATCH_BYTES: usize = 128 * 1024;

/// Where the columns that matter are in a carried tuple.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub count: usize,
    pub position: usize,
    pub event_id: usize,
}

impl Layout {
    pub fn of(columns: &[String]) -> Result<Layout> {
        let find = |name: &str| {
            columns
                .iter()
                .position(|column| column == name)
                .ok_or_else(|| Error::protocol(format!("the columns lack {name}")))
        };
        Ok(Layout {
            count: columns.len(),
            position: find("global_position")?,
            event_id: find("event_id")?,
        })
    }

    pub fn position_of(&self, tuple: &Tuple<'_>) -> Result<i64> {
        fixed(tuple, self.position).map(i64::from_be_bytes)
    }

    pub fn event_id_of(&self, tuple: &Tuple<'_>) -> Result<Uuid> {
        fixed(tuple, self.event_id).map(Uuid::from_bytes)
    }

    /// The digest of the carried columns of a tuple that was read at `offset` above its source
    /// position. `scratch` is overwritten.
    pub fn digest_of(
        &self,
        tuple: &Tuple<'_>,
        offset: i64,
        scratch: &mut Vec<u8>,
    ) -> Result<Digest> {
        let position = self.position_of(tuple)?.wrapping_sub(offset);
        Ok(Digest::of_parts(
            &self.carried(tuple, position).parts(),
            scratch,
        ))
    }

    /// The carried columns of a tuple, at another position.
    pub fn carried<'a>(&self, tuple: &Tuple<'a>, position: i64) -> Carried<'a> {
        // A field behind the carried ones has its length before it.
        let end = match tuple.fields.get(self.count) {
            Some(Some((start, _))) => start - 4,
            Some(None) => tuple.bytes.len() - 4,
            None => tuple.bytes.len(),
        };
        let (start, resume) = tuple.fields[self.position].unwrap_or((end, end));
        Carried {
            count: (self.count as i16).to_be_bytes(),
            before: &tuple.bytes[2..start],
            position: position.to_be_bytes(),
            after: &tuple.bytes[resume..end],
        }
    }
}

/// A tuple in the pieces it is carried in.
#[derive(Clone, Copy, Debug)]
pub struct Carried<'a> {
    count: [u8; 2],
    before: &'a [u8],
    position: [u8; 8],
    after: &'a [u8],
}

impl Carried<'_> {
    pub fn parts(&self) -> [&[u8]; 4] {
        [&self.count, self.before, &self.position, self.after]
    }

    fn len(&self) -> usize {
        2 + self.before.len() + 8 + self.after.len()
    }
}

pub(crate) fn fixed<const N: usize>(tuple: &Tuple<'_>, index: usize) -> Result<[u8; N]> {
    tuple
        .field(index)
        .and_then(|field| field.try_into().ok())
        .ok_or_else(|| Error::protocol(format!("column {index} has not {N} bytes")))
}

/// What identifies a row in the mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Source position.
    pub position: i64,
    pub event_id: Uuid,
}

/// Rows that are written in one transaction of the target.
#[derive(Debug, Default)]
pub struct Chunk {
    /// Tuples as the target's COPY takes them.
    pub batches: Vec<Bytes>,
    pub keys: Vec<Key>,
    /// Per row, where rows are compared one by one.
    pub digests: Vec<Digest>,
    pub bytes: usize,
    /// Of the rows: their sum where there is one for each, else that of their sequence.
    pub digest: Digest,
    pub last: Cursor,
}

impl Chunk {
    pub fn rows(&self) -> usize {
        self.keys.len()
    }
}

/// How the rows of a pass are carried.
#[derive(Clone, Copy, Debug)]
pub struct Carrier {
    pub layout: Layout,
    pub offset: i64,
    pub last_target_position: i64,
    /// Whether the cursor goes by transaction as well.
    pub by_transaction: bool,
    /// Whether to take a digest of every row, or one of the chunk.
    pub row_by_row: bool,
}

/// Fills chunks with tuples that have the transaction id behind the carried columns.
pub struct ChunkBuilder {
    carrier: Carrier,
    batch: BytesMut,
    chunk: Chunk,
    sequence: Sequence,
}

impl ChunkBuilder {
    pub fn new(carrier: Carrier) -> ChunkBuilder {
        ChunkBuilder {
            carrier,
            batch: BytesMut::new(),
            chunk: Chunk::default(),
            sequence: Sequence::default(),
        }
    }

    pub fn rows(&self) -> usize {
        self.chunk.rows()
    }

    pub fn bytes(&self) -> usize {
        self.chunk.bytes
    }

    /// Adds a tuple; `shared` gives its bytes without copying them.
    pub fn push(&mut self, tuple: &Tuple<'_>, shared: impl FnOnce() -> Bytes) -> Result<()> {
        let layout = self.carrier.layout;
        if tuple.fields.len() != layout.count + 1 {
            return Err(Error::protocol("the source sent another number of columns"));
        }
        let position = layout.position_of(tuple)?;
        let event_id = layout.event_id_of(tuple)?;
        let target = self.target_position(position)?.to_be_bytes();
        let carried = layout.carried(tuple, position);
        self.chunk.last = Cursor {
            transaction_id: self.transaction_id(tuple)?,
            position,
        };
        if carried.len() > BATCH_BYTES {
            self.share(&carried, target, &shared());
        } else {
            self.copy(&carried, target);
        }
        self.chunk.keys.push(Key { position, event_id });
        self.chunk.bytes += carried.len();
        Ok(())
    }

    /// The usual row joins its neighbours in a batch.
    fn copy(&mut self, carried: &Carried<'_>, target: [u8; 8]) {
        if self.batch.capacity() - self.batch.len() < carried.len() {
            self.flush_batch();
            self.batch.reserve(BATCH_BYTES);
        }
        let start = self.batch.len();
        for part in carried.parts() {
            self.batch.extend_from_slice(part);
        }
        let row = &mut self.batch[start..];
        // Before the position is moved: both sides digest the source's.
        if self.carrier.row_by_row {
            let digest = Digest::of_row(row);
            self.chunk.digests.push(digest);
            self.chunk.digest = self.chunk.digest.plus(digest);
        } else {
            self.sequence.push(&[row]);
        }
        let position = 2 + carried.before.len();
        row[position..position + 8].copy_from_slice(&target);
    }

    /// A row wider than a batch is kept where it is, around its new position.
    fn share(&mut self, carried: &Carried<'_>, target: [u8; 8], shared: &Bytes) {
        self.flush_batch();
        let resume = 2 + carried.before.len() + 8;
        self.chunk.batches.extend([
            Bytes::copy_from_slice(&carried.count),
            shared.slice(2..resume - 8),
            Bytes::copy_from_slice(&target),
            shared.slice(resume..resume + carried.after.len()),
        ]);
        if self.carrier.row_by_row {
            let digest = Digest::of_parts(&carried.parts(), &mut Vec::new());
            self.chunk.digests.push(digest);
            self.chunk.digest = self.chunk.digest.plus(digest);
        } else {
            self.sequence.push(&carried.parts());
        }
    }

    /// The chunk so far; the builder starts anew.
    pub fn take(&mut self) -> Chunk {
        self.flush_batch();
        let mut chunk = std::mem::take(&mut self.chunk);
        if !self.carrier.row_by_row {
            chunk.digest = self.sequence.finish();
        }
        chunk
    }

    fn flush_batch(&mut self) {
        if !self.batch.is_empty() {
            let batch = std::mem::take(&mut self.batch);
            self.chunk.batches.push(batch.freeze());
        }
    }

    fn target_position(&self, position: i64) -> Result<i64> {
        let last = self.carrier.last_target_position;
        let needed = position.saturating_add(self.carrier.offset);
        if needed > last {
            return Err(Error::PositionsExhausted { needed, last });
        }
        Ok(needed)
    }

    fn transaction_id(&self, tuple: &Tuple<'_>) -> Result<Option<u64>> {
        if !self.carrier.by_transaction {
            return Ok(None);
        }
        fixed(tuple, self.carrier.layout.count).map(|bytes| Some(u64::from_be_bytes(bytes)))
    }
}

#[cfg(test)]
#[path = "chunk_tests.rs"]
mod tests;
