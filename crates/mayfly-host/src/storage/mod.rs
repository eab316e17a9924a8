//! Datasets: the drivers behind [`mayfly_core::ports::Storage`].

pub mod btrfs;
