//! Files into a VPS and out of it.

use http_body_util::{BodyExt as _, StreamBody};
use hyper::Method;
use hyper::body::{Bytes, Frame, Incoming};

use super::{Client, ClientError, DEADLINE};
use crate::{FilePlaced, MODE_HEADER, PasswordSet, PutFile, SetPassword, paths};

/// A file on its way out of a VPS.
#[derive(Debug)]
pub struct Pulled {
    client: Client,
    body: Incoming,
    /// Its mode, as its VPS says.
    pub mode: u32,
}

impl Pulled {
    /// What comes next; none at the end. One that is cut off is an error.
    pub async fn next_bytes(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => return Ok(Some(data)),
                    Err(_) => continue,
                },
                Some(Err(e)) => {
                    return Err(self.client.broken(format!("the file was cut off: {e}")));
                }
            }
        }
    }
}

impl Client {
    /// Puts a file into a running VPS; `pieces` are its contents.
    pub async fn put_file(
        &self,
        which: &str,
        wish: &PutFile,
        pieces: impl futures_util::Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<FilePlaced, ClientError> {
        use futures_util::StreamExt as _;
        let octal = |mode: Option<u32>| mode.map(|mode| format!("{mode:04o}"));
        let given = [
            ("path", Some(wish.path.clone())),
            ("name", wish.name.clone()),
            ("mode", octal(wish.mode)),
            ("mode_if_new", octal(wish.mode_if_new)),
            (
                "owner",
                wish.owner.map(|(user, group)| format!("{user}:{group}")),
            ),
        ];
        let path = given
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .fold(paths::of_vps(which, "file"), |path, (name, value)| {
                paths::with(&path, name, &value)
            });
        let body = StreamBody::new(Box::pin(pieces.map(|piece| piece.map(Frame::data))));
        // As long as it takes: nobody knows how long the file is.
        let (response, connection) = self
            .send(Method::PUT, &path, Some("application/octet-stream"), body)
            .await?;
        let bytes = self.body(response).await;
        connection.abort();
        serde_json::from_slice(&bytes?).map_err(|e| self.broken(e))
    }

    /// A file of a running VPS.
    pub async fn pull_file(&self, which: &str, path: &str) -> Result<Pulled, ClientError> {
        let address = paths::with(&paths::of_vps(which, "file"), "path", path);
        let response = self
            .within(DEADLINE, self.request(Method::GET, &address, None))
            .await?;
        let mode = response.headers().get(MODE_HEADER);
        let mode = mode.and_then(|mode| u32::from_str_radix(mode.to_str().ok()?, 8).ok());
        Ok(Pulled {
            client: self.clone(),
            body: response.into_body(),
            mode: mode.unwrap_or(0o600),
        })
    }

    /// Sets a password in a running VPS.
    pub async fn set_password(
        &self,
        which: &str,
        wish: &SetPassword,
    ) -> Result<PasswordSet, ClientError> {
        let body = serde_json::to_string(wish).map_err(|e| self.broken(e))?;
        let path = paths::of_vps(which, "password");
        self.call(Method::POST, &path, Some(body), DEADLINE).await
    }
}
