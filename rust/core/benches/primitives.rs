//! What the data plane does with every row, without any server: `cargo bench -p eventsource-core`.
//!
//! Each figure is the fastest of several rounds over the same rows, so that other work on the
//! machine does not count; each round checks what it has computed.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use eventsource_core::pass::chunk::{Carrier, ChunkBuilder};
use eventsource_core::row::digest::{Digest, Sequence};
use eventsource_core::row::frame::{END, Framer, HEADER};
use eventsource_core::row::layout::Layout;

const ROWS: usize = 20_000;
const ROUNDS: usize = 15;
const COLUMNS: [&str; 12] = [
    "global_position",
    "event_id",
    "aggregate_id",
    "aggregate_type",
    "event_type",
    "tenant_id",
    "version",
    "timestamp",
    "actor_id",
    "payload",
    "metadata",
    "created_at",
];

/// An event as large as those of workload A, with the transaction id after its columns.
fn row(number: usize) -> Bytes {
    let position = (number as i64 + 1).to_be_bytes();
    let mut event_id = [7; 16];
    event_id[..8].copy_from_slice(&position);
    let fields: [&[u8]; 13] = [
        &position,
        &event_id,
        &[1; 16],
        b"Order",
        b"OrderLineAdded",
        &[2; 16],
        &position,
        &position,
        b"user-42",
        &[b'p'; 260],
        &[b'm'; 50],
        &position,
        &position,
    ];
    let mut bytes = (fields.len() as i16).to_be_bytes().to_vec();
    for field in fields {
        bytes.extend((field.len() as i32).to_be_bytes());
        bytes.extend(field);
    }
    bytes.into()
}

fn report(what: &str, bytes: usize, mut round: impl FnMut() -> usize) {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let began = Instant::now();
        assert_eq!(
            black_box(round()),
            ROWS,
            "{what} saw another number of rows"
        );
        best = best.min(began.elapsed());
    }
    let nanoseconds = best.as_nanos() as f64 / ROWS as f64;
    let megabytes = bytes as f64 / best.as_secs_f64() / 1e6;
    println!("{what:<40} {nanoseconds:>8.0} ns/row {megabytes:>8.0} MB/s");
}

fn main() {
    let rows: Vec<Bytes> = (0..ROWS).map(row).collect();
    let bytes = rows.iter().map(Bytes::len).sum();
    let whole = Bytes::from([HEADER, &rows.concat(), END].concat());

    report("frame, one tuple per message", bytes, || {
        let mut framer = Framer::default();
        framer.push(Bytes::from_static(HEADER));
        rows.iter()
            .filter(|row| {
                framer.push((*row).clone());
                framer.advance().expect("rows are well formed")
            })
            .count()
    });
    report("frame, the stream in one piece", bytes, || {
        let mut framer = Framer::default();
        framer.push(whole.clone());
        let mut seen = 0;
        while framer.advance().expect("rows are well formed") {
            seen += 1;
        }
        seen
    });
    report("digest of a row", bytes, || {
        let sum = rows
            .iter()
            .map(|row| Digest::of_row(row))
            .fold(Digest::ZERO, Digest::plus);
        assert_ne!(sum, Digest::ZERO);
        rows.len()
    });
    report("digest of a sequence of rows", bytes, || {
        let mut sequence = Sequence::default();
        for row in &rows {
            sequence.push(&[row]);
        }
        assert_ne!(sequence.finish(), Digest::ZERO);
        rows.len()
    });
    let columns = COLUMNS.map(str::to_owned);
    let carrier = Carrier {
        layout: Layout::of(&columns).expect("the columns have the keys"),
        offset: 1_000_000,
        last_target_position: i64::MAX,
        by_transaction: false,
        row_by_row: false,
    };
    for row_by_row in [true, false] {
        let carrier = Carrier {
            row_by_row,
            ..carrier
        };
        let how = if row_by_row { "each row's" } else { "one" };
        carry(&format!("frame, {how} digest, carry"), &rows, carrier);
    }
}

fn carry(what: &str, rows: &[Bytes], carrier: Carrier) {
    report(what, rows.iter().map(Bytes::len).sum(), || {
        let mut framer = Framer::default();
        let mut chunk = ChunkBuilder::new(carrier);
        framer.push(Bytes::from_static(HEADER));
        for row in rows {
            framer.push(row.clone());
            assert!(framer.advance().expect("rows are well formed"));
            chunk
                .push(&framer.tuple(), None, || framer.shared())
                .expect("rows have every column");
        }
        chunk.take().rows()
    });
}
