//! Users and groups, from texts that lie in a guest's tree.
//!
//! A name is looked up in: itself, when it is a number; the allocations that the storage keeps; passwd and group of the
//! root; the uid-map and gid-map that NixOS keeps. passwd of an empty root does not exist yet when declarations are
//! applied, so the last one is what a NixOS system has.

use std::collections::BTreeMap;

use super::limits;
use super::path::TreePath;

/// What is known of users and groups. The first source that knows a name counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct People {
    users: BTreeMap<String, User>,
    groups: BTreeMap<String, u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct User {
    uid: u32,
    gid: Option<u32>,
    home: Option<TreePath>,
}

impl People {
    /// Nobody but root.
    pub fn new() -> Self {
        let mut people = Self::default();
        people.groups.insert("root".to_owned(), 0);
        people
    }

    /// Adds whom a passwd file names and nobody did before.
    pub fn add_passwd(&mut self, text: &str) {
        for line in lines(text) {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, uid, gid, _, home, ..] = fields[..] else {
                continue;
            };
            let (Some(uid), Some(gid)) = (number(uid), number(gid)) else {
                continue;
            };
            let home = TreePath::parse(home).ok().filter(|home| !home.is_top());
            self.add_user(
                name,
                User {
                    uid,
                    gid: Some(gid),
                    home,
                },
            );
        }
    }

    /// Adds what a group file names and nobody did before.
    pub fn add_group(&mut self, text: &str) {
        for line in lines(text) {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, gid, ..] = fields[..] else {
                continue;
            };
            if let Some(gid) = number(gid) {
                self.add_gid(name, gid);
            }
        }
    }

    /// Adds whom NixOS' `uid-map` (JSON, name to number) names and nobody did before.
    pub fn add_uid_map(&mut self, text: &str) {
        for (name, uid) in numbers(text) {
            self.add_user(
                &name,
                User {
                    uid,
                    gid: None,
                    home: None,
                },
            );
        }
    }

    /// Adds what NixOS' `gid-map` names and nobody did before.
    pub fn add_gid_map(&mut self, text: &str) {
        for (name, gid) in numbers(text) {
            self.add_gid(&name, gid);
        }
    }

    fn add_user(&mut self, name: &str, user: User) {
        if name.is_empty() || name.len() > limits::NAME_BYTES {
            return;
        }
        let known = self
            .users
            .entry(name.to_owned())
            .or_insert_with(|| user.clone());
        // A uid-map knows less than passwd: what it left open may come from a later source.
        if known.uid == user.uid {
            known.gid = known.gid.or(user.gid);
            known.home = known.home.take().or(user.home);
        }
    }

    fn add_gid(&mut self, name: &str, gid: u32) {
        if !name.is_empty() && name.len() <= limits::NAME_BYTES {
            self.groups.entry(name.to_owned()).or_insert(gid);
        }
    }

    /// The number of a user.
    pub fn uid(&self, name: &str) -> Option<u32> {
        number(name)
            .or_else(|| self.users.get(name).map(|u| u.uid))
            .or((name == "root").then_some(0))
    }

    /// The number of a group.
    pub fn gid(&self, name: &str) -> Option<u32> {
        number(name).or_else(|| self.groups.get(name).copied())
    }

    /// The primary group of a user.
    pub fn primary(&self, user: &str) -> Option<u32> {
        let known = self.users.get(user).or_else(|| {
            let uid = number(user)?;
            self.users.values().find(|u| u.uid == uid)
        });
        known
            .and_then(|u| u.gid)
            .or((user == "root" || user == "0").then_some(0))
    }

    /// The home of a user.
    pub fn home(&self, name: &str) -> Option<TreePath> {
        self.users.get(name)?.home.clone()
    }
}

fn number(name: &str) -> Option<u32> {
    // The last number is the kernel's word for "none".
    if name.bytes().all(|b| b.is_ascii_digit()) {
        name.parse().ok().filter(|n| *n != u32::MAX)
    } else {
        None
    }
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|line| !line.starts_with(['#', '+', '-']) && line.len() <= 64 << 10)
}

fn numbers(text: &str) -> BTreeMap<String, u32> {
    serde_json::from_str::<BTreeMap<String, serde_json::Value>>(text)
        .unwrap_or_default()
        .into_iter()
        .filter_map(|(name, value)| {
            let id = value.as_u64().and_then(|id| u32::try_from(id).ok())?;
            (id != u32::MAX).then_some((name, id))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_source_that_knows_a_name_counts() {
        let mut people = People::new();
        people.add_passwd("colord:x:105:110::/var/lib/colord:/bin/false\nbad\n+nis::::::\n");
        people.add_passwd("colord:x:1:1::/:/bin/false\nme:x:1000:100:Me:/althome/me:/bin/sh\n");
        people.add_group("colord:x:110:\nusers:x:100:me\n");
        people.add_uid_map(r#"{"ghost": 990, "me": 7, "late": -1, "x": "y"}"#);
        people.add_gid_map("not JSON");
        assert_eq!(people.uid("colord"), Some(105));
        assert_eq!(people.uid("me"), Some(1000));
        assert_eq!(people.primary("me"), Some(100));
        assert_eq!(people.primary("1000"), Some(100));
        assert_eq!(
            people.home("me").map(String::from),
            Some("/althome/me".to_owned())
        );
        assert_eq!(
            people.home("colord").map(String::from),
            Some("/var/lib/colord".to_owned())
        );
        assert_eq!(
            (people.uid("ghost"), people.primary("ghost")),
            (Some(990), None)
        );
        assert_eq!(
            (people.uid("late"), people.uid("x"), people.uid("nobody")),
            (None, None, None)
        );
        assert_eq!(
            (
                people.uid("4242"),
                people.uid("4294967295"),
                people.gid("root")
            ),
            (Some(4242), None, Some(0))
        );
        assert_eq!(
            (people.uid("root"), people.primary("root")),
            (Some(0), Some(0))
        );
    }
}
