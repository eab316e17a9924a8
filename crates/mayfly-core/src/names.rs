//! Names that people choose, built only by validation.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{RunId, VpsId};

/// A name that was refused, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a valid {kind}: {why}", got.escape_debug())]
pub struct BadName {
    /// What was given, cut to 80 characters.
    pub got: String,
    /// What it should have been.
    pub kind: &'static str,
    /// The rule that it breaks.
    pub why: &'static str,
}

fn bad(got: &str, kind: &'static str, why: &'static str) -> BadName {
    BadName {
        got: got.chars().take(80).collect(),
        kind,
        why,
    }
}

macro_rules! text_newtype {
    ($name:ident) => {
        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadName;

            fn try_from(text: String) -> Result<Self, BadName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

/// The host name of a VPS: one label of RFC 1123, lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(
    feature = "schema",
    derive(utoipa::ToSchema),
    schema(pattern = "^[a-z0-9-]{1,63}$")
)]
#[serde(try_from = "String", into = "String")]
pub struct Hostname(String);
text_newtype!(Hostname);

impl FromStr for Hostname {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        const KIND: &str = "host name";
        if text.is_empty() || text.len() > 63 {
            return Err(bad(text, KIND, "it must have 1 to 63 characters"));
        }
        if !text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        {
            return Err(bad(text, KIND, "only a-z, 0-9 and - are allowed"));
        }
        if text.starts_with('-') || text.ends_with('-') {
            return Err(bad(text, KIND, "it may not begin or end with -"));
        }
        if text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad(text, KIND, "a number alone would be taken for an id"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// The name of a template, such as `debian-12-impermanence`. Names move; digests do not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(
    feature = "schema",
    derive(utoipa::ToSchema),
    schema(pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
)]
#[serde(try_from = "String", into = "String")]
pub struct TemplateName(String);
text_newtype!(TemplateName);

impl FromStr for TemplateName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        const KIND: &str = "template name";
        if text.is_empty() || text.len() > 64 {
            return Err(bad(text, KIND, "it must have 1 to 64 characters"));
        }
        if !text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        {
            return Err(bad(
                text,
                KIND,
                "only letters, digits, -, _ and . are allowed",
            ));
        }
        if !text.as_bytes()[0].is_ascii_alphanumeric() {
            return Err(bad(text, KIND, "it must begin with a letter or digit"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// A dataset of one VPS, relative to it: empty for the root dataset, else `nix` or `srv/data`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(try_from = "String", into = "String")]
pub struct DatasetName(String);
text_newtype!(DatasetName);

impl DatasetName {
    /// The root dataset, `<pool>/<id>`.
    pub fn root() -> Self {
        Self(String::new())
    }

    /// Whether this is the root dataset.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The dataset that holds this one; none for the root dataset.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        Some(Self(
            self.0
                .rsplit_once('/')
                .map_or(String::new(), |(parent, _)| parent.to_owned()),
        ))
    }

    /// Whether this dataset lies somewhere below `other`.
    pub fn is_below(&self, other: &Self) -> bool {
        !self.is_root()
            && (other.is_root()
                || self
                    .0
                    .strip_prefix(&other.0)
                    .is_some_and(|r| r.starts_with('/')))
    }
}

impl FromStr for DatasetName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        const KIND: &str = "dataset name";
        if text.is_empty() {
            return Ok(Self::root());
        }
        if text.len() > 200 {
            return Err(bad(text, KIND, "it may have 200 characters at most"));
        }
        for part in text.split('/') {
            if part.is_empty() {
                return Err(bad(text, KIND, "a part between slashes is empty"));
            }
            if !part.as_bytes()[0].is_ascii_alphanumeric() {
                return Err(bad(
                    text,
                    KIND,
                    "each part must begin with a letter or digit",
                ));
            }
            if !part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
            {
                return Err(bad(
                    text,
                    KIND,
                    "only letters, digits, -, _, . and / are allowed",
                ));
            }
            if part == "private" || part == "trash" {
                return Err(bad(text, KIND, "`private` and `trash` are reserved"));
            }
            if part.contains(".impermanence-") || part.contains(".rescue-") {
                return Err(bad(
                    text,
                    KIND,
                    "`.impermanence-` and `.rescue-` name temporary roots",
                ));
            }
            if part.contains(".replaced-") {
                return Err(bad(
                    text,
                    KIND,
                    "`.replaced-` names what a reinstall put aside",
                ));
            }
        }
        Ok(Self(text.to_owned()))
    }
}

/// An absolute, normalised path inside a VPS: no `.`, no `..`, no doubled or trailing slash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(pattern = "^/"))]
#[serde(try_from = "String", into = "String")]
pub struct GuestPath(String);
text_newtype!(GuestPath);

impl GuestPath {
    /// The top of the tree.
    pub fn top() -> Self {
        Self("/".to_owned())
    }

    /// Whether this is `/`.
    pub fn is_top(&self) -> bool {
        self.0 == "/"
    }

    /// The path below `/`, without the leading slash.
    pub fn relative(&self) -> &str {
        &self.0[1..]
    }

    /// What remains of this path below `ancestor`, without a leading slash; empty when they are equal.
    pub fn below<'a>(&'a self, ancestor: &Self) -> Option<&'a str> {
        if ancestor.is_top() {
            return Some(self.relative());
        }
        let rest = self.0.strip_prefix(&ancestor.0)?;
        if rest.is_empty() {
            Some(rest)
        } else {
            rest.strip_prefix('/')
        }
    }
}

impl FromStr for GuestPath {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        const KIND: &str = "path inside a VPS";
        if text.len() > 1024 {
            return Err(bad(text, KIND, "it may have 1024 characters at most"));
        }
        if !text.starts_with('/') {
            return Err(bad(text, KIND, "it must be absolute"));
        }
        if text
            .chars()
            .any(|c| c.is_control() || c.is_whitespace() || c == '\\')
        {
            return Err(bad(
                text,
                KIND,
                "spaces, backslashes and control characters are not allowed",
            ));
        }
        if text == "/" {
            return Ok(Self::top());
        }
        for part in text[1..].split('/') {
            match part {
                "" => return Err(bad(text, KIND, "it has a doubled or trailing slash")),
                "." | ".." => return Err(bad(text, KIND, "`.` and `..` are not allowed")),
                _ => {}
            }
        }
        Ok(Self(text.to_owned()))
    }
}

/// The name of a snapshot, without the dataset's: 1 to 64 letters, digits, `-`, `_`, `.` and `:`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(
    feature = "schema",
    derive(utoipa::ToSchema),
    schema(pattern = "^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$")
)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotName(String);
text_newtype!(SnapshotName);

impl FromStr for SnapshotName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        const KIND: &str = "snapshot name";
        if text.is_empty() || text.len() > 64 {
            return Err(bad(text, KIND, "it must have 1 to 64 characters"));
        }
        if !text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
        {
            return Err(bad(
                text,
                KIND,
                "only letters, digits, -, _, . and : are allowed",
            ));
        }
        if !text.as_bytes()[0].is_ascii_alphanumeric() {
            return Err(bad(text, KIND, "it must begin with a letter or digit"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// A dataset of the pool, relative to the pool: `11327`, `11327/nix`, `11327.impermanence-c5a8b7`,
/// `templates/<digest>`, `trash/…`. Built by Mayfly, or read from the pool; never typed by a person.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct PoolPath(String);

impl PoolPath {
    /// The dataset of a VPS.
    pub fn dataset(vps: VpsId, name: &DatasetName) -> Self {
        if name.is_root() {
            Self(vps.to_string())
        } else {
            Self(format!("{vps}/{name}"))
        }
    }

    /// The temporary root of one run.
    pub fn temporary_root(vps: VpsId, run: &RunId) -> Self {
        Self(format!("{vps}.impermanence-{run}"))
    }

    /// The root of one run in rescue mode.
    pub fn rescue_root(vps: VpsId, run: &RunId) -> Self {
        Self(format!("{vps}.rescue-{run}"))
    }

    /// What a part of a rescue system is cloned into: below the root, with which it comes and goes.
    #[must_use]
    pub fn part_of_root(&self, part: &DatasetName) -> Self {
        Self(format!("{}/{}", self.0, part.as_str().replace('/', ":")))
    }

    /// Where the contents of a dataset lie that a reinstall put aside: `11327.replaced-c5a8b7`, and of a subdataset
    /// `11327.replaced-c5a8b7:srv:data`, since nothing that is put aside lies in anything else.
    pub fn replaced(vps: VpsId, by: &crate::ids::OperationId, name: &DatasetName) -> Self {
        let drawn = drawn(by);
        let of = match name.is_root() {
            true => String::new(),
            false => format!(":{}", name.as_str().replace('/', ":")),
        };
        Self(format!("{vps}.replaced-{drawn}{of}"))
    }

    /// The VPS that the name of something beside its datasets speaks of: contents that were put aside, or a base of its own. A
    /// name proves nothing.
    pub fn named_aside(&self) -> Option<VpsId> {
        let named = |word| self.0.split_once(word);
        let (vps, _) = named(".replaced-").or_else(|| named(".base-"))?;
        vps.parse().ok()
    }

    /// The base that a conversion made of a VPS's own system: `11327.base-c5a8b7`.
    pub fn own_base(vps: VpsId, by: &crate::ids::OperationId) -> Self {
        Self(format!("{vps}.base-{}", drawn(by)))
    }

    /// Where one of two datasets is while they change places, on storage that cannot let them do so at once.
    pub fn on_the_way(&self) -> Self {
        Self(format!("{}.moving", self.0))
    }

    /// Where something lies in the graveyard; `grave` is one path component, of characters that every backend takes.
    pub fn grave(grave: &str) -> Self {
        let taken = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
        debug_assert!(grave.bytes().all(taken), "{grave} is no name on ZFS");
        Self(format!("trash/{grave}"))
    }

    /// A part of a template: its base tree, or what one of its datasets starts with.
    pub fn template(digest: &crate::ids::Digest, part: &TemplatePart) -> Self {
        let top = format!("templates/{}", digest.short());
        match part {
            TemplatePart::Base => Self(top),
            TemplatePart::Dataset(name) if name.is_root() => Self(format!("{top}/.root")),
            TemplatePart::Dataset(name) => Self(format!("{top}/{name}")),
        }
    }

    /// Taken as read from the pool. None where a part is empty, `.` or `..`, or it is absolute.
    pub fn from_pool(text: &str) -> Option<Self> {
        let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
        text.split('/').all(plain).then(|| Self(text.to_owned()))
    }

    /// The text, relative to the pool.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this lies in the graveyard.
    pub fn is_grave(&self) -> bool {
        self.0.starts_with("trash/")
    }

    /// Whether this lies somewhere below `other`.
    pub fn is_below(&self, other: &Self) -> bool {
        self.0
            .strip_prefix(&other.0)
            .is_some_and(|r| r.starts_with('/'))
    }

    /// This path after `from` was renamed to `to`, where it is `from` or lies below it.
    pub fn moved(&self, from: &Self, to: &Self) -> Option<Self> {
        if self == from {
            return Some(to.clone());
        }
        self.is_below(from)
            .then(|| Self(format!("{}{}", to.0, &self.0[from.0.len()..])))
    }

    /// The VPS and run that the name of a temporary root speaks of. A name proves nothing.
    pub fn named_temporary_root(&self) -> Option<(VpsId, RunId)> {
        let (vps, run) = self.0.split_once(".impermanence-")?;
        Some((vps.parse().ok()?, run.parse().ok()?))
    }

    /// The same for any root that one run alone has, a rescue root as well.
    pub fn named_root_of_a_run(&self) -> Option<(VpsId, RunId)> {
        self.named_temporary_root().or_else(|| {
            let (vps, run) = self.0.split_once(".rescue-")?;
            Some((vps.parse().ok()?, run.parse().ok()?))
        })
    }
}

/// What an operation's id ends with: what was drawn for it.
fn drawn(by: &crate::ids::OperationId) -> &str {
    let all = by.as_str();
    &all[all.len().saturating_sub(6)..]
}

impl fmt::Display for PoolPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_debug())
    }
}

/// One part of a template in the pool.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TemplatePart {
    /// What `/` is cloned from.
    Base,
    /// What a dataset that is mounted below `/` starts with.
    Dataset(DatasetName),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_and_hostile_dataset_names_are_refused() {
        for good in ["nix", "srv/data", "a.b-c_d", "0"] {
            assert!(good.parse::<DatasetName>().is_ok(), "{good} was refused");
        }
        for bad in [
            "private",
            "a/private",
            "trash",
            "x.impermanence-c5a8b7",
            "x.rescue-1",
            "../x",
            "a//b",
            "/a",
            "a/",
            ".a",
            "-a",
            "a b",
            "a\n",
            "ä",
        ] {
            assert!(bad.parse::<DatasetName>().is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn snapshot_names_name_no_dataset_and_no_option() {
        for good in ["daily", "2026-11-22T21:00:00", "a_b.c", "0"] {
            assert!(good.parse::<SnapshotName>().is_ok(), "{good} was refused");
        }
        let long = "x".repeat(65);
        for bad in [
            "", "a@b", "a/b", "@a", "-r", ".a", "%", "a,b", "a b", "a\n", "ä", "#a", &long,
        ] {
            assert!(bad.parse::<SnapshotName>().is_err(), "{bad} was taken");
        }
        assert!("x".repeat(64).parse::<SnapshotName>().is_ok());
    }

    #[test]
    fn guest_paths_are_absolute_and_normalised() {
        for good in ["/", "/nix", "/srv/data.d"] {
            assert!(good.parse::<GuestPath>().is_ok(), "{good} was refused");
        }
        for bad in [
            "", "nix", "/nix/", "//nix", "/a/../b", "/a/./b", "/a b", "/a\tb", "/a\\040b", "/a\nb",
        ] {
            assert!(bad.parse::<GuestPath>().is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn a_path_knows_what_lies_below_it() {
        let nix: GuestPath = "/nix".parse().unwrap();
        assert_eq!(
            "/nix/store".parse::<GuestPath>().unwrap().below(&nix),
            Some("store")
        );
        assert_eq!(nix.below(&nix), Some(""));
        assert_eq!("/nixos".parse::<GuestPath>().unwrap().below(&nix), None);
        assert_eq!(nix.below(&GuestPath::top()), Some("nix"));
    }

    #[test]
    fn datasets_know_their_parents() {
        let data: DatasetName = "srv/data".parse().unwrap();
        let srv: DatasetName = "srv".parse().unwrap();
        assert_eq!(data.parent(), Some(srv.clone()));
        assert_eq!(srv.parent(), Some(DatasetName::root()));
        assert!(data.is_below(&srv) && data.is_below(&DatasetName::root()));
        assert!(!srv.is_below(&srv) && !DatasetName::root().is_below(&DatasetName::root()));
    }

    #[test]
    fn host_names_are_labels() {
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "123", "a b"] {
            assert!(bad.parse::<Hostname>().is_err(), "{bad} was taken");
        }
        assert!("web1".parse::<Hostname>().is_ok());
    }
}
