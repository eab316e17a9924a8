//! Image servers that speak simplestreams, as those of LXC and Incus do: where they are, and which of their images is
//! meant. Pure; whatever a server says is somebody else's word.
//!
//! ```text
//!  https://SERVER/streams/v1/index.json ── names ──> catalogues of products (an image for one architecture)
//!  product ──> versions ──> items: metadata, root file system, each with a path, a size and a sha256
//! ```

mod catalog;
mod url;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use self::catalog::{Choice, RemoteFile, Wanted, choose_image, parse_index};
pub use self::url::RemoteUrl;
use crate::error::{Code, Refusal};

/// Where the index is on a server.
pub const INDEX: &str = "streams/v1/index.json";

/// What a template is pulled from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullSource {
    /// The server.
    pub remote: RemoteUrl,
    /// The image: an alias or the name of a product.
    pub image: String,
    /// Whether what goes over the network may be read and changed there.
    #[serde(default)]
    pub plain_http: bool,
}

impl PullSource {
    /// Refuses what nobody should pull from, and what is no image's name.
    pub fn check(&self) -> Result<(), Refusal> {
        let known = |c: char| c.is_ascii_alphanumeric() || "./:_+-".contains(c);
        if self.image.is_empty() || self.image.len() > 200 || !self.image.chars().all(known) {
            return Err(Refusal::new(
                Code::Invalid,
                format!(
                    "`{}` is no name of an image",
                    self.image
                        .chars()
                        .take(200)
                        .collect::<String>()
                        .escape_debug()
                ),
                "name it as its server does, such as debian/12 or alpine/3.20/default",
            ));
        }
        if !self.may_ask(&self.remote) {
            return Err(Refusal::new(
                Code::Invalid,
                format!(
                    "{} is plain http: whoever is on the way can read and change what comes",
                    self.remote
                ),
                "use https, or say that it does not matter: --plain-http",
            ));
        }
        Ok(())
    }

    /// Whether this address may be asked at all.
    pub fn may_ask(&self, url: &RemoteUrl) -> bool {
        url.is_https() || url.is_loopback() || self.plain_http
    }

    /// Where a redirect leads to, if it may be followed: to https, or to the same server in the same words.
    pub fn redirect(&self, from: &RemoteUrl, location: &str) -> Result<RemoteUrl, String> {
        let to = from.joined(location)?;
        if to.is_https() || (!from.is_https() && to.origin() == from.origin()) {
            return Ok(to);
        }
        Err(format!(
            "it leads to {to}, which is neither https nor the same server"
        ))
    }
}
