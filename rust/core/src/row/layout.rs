//! Which column of a tuple is which, and the parts of a tuple that are carried.

use uuid::Uuid;

use crate::error::{Error, Result};
use crate::row::digest::Digest;
use crate::row::frame::Tuple;

/// Columns that the data plane itself looks at.
pub const KEY_COLUMNS: [&str; 2] = ["global_position", "event_id"];

/// Fails if one of the needed columns is not carried.
pub(crate) fn require_columns(columns: &[String], needed: &[&str]) -> Result<()> {
    for name in needed {
        if !columns.iter().any(|column| column == name) {
            return Err(Error::protocol(format!("the columns lack {name}")));
        }
    }
    Ok(())
}

/// Where the columns that matter are in a carried tuple.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub count: usize,
    pub position: usize,
    pub event_id: usize,
}

impl Layout {
    pub fn of(columns: &[String]) -> Result<Layout> {
        let find = |name: &str| {
            columns
                .iter()
                .position(|column| column == name)
                .ok_or_else(|| Error::protocol(format!("the columns lack {name}")))
        };
        Ok(Layout {
            count: columns.len(),
            position: find("global_position")?,
            event_id: find("event_id")?,
        })
    }

    pub fn position_of(&self, tuple: &Tuple<'_>) -> Result<i64> {
        fixed(tuple, self.position).map(i64::from_be_bytes)
    }

    pub fn event_id_of(&self, tuple: &Tuple<'_>) -> Result<Uuid> {
        fixed(tuple, self.event_id).map(Uuid::from_bytes)
    }

    /// The digest of the carried columns of a tuple that was read at `offset` above its source
    /// position. `scratch` is overwritten.
    pub fn digest_of(
        &self,
        tuple: &Tuple<'_>,
        offset: i64,
        scratch: &mut Vec<u8>,
    ) -> Result<Digest> {
        let position = self.position_of(tuple)?.wrapping_sub(offset);
        Ok(Digest::of_parts(
            &self.carried(tuple, position).parts(),
            scratch,
        ))
    }

    /// The carried columns of a tuple, at another position.
    pub fn carried<'a>(&self, tuple: &Tuple<'a>, position: i64) -> Carried<'a> {
        // The field after the carried ones starts with its length, four bytes.
        let end = match tuple.fields.get(self.count) {
            Some(Some((start, _))) => start - 4,
            Some(None) => tuple.bytes.len() - 4,
            None => tuple.bytes.len(),
        };
        let (start, resume) = tuple.fields[self.position].unwrap_or((end, end));
        Carried {
            count: (self.count as i16).to_be_bytes(),
            before: &tuple.bytes[2..start],
            position: position.to_be_bytes(),
            after: &tuple.bytes[resume..end],
        }
    }
}

/// A tuple in the pieces it is carried in.
#[derive(Clone, Copy, Debug)]
pub struct Carried<'a> {
    pub(crate) count: [u8; 2],
    pub(crate) before: &'a [u8],
    position: [u8; 8],
    pub(crate) after: &'a [u8],
}

impl Carried<'_> {
    pub fn parts(&self) -> [&[u8]; 4] {
        [&self.count, self.before, &self.position, self.after]
    }

    pub(crate) fn len(&self) -> usize {
        2 + self.before.len() + 8 + self.after.len()
    }
}

pub(crate) fn fixed<const N: usize>(tuple: &Tuple<'_>, index: usize) -> Result<[u8; N]> {
    tuple
        .field(index)
        .and_then(|field| field.try_into().ok())
        .ok_or_else(|| Error::protocol(format!("column {index} does not have {N} bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tuple_with_too_few_fields_is_an_error() {
        let columns = ["event_id", "global_position"].map(str::to_owned);
        let layout = Layout::of(&columns).unwrap();
        let tuple = Tuple {
            bytes: &[0, 0],
            fields: &[],
        };
        assert!(layout.digest_of(&tuple, 0, &mut Vec::new()).is_err());
    }
}
