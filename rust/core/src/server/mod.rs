//! Talking to a server: connections, names, COPY in both directions.

mod certificate;
pub(crate) mod claim;
pub mod connect;
pub(crate) mod copy_in;
pub mod dsn;
pub mod identifier;
pub(crate) mod in_order;
pub mod kept;
pub(crate) mod stream;
mod tls;
