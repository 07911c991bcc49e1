//! The extension module `eventsource._core`. It forwards and never decides: one file per
//! operation, named as in `eventsource-core`.

mod config;
mod error;
mod form;
mod kept;
mod runtime;
mod session;
mod verify;

use pyo3::prelude::*;

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    runtime::configure();
    module.add("HAS_FAILPOINTS", cfg!(feature = "failpoints"))?;
    module.add_function(wrap_pyfunction!(form::blanked, module)?)?;
    module.add_class::<kept::KeptSessions>()?;
    module.add_class::<session::PassSession>()?;
    module.add_class::<session::PassResult>()?;
    module.add_class::<session::Progress>()?;
    module.add_class::<verify::Verification>()?;
    module.add_class::<verify::VerifyResult>()?;
    module.add_class::<verify::VerifyProgress>()?;
    module.add_class::<verify::Violation>()?;
    module.add_class::<verify::StreamResult>()?;
    Ok(())
}
