use super::*;
use proptest::prelude::*;

type Row = Vec<Option<Vec<u8>>>;

fn encode(row: &[Option<Vec<u8>>]) -> Vec<u8> {
    let mut bytes = (row.len() as i16).to_be_bytes().to_vec();
    for field in row {
        match field {
            None => bytes.extend((-1i32).to_be_bytes()),
            Some(field) => {
                bytes.extend((field.len() as i32).to_be_bytes());
                bytes.extend(field);
            }
        }
    }
    bytes
}

fn stream(rows: &[Row]) -> Vec<u8> {
    let mut bytes = HEADER.to_vec();
    for row in rows {
        bytes.extend(encode(row));
    }
    bytes.extend(END);
    bytes
}

/// The rows that a reader gets from these pieces.
fn read(pieces: &[&[u8]]) -> Result<Vec<(Vec<u8>, Row)>, FrameError> {
    let mut framer = Framer::default();
    let mut rows = Vec::new();
    for piece in pieces {
        framer.push(Bytes::copy_from_slice(piece));
        while framer.advance()? {
            let tuple = framer.tuple();
            let fields =
                (0..tuple.fields.len()).map(|index| tuple.field(index).map(<[u8]>::to_vec));
            rows.push((tuple.bytes.to_vec(), fields.collect()));
        }
    }
    framer.finish()?;
    Ok(rows)
}

fn cut<'a>(bytes: &'a [u8], places: &[usize]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = places
        .iter()
        .map(|place| place % (bytes.len() + 1))
        .collect();
    places.sort_unstable();
    let mut pieces = Vec::new();
    let mut start = 0;
    for place in places {
        pieces.push(&bytes[start..place]);
        start = place;
    }
    pieces.push(&bytes[start..]);
    pieces
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let field = prop::option::weighted(0.8, prop::collection::vec(any::<u8>(), 0..50));
    prop::collection::vec(prop::collection::vec(field, 0..8), 0..12)
}

/// Cut off, put in, take out or replace a byte somewhere; lengths and counts among them.
fn damage() -> impl Strategy<Value = (u8, usize, u8)> {
    let value = prop_oneof![any::<u8>(), Just(0), Just(0x7f), Just(0xff)];
    (0..4u8, any::<usize>(), value)
}

proptest! {
    #[test]
    fn a_stream_may_be_split_anywhere(rows in rows(), places: Vec<usize>) {
        let bytes = stream(&rows);
        let expected: Vec<_> = rows.iter().map(|row| (encode(row), row.clone())).collect();
        prop_assert_eq!(read(&cut(&bytes, &places)), Ok(expected));
    }

    #[test]
    fn byte_by_byte_is_the_same_as_at_once(rows in rows()) {
        let bytes = stream(&rows);
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        prop_assert_eq!(read(&single), read(&[&bytes]));
    }

    #[test]
    fn a_stream_that_stops_early_is_not_taken_for_complete(rows in rows(), end: usize) {
        let bytes = stream(&rows);
        let end = end % bytes.len();
        prop_assert_eq!(read(&[&bytes[..end]]), Err(FrameError::Truncated));
    }

    #[test]
    fn a_damaged_stream_reads_the_same_in_any_pieces(
        rows in rows(),
        damage in prop::collection::vec(damage(), 0..6),
        places: Vec<usize>,
    ) {
        let mut bytes = stream(&rows);
        for (kind, place, value) in damage {
            let place = place % (bytes.len() + 1);
            match kind {
                0 => bytes.truncate(place),
                1 => bytes.insert(place, value),
                _ if place == bytes.len() => {}
                2 => drop(bytes.remove(place)),
                _ => bytes[place] = value,
            }
        }
        prop_assert_eq!(read(&cut(&bytes, &places)), read(&[&bytes]));
    }

    #[test]
    fn what_a_tuple_shares_are_its_bytes(rows in rows(), places: Vec<usize>) {
        let bytes = stream(&rows);
        let mut framer = Framer::default();
        for piece in cut(&bytes, &places) {
            framer.push(Bytes::copy_from_slice(piece));
            while framer.advance().unwrap() {
                prop_assert_eq!(&framer.shared()[..], framer.tuple().bytes);
            }
        }
    }

    #[test]
    fn a_tuple_that_is_changed_changes_no_other_and_nothing_that_was_shared(
        rows in rows(), places: Vec<usize>,
    ) {
        let bytes = stream(&rows);
        let mut framer = Framer::default();
        let mut expected = rows.iter();
        for piece in cut(&bytes, &places) {
            framer.push(Bytes::copy_from_slice(piece));
            while framer.advance().unwrap() {
                let row = expected.next().unwrap();
                let shared = framer.shared();
                let (tuple, fields) = framer.tuple_mut();
                prop_assert_eq!(&*tuple, encode(row));
                prop_assert_eq!(fields.len(), row.len());
                tuple.fill(0xff);
                prop_assert_eq!(&shared[..], encode(row));
            }
        }
        framer.finish().unwrap();
        prop_assert_eq!(expected.next(), None);
    }

    #[test]
    fn bytes_that_are_no_stream_are_refused(bytes: Vec<u8>, places: Vec<usize>) {
        prop_assume!(!bytes.starts_with(b"PGCOPY"));
        prop_assert!(read(&cut(&bytes, &places)).is_err());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>, places: Vec<usize>) {
        let mut whole = HEADER.to_vec();
        whole.extend(bytes);
        let _ = read(&cut(&whole, &places));
    }
}

#[test]
fn a_large_field_arrives_in_pieces() {
    let row = vec![Some(vec![7; 5_000_000]), None, Some(Vec::new())];
    let bytes = stream(std::slice::from_ref(&row));
    let pieces: Vec<&[u8]> = bytes.chunks(8192).collect();
    assert_eq!(read(&pieces), Ok(vec![(encode(&row), row)]));
}

#[test]
fn one_message_per_row_is_looked_at_in_place() {
    let row = encode(&[Some(vec![1, 2, 3])]);
    let message = Bytes::from([HEADER, &row[..]].concat());
    let place = message[HEADER.len()..].as_ptr();
    let mut framer = Framer::default();
    framer.push(message);
    assert_eq!(framer.advance(), Ok(true));
    assert_eq!(framer.tuple().bytes.as_ptr(), place);
}

#[test]
fn a_header_extension_is_skipped_and_unknown_flags_are_refused() {
    let mut bytes = HEADER.to_vec();
    bytes[18] = 3;
    bytes.extend([9, 9, 9]);
    bytes.extend(END);
    assert_eq!(read(&[&bytes]), Ok(vec![]));
    bytes[12] = 1;
    assert_eq!(read(&[&bytes]), Err(FrameError::Flags));
}

#[test]
fn what_is_no_binary_copy_is_refused() {
    assert_eq!(read(&[b"PGCOPY\n\xff\r\r\0"]), Err(FrameError::Signature));
    let negative = [HEADER, &[0xff, 0xfe]].concat();
    assert_eq!(read(&[&negative]), Err(FrameError::Length));
    let negative = [HEADER, &[0, 1, 0xff, 0xff, 0xff, 0xfe]].concat();
    assert_eq!(read(&[&negative]), Err(FrameError::Length));
    let more = [HEADER, END, &[0]].concat();
    assert_eq!(read(&[&more]), Err(FrameError::Trailing));
}
