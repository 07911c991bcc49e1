//! Writes a chunk straight into the target table: for rows that are certainly not there yet.

use tokio_postgres::Statement;

use crate::chunk::Chunk;
use crate::config::{PassConfig, Totals};
use crate::connect::Connection;
use crate::copy_in::copy_in;
use crate::error::{Error, Result, Side};
use crate::identifier::column_list;
use crate::progress::ProgressRow;

pub struct Direct {
    copy: Statement,
}

impl Direct {
    pub async fn prepare(target: &Connection, config: &PassConfig) -> Result<Direct> {
        let copy = format!(
            "copy {} ({}) from stdin (format binary)",
            config.target.sql(),
            column_list(&config.columns)
        );
        Ok(Direct {
            copy: target.prepare(&copy).await?,
        })
    }

    /// Leaves the transaction open, ready to be committed.
    pub async fn write(
        &self,
        target: &Connection,
        progress: &ProgressRow,
        number: i32,
        before: &Totals,
        chunk: &Chunk,
    ) -> Result<Totals> {
        let client = target.client();
        let copy = copy_in(Side::Target, client, &self.copy, &chunk.batches);
        let ((), taken) = tokio::try_join!(target.batch("begin"), copy)?;
        if taken != chunk.rows() as u64 {
            return Err(Error::protocol(format!(
                "the target took {taken} of {} rows; does a trigger drop some?",
                chunk.rows()
            )));
        }
        progress.advance(client, number, before, chunk).await
    }
}
