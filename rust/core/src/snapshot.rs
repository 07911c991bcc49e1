//! PostgreSQL's `pg_snapshot`, in its text form `xmin:xmax:xip,xip,…`.

use std::fmt;

use crate::error::{Error, Result};

/// Transactions below `xmin` are finished, those from `xmax` on are not, and between the two the
/// listed ones are in flight. Comparing ids with these three is exactly `pg_visible_in_snapshot`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub xmin: u64,
    pub xmax: u64,
    pub in_flight: Vec<u64>,
}

impl Snapshot {
    pub fn parse(text: &str) -> Result<Snapshot> {
        let invalid = || Error::protocol("a snapshot is not in the form xmin:xmax:xip,…");
        let mut parts = text.split(':');
        let mut next = || parts.next().ok_or_else(invalid);
        let (xmin, xmax, listed) = (next()?, next()?, next()?);
        if parts.next().is_some() {
            return Err(invalid());
        }
        let number = |text: &str| text.parse::<u64>().map_err(|_| invalid());
        let in_flight = listed
            .split(',')
            .filter(|text| !text.is_empty())
            .map(number)
            .collect::<Result<Vec<u64>>>()?;
        Ok(Snapshot {
            xmin: number(xmin)?,
            xmax: number(xmax)?,
            in_flight,
        })
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed: Vec<String> = self.in_flight.iter().map(u64::to_string).collect();
        write!(f, "{}:{}:{}", self.xmin, self.xmax, listed.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_round_trips() {
        for text in ["10:20:10,14,15", "10:10:", "795:799:795,798"] {
            assert_eq!(Snapshot::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "1:2",
            "1:2:3:4",
            "a:b:",
            "1:2:x",
            "1:2:3'; drop table t; --",
        ] {
            assert!(Snapshot::parse(text).is_err(), "{text}");
        }
    }
}
