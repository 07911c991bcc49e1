//! Every failure of the data plane: a kind that callers branch on, and its facts.

use std::error::Error as StdError;
use std::fmt::{self, Write};

use tokio_postgres::error::SqlState;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Which of the three databases a failure belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Source,
    Target,
    Control,
}

impl Side {
    pub fn name(self) -> &'static str {
        match self {
            Side::Source => "source",
            Side::Target => "target",
            Side::Control => "control",
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a row of the target differs from the source's row that should be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub kind: DifferenceKind,
    /// Source position.
    pub position: i64,
    pub event_id: uuid::Uuid,
    /// The first column that differs; `None` unless the kind is `Different`.
    pub field: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DifferenceKind {
    /// The target has no row at the position.
    Missing,
    /// The target's row has other content.
    Different,
    /// The target has a row of the tenant that the source did not send.
    Unexpected,
}

impl DifferenceKind {
    pub fn name(self) -> &'static str {
        match self {
            DifferenceKind::Missing => "missing",
            DifferenceKind::Different => "different",
            DifferenceKind::Unexpected => "unexpected",
        }
    }
}

/// The server's error, as far as it may be shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerReport {
    pub sqlstate: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    pub constraint: Option<String>,
    pub context: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection was not made: address, TLS, credentials, database.
    #[error("cannot connect to the {side} database: {message}")]
    Connect {
        side: Side,
        message: String,
        sqlstate: Option<String>,
    },
    /// An established connection ended; whether a commit in flight took place is unknown.
    #[error("the connection to the {side} database was lost: {message}")]
    ConnectionLost { side: Side, message: String },
    /// A standby reports transactions in flight as finished, so nothing can be read from it.
    #[error("the {side} server is a standby; connect to the primary")]
    Standby { side: Side },
    /// Another driver took the migration over, or its pass moved on; nothing was committed.
    #[error("this driver no longer owns the migration: {reason}")]
    OwnershipLost { side: Side, reason: &'static str },
    /// The target differs from the source at a carried position; nothing was committed.
    #[error("rows of the target differ from the source: {total}; the first: {first}", first = First(.differences))]
    Inconsistent {
        total: u64,
        differences: Vec<Difference>,
    },
    /// The block of positions reserved on the target is used up.
    #[error(
        "target position {needed} is beyond {last}, the last of the block reserved for this tenant; \
         abort and start again"
    )]
    PositionsExhausted { needed: i64, last: i64 },
    #[error(
        "unique violation on the {side}: {}{}; another row holds the key there, which the migration \
         never overwrites: see whose it is, and abort", .report.message, Detail(.report)
    )]
    UniqueViolation {
        side: Side,
        report: Box<ServerReport>,
    },
    #[error("{side} database: {} (SQLSTATE {})", .report.message, .report.sqlstate)]
    Sql {
        side: Side,
        report: Box<ServerReport>,
    },
    /// The work was dropped before its end; nothing of the open chunk was committed.
    #[error("the operation was cancelled")]
    Cancelled,
    /// A server's answer that the protocol does not allow, or a misuse of the session.
    #[error("{message}")]
    Protocol { message: String },
}

/// Which key it is, for instance.
struct Detail<'a>(&'a ServerReport);

impl fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.detail {
            Some(detail) => write!(f, ": {}", detail.trim_end_matches('.')),
            None => Ok(()),
        }
    }
}

struct First<'a>(&'a [Difference]);

impl fmt::Display for First<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(difference) = self.0.first() else {
            return f.write_str("in a range that an earlier driver wrote; a verification names it");
        };
        let Difference {
            kind,
            position,
            event_id,
            field,
        } = difference;
        write!(
            f,
            "{} at source position {position}, event {event_id}",
            kind.name()
        )?;
        match field {
            Some(field) => write!(f, ", field {field}"),
            None => Ok(()),
        }
    }
}

impl Error {
    pub fn kind(&self) -> &'static str {
        match self {
            Error::Connect { .. } => "connect",
            Error::ConnectionLost { .. } => "connection_lost",
            Error::Standby { .. } => "standby",
            Error::OwnershipLost { .. } => "ownership_lost",
            Error::Inconsistent { .. } => "inconsistent",
            Error::PositionsExhausted { .. } => "positions_exhausted",
            Error::UniqueViolation { .. } => "unique_violation",
            Error::Sql { .. } => "sql",
            Error::Cancelled => "cancelled",
            Error::Protocol { .. } => "protocol",
        }
    }

    pub fn side(&self) -> Option<Side> {
        match self {
            Error::Connect { side, .. }
            | Error::ConnectionLost { side, .. }
            | Error::Standby { side }
            | Error::OwnershipLost { side, .. }
            | Error::UniqueViolation { side, .. }
            | Error::Sql { side, .. } => Some(*side),
            Error::Inconsistent { .. } | Error::PositionsExhausted { .. } => Some(Side::Target),
            Error::Cancelled | Error::Protocol { .. } => None,
        }
    }

    pub fn report(&self) -> Option<&ServerReport> {
        match self {
            Error::UniqueViolation { report, .. } | Error::Sql { report, .. } => Some(report),
            _ => None,
        }
    }

    pub(crate) fn protocol(message: impl Into<String>) -> Error {
        Error::Protocol {
            message: message.into(),
        }
    }

    /// A failure on an established connection.
    pub(crate) fn from_postgres(side: Side, error: &tokio_postgres::Error) -> Error {
        if let Some(report) = server_report(error) {
            let code = SqlState::from_code(&report.sqlstate);
            return match code {
                SqlState::UNIQUE_VIOLATION => Error::UniqueViolation { side, report },
                SqlState::ADMIN_SHUTDOWN
                | SqlState::CRASH_SHUTDOWN
                | SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT => Error::ConnectionLost {
                    side,
                    message: report.message,
                },
                _ if report.sqlstate.starts_with("08") => Error::ConnectionLost {
                    side,
                    message: report.message,
                },
                _ => Error::Sql { side, report },
            };
        }
        let broken = error
            .source()
            .is_some_and(|cause| cause.is::<std::io::Error>());
        let message = chain(error);
        if error.is_closed() || broken {
            Error::ConnectionLost { side, message }
        } else {
            Error::Protocol {
                message: format!("{side} database: {message}"),
            }
        }
    }
}

/// The error and its causes in one line; `tokio_postgres` keeps the cause out of its own text.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

pub(crate) fn server_report(error: &tokio_postgres::Error) -> Option<Box<ServerReport>> {
    let report = error.as_db_error()?;
    Some(Box::new(ServerReport {
        sqlstate: report.code().code().to_owned(),
        message: report.message().to_owned(),
        detail: report.detail().map(str::to_owned),
        hint: report.hint().map(str::to_owned),
        constraint: report.constraint().map(str::to_owned),
        context: report.where_().map(str::to_owned),
    }))
}

/// Says on which database an operation failed.
pub(crate) trait On<T> {
    fn on(self, side: Side) -> Result<T>;
}

impl<T> On<T> for Result<T, tokio_postgres::Error> {
    fn on(self, side: Side) -> Result<T> {
        self.map_err(|error| Error::from_postgres(side, &error))
    }
}
