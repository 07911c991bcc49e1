//! One row on its way: the fields of its tuple, and its digest.

pub mod digest;
pub mod frame;
