//! The tokio runtime that runs every awaitable.

use std::future::Future;
use std::panic;
use std::process;
use std::sync::OnceLock;

use eventsource_core::{Error, Result};
use pyo3::prelude::*;
use tokio::runtime::Builder;

use crate::error::to_python;

/// The servers do most of the work; two threads keep reading and writing going at the same time.
const WORKERS: usize = 2;

pub fn configure() {
    let mut builder = Builder::new_multi_thread();
    builder
        .worker_threads(WORKERS)
        .thread_name("eventsource")
        .enable_all();
    pyo3_async_runtimes::tokio::init(builder);
    stay_silent_after_the_interpreter();
}

/// Work that is cancelled at the very end may finish when the interpreter is already gone. Reporting
/// the result to Python then panics in a worker thread. The panic means nothing, so it is not printed.
#[allow(unsafe_code)]
fn stay_silent_after_the_interpreter() {
    let otherwise = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        // SAFETY: may be called at any time, from any thread, with or without an interpreter.
        if unsafe { pyo3::ffi::Py_IsInitialized() } != 0 {
            otherwise(info);
        }
    }));
}

/// An asyncio future. When Python cancels it, `work` is dropped.
pub fn awaitable<'py, T>(
    py: Python<'py>,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> PyResult<Bound<'py, PyAny>>
where
    T: for<'any> IntoPyObject<'any> + Send + 'static,
{
    refuse_after_fork().map_err(to_python)?;
    pyo3_async_runtimes::tokio::future_into_py(py, async move { work.await.map_err(to_python) })
}

/// A forked child has the runtime's memory and none of its threads: it would never get an answer.
pub fn refuse_after_fork() -> Result<()> {
    static PROCESS: OnceLock<u32> = OnceLock::new();
    if *PROCESS.get_or_init(process::id) == process::id() {
        return Ok(());
    }
    Err(Error::Protocol {
        message: "the data plane was in use before this process was forked; \
                  start the process with the spawn method"
            .to_owned(),
    })
}
