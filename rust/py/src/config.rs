//! The frozen dataclasses of `eventsource.dataplane`, read attribute by attribute.

use eventsource_core as core;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use uuid::Uuid;

use crate::error::to_python;
use crate::kept::KeptSessions;

#[derive(FromPyObject)]
pub struct TableAddress {
    dsn: String,
    schema: String,
    table: String,
}

impl From<TableAddress> for core::TableAddress {
    fn from(address: TableAddress) -> Self {
        core::TableAddress {
            dsn: address.dsn,
            schema: address.schema,
            table: address.table,
        }
    }
}

#[derive(FromPyObject)]
pub struct PassSessionConfig {
    migration_id: Uuid,
    tenant_id: Uuid,
    owner: Uuid,
    source: TableAddress,
    target: TableAddress,
    control_dsn: String,
    control_schema: String,
    columns: Vec<String>,
    forms: Vec<String>,
    offset: i64,
    last_target_position: i64,
    chunk_rows: usize,
    chunk_bytes: usize,
    max_events_per_second: Option<f64>,
    jobs: usize,
    journal: String,
    fresh_positions: bool,
    mapping_rows: bool,
    is_first: bool,
    kept: Option<Py<KeptSessions>>,
}

impl TryFrom<PassSessionConfig> for core::PassConfig {
    type Error = core::Error;

    fn try_from(config: PassSessionConfig) -> core::Result<Self> {
        Ok(core::PassConfig {
            migration_id: config.migration_id,
            tenant_id: config.tenant_id,
            owner: config.owner,
            source: config.source.into(),
            target: config.target.into(),
            control_dsn: config.control_dsn,
            control_schema: config.control_schema,
            forms: core::Forms::of(&config.columns, &config.forms)?,
            columns: config.columns,
            offset: config.offset,
            last_target_position: config.last_target_position,
            chunk_rows: config.chunk_rows,
            chunk_bytes: config.chunk_bytes,
            max_events_per_second: config.max_events_per_second,
            jobs: config.jobs,
            journal: config.journal,
            fresh_positions: config.fresh_positions,
            mapping_rows: config.mapping_rows,
            is_first: config.is_first,
            kept: config.kept.map(|kept| kept.get().shared()),
        })
    }
}

#[derive(FromPyObject)]
pub struct PassSpec {
    number: i32,
    previous_snapshot: Option<String>,
    snapshot: Option<String>,
    staged: bool,
}

impl TryFrom<PassSpec> for core::PassSpec {
    type Error = PyErr;

    fn try_from(spec: PassSpec) -> PyResult<Self> {
        Ok(core::PassSpec {
            number: spec.number,
            previous_snapshot: snapshot(spec.previous_snapshot)?,
            snapshot: snapshot(spec.snapshot)?,
            staged: spec.staged,
        })
    }
}

#[derive(FromPyObject)]
pub struct VerifyConfig {
    source: TableAddress,
    target: TableAddress,
    tenant_id: Uuid,
    columns: Vec<String>,
    forms: Vec<String>,
    offset: i64,
    level: String,
    snapshot: Option<String>,
    last_source_position: Option<i64>,
    after: Option<i64>,
    upto: Option<i64>,
    began_after: Option<i64>,
    streams_seen: Vec<u8>,
    streams_differing: Vec<u8>,
    streams_only_there: Vec<u8>,
    most_names: usize,
    salt: u64,
    sample_percentage: f64,
    max_violations: usize,
    parallelism: usize,
    migration_id: Option<Uuid>,
    kept: Option<Py<KeptSessions>>,
}

impl TryFrom<VerifyConfig> for core::VerifyConfig {
    type Error = PyErr;

    fn try_from(config: VerifyConfig) -> PyResult<Self> {
        Ok(core::VerifyConfig {
            migration_id: config.migration_id,
            source: config.source.into(),
            target: config.target.into(),
            tenant_id: config.tenant_id,
            forms: core::Forms::of(&config.columns, &config.forms).map_err(to_python)?,
            columns: config.columns,
            offset: config.offset,
            level: core::verify::Level::parse(&config.level).map_err(to_python)?,
            snapshot: snapshot(config.snapshot)?,
            last_source_position: config.last_source_position,
            after: config.after,
            upto: config.upto,
            began_after: config.began_after,
            before: core::verify::Seen {
                compared: names(&config.streams_seen, config.most_names)?,
                inconsistent: names(&config.streams_differing, config.most_names)?,
                only_there: names(&config.streams_only_there, config.most_names)?,
            },
            salt: config.salt,
            sample_percentage: config.sample_percentage,
            max_violations: config.max_violations,
            parallelism: config.parallelism,
            kept: config.kept.map(|kept| kept.get().shared()),
        })
    }
}

fn names(bytes: &[u8], most: usize) -> PyResult<core::verify::Names> {
    let (whole, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(PyValueError::new_err(
            "the name of a stream has eight bytes",
        ));
    }
    let names = whole.iter().copied().map(u64::from_le_bytes);
    Ok(core::verify::Names::of(names, most))
}

fn snapshot(text: Option<String>) -> PyResult<Option<core::Snapshot>> {
    text.map(|text| core::Snapshot::parse(&text))
        .transpose()
        .map_err(to_python)
}
