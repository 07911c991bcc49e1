//! Turns a failure of the core into the one exception that Python knows.

use eventsource_core::Error;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

/// `eventsource.dataplane.DataPlaneError(kind, message, detail)`.
pub fn to_python(error: Error) -> PyErr {
    Python::attach(|py| {
        exception(py, &error)
            .map(PyErr::from_value)
            .unwrap_or_else(|failure| failure)
    })
}

fn exception<'py>(py: Python<'py>, error: &Error) -> PyResult<Bound<'py, PyAny>> {
    py.import("eventsource.dataplane")?
        .getattr("DataPlaneError")?
        .call1((error.kind(), error.to_string(), detail(py, error)?))
}

fn detail<'py>(py: Python<'py>, error: &Error) -> PyResult<Bound<'py, PyDict>> {
    let detail = PyDict::new(py);
    if let Some(side) = error.side() {
        detail.set_item("side", side.name())?;
    }
    if let Some(report) = error.report() {
        detail.set_item("sqlstate", &report.sqlstate)?;
        for (name, text) in [
            ("detail", &report.detail),
            ("hint", &report.hint),
            ("constraint", &report.constraint),
            ("context", &report.context),
        ] {
            if let Some(text) = text {
                detail.set_item(name, text)?;
            }
        }
    }
    match error {
        Error::Connect {
            sqlstate: Some(sqlstate),
            ..
        } => detail.set_item("sqlstate", sqlstate)?,
        Error::PositionsExhausted { needed, last } => {
            detail.set_item("needed", needed)?;
            detail.set_item("last", last)?;
        }
        Error::Inconsistent { total, differences } => {
            let list = PyList::empty(py);
            for difference in differences {
                let item = PyDict::new(py);
                item.set_item("kind", difference.kind.name())?;
                item.set_item("position", difference.position)?;
                item.set_item("event_id", difference.event_id)?;
                item.set_item("field", difference.field.as_deref())?;
                list.append(item)?;
            }
            detail.set_item("total", total)?;
            detail.set_item("differences", list)?;
        }
        _ => {}
    }
    Ok(detail)
}
