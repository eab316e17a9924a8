//! Absolute paths inside a VPS that a person may declare.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::limits;

/// An absolute path without `.`, `..` and doubled slashes. Unlike [`GuestPath`](crate::names::GuestPath) it may have
/// spaces in it, as declarations have (`VirtualBox VMs`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TreePath(String);

impl TreePath {
    /// The top of the tree.
    pub fn top() -> Self {
        Self("/".to_owned())
    }

    /// `text` as a path from the top, whether or not it begins with a slash. Slashes may be doubled and `.` may stand
    /// anywhere, as in the Nix module; `..` may not.
    ///
    /// # Errors
    ///
    /// The rule that `text` breaks.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        Self::top().join(text)
    }

    /// The path of `text` below this one; a leading slash means nothing.
    ///
    /// # Errors
    ///
    /// The rule that `text` breaks.
    pub fn join(&self, text: &str) -> Result<Self, &'static str> {
        if text.len() > limits::PATH_BYTES {
            return Err("it is longer than 1024 bytes");
        }
        let mut whole = if self.is_top() {
            String::new()
        } else {
            self.0.clone()
        };
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => return Err("`..` is not allowed"),
                _ if part.len() > 255 => return Err("a name in it is longer than 255 bytes"),
                _ if part.chars().any(char::is_control) => {
                    return Err("control characters are not allowed");
                }
                _ => {
                    whole.push('/');
                    whole.push_str(part);
                }
            }
        }
        if whole.is_empty() {
            return Ok(Self::top());
        }
        if whole.len() > limits::PATH_BYTES {
            return Err("it is longer than 1024 bytes");
        }
        if whole.matches('/').count() > limits::PATH_DEPTH {
            return Err("it has more than 64 names");
        }
        Ok(Self(whole))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is `/`.
    pub fn is_top(&self) -> bool {
        self.0 == "/"
    }

    /// The path below `/`, without the leading slash; empty for `/` itself.
    pub fn relative(&self) -> &str {
        &self.0[1..]
    }

    /// The names, from the top.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.relative().split('/').filter(|name| !name.is_empty())
    }

    /// The directory that holds this; none for `/`.
    pub fn parent(&self) -> Option<Self> {
        let (parent, name) = self.0.rsplit_once('/')?;
        if name.is_empty() {
            return None;
        }
        Some(if parent.is_empty() {
            Self::top()
        } else {
            Self(parent.to_owned())
        })
    }

    /// The last name; empty for `/`.
    pub fn name(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |(_, name)| name)
    }

    /// All directories above this one but `/`, from the top.
    pub fn parents(&self) -> Vec<Self> {
        let inner = self.0.match_indices('/').skip(1);
        inner.map(|(at, _)| Self(self.0[..at].to_owned())).collect()
    }

    /// Whether this is `other` or lies below it.
    pub fn is_in(&self, other: &Self) -> bool {
        other.is_top()
            || self
                .0
                .strip_prefix(&other.0)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// This path's twin below `storage`. It may be longer than what a person may type.
    #[must_use]
    pub fn below(&self, storage: &Self) -> Self {
        match (storage.is_top(), self.is_top()) {
            (true, _) => self.clone(),
            (_, true) => storage.clone(),
            _ => Self(format!("{}{}", storage.0, self.0)),
        }
    }
}

impl Ord for TreePath {
    /// Name by name, so that what lies in a directory follows it at once: a slash comes before every other character, and no
    /// name has one that is less than a space.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let (one, two) = (self.0.as_bytes(), other.0.as_bytes());
        let rank = |b: u8| if b == b'/' { 0 } else { b };
        match one.iter().zip(two).find(|(a, b)| a != b) {
            Some((a, b)) => rank(*a).cmp(&rank(*b)),
            None => one.len().cmp(&two.len()),
        }
    }
}

impl PartialOrd for TreePath {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for TreePath {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        if !text.starts_with('/') {
            return Err("it must be absolute");
        }
        Self::parse(&text)
    }
}

impl From<TreePath> for String {
    fn from(path: TreePath) -> String {
        path.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_the_module_does_and_never_lead_up() {
        let path = |text: &str| TreePath::parse(text).map(String::from);
        assert_eq!(path("//etc///ssh/"), Ok("/etc/ssh".to_owned()));
        assert_eq!(path("home/./a"), Ok("/home/a".to_owned()));
        assert_eq!(path("/"), Ok("/".to_owned()));
        assert_eq!(path("."), Ok("/".to_owned()));
        assert_eq!(
            path("/home/me/VirtualBox VMs"),
            Ok("/home/me/VirtualBox VMs".to_owned())
        );
        assert!(path("/a/../b").is_err());
        assert!(path("/a\n").is_err());
        assert!(path(&"a/".repeat(65)).is_err());
        assert!(path(&"x".repeat(256)).is_err());
        assert!(path(&"/x".repeat(600)).is_err());
    }

    #[test]
    fn what_is_below_follows_its_directory() {
        let path = |text| TreePath::parse(text).unwrap();
        let mut all = vec![path("/a-b"), path("/a/b"), path("/a"), path("/")];
        all.sort();
        assert_eq!(all, [path("/"), path("/a"), path("/a/b"), path("/a-b")]);
        assert_eq!(path("/a/b/c").parents(), [path("/a"), path("/a/b")]);
        assert_eq!(path("/a").parents(), []);
        assert_eq!(path("/a").parent(), Some(TreePath::top()));
        assert_eq!(TreePath::top().parent(), None);
        assert!(path("/a/b").is_in(&path("/a")) && !path("/a-b").is_in(&path("/a")));
        assert_eq!(path("/a").below(&path("/p/q")), path("/p/q/a"));
    }

    proptest::proptest! {
        #[test]
        fn paths_are_sorted_name_by_name(one in "(/[a-c!. é-]{1,3}){0,4}", two in "(/[a-c!. é-]{1,3}){0,4}") {
            if let (Ok(one), Ok(two)) = (TreePath::parse(&one), TreePath::parse(&two)) {
                let names = |path: &TreePath| path.relative().split('/').filter(|n| !n.is_empty()).map(str::to_owned).collect::<Vec<_>>();
                proptest::prop_assert_eq!(one.cmp(&two), names(&one).cmp(&names(&two)));
            }
        }
    }
}
