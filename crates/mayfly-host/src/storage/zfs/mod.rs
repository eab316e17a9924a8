//! Datasets as OpenZFS file systems.

mod mount;

pub(crate) use mount::{mount_detached, open_private};
