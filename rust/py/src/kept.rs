//! `KeptSessions`: the idle sessions of this process's data plane.

use std::sync::Arc;
use std::time::Duration;

use eventsource_core as core;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::runtime::awaitable;

#[pyclass(frozen, module = "eventsource._core")]
pub struct KeptSessions {
    kept: Arc<core::KeptSessions>,
}

impl KeptSessions {
    pub fn shared(&self) -> Arc<core::KeptSessions> {
        self.kept.clone()
    }
}

#[pymethods]
impl KeptSessions {
    #[new]
    fn new(seconds: f64) -> PyResult<KeptSessions> {
        let time = Duration::try_from_secs_f64(seconds)
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(KeptSessions {
            kept: Arc::new(core::KeptSessions::new(time)),
        })
    }

    fn close<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let kept = self.kept.clone();
        awaitable(py, async move {
            kept.close().await;
            Ok(())
        })
    }
}
