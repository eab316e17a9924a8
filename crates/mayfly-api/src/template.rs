//! Templates.

use mayfly_core::bytes::Bytes;
use mayfly_core::documents::TemplateDoc;
use mayfly_core::ids::Digest;
use mayfly_core::names::TemplateName;
use mayfly_core::remote::RemoteUrl;
use mayfly_core::template::Manifest;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /v1/templates`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BuildTemplate {
    /// A built-in recipe's name or the absolute path of a file on the node.
    pub recipe: String,
    /// The template's name; none for the recipe's, where that is a name.
    #[serde(default)]
    pub name: Option<TemplateName>,
    /// The package mirror; none for the host's own.
    #[serde(default)]
    pub mirror: Option<String>,
    /// Whether a template of that name gets these contents.
    #[serde(default)]
    pub replace: bool,
}

/// `POST /v1/templates/{name}`: files on the node become the template of that name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportTemplate {
    /// The archive of the root file system, by its absolute path on the node.
    pub archive: String,
    /// A manifest, or the metadata archive of an LXC or Incus pair, by its absolute path on the node.
    #[serde(default)]
    pub metadata: Option<String>,
    /// The sha256 that the files must have together, one after the other, metadata first.
    #[serde(default)]
    pub digest: Option<Digest>,
    /// Whether a template of that name gets these contents.
    #[serde(default)]
    pub replace: bool,
}

/// `POST /v1/templates/{name}/pull`: an image of a server becomes the template of that name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PullTemplate {
    /// The address of an image server that speaks simplestreams.
    #[schema(value_type = String)]
    pub remote: RemoteUrl,
    /// The image: an alias or the name of a product; the newest version for the node's architecture is taken.
    pub image: String,
    /// Whether it may be asked by plain http though it is another host.
    #[serde(default)]
    pub plain_http: bool,
    /// Whether a template of that name gets these contents.
    #[serde(default)]
    pub replace: bool,
}

/// A template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TemplateView {
    /// Its name.
    pub name: TemplateName,
    /// The sha256 of its archive.
    pub digest: Digest,
    /// The bytes of its files.
    pub size_bytes: Bytes,
    /// When it was made, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// What it is.
    pub manifest: Manifest,
}

impl From<TemplateDoc> for TemplateView {
    fn from(doc: TemplateDoc) -> Self {
        let TemplateDoc {
            schema: _,
            name,
            digest,
            size_bytes,
            created_unix_ms,
            manifest,
        } = doc;
        Self {
            name,
            digest,
            size_bytes,
            created_unix_ms,
            manifest,
        }
    }
}
