//! What a comparison found.

use std::hash::{DefaultHasher, Hash, Hasher};

use uuid::Uuid;

use crate::verify::names::Names;

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

/// Names of the streams that were compared, of those that differ, and of those of them of which the
/// source has nothing to compare.
#[derive(Clone, Debug)]
pub struct Seen {
    pub compared: Names,
    pub inconsistent: Names,
    pub only_there: Names,
}

impl Seen {
    pub fn new(most: usize) -> Seen {
        Seen {
            compared: Names::new(most),
            inconsistent: Names::new(most),
            only_there: Names::new(most),
        }
    }
}

#[derive(Clone, Debug)]
pub struct VerifyResult {
    pub source_event_count: i64,
    pub target_event_count: i64,
    pub streams_verified: i64,
    pub streams_consistent: i64,
    /// Whether a number of streams is an estimate.
    pub streams_estimated: bool,
    pub violations: Vec<Violation>,
    pub inconsistent_streams: Vec<StreamResult>,
    /// For a comparison of the ranges after this one's.
    pub seen: Seen,
}

/// Names streams by 64 bits. Two that share a name are counted as one; their rows are compared all
/// the same.
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
    pub seen: Seen,
    /// Streams that are counted, and of these those that differ, beside those that `seen` names.
    pub counted: i64,
    counted_inconsistent: i64,
    named: Vec<Stream>,
    violations: Vec<Violation>,
    most: usize,
}

impl Outcome {
    /// Continues a comparison that has seen these streams; `most` violations are named.
    pub fn continuing(most: usize, seen: Seen) -> Outcome {
        Outcome {
            source_events: 0,
            target_events: 0,
            seen,
            counted: 0,
            counted_inconsistent: 0,
            named: Vec::new(),
            violations: Vec::new(),
            most,
        }
    }

    pub fn violate(&mut self, fingerprint: u64, violation: Violation) {
        self.seen.compared.insert(fingerprint);
        let is_new = self.seen.inconsistent.insert(fingerprint);
        if is_new && self.named.len() < self.most {
            self.named.push(violation.stream.clone());
        }
        if self.violations.len() < self.most {
            self.violations.push(violation);
        }
    }

    /// Counts the streams that are named, of which nothing more will come.
    pub fn settle_streams(&mut self) {
        self.counted += self.seen.compared.count();
        self.counted_inconsistent += self.seen.inconsistent.count();
        self.seen = Seen::new(self.seen.compared.most());
    }

    pub fn add(&mut self, other: Outcome) {
        self.source_events += other.source_events;
        self.target_events += other.target_events;
        self.counted += other.counted;
        self.counted_inconsistent += other.counted_inconsistent;
        self.seen.compared.extend(&other.seen.compared);
        self.seen.inconsistent.extend(&other.seen.inconsistent);
        self.seen.only_there.extend(&other.seen.only_there);
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

    /// `at_source` is how many streams the source has that were to be compared, if it was asked.
    pub fn into_result(
        self,
        at_source: Option<i64>,
        inconsistent_streams: Vec<StreamResult>,
    ) -> VerifyResult {
        let Seen {
            compared,
            inconsistent,
            only_there,
        } = &self.seen;
        let (named, is_exact) = match at_source {
            Some(at_source) => (at_source + only_there.count(), !only_there.is_full()),
            None => (compared.count(), !compared.is_full()),
        };
        let streams = self.counted + named;
        let differing = self.counted_inconsistent + inconsistent.count().min(named);
        VerifyResult {
            source_event_count: self.source_events,
            target_event_count: self.target_events,
            streams_verified: streams,
            streams_consistent: streams - differing,
            streams_estimated: !is_exact || inconsistent.is_full(),
            violations: self.violations,
            inconsistent_streams,
            seen: self.seen,
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
}
