//! A binary COPY FROM STDIN of tuples that are already encoded.

use std::pin::pin;

use bytes::Bytes;
use futures_util::SinkExt;
use tokio_postgres::{Client, Statement};

use crate::error::{On, Result, Side};
use crate::row::frame::{END, HEADER};

/// The driver copies a message whole into its write buffer; this bounds that buffer for wide rows.
const MESSAGE_BYTES: usize = 256 * 1024;

/// Writes the batches and returns the number of rows that the server took. Dropped before its end,
/// it fails the COPY.
pub async fn copy_in(
    side: Side,
    client: &Client,
    statement: &Statement,
    batches: &[Bytes],
) -> Result<u64> {
    let sink = client.copy_in::<_, Bytes>(statement).await.on(side)?;
    let mut sink = pin!(sink);
    sink.feed(Bytes::from_static(HEADER)).await.on(side)?;
    for batch in batches {
        let mut rest = batch.clone();
        while !rest.is_empty() {
            let message = rest.split_to(rest.len().min(MESSAGE_BYTES));
            sink.feed(message).await.on(side)?;
        }
    }
    sink.feed(Bytes::from_static(END)).await.on(side)?;
    sink.finish().await.on(side)
}
