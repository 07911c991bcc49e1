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

/// A connection that the guard of the target lets pass.
pub async fn open_target(config: &PassConfig) -> Result<Connection> {
    let target = Connection::open(Side::Target, &config.target.dsn, config.kept.as_ref()).await?;
    let mark = claim::mark(config.migration_id, Side::Target);
    let announce = format!("set eventsource.migration = '{}'", config.migration_id);
    target.batch(&format!("{announce}; {mark}")).await?;
    Ok(target)
}

/// A connection that reads the tenant's rows by their index.
pub async fn open_source(config: &PassConfig) -> Result<Connection> {
    let source = Connection::open(Side::Source, &config.source.dsn, config.kept.as_ref()).await?;
    let mark = claim::mark(config.migration_id, Side::Source);
    source.batch(&format!("{BY_INDEX}; {mark}")).await?;
    Ok(source)
}
