//! What a comparison found.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use uuid::Uuid;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViolationKind {
    /// On the source, not on the target.
    Missing,
    /// On the target, not on the source.
    Unexpected,
    /// A field differs.
    Different,
}

impl ViolationKind {
    pub fn name(self) -> &'static str {
        match self {
            ViolationKind::Missing => "missing",
            ViolationKind::Unexpected => "unexpected",
            ViolationKind::Different => "different",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub kind: ViolationKind,
    pub stream: Stream,
    pub version: i64,
    /// Source position.
    pub position: i64,
    pub event_id: Uuid,
    pub field: Option<String>,
    /// In words, without the values: they may be personal data.
    pub detail: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stream {
    pub aggregate_id: Uuid,
    pub aggregate_type: String,
}

/// A stream that differs, as it is on both sides now. Versions are 0 where it has no event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamResult {
    pub stream: Stream,
    pub source_events: i64,
    pub target_events: i64,
    pub source_version: i64,
    pub target_version: i64,
}

/// Fingerprints of the streams that were compared, and of those that differ.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub compared: HashSet<u64>,
    pub inconsistent: HashSet<u64>,
}

#[derive(Clone, Debug, Default)]
pub struct VerifyResult {
    pub source_event_count: i64,
    pub target_event_count: i64,
    pub streams_verified: i64,
    pub streams_consistent: i64,
    pub violations: Vec<Violation>,
    pub inconsistent_streams: Vec<StreamResult>,
    /// For a comparison of the ranges after this one's.
    pub seen: Seen,
}

/// Names streams by 64 bits, so that a million of them are counted in a few megabytes. Two that
/// share a name are counted as one; their rows are compared all the same.
///
/// Equal salts give equal names, in another process too.
#[derive(Clone, Copy, Debug)]
pub struct Fingerprints {
    pub salt: u64,
}

impl Fingerprints {
    pub fn of(self, aggregate_id: &[u8], aggregate_type: &[u8]) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.salt, aggregate_id, aggregate_type).hash(&mut hasher);
        hasher.finish()
    }
}

/// The result so far. The ranges' outcomes are added up at the end.
#[derive(Debug)]
pub struct Outcome {
    pub source_events: i64,
    pub target_events: i64,
    pub streams: HashSet<u64>,
    inconsistent: HashSet<u64>,
    named: Vec<Stream>,
    violations: Vec<Violation>,
    most: usize,
}

impl Outcome {
    pub fn new(most: usize) -> Outcome {
        Outcome {
            source_events: 0,
            target_events: 0,
            streams: HashSet::new(),
            inconsistent: HashSet::new(),
            named: Vec::new(),
            violations: Vec::new(),
            most,
        }
    }

    /// Continues a comparison that has seen these streams.
    pub fn continuing(most: usize, before: &Seen) -> Outcome {
        Outcome {
            streams: before.compared.clone(),
            inconsistent: before.inconsistent.clone(),
            ..Outcome::new(most)
        }
    }

    pub fn violate(&mut self, fingerprint: u64, violation: Violation) {
        self.streams.insert(fingerprint);
        if self.inconsistent.insert(fingerprint) && self.named.len() < self.most {
            self.named.push(violation.stream.clone());
        }
        if self.violations.len() < self.most {
            self.violations.push(violation);
        }
    }

    pub fn add(&mut self, other: Outcome) {
        self.source_events += other.source_events;
        self.target_events += other.target_events;
        self.streams.extend(other.streams);
        self.inconsistent.extend(other.inconsistent);
        for stream in other.named {
            if self.named.len() < self.most && !self.named.contains(&stream) {
                self.named.push(stream);
            }
        }
        let room = self.most - self.violations.len();
        self.violations
            .extend(other.violations.into_iter().take(room));
    }

    pub fn take_named_streams(&mut self) -> Vec<Stream> {
        std::mem::take(&mut self.named)
    }

    pub fn into_result(self, inconsistent_streams: Vec<StreamResult>) -> VerifyResult {
        let streams = self.streams.len() as i64;
        VerifyResult {
            source_event_count: self.source_events,
            target_event_count: self.target_events,
            streams_verified: streams,
            streams_consistent: streams - self.inconsistent.len() as i64,
            violations: self.violations,
            inconsistent_streams,
            seen: Seen {
                compared: self.streams,
                inconsistent: self.inconsistent,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_has_the_same_name_in_every_process_that_has_the_salt() {
        let name = |salt| Fingerprints { salt }.of(b"0123456789abcdef", b"Order");
        assert_eq!(name(7), name(7));
        assert_ne!(name(7), name(8));
        // A state that one process has written has to be readable by the next: a release of the
        // standard library that hashes in another way has to change the format of that state.
        assert_eq!(name(7), 7_990_716_529_967_986_091);
    }

    #[test]
    fn a_million_streams_are_counted_in_some_megabytes() {
        let fingerprints = Fingerprints { salt: 1 };
        let mut streams = HashSet::new();
        // An eighth of them; the table grows by doubling.
        for number in 0..125_000_u64 {
            streams.insert(fingerprints.of(&number.to_be_bytes(), b"Order"));
        }
        assert_eq!(streams.len(), 125_000);
        // A slot is eight bytes and one for its state; of eight slots at most seven are taken.
        let slots = streams.capacity() / 7 * 8;
        assert!(slots * 9 < 20_000_000 / 8, "{slots} slots");
    }
}
