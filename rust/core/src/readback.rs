//! The digest of what the target holds, read back in two ranges at once.

use uuid::Uuid;

use crate::chunk::Layout;
use crate::config::PassConfig;
use crate::connect::Connection;
use crate::digest::Digest;
use crate::error::{On, Result, Side};
use crate::identifier::column_list;
use crate::stream::TupleStream;

/// Rows of one short statement.
const ROWS: usize = 20_000;

/// Of the tenant's rows on the target, positions as on the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetDigest {
    pub rows: i64,
    pub digest: Digest,
}

/// Rows with source positions in `(after, upto]`.
#[derive(Clone, Copy, Debug)]
struct Range {
    after: i64,
    upto: i64,
}

struct Source {
    table: String,
    columns: String,
    tenant_id: Uuid,
    layout: Layout,
    offset: i64,
}

pub async fn digest(
    target: &Connection,
    config: &PassConfig,
    max_source_position: Option<i64>,
) -> Result<TargetDigest> {
    let source = Source {
        table: config.target.sql(),
        columns: column_list(&config.columns),
        tenant_id: config.tenant_id,
        layout: Layout::of(&config.columns)?,
        offset: config.offset,
    };
    let Some((low, high)) = source.bounds(target, max_source_position).await? else {
        return Ok(TargetDigest::default());
    };
    let first = |upto| Range {
        after: low - 1,
        upto,
    };
    if high - low < ROWS as i64 {
        return source.digest(target, first(high)).await;
    }
    let middle = low + (high - low) / 2;
    let second = Range {
        after: middle,
        upto: high,
    };
    let other = Connection::open(Side::Target, &config.target.dsn).await?;
    let (left, right) = tokio::try_join!(
        source.digest(target, first(middle)),
        source.digest(&other, second)
    )?;
    other.close().await;
    Ok(TargetDigest {
        rows: left.rows + right.rows,
        digest: left.digest.plus(right.digest),
    })
}

impl Source {
    /// The first and last target position.
    async fn bounds(&self, target: &Connection, max: Option<i64>) -> Result<Option<(i64, i64)>> {
        let upto = max.map_or(i64::MAX, |max| max.saturating_add(self.offset));
        let sql = format!(
            "select min(global_position), max(global_position) from {} \
             where tenant_id = $1 and global_position <= $2",
            self.table
        );
        let row = target
            .client()
            .query_one(&sql, &[&self.tenant_id, &upto])
            .await
            .on(Side::Target)?;
        let low: Option<i64> = row.try_get(0).on(Side::Target)?;
        let high: Option<i64> = row.try_get(1).on(Side::Target)?;
        Ok(low.zip(high))
    }

    async fn digest(&self, connection: &Connection, mut range: Range) -> Result<TargetDigest> {
        let mut total = TargetDigest::default();
        let mut scratch = Vec::new();
        loop {
            let copy = self.statement(range);
            let mut stream = TupleStream::start(Side::Target, connection.client(), &copy).await?;
            let mut rows = 0;
            while stream.fill().await? {
                while stream.advance()? {
                    let tuple = stream.tuple();
                    let digest = self.layout.digest_of(&tuple, self.offset, &mut scratch)?;
                    total.digest = total.digest.plus(digest);
                    range.after = self.layout.position_of(&tuple)?;
                    rows += 1;
                }
            }
            total.rows += rows as i64;
            if rows < ROWS {
                return Ok(total);
            }
        }
    }

    fn statement(&self, range: Range) -> String {
        format!(
            "copy (select {columns} from {table} where tenant_id = '{tenant}' \
                   and global_position > {after} and global_position <= {upto} \
                   order by global_position limit {ROWS}) to stdout (format binary)",
            columns = self.columns,
            table = self.table,
            tenant = self.tenant_id,
            after = range.after,
            upto = range.upto,
        )
    }
}
