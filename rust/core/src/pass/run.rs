//! What the parts of a running pass share: its order, its counters, its kinds of connection.

use std::sync::Arc;

use crate::config::{PassConfig, PassSpec};
use crate::error::{Result, Side};
use crate::pass::progress::{Counters, ProgressRow};
use crate::pass::source::BY_INDEX;
use crate::server::claim;
use crate::server::connect::Connection;
use crate::throttle::Throttle;

/// What the parts of a running pass share.
pub struct Run<'a> {
    pub config: &'a PassConfig,
    pub spec: &'a PassSpec,
    pub throttle: &'a Arc<Throttle>,
    pub counters: &'a Counters,
    pub progress: ProgressRow,
}

/// A connection that the guard of the target lets pass; `also` are settings of its own.
pub async fn open_target(config: &PassConfig, also: &str) -> Result<Connection> {
    let mark = claim::mark(config.migration_id, Side::Target);
    let announce = format!("set eventsource.migration = '{}'", config.migration_id);
    let settings = format!("{announce}; {mark}; {also}");
    Connection::open(
        Side::Target,
        &config.target.dsn,
        config.kept.as_ref(),
        &settings,
    )
    .await
}

/// A connection that reads the tenant's rows by their index.
pub async fn open_source(config: &PassConfig) -> Result<Connection> {
    let mark = claim::mark(config.migration_id, Side::Source);
    let settings = format!("{BY_INDEX}; {mark}");
    Connection::open(
        Side::Source,
        &config.source.dsn,
        config.kept.as_ref(),
        &settings,
    )
    .await
}

/// The moments of a chunk of a pass that is not the first, whichever way it goes.
pub mod moments {
    use crate::config::PassSpec;
    use crate::error::Result;

    pub async fn copied(_spec: &PassSpec) -> Result<()> {
        failpoint!(_spec, pass: "pass.chunk.copied", last: "cutover.delta.copied");
        Ok(())
    }

    pub async fn mapped(_spec: &PassSpec) -> Result<()> {
        failpoint!(
            _spec,
            pass: "pass.mapping.committed",
            last: "cutover.mapping.committed"
        );
        Ok(())
    }

    pub async fn proven(_spec: &PassSpec) -> Result<()> {
        failpoint!(_spec, pass: "pass.chunk.proven", last: "cutover.delta.proven");
        Ok(())
    }

    pub async fn committed(_spec: &PassSpec) -> Result<()> {
        failpoint!(_spec, pass: "pass.chunk.committed", last: "cutover.delta.committed");
        Ok(())
    }
}
