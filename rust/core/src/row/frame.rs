//! Finds the tuples in a binary COPY stream (PostgreSQL manual, "COPY", file format "binary").
//!
//! The server sends one tuple per CopyData message, and the framer then reads it in place. The
//! protocol does not promise this, so a stream that is split anywhere else works too.

use bytes::{Buf, Bytes, BytesMut};

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
const FIXED_HEADER: usize = SIGNATURE.len() + 8;
const TRAILER: i16 = -1;

/// What a COPY into a table starts and ends with.
pub const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
pub const END: &[u8] = &[0xff, 0xff];

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("the COPY stream does not start with the binary signature")]
    Signature,
    #[error("the COPY stream has unknown critical flags")]
    Flags,
    #[error("a length in the COPY stream is negative")]
    Length,
    #[error("the COPY stream goes on after its end")]
    Trailing,
    #[error("the COPY stream ended inside a tuple")]
    Truncated,
}

/// Where a field's bytes are within its tuple; `None` is NULL.
pub type Field = Option<(usize, usize)>;

/// One tuple: its bytes from the field count on, and where the fields are.
#[derive(Clone, Copy, Debug)]
pub struct Tuple<'a> {
    pub bytes: &'a [u8],
    pub fields: &'a [Field],
}

impl<'a> Tuple<'a> {
    /// `None` for NULL, and where the tuple has fewer fields: a server, or the way to it, may be broken.
    pub fn field(&self, index: usize) -> Option<&'a [u8]> {
        let (start, end) = (*self.fields.get(index)?)?;
        Some(&self.bytes[start..end])
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    Tuples,
    End,
}

pub struct Framer {
    state: State,
    /// The message being looked at, unless a tuple began in an earlier one.
    whole: Bytes,
    /// Bytes of a tuple that arrived in pieces, and what followed it.
    pieces: BytesMut,
    fields: Vec<Field>,
    /// Length of the current tuple, dropped at the next `advance`.
    current: usize,
}

impl Default for Framer {
    fn default() -> Self {
        Framer {
            state: State::Header,
            whole: Bytes::new(),
            pieces: BytesMut::new(),
            fields: Vec::new(),
            current: 0,
        }
    }
}

impl Framer {
    /// Takes the next piece of the stream. The current tuple is gone.
    pub fn push(&mut self, data: Bytes) {
        self.consume_current();
        if self.whole.is_empty() && self.pieces.is_empty() {
            self.whole = data;
            return;
        }
        self.pieces.extend_from_slice(&self.whole);
        self.whole = Bytes::new();
        self.pieces.extend_from_slice(&data);
    }

    /// Moves to the next tuple; false if more data is needed or the stream is at its end.
    pub fn advance(&mut self) -> Result<bool, FrameError> {
        self.consume_current();
        if self.state == State::Header && !self.read_header()? {
            return Ok(false);
        }
        if self.state == State::End {
            return if self.remaining() == 0 {
                Ok(false)
            } else {
                Err(FrameError::Trailing)
            };
        }
        match self.locate()? {
            Some(length) => {
                self.current = length;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// The tuple that `advance` found.
    pub fn tuple(&self) -> Tuple<'_> {
        Tuple {
            bytes: &self.buffer()[..self.current],
            fields: &self.fields,
        }
    }

    /// The current tuple, to be changed in place. Others may hold a message that arrived in one piece,
    /// so that it is copied first.
    pub fn tuple_mut(&mut self) -> (&mut [u8], &[Field]) {
        if self.pieces.is_empty() {
            self.pieces
                .extend_from_slice(&std::mem::take(&mut self.whole));
        }
        (&mut self.pieces[..self.current], &self.fields)
    }

    /// The bytes of the current tuple, shared with the message they came in where that is possible.
    pub fn shared(&self) -> Bytes {
        if self.pieces.is_empty() {
            self.whole.slice(..self.current)
        } else {
            Bytes::copy_from_slice(&self.pieces[..self.current])
        }
    }

    /// Fails unless the stream is complete; for the end of the server's messages.
    pub fn finish(&self) -> Result<(), FrameError> {
        if self.state == State::End && self.remaining() == 0 {
            Ok(())
        } else {
            Err(FrameError::Truncated)
        }
    }

    fn buffer(&self) -> &[u8] {
        if self.pieces.is_empty() {
            &self.whole
        } else {
            &self.pieces
        }
    }

    fn remaining(&self) -> usize {
        self.buffer().len()
    }

    fn discard(&mut self, length: usize) {
        if self.pieces.is_empty() {
            self.whole.advance(length);
        } else {
            self.pieces.advance(length);
        }
    }

    fn consume_current(&mut self) {
        let length = std::mem::take(&mut self.current);
        if length > 0 {
            self.discard(length);
        }
    }

    fn read_header(&mut self) -> Result<bool, FrameError> {
        let buffer = self.buffer();
        let seen = buffer.len().min(SIGNATURE.len());
        if buffer[..seen] != SIGNATURE[..seen] {
            return Err(FrameError::Signature);
        }
        if buffer.len() < FIXED_HEADER {
            return Ok(false);
        }
        let flags = read_i32(buffer, SIGNATURE.len());
        // The upper half are flags that a reader must understand; none of them is in use.
        if flags as u32 >> 16 != 0 {
            return Err(FrameError::Flags);
        }
        let extension = length(read_i32(buffer, SIGNATURE.len() + 4))?;
        if buffer.len() < FIXED_HEADER + extension {
            return Ok(false);
        }
        self.discard(FIXED_HEADER + extension);
        self.state = State::Tuples;
        Ok(true)
    }

    /// Length of the tuple at the front, its fields noted; `None` if it is incomplete.
    fn locate(&mut self) -> Result<Option<usize>, FrameError> {
        let buffer: &[u8] = if self.pieces.is_empty() {
            &self.whole
        } else {
            &self.pieces
        };
        if buffer.len() < 2 {
            return Ok(None);
        }
        let count = i16::from_be_bytes([buffer[0], buffer[1]]);
        if count == TRAILER {
            self.state = State::End;
            self.discard(2);
            return if self.remaining() == 0 {
                Ok(None)
            } else {
                Err(FrameError::Trailing)
            };
        }
        let count = usize::try_from(count).map_err(|_| FrameError::Length)?;
        self.fields.clear();
        let mut at = 2;
        for _ in 0..count {
            if buffer.len() < at + 4 {
                return Ok(None);
            }
            let size = read_i32(buffer, at);
            at += 4;
            if size == -1 {
                self.fields.push(None);
                continue;
            }
            let size = length(size)?;
            if buffer.len() - at < size {
                return Ok(None);
            }
            self.fields.push(Some((at, at + size)));
            at += size;
        }
        Ok(Some(at))
    }
}

fn read_i32(buffer: &[u8], at: usize) -> i32 {
    i32::from_be_bytes([buffer[at], buffer[at + 1], buffer[at + 2], buffer[at + 3]])
}

fn length(value: i32) -> Result<usize, FrameError> {
    usize::try_from(value).map_err(|_| FrameError::Length)
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
