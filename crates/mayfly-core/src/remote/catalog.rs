//! Which of a server's images is meant: read off its index and its catalogues, newest version first.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::error::{Code, Refusal};
use crate::ids::Digest;
use crate::template::debian_architecture;

/// So many catalogues of one index are read.
const CATALOGUES: usize = 8;
/// So long are names, versions and paths at most.
const NAME_BYTES: usize = 1024;
/// So many names of images are shown to who asked for one that is not there.
const SHOWN: usize = 8;

/// What is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// An alias or the name of a product.
    pub image: &'a str,
    /// Debian's word for what this host's processor runs.
    pub architecture: &'a str,
    /// Whether a squashfs can be unpacked here.
    pub squashfs: bool,
}

/// A file of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// Its path beneath the server's address, as the server says it.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Its sha256.
    pub sha256: Digest,
}

/// The image that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The product's name.
    pub product: String,
    /// The version.
    pub version: String,
    /// The archive of what the image is; none where the root's archive has that too.
    pub metadata: Option<RemoteFile>,
    /// The root file system.
    pub archive: RemoteFile,
    /// The sha256 of both, metadata first, where the server tells.
    pub digest: Option<Digest>,
}

#[derive(Deserialize)]
struct Index {
    index: BTreeMap<String, Stream>,
}

#[derive(Deserialize)]
struct Stream {
    #[serde(default)]
    datatype: String,
    path: String,
    #[serde(default)]
    products: Vec<String>,
}

#[derive(Deserialize)]
struct Catalogue {
    products: BTreeMap<String, Product>,
}

#[derive(Deserialize)]
struct Product {
    #[serde(default)]
    aliases: String,
    arch: String,
    #[serde(default)]
    variant: String,
    versions: BTreeMap<String, Version>,
}

#[derive(Deserialize)]
struct Version {
    items: BTreeMap<String, Item>,
}

/// Fields that are there for some kinds of items only, such as those of virtual machines, say nothing here.
#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    ftype: String,
    path: Option<String>,
    size: Option<u64>,
    sha256: Option<String>,
    combined_squashfs_sha256: Option<String>,
    combined_rootxz_sha256: Option<String>,
}

/// So much of what a server says is told on.
const TOLD_CHARS: usize = 200;

fn bad(what: &str, why: impl std::fmt::Display) -> Refusal {
    let why = told(&why.to_string());
    Refusal::new(
        Code::TemplatePullFailed,
        format!("{what} is none that simplestreams has: {why}"),
        "ask whoever runs the server, or see whether the address is that of an image server",
    )
}

/// Words of a server, cut to what a person would read.
fn told(text: &str) -> String {
    let mut chars = text.chars();
    let mut short: String = chars.by_ref().take(TOLD_CHARS).collect();
    if chars.next().is_some() {
        short.push('…');
    }
    short
}

/// The paths of an index' catalogues of images.
pub fn parse_index(text: &[u8]) -> Result<Vec<String>, Refusal> {
    let index: Index = serde_json::from_slice(text).map_err(|e| bad("the index", e))?;
    let paths: Vec<String> = index
        .index
        .into_values()
        .filter(|stream| stream.datatype == "image-downloads" && !stream.products.is_empty())
        .map(|stream| stream.path)
        .take(CATALOGUES)
        .collect();
    if paths.is_empty() {
        return Err(bad("the index", "it names no images"));
    }
    Ok(paths)
}

/// Chooses from catalogues the image that is meant, in its newest version that has all its files.
pub fn choose_image(catalogues: &[Vec<u8>], wanted: &Wanted<'_>) -> Result<Choice, Refusal> {
    let mut products = BTreeMap::new();
    for text in catalogues {
        let catalogue: Catalogue =
            serde_json::from_slice(text).map_err(|e| bad("the catalogue", e))?;
        // A name that nobody would type, or tell on, names nothing.
        let named = catalogue.products.into_iter().filter(|(name, product)| {
            let words = [name, &product.aliases, &product.arch, &product.variant];
            words.iter().all(|word| word.len() <= NAME_BYTES)
        });
        products.extend(named);
    }
    let (name, product) = product_of(&products, wanted)?;
    // Versions are named by the time they were made at, so that the last by name is the newest.
    let versions = product.versions.iter().rev();
    for (version, had) in versions.filter(|(version, _)| version.len() <= NAME_BYTES) {
        if let Some((metadata, archive, digest)) = had.files(wanted.squashfs) {
            return Ok(Choice {
                product: name.clone(),
                version: version.clone(),
                metadata,
                archive,
                digest,
            });
        }
    }
    Err(Refusal::new(
        Code::TemplateUnfit,
        format!(
            "no version of {} is an image of a container that can be unpacked here",
            name.escape_debug()
        ),
        if wanted.squashfs {
            "choose another image"
        } else {
            "install squashfs-tools on this node, or choose another image"
        },
    ))
}

fn product_of<'a>(
    products: &'a BTreeMap<String, Product>,
    wanted: &Wanted<'_>,
) -> Result<(&'a String, &'a Product), Refusal> {
    let fits = |p: &Product| debian_architecture(&p.arch) == wanted.architecture;
    let named: [&dyn Fn(&str) -> bool; 2] = [&|alias| alias == wanted.image, &|alias| {
        // What a template may be called has no slash.
        alias.replace('/', "-") == wanted.image
    }];
    let mut elsewhere = Vec::new();
    for is_it in named {
        let all: Vec<_> = products
            .iter()
            .filter(|(name, product)| is_it(name) || product.aliases().any(is_it))
            .collect();
        let mut here: Vec<_> = all.iter().filter(|(_, p)| fits(p)).copied().collect();
        if here.len() > 1 {
            here.retain(|(_, product)| product.variant == "default");
        }
        match here.as_slice() {
            [one] => return Ok(*one),
            [] => elsewhere.extend(all.iter().map(|(_, p)| debian_architecture(&p.arch))),
            [..] => {}
        }
        if all.iter().any(|(_, product)| fits(product)) {
            let names: Vec<&str> = all.iter().map(|(n, _)| n.as_str()).take(SHOWN).collect();
            return Err(Refusal::new(
                Code::Invalid,
                format!(
                    "{} is more than one image: {}",
                    wanted.image,
                    names.join(", ").escape_debug()
                ),
                "name one of them: --image",
            ));
        }
    }
    if !elsewhere.is_empty() {
        elsewhere.sort_unstable();
        elsewhere.dedup();
        elsewhere.truncate(SHOWN);
        return Err(Refusal::new(
            Code::TemplateUnfit,
            format!(
                "{} is there for {}, and this host runs {}",
                wanted.image,
                told(&elsewhere.join(", ")).escape_debug(),
                wanted.architecture
            ),
            "choose another image",
        ));
    }
    let here: Vec<&str> = products
        .values()
        .filter(|p| fits(p))
        .filter_map(|p| p.aliases().next())
        .collect();
    let some: String = here
        .iter()
        .take(SHOWN)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    Err(Refusal::new(
        Code::TemplateNotFound,
        format!("the server has no image {}", wanted.image),
        if here.is_empty() {
            format!(
                "it has none for {}; take another server",
                wanted.architecture
            )
        } else {
            let some: String = some.chars().take(400).collect();
            format!(
                "it has {} for {}, such as {}: --image NAME",
                here.len(),
                wanted.architecture,
                some.escape_debug()
            )
        },
    ))
}

impl Product {
    fn aliases(&self) -> impl Iterator<Item = &str> {
        self.aliases
            .split(',')
            .map(str::trim)
            .filter(|alias| !alias.is_empty())
    }
}

impl Version {
    /// A pair, or an archive with everything.
    fn files(&self, squashfs: bool) -> Option<(Option<RemoteFile>, RemoteFile, Option<Digest>)> {
        let of = |ftypes: &[&str]| {
            ftypes
                .iter()
                .find_map(|ftype| self.items.values().find(|item| item.ftype == *ftype))
        };
        let digest = |told: &Option<String>| told.as_deref().and_then(|hex| hex.parse().ok());
        if let Some(meta) = of(&["incus.tar.xz", "lxd.tar.xz"]) {
            let metadata = meta.file();
            if let (Some(metadata), true, Some(archive)) =
                (&metadata, squashfs, of(&["squashfs"]).and_then(Item::file))
            {
                let both = digest(&meta.combined_squashfs_sha256);
                return Some((Some(metadata.clone()), archive, both));
            }
            if let (Some(metadata), Some(archive)) =
                (metadata, of(&["root.tar.xz"]).and_then(Item::file))
            {
                let both = digest(&meta.combined_rootxz_sha256);
                return Some((Some(metadata), archive, both));
            }
        }
        let unified = of(&["incus_combined.tar.gz", "lxd_combined.tar.gz"]);
        let archive = unified.and_then(Item::file)?;
        Some((None, archive, None))
    }
}

impl Item {
    /// None where something is missing without which nothing could be held against it.
    fn file(&self) -> Option<RemoteFile> {
        Some(RemoteFile {
            path: self.path.clone().filter(|path| path.len() <= NAME_BYTES)?,
            bytes: self.size.filter(|bytes| *bytes > 0)?,
            sha256: self.sha256.as_deref()?.parse().ok()?,
        })
    }
}
