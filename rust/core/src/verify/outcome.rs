//! What a comparison found.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

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

#[derive(Clone, Debug, Default)]
pub struct VerifyResult {
    pub source_event_count: i64,
    pub target_event_count: i64,
    pub streams_verified: i64,
    pub streams_consistent: i64,
    pub violations: Vec<Violation>,
    pub inconsistent_streams: Vec<StreamResult>,
}

/// Names streams by 64 bits, so that a million of them are counted in a few megabytes. Two that
/// share a name are counted as one; their rows are compared all the same.
#[derive(Clone, Debug, Default)]
pub struct Fingerprints(RandomState);

impl Fingerprints {
    pub fn of(&self, aggregate_id: &[u8], aggregate_type: &[u8]) -> u64 {
        self.0.hash_one((aggregate_id, aggregate_type))
    }
}

/// The result in the making. Parts of it are added up at the end.
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
        }
    }
}
