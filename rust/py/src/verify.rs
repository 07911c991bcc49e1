//! `Verification`: a comparison of two tables that runs by itself, and what it found.

use std::borrow::Cow;
use std::sync::Arc;

use eventsource_core as core;
use pyo3::prelude::*;
use uuid::Uuid;

use crate::config::VerifyConfig;
use crate::error::to_python;
use crate::runtime::{awaitable, refuse_after_fork};

#[pyclass(frozen, module = "eventsource._core")]
pub struct Verification {
    verification: Arc<core::Verification>,
}

#[pymethods]
impl Verification {
    #[staticmethod]
    fn start(config: VerifyConfig) -> PyResult<Verification> {
        refuse_after_fork().map_err(to_python)?;
        let _runtime = pyo3_async_runtimes::tokio::get_runtime().enter();
        let verification = core::Verification::start(config.try_into()?).map_err(to_python)?;
        Ok(Verification {
            verification: Arc::new(verification),
        })
    }

    fn result<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let verification = self.verification.clone();
        awaitable(py, async move {
            verification.result().await.map(VerifyResult::from)
        })
    }

    fn progress(&self) -> VerifyProgress {
        let core::verify::VerifyProgress {
            source_rows,
            target_rows,
        } = self.verification.progress();
        VerifyProgress {
            source_rows,
            target_rows,
        }
    }
}

#[pyclass(frozen, get_all, module = "eventsource._core")]
pub struct VerifyProgress {
    source_rows: i64,
    target_rows: i64,
}

#[pyclass(frozen, module = "eventsource._core")]
pub struct VerifyResult {
    #[pyo3(get)]
    source_event_count: i64,
    #[pyo3(get)]
    target_event_count: i64,
    #[pyo3(get)]
    streams_verified: i64,
    #[pyo3(get)]
    streams_consistent: i64,
    #[pyo3(get)]
    streams_estimated: bool,
    #[pyo3(get)]
    violations: Vec<Violation>,
    #[pyo3(get)]
    inconsistent_streams: Vec<StreamResult>,
    seen: core::verify::Seen,
}

#[pymethods]
impl VerifyResult {
    /// What the next range's comparison has to know, eight bytes for each name that is kept.
    #[getter]
    fn streams_seen(&self) -> Cow<'static, [u8]> {
        bytes_of(&self.seen.compared)
    }

    #[getter]
    fn streams_differing(&self) -> Cow<'static, [u8]> {
        bytes_of(&self.seen.inconsistent)
    }

    #[getter]
    fn streams_only_there(&self) -> Cow<'static, [u8]> {
        bytes_of(&self.seen.only_there)
    }
}

fn bytes_of(names: &core::verify::Names) -> Cow<'static, [u8]> {
    Cow::Owned(names.iter().flat_map(u64::to_le_bytes).collect())
}

#[pyclass(frozen, get_all, eq, module = "eventsource._core")]
#[derive(Clone, PartialEq)]
pub struct Violation {
    kind: String,
    aggregate_type: String,
    aggregate_id: Uuid,
    version: i64,
    position: i64,
    event_id: Uuid,
    field: Option<String>,
    detail: String,
}

#[pyclass(frozen, get_all, eq, module = "eventsource._core")]
#[derive(Clone, PartialEq)]
pub struct StreamResult {
    aggregate_type: String,
    aggregate_id: Uuid,
    source_events: i64,
    target_events: i64,
    source_version: i64,
    target_version: i64,
}

#[pymethods]
impl Violation {
    #[new]
    #[allow(clippy::too_many_arguments)] // one for each field, by name
    fn new(
        kind: String,
        aggregate_type: String,
        aggregate_id: Uuid,
        version: i64,
        position: i64,
        event_id: Uuid,
        field: Option<String>,
        detail: String,
    ) -> Violation {
        Violation {
            kind,
            aggregate_type,
            aggregate_id,
            version,
            position,
            event_id,
            field,
            detail,
        }
    }

    fn __repr__(&self) -> String {
        let Violation {
            kind,
            aggregate_type,
            aggregate_id,
            version,
            position,
            event_id,
            ..
        } = self;
        let field = self.field.as_deref().unwrap_or("None");
        format!(
            "<Violation {kind}: {aggregate_type} {aggregate_id} version {version}, \
             position {position}, event {event_id}, field {field}: {}>",
            self.detail
        )
    }
}

#[pymethods]
impl StreamResult {
    #[new]
    fn new(
        aggregate_type: String,
        aggregate_id: Uuid,
        source_events: i64,
        target_events: i64,
        source_version: i64,
        target_version: i64,
    ) -> StreamResult {
        StreamResult {
            aggregate_type,
            aggregate_id,
            source_events,
            target_events,
            source_version,
            target_version,
        }
    }

    fn __repr__(&self) -> String {
        format!(
            "<StreamResult {} {}: {} events to version {} on the source, \
             {} to {} on the target>",
            self.aggregate_type,
            self.aggregate_id,
            self.source_events,
            self.source_version,
            self.target_events,
            self.target_version
        )
    }
}

impl From<core::VerifyResult> for VerifyResult {
    fn from(result: core::VerifyResult) -> Self {
        VerifyResult {
            source_event_count: result.source_event_count,
            target_event_count: result.target_event_count,
            streams_verified: result.streams_verified,
            streams_consistent: result.streams_consistent,
            streams_estimated: result.streams_estimated,
            violations: result.violations.into_iter().map(Violation::from).collect(),
            inconsistent_streams: result
                .inconsistent_streams
                .into_iter()
                .map(StreamResult::from)
                .collect(),
            seen: result.seen,
        }
    }
}

impl From<core::verify::Violation> for Violation {
    fn from(violation: core::verify::Violation) -> Self {
        Violation {
            kind: violation.kind.name().to_owned(),
            aggregate_type: violation.stream.aggregate_type,
            aggregate_id: violation.stream.aggregate_id,
            version: violation.version,
            position: violation.position,
            event_id: violation.event_id,
            field: violation.field,
            detail: violation.detail,
        }
    }
}

impl From<core::verify::StreamResult> for StreamResult {
    fn from(result: core::verify::StreamResult) -> Self {
        StreamResult {
            aggregate_type: result.stream.aggregate_type,
            aggregate_id: result.stream.aggregate_id,
            source_events: result.source_events,
            target_events: result.target_events,
            source_version: result.source_version,
            target_version: result.target_version,
        }
    }
}
