//! What a VPS says of a file that goes into it, or comes out of it. All of it is a guest's word.

use serde::{Deserialize, Serialize};

/// What a file lies on, as its VPS sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ground {
    /// The file system at `/`.
    Root,
    /// Memory.
    Memory,
    /// Something else that is mounted.
    Elsewhere,
}

/// What a VPS says of a file that was put into it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilePut {
    /// Where it really is, every link followed.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// What it lies on.
    pub ground: Ground,
}

/// What a VPS says of a file before it gives it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileHead {
    /// Its length.
    pub bytes: u64,
    /// Its mode.
    pub mode: u32,
}
