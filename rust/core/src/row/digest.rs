//! Digests of rows and of sets of rows.
//!
//! Rows that may arrive in any order, or that have to be named, are digested one by one. A row's
//! digest is the first 128 bits of BLAKE3 over its tuple as COPY sends it, with the source's position.
//! The digest of a set is the sum of its rows' digests modulo 2^128, kept with their count: the order
//! of arrival does not matter, and a row that occurs twice does not vanish, as it would with XOR.

/// From here on, copying a row costs more than hashing it piece by piece.
const WIDE: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Digest(u128);

impl Digest {
    pub const ZERO: Digest = Digest(0);

    pub fn of_row(tuple: &[u8]) -> Digest {
        Digest::first_half(blake3::hash(tuple))
    }

    /// Of a row that is not in one piece. `scratch` is overwritten, and never grows large.
    pub fn of_parts(parts: &[&[u8]], scratch: &mut Vec<u8>) -> Digest {
        if parts.iter().map(|part| part.len()).sum::<usize>() > WIDE {
            let mut hasher = blake3::Hasher::new();
            for part in parts {
                hasher.update(part);
            }
            return Digest::first_half(hasher.finalize());
        }
        // A hasher that takes pieces is much larger than a row; joining them is cheaper.
        scratch.clear();
        for part in parts {
            scratch.extend_from_slice(part);
        }
        Digest::of_row(scratch)
    }

    fn first_half(hash: blake3::Hash) -> Digest {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.as_bytes()[..16]);
        Digest(u128::from_le_bytes(bytes))
    }

    #[must_use]
    pub fn plus(self, other: Digest) -> Digest {
        Digest(self.0.wrapping_add(other.0))
    }

    #[must_use]
    pub fn minus(self, other: Digest) -> Digest {
        Digest(self.0.wrapping_sub(other.0))
    }

    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    pub fn from_bytes(bytes: [u8; 16]) -> Digest {
        Digest(u128::from_le_bytes(bytes))
    }
}

/// Takes the digest of many rows in their order, as one input of BLAKE3. A tuple contains its own
/// length, so two different sequences of rows are never the same input.
///
/// A single row fills one lane of the processor's vectors, a long input fills all of them: for the
/// usual event that is several times as fast.
#[derive(Default)]
pub struct Sequence {
    hasher: blake3::Hasher,
    waiting: Vec<u8>,
}

/// Long enough for all lanes.
const LONG: usize = 64 * 1024;

impl Sequence {
    /// Adds a row, given in pieces.
    pub fn push(&mut self, parts: &[&[u8]]) {
        for part in parts {
            if part.len() > LONG {
                self.flush();
                self.hasher.update(part);
            } else {
                self.waiting.extend_from_slice(part);
            }
        }
        if self.waiting.len() >= LONG {
            self.flush();
        }
    }

    /// The digest of the rows so far. The next row starts another sequence.
    pub fn finish(&mut self) -> Digest {
        self.flush();
        let digest = Digest::first_half(self.hasher.finalize());
        self.hasher.reset();
        digest
    }

    fn flush(&mut self) {
        self.hasher.update(&self.waiting);
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sum(rows: &[Vec<u8>]) -> Digest {
        rows.iter()
            .map(|row| Digest::of_row(row))
            .fold(Digest::ZERO, Digest::plus)
    }

    #[test]
    fn a_row_digest_is_the_first_half_of_blake3() {
        let expected = &blake3::hash(b"row").as_bytes()[..16].to_vec();
        assert_eq!(&Digest::of_row(b"row").to_bytes().to_vec(), expected);
    }

    #[test]
    fn a_row_that_occurs_twice_does_not_vanish() {
        let row = Digest::of_row(b"row");
        assert_ne!(row.plus(row), Digest::ZERO);
    }

    #[test]
    fn a_row_in_parts_has_the_digest_of_the_whole() {
        for length in [10, 3 * WIDE] {
            let row: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let (left, right) = row.split_at(length / 3);
            let digest = Digest::of_parts(&[left, &[], right], &mut Vec::new());
            assert_eq!(digest, Digest::of_row(&row));
        }
    }

    proptest! {
        #[test]
        fn a_sequence_is_its_rows_in_order_however_they_are_cut(
            rows in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9_000), 0..30),
            cut in 0usize..9_000,
        ) {
            let mut sequence = Sequence::default();
            for _ in 0..2 {
                for row in &rows {
                    let (left, right) = row.split_at(cut.min(row.len()));
                    sequence.push(&[left, right]);
                }
                prop_assert_eq!(sequence.finish(), Digest::of_row(&rows.concat()));
            }
        }

        #[test]
        fn order_does_not_matter(mut rows: Vec<Vec<u8>>, seed: usize) {
            let before = sum(&rows);
            let turn = if rows.is_empty() { 0 } else { seed % rows.len() };
            rows.rotate_left(turn);
            rows.reverse();
            prop_assert_eq!(sum(&rows), before);
        }

        #[test]
        fn parts_add_up_and_subtract_to_zero(rows: Vec<Vec<u8>>, cut: usize) {
            let cut = if rows.is_empty() { 0 } else { cut % rows.len() };
            let (left, right) = rows.split_at(cut);
            let whole = sum(&rows);
            prop_assert_eq!(sum(left).plus(sum(right)), whole);
            prop_assert_eq!(whole.minus(sum(left)).minus(sum(right)), Digest::ZERO);
        }

        #[test]
        fn one_changed_bit_changes_the_sum(mut rows in prop::collection::vec(
            prop::collection::vec(any::<u8>(), 1..40), 1..20), row: usize, byte: usize, bit in 0u8..8) {
            let before = sum(&rows);
            let row = row % rows.len();
            let byte = byte % rows[row].len();
            rows[row][byte] ^= 1 << bit;
            prop_assert_ne!(sum(&rows), before);
        }

        #[test]
        fn bytes_round_trip(bytes: [u8; 16]) {
            prop_assert_eq!(Digest::from_bytes(bytes).to_bytes(), bytes);
        }
    }
}
