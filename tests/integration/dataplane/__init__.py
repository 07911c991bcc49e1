"""The data plane in Rust, called as the driver calls it."""
