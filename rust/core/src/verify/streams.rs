//! How the streams that differ look on both sides.

use std::collections::HashMap;

use uuid::Uuid;

use crate::error::{On, Result, Side};
use crate::verify::config::VerifyConfig;
use crate::verify::outcome::{Stream, StreamResult};
use crate::verify::scan::Selection;

/// Number of events and last version.
type Extent = (i64, i64);

pub async fn describe(config: &VerifyConfig, streams: Vec<Stream>) -> Result<Vec<StreamResult>> {
    if streams.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<Uuid> = streams.iter().map(|stream| stream.aggregate_id).collect();
    let (source, target) = tokio::try_join!(
        extents(config, Side::Source, &ids),
        extents(config, Side::Target, &ids),
    )?;
    let describe = |stream: Stream| {
        let (source_events, source_version) = source.get(&stream).copied().unwrap_or_default();
        let (target_events, target_version) = target.get(&stream).copied().unwrap_or_default();
        StreamResult {
            stream,
            source_events,
            target_events,
            source_version,
            target_version,
        }
    };
    Ok(streams.into_iter().map(describe).collect())
}

async fn extents(
    config: &VerifyConfig,
    side: Side,
    ids: &[Uuid],
) -> Result<HashMap<Stream, Extent>> {
    let selection = Selection::of(config, side);
    let sql = format!(
        "select aggregate_id, aggregate_type::text, count(*), max(version)::bigint from {} \
         where {} and aggregate_id = any ($1) group by aggregate_id, aggregate_type",
        selection.table,
        selection.condition(),
    );
    let connection = config.open(side, "").await?;
    let rows = connection.client().query(&sql, &[&ids]).await.on(side)?;
    connection.close().await;
    let mut extents = HashMap::new();
    for row in rows {
        let stream = Stream {
            aggregate_id: row.try_get(0).on(side)?,
            aggregate_type: row.try_get(1).on(side)?,
        };
        extents.insert(stream, (row.try_get(2).on(side)?, row.try_get(3).on(side)?));
    }
    Ok(extents)
}
