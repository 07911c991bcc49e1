//! A COPY TO STDOUT as a stream of tuples.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio_postgres::{Client, CopyOutStream, ToStatement};

use crate::error::{Error, On, Result, Side};
use crate::row::frame::{FrameError, Framer, Tuple};

pub struct TupleStream {
    side: Side,
    messages: Pin<Box<CopyOutStream>>,
    framer: Framer,
}

impl TupleStream {
    pub async fn start<T>(side: Side, client: &Client, copy: &T) -> Result<TupleStream>
    where
        T: ?Sized + ToStatement,
    {
        let messages = client.copy_out(copy).await.on(side)?;
        Ok(TupleStream {
            side,
            messages: Box::pin(messages),
            framer: Framer::default(),
        })
    }

    /// Waits for more of the stream; false at its end.
    pub async fn fill(&mut self) -> Result<bool> {
        match self.messages.next().await {
            Some(message) => {
                self.framer.push(message.on(self.side)?);
                Ok(true)
            }
            None => {
                self.framer.finish().map_err(|error| self.broken(error))?;
                Ok(false)
            }
        }
    }

    /// Moves to the next tuple that has arrived; false if there is none before the next `fill`.
    pub fn advance(&mut self) -> Result<bool> {
        self.framer.advance().map_err(|error| self.broken(error))
    }

    pub fn tuple(&self) -> Tuple<'_> {
        self.framer.tuple()
    }

    /// The bytes of the tuple, without copying them where that is possible.
    pub fn shared(&self) -> Bytes {
        self.framer.shared()
    }

    fn broken(&self, error: FrameError) -> Error {
        Error::protocol(format!("{} database: {error}", self.side))
    }
}
