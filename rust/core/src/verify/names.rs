//! Counts distinct names in the memory of a few of them.
//!
//! The lowest names are kept. While there are fewer than are kept at most, their number is that of
//! all. After that the highest of them says how dense the names lie, and so about how many there
//! are: with `n` names kept, one standard deviation is `1 / sqrt(n)` of it (Bar-Yossef et al.,
//! "Counting distinct elements in a data stream", 2002). Which are kept does not depend on the order
//! in which they come, so a comparison that was interrupted comes to the same number.

use std::collections::{BTreeSet, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

#[derive(Clone, Debug)]
pub struct Names {
    /// All of them, until there are as many as are kept at most: a comparison adds one for each row,
    /// and the order of few does not matter.
    few: HashSet<u64, BuildHasherDefault<AsItIs>>,
    /// The lowest, from then on.
    lowest: BTreeSet<u64>,
    /// The highest of those that are kept, once no more are.
    highest: u64,
    most: usize,
}

/// A name is a hash already.
#[derive(Clone, Copy, Debug, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, name: u64) {
        self.0 = name;
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0 << 8 | u64::from(*byte);
        }
    }
}

impl Names {
    /// Keeps so many, at least one.
    pub fn new(most: usize) -> Names {
        Names {
            few: HashSet::default(),
            lowest: BTreeSet::new(),
            highest: u64::MAX,
            most: most.max(1),
        }
    }

    /// Those that were kept, in the memory of at most so many.
    pub fn of(names: impl IntoIterator<Item = u64>, most: usize) -> Names {
        let mut found = Names::new(most);
        for name in names {
            found.insert(name);
        }
        found
    }

    /// True if it is kept and was not before.
    pub fn insert(&mut self, name: u64) -> bool {
        if !self.is_full() {
            let is_new = self.few.insert(name);
            if self.few.len() >= self.most {
                self.lowest = self.few.drain().collect();
                self.few.shrink_to_fit();
                self.highest = self.lowest.last().copied().unwrap_or(u64::MAX);
            }
            return is_new;
        }
        if name >= self.highest || !self.lowest.insert(name) {
            return false;
        }
        self.lowest.pop_last();
        self.highest = self.lowest.last().copied().unwrap_or(u64::MAX);
        true
    }

    pub fn extend(&mut self, other: &Names) {
        for name in other.few.iter().chain(&other.lowest) {
            self.insert(*name);
        }
    }

    /// Whether there may be more than are kept; the number is an estimate then.
    pub fn is_full(&self) -> bool {
        !self.lowest.is_empty()
    }

    pub fn count(&self) -> i64 {
        if !self.is_full() {
            return self.few.len() as i64;
        }
        let share = (self.highest as f64 + 1.0) / (u64::MAX as f64 + 1.0);
        ((self.most - 1) as f64 / share)
            .round()
            .max(self.most as f64) as i64
    }

    pub fn most(&self) -> usize {
        self.most
    }

    /// Those that are kept, in their order.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        let mut kept: Vec<u64> = self.few.iter().chain(&self.lowest).copied().collect();
        kept.sort_unstable();
        kept.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{DefaultHasher, Hash, Hasher};

    use super::Names;

    fn name(number: u64) -> u64 {
        let mut hasher = DefaultHasher::new();
        number.hash(&mut hasher);
        hasher.finish()
    }

    #[test]
    fn fewer_names_than_are_kept_are_counted_exactly() {
        let mut names = Names::new(1000);
        for number in (0..999).chain(0..999) {
            names.insert(name(number));
        }
        assert_eq!(names.count(), 999);
        assert!(!names.is_full());
        assert!(names.insert(name(999)));
        assert!(names.is_full());
    }

    #[test]
    fn a_million_names_are_counted_to_a_percent_in_the_memory_of_a_few() {
        let mut names = Names::new(32_768);
        for number in 0..1_000_000 {
            names.insert(name(number));
        }
        assert_eq!(names.iter().count(), 32_768);
        assert!(
            (990_000..1_010_000).contains(&names.count()),
            "{}",
            names.count()
        );
    }

    #[test]
    fn what_is_kept_does_not_depend_on_the_order_nor_on_an_interruption() {
        let forwards = Names::of((0..500).map(name), 100);
        let backwards = Names::of((0..500).rev().map(name), 100);
        let mut resumed = Names::of((0..250).map(name), 100);
        resumed.extend(&Names::of((200..500).map(name), 100));
        let kept = |names: &Names| names.iter().collect::<Vec<u64>>();
        assert_eq!(kept(&forwards), kept(&backwards));
        assert_eq!(kept(&forwards), kept(&resumed));
        assert_eq!(forwards.count(), resumed.count());
    }
}
