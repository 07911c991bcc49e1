//! `blanked`: a whole COPY of the layouts, without the numbers that a database gives to its types.

use std::borrow::Cow;

use eventsource_core as core;
use pyo3::prelude::*;

use crate::error::to_python;

#[pyfunction]
pub fn blanked(
    py: Python<'_>,
    copy: &[u8],
    columns: Vec<String>,
    forms: Vec<String>,
) -> PyResult<Cow<'static, [u8]>> {
    py.detach(|| core::Forms::of(&columns, &forms)?.blanked(copy))
        .map(Cow::Owned)
        .map_err(to_python)
}
