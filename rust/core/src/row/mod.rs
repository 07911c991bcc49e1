//! One row: the fields of its tuple, the columns that matter, its digest.

pub mod digest;
pub mod frame;
pub mod layout;
