//! `PassSession`: the open connections of one migration, and what it reports.

use std::borrow::Cow;
use std::sync::Arc;

use eventsource_core as core;
use pyo3::prelude::*;

use crate::config::{PassSessionConfig, PassSpec};
use crate::error::to_python;
use crate::runtime::awaitable;

#[pyclass(frozen, module = "eventsource._core")]
pub struct PassSession {
    session: Arc<core::PassSession>,
}

#[pymethods]
impl PassSession {
    #[staticmethod]
    fn open(py: Python<'_>, config: PassSessionConfig) -> PyResult<Bound<'_, PyAny>> {
        awaitable(py, async move {
            let session = Arc::new(core::PassSession::open(config.try_into()?).await?);
            Ok(PassSession { session })
        })
    }

    fn run<'py>(&self, py: Python<'py>, spec: PassSpec) -> PyResult<Bound<'py, PyAny>> {
        let session = self.session.clone();
        let spec = core::PassSpec::try_from(spec)?;
        awaitable(py, async move {
            session.run(&spec).await.map(|result| PassResult { result })
        })
    }

    fn progress(&self) -> Progress {
        Progress {
            progress: self.session.progress(),
        }
    }

    fn request_stop(&self) {
        self.session.request_stop();
    }

    #[pyo3(signature = (max_events_per_second))]
    fn set_rate(&self, max_events_per_second: Option<f64>) -> PyResult<()> {
        self.session
            .set_rate(max_events_per_second)
            .map_err(to_python)
    }

    fn close<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let session = self.session.clone();
        awaitable(py, async move {
            session.close().await;
            Ok(())
        })
    }
}

#[pyclass(frozen, module = "eventsource._core")]
pub struct PassResult {
    result: core::PassResult,
}

#[pymethods]
impl PassResult {
    #[getter]
    fn rows(&self) -> i64 {
        self.result.totals.rows
    }

    #[getter]
    fn bytes(&self) -> i64 {
        self.result.totals.bytes
    }

    #[getter]
    fn inserted(&self) -> i64 {
        self.result.totals.inserted
    }

    #[getter]
    fn already_present(&self) -> i64 {
        self.result.totals.rows - self.result.totals.inserted
    }

    #[getter]
    fn last_transaction_id(&self) -> Option<u64> {
        self.result.totals.cursor.transaction_id
    }

    #[getter]
    fn last_position(&self) -> i64 {
        self.result.totals.cursor.position
    }

    #[getter]
    fn digest(&self) -> Cow<'static, [u8]> {
        Cow::Owned(self.result.totals.digest.to_bytes().to_vec())
    }

    #[getter]
    fn finished(&self) -> bool {
        self.result.finished
    }

    #[getter]
    fn seconds(&self) -> f64 {
        self.result.seconds
    }

    fn __repr__(&self) -> String {
        format!(
            "PassResult(rows={}, inserted={}, finished={}, seconds={:.3})",
            self.rows(),
            self.inserted(),
            if self.result.finished {
                "True"
            } else {
                "False"
            },
            self.result.seconds
        )
    }
}

#[pyclass(frozen, module = "eventsource._core")]
pub struct Progress {
    progress: core::Progress,
}

#[pymethods]
impl Progress {
    #[getter]
    fn rows(&self) -> i64 {
        self.progress.rows
    }

    #[getter]
    fn bytes(&self) -> i64 {
        self.progress.bytes
    }

    #[getter]
    fn chunks(&self) -> i64 {
        self.progress.chunks
    }

    #[getter]
    fn last_position(&self) -> i64 {
        self.progress.last_position
    }
}
