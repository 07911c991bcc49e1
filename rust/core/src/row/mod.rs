//! One row: the fields of its tuple, the columns that matter, its digest.

pub mod digest;
pub mod form;
pub mod frame;
pub mod layout;
