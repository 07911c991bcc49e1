//! What Python holds: the open pipeline of one migration, one operation at a time.

use std::sync::Arc;

use tokio::sync::Mutex;

use crate::config::{PassConfig, PassResult, PassSpec};
use crate::error::{Error, Result};
use crate::pass::pipeline::Pipeline;
use crate::pass::progress::{Counters, Progress, ProgressRow};
use crate::pass::run::Run;
use crate::throttle::Throttle;

/// An operation takes the pipeline out and puts it back when it succeeds. One that fails or is
/// dropped takes it along, and with it whatever the servers had open.
pub struct PassSession {
    config: PassConfig,
    pipeline: Mutex<Option<Pipeline>>,
    throttle: Arc<Throttle>,
    counters: Counters,
}

impl PassSession {
    pub async fn open(config: PassConfig) -> Result<PassSession> {
        config.validate()?;
        let pipeline = Pipeline::open(&config).await?;
        let throttle = Arc::new(Throttle::new(config.max_events_per_second));
        Ok(PassSession {
            config,
            pipeline: Mutex::new(Some(pipeline)),
            throttle,
            counters: Counters::default(),
        })
    }

    pub async fn run(&self, spec: &PassSpec) -> Result<PassResult> {
        let mut slot = self.enter()?;
        let pipeline = slot.take().ok_or_else(closed)?;
        let run = Run {
            config: &self.config,
            spec,
            throttle: &self.throttle,
            counters: &self.counters,
            progress: ProgressRow::of(&self.config),
        };
        let result = pipeline.run(&run).await?;
        *slot = Some(pipeline);
        Ok(result)
    }

    pub fn progress(&self) -> Progress {
        self.counters.read()
    }

    /// The running pass ends after its current chunk; later ones end at once.
    pub fn request_stop(&self) {
        self.throttle.request_stop();
    }

    pub fn set_rate(&self, rate: Option<f64>) -> Result<()> {
        self.throttle.set_rate(rate)
    }

    /// Waits for the running operation, then ends the sessions.
    pub async fn close(&self) {
        let pipeline = self.pipeline.lock().await.take();
        if let Some(pipeline) = pipeline {
            pipeline.close().await;
        }
    }

    fn enter(&self) -> Result<tokio::sync::MutexGuard<'_, Option<Pipeline>>> {
        self.pipeline
            .try_lock()
            .map_err(|_| Error::protocol("the session is running an operation; wait until it ends"))
    }
}

fn closed() -> Error {
    Error::protocol("the session is closed, or an operation failed; open another one")
}
