//! Carries tuples over: the position moved by the offset, everything else byte for byte.

use bytes::{Bytes, BytesMut};
use uuid::Uuid;

use crate::config::Cursor;
use crate::error::{Error, Result};
use crate::row::digest::{Digest, Sequence};
use crate::row::frame::Tuple;
use crate::row::layout::{Carried, Layout, fixed};

/// Large enough that system calls and wake-ups cost little, small enough to stay in the cache.
const BATCH_BYTES: usize = 128 * 1024;

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

    fn add_digest(&mut self, row: Digest) {
        self.digests.push(row);
        self.digest = self.digest.plus(row);
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

/// Fills chunks with tuples that have the transaction id after the carried columns.
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

    /// Adds a tuple. It is digested as it is and carried as it was `sent`, where that is another one;
    /// `shared` gives those bytes without copying them.
    pub fn push(
        &mut self,
        tuple: &Tuple<'_>,
        sent: Option<Tuple<'_>>,
        shared: impl FnOnce() -> Bytes,
    ) -> Result<()> {
        let layout = self.carrier.layout;
        if tuple.fields.len() != layout.count + 1 {
            return Err(Error::protocol(
                "the source sent an unexpected number of columns",
            ));
        }
        let position = layout.position_of(tuple)?;
        let event_id = layout.event_id_of(tuple)?;
        let target = self.target_position(position)?.to_be_bytes();
        let carried = layout.carried(sent.as_ref().unwrap_or(tuple), position);
        let digested = sent.map(|_| layout.carried(tuple, position));
        self.chunk.last = Cursor {
            transaction_id: self.transaction_id(tuple)?,
            position,
        };
        if carried.len() > BATCH_BYTES {
            self.share(&carried, digested, target, &shared());
        } else {
            self.copy(&carried, digested, target);
        }
        self.chunk.keys.push(Key { position, event_id });
        self.chunk.bytes += carried.len();
        Ok(())
    }

    /// The usual row joins its neighbours in a batch.
    fn copy(&mut self, carried: &Carried<'_>, digested: Option<Carried<'_>>, target: [u8; 8]) {
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
        match (digested, self.carrier.row_by_row) {
            (None, true) => self.chunk.add_digest(Digest::of_row(row)),
            (None, false) => self.sequence.push(&[row]),
            (Some(other), true) => self.chunk.add_digest(of_parts(&other)),
            (Some(other), false) => self.sequence.push(&other.parts()),
        }
        let position = 2 + carried.before.len();
        row[position..position + 8].copy_from_slice(&target);
    }

    /// A row wider than a batch is kept where it is, around its new position.
    fn share(
        &mut self,
        carried: &Carried<'_>,
        digested: Option<Carried<'_>>,
        target: [u8; 8],
        shared: &Bytes,
    ) {
        self.flush_batch();
        let resume = 2 + carried.before.len() + 8;
        self.chunk.batches.extend([
            Bytes::copy_from_slice(&carried.count),
            shared.slice(2..resume - 8),
            Bytes::copy_from_slice(&target),
            shared.slice(resume..resume + carried.after.len()),
        ]);
        let digested = digested.as_ref().unwrap_or(carried);
        if self.carrier.row_by_row {
            self.chunk.add_digest(of_parts(digested));
        } else {
            self.sequence.push(&digested.parts());
        }
    }

    /// The chunk so far. The next row starts another one.
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

fn of_parts(row: &Carried<'_>) -> Digest {
    Digest::of_parts(&row.parts(), &mut Vec::new())
}

#[cfg(test)]
#[path = "chunk_tests.rs"]
mod tests;
