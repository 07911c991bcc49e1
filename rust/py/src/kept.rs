//! `KeptSessions`: the idle sessions of this process's data plane.

use std::sync::Arc;

use eventsource_core as core;
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
    fn new() -> KeptSessions {
        KeptSessions {
            kept: Arc::default(),
        }
    }

    fn close<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let kept = self.kept.clone();
        awaitable(py, async move {
            kept.close().await;
            Ok(())
        })
    }
}
