use super::*;
use crate::row::frame::{END, Framer, HEADER};
use proptest::prelude::*;

const OFFSET: i64 = 1_000_000;

/// Columns in an unusual order, with the transaction id after them.
fn row(position: i64, event_id: Uuid, payload: Option<&[u8]>, transaction: Option<u64>) -> Vec<u8> {
    let transaction = transaction.map(u64::to_be_bytes);
    let fields = [
        Some(event_id.as_bytes().as_slice()),
        payload,
        Some(&position.to_be_bytes()),
        transaction.as_ref().map(<[u8; 8]>::as_slice),
    ];
    encode(&fields)
}

fn encode(fields: &[Option<&[u8]>]) -> Vec<u8> {
    let mut bytes = (fields.len() as i16).to_be_bytes().to_vec();
    for field in fields {
        let length = field.map_or(-1, |field| field.len() as i32);
        bytes.extend(length.to_be_bytes());
        bytes.extend(field.unwrap_or_default());
    }
    bytes
}

fn carrier(by_transaction: bool) -> Carrier {
    let columns = ["event_id", "payload", "global_position"].map(str::to_owned);
    Carrier {
        layout: Layout::of(&columns).unwrap(),
        offset: OFFSET,
        last_target_position: i64::MAX,
        by_transaction,
        row_by_row: true,
    }
}

fn build(carrier: Carrier, rows: &[Vec<u8>]) -> Result<Chunk> {
    let mut framer = Framer::default();
    framer.push(Bytes::from([HEADER, &rows.concat(), END].concat()));
    let mut builder = ChunkBuilder::new(carrier);
    while framer.advance().unwrap() {
        builder.push(&framer.tuple(), None, || framer.shared())?;
    }
    Ok(builder.take())
}

proptest! {
    #[test]
    fn a_row_is_carried_with_its_position_moved_and_nothing_else_changed(
        rows in prop::collection::vec(
            (1i64..1 << 40, any::<u128>(), prop::option::of(prop::collection::vec(any::<u8>(), 0..300)),
             any::<u64>()), 1..20),
    ) {
        let source: Vec<_> = rows.iter().map(|(position, id, payload, transaction)| {
            row(*position, Uuid::from_u128(*id), payload.as_deref(), Some(*transaction))
        }).collect();
        let chunk = build(carrier(true), &source).unwrap();
        let carried = |(position, id, payload, _): &(i64, u128, Option<Vec<u8>>, u64), offset: i64| {
            let position = (*position + offset).to_be_bytes();
            encode(&[Some(Uuid::from_u128(*id).as_bytes()), payload.as_deref(), Some(&position)])
        };
        let sent: Vec<u8> = rows.iter().flat_map(|row| carried(row, OFFSET)).collect();
        prop_assert_eq!(chunk.batches.concat(), sent);
        let digests: Vec<_> = rows.iter().map(|row| Digest::of_row(&carried(row, 0))).collect();
        prop_assert_eq!(chunk.digests, digests.clone());
        prop_assert_eq!(chunk.digest, digests.into_iter().fold(Digest::ZERO, Digest::plus));
        let (position, _, _, transaction) = rows.last().unwrap();
        prop_assert_eq!(chunk.last, Cursor {
            transaction_id: Some(*transaction), position: *position,
        });
    }
}

#[test]
fn what_the_target_holds_has_the_digest_of_what_the_source_sent() {
    let source = row(5, Uuid::nil(), Some(b"{}"), None);
    let chunk = build(carrier(false), &[source]).unwrap();
    let mut framer = Framer::default();
    framer.push(Bytes::from([HEADER, &chunk.batches.concat(), END].concat()));
    assert!(framer.advance().unwrap());
    let layout = carrier(false).layout;
    let digest = layout.digest_of(&framer.tuple(), OFFSET, &mut Vec::new());
    assert_eq!(digest.unwrap(), chunk.digests[0]);
}

#[test]
fn what_is_digested_without_numbers_of_types_is_carried_as_it_was_sent() {
    for width in [1, BATCH_BYTES * 2] {
        let payload = vec![b'x'; width];
        let sent = row(5, Uuid::nil(), Some(&payload), None);
        let digested = row(5, Uuid::nil(), Some(&vec![0; width]), None);
        let mut framers = [Framer::default(), Framer::default()];
        for (framer, row) in framers.iter_mut().zip([&sent, &digested]) {
            framer.push(Bytes::from([HEADER, row].concat()));
            assert!(framer.advance().unwrap());
        }
        for row_by_row in [false, true] {
            let carrier = Carrier {
                row_by_row,
                ..carrier(false)
            };
            let mut builder = ChunkBuilder::new(carrier);
            let [sent_framer, framer] = &framers;
            let shared = || sent_framer.shared();
            builder
                .push(&framer.tuple(), Some(sent_framer.tuple()), shared)
                .unwrap();
            let chunk = builder.take();
            let alone = build(carrier, std::slice::from_ref(&sent)).unwrap();
            assert_eq!(chunk.batches.concat(), alone.batches.concat());
            let alone = build(carrier, std::slice::from_ref(&digested)).unwrap();
            assert_eq!(chunk.digest, alone.digest);
            assert_eq!(chunk.digests, alone.digests);
        }
    }
}

#[test]
fn rows_larger_than_a_batch_are_carried() {
    let wide = vec![b'x'; BATCH_BYTES * 3];
    let rows = [
        row(1, Uuid::nil(), Some(b"a"), None),
        row(2, Uuid::nil(), Some(&wide), None),
        row(3, Uuid::nil(), Some(b"b"), None),
    ];
    let chunk = build(carrier(false), &rows).unwrap();
    assert_eq!(chunk.rows(), 3);
    let sent = chunk.batches.concat();
    let mut framer = Framer::default();
    framer.push(Bytes::from([HEADER, &sent, END].concat()));
    let layout = carrier(false).layout;
    for digest in chunk.digests {
        assert!(framer.advance().unwrap());
        let found = layout.digest_of(&framer.tuple(), OFFSET, &mut Vec::new());
        assert_eq!(found.unwrap(), digest);
    }
    assert_eq!(
        chunk.bytes,
        chunk.batches.iter().map(Bytes::len).sum::<usize>()
    );
}

#[test]
fn the_reserved_block_is_not_left() {
    let mut carrier = carrier(false);
    carrier.last_target_position = OFFSET + 4;
    let fits = row(4, Uuid::nil(), None, None);
    let beyond = row(5, Uuid::nil(), None, None);
    let error = build(carrier, &[fits, beyond]).unwrap_err();
    assert_eq!(error.kind(), "positions_exhausted");
}

#[test]
fn a_later_pass_needs_the_transaction_of_every_row() {
    let error = build(carrier(true), &[row(1, Uuid::nil(), None, None)]).unwrap_err();
    assert_eq!(error.kind(), "protocol");
}
