//! Names what differs between rows that the source sent and the target's rows at their positions.

use std::collections::HashMap;

use bytes::Bytes;

use crate::error::{Difference, DifferenceKind, Error, Result};
use crate::pass::chunk::Chunk;
use crate::row::digest::Digest;
use crate::row::form::Forms;
use crate::row::frame::{Framer, HEADER, Tuple};
use crate::row::layout::Layout;
use crate::server::stream::TupleStream;

/// The most differences that an error names.
pub const MOST: usize = 20;

/// An owned tuple, for the few rows that are compared field by field.
type Fields = Vec<Option<Vec<u8>>>;

/// `wrong` are rows of the chunk; `target` is what the target has at the chunk's positions.
pub async fn name(
    columns: &[String],
    layout: Layout,
    offset: i64,
    chunk: &Chunk,
    forms: &Forms,
    wrong: &[usize],
    mut target: TupleStream,
) -> Result<Vec<Difference>> {
    let wrong = &wrong[..wrong.len().min(MOST)];
    let sent = sent_rows(chunk, forms, wrong)?;
    let mut found: HashMap<i64, Fields> = HashMap::new();
    while target.fill().await? {
        while target.advance()? {
            let tuple = target.tuple();
            let position = layout.position_of(&tuple)? - offset;
            if sent.contains_key(&position) {
                found.insert(position, owned(&tuple));
            }
        }
    }
    let describe = |&row: &usize| {
        let key = chunk.keys[row];
        let field = found.get(&key.position).and_then(|target| {
            let sent = &sent[&key.position];
            let index = (0..columns.len()).find(|&index| sent[index] != target[index])?;
            Some(columns[index].clone())
        });
        Difference {
            kind: if found.contains_key(&key.position) {
                DifferenceKind::Different
            } else {
                DifferenceKind::Missing
            },
            position: key.position,
            event_id: key.event_id,
            field,
        }
    };
    Ok(wrong.iter().map(describe).collect())
}

/// The digest of every row of the chunk.
pub fn sent_digests(
    chunk: &Chunk,
    forms: &Forms,
    layout: Layout,
    offset: i64,
) -> Result<Vec<Digest>> {
    let mut digests = Vec::with_capacity(chunk.rows());
    let mut scratch = Vec::new();
    each_row(chunk, forms, |_, tuple| {
        digests.push(layout.digest_of(tuple, offset, &mut scratch)?);
        Ok(())
    })?;
    Ok(digests)
}

/// The given rows of the chunk by source position, their fields as they are compared.
fn sent_rows(chunk: &Chunk, forms: &Forms, rows: &[usize]) -> Result<HashMap<i64, Fields>> {
    let mut sent = HashMap::new();
    each_row(chunk, forms, |row, tuple| {
        if rows.contains(&row) {
            sent.insert(chunk.keys[row].position, owned(tuple));
        }
        Ok(())
    })?;
    Ok(sent)
}

fn each_row(
    chunk: &Chunk,
    forms: &Forms,
    mut visit: impl FnMut(usize, &Tuple<'_>) -> Result<()>,
) -> Result<()> {
    let mut framer = Framer::default();
    framer.push(Bytes::from_static(HEADER));
    let mut row = 0;
    let broken = |_| Error::protocol("a chunk is not made of tuples");
    for batch in &chunk.batches {
        framer.push(batch.clone());
        while framer.advance().map_err(broken)? {
            if !forms.is_empty() {
                let (tuple, fields) = framer.tuple_mut();
                forms.blank(tuple, fields)?;
            }
            visit(row, &framer.tuple())?;
            row += 1;
        }
    }
    Ok(())
}

fn owned(tuple: &Tuple<'_>) -> Fields {
    (0..tuple.fields.len())
        .map(|index| tuple.field(index).map(<[u8]>::to_vec))
        .collect()
}
