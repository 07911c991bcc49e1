//! A COPY TO STDOUT as a stream of tuples.

use std::fmt::Display;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio_postgres::{Client, CopyOutStream, ToStatement};

use crate::error::{Error, On, Result, Side};
use crate::row::form::Forms;
use crate::row::frame::{Framer, Tuple};

pub struct TupleStream {
    side: Side,
    messages: Pin<Box<CopyOutStream>>,
    framer: Framer,
    forms: Forms,
    /// The current tuple as it came, where `forms` change it.
    sent: Bytes,
}

impl TupleStream {
    /// `forms` are those of the columns that come first in the answer.
    pub async fn start<T>(
        side: Side,
        client: &Client,
        copy: &T,
        forms: &Forms,
    ) -> Result<TupleStream>
    where
        T: ?Sized + ToStatement,
    {
        let messages = client.copy_out(copy).await.on(side)?;
        Ok(TupleStream {
            side,
            messages: Box::pin(messages),
            framer: Framer::default(),
            forms: forms.clone(),
            sent: Bytes::new(),
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
        let found = self.framer.advance().map_err(|error| self.broken(error))?;
        if found && !self.forms.is_empty() {
            self.sent = self.framer.shared();
            let (tuple, fields) = self.framer.tuple_mut();
            let blanked = self.forms.blank(tuple, fields);
            blanked.map_err(|error| self.broken(error))?;
        }
        Ok(found)
    }

    /// The tuple as it is digested and compared.
    pub fn tuple(&self) -> Tuple<'_> {
        self.framer.tuple()
    }

    /// The tuple as it was sent, where that is another one.
    pub fn sent(&self) -> Option<Tuple<'_>> {
        (!self.forms.is_empty()).then(|| Tuple {
            bytes: &self.sent,
            fields: self.framer.tuple().fields,
        })
    }

    /// The bytes of the tuple as it was sent, without copying them where that is possible.
    pub fn shared(&self) -> Bytes {
        match self.forms.is_empty() {
            true => self.framer.shared(),
            false => self.sent.clone(),
        }
    }

    fn broken(&self, error: impl Display) -> Error {
        Error::protocol(format!("{} database: {error}", self.side))
    }
}
