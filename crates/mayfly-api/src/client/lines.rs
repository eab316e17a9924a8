//! An answer that does not end: taken as it comes, or line by line.

use std::path::PathBuf;

use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Incoming};

use super::ClientError;

/// A line longer than this is no line of ours.
const LINE_LIMIT: usize = 4 << 20;

/// A stream of bytes from the node.
#[derive(Debug)]
pub struct Lines {
    socket: PathBuf,
    body: Incoming,
    pending: Vec<u8>,
}

impl Lines {
    pub(super) fn new(socket: PathBuf, body: Incoming) -> Self {
        Self {
            socket,
            body,
            pending: Vec::new(),
        }
    }

    /// What came next; none at the end.
    pub async fn next_bytes(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(e)) => return Err(self.broken(&e.to_string())),
            }
        }
    }

    /// The next line that is not empty; none at the end.
    pub async fn next_line(&mut self) -> Result<Option<String>, ClientError> {
        loop {
            if let Some(end) = self.pending.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line).trim().to_owned();
                if !line.is_empty() {
                    return Ok(Some(line));
                }
                continue;
            }
            if self.pending.len() > LINE_LIMIT {
                return Err(self.broken("a line does not end"));
            }
            match self.next_bytes().await? {
                None => return Ok(None),
                Some(bytes) => self.pending.extend_from_slice(&bytes),
            }
        }
    }

    fn broken(&self, why: &str) -> ClientError {
        ClientError::Broken {
            socket: self.socket.clone(),
            why: why.to_owned(),
        }
    }
}
