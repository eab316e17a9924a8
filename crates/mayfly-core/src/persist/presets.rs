//! Declarations that come ready-made, for distributions that keep state where everybody does.

use serde::{Deserialize, Serialize};

use super::declare::{DirectoryItem, FileItem, Method, Settings, SomePerms, Tier};

/// A named set of declarations (SPEC P7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// What makes a machine the same machine: its id, its host keys, its logs, root's keys.
    Base,
    /// Users and groups: their numbers, passwords and shells.
    Accounts,
}

impl Preset {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Base, Self::Accounts];

    /// The preset of that name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "base" => Some(Self::Base),
            "accounts" => Some(Self::Accounts),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Accounts => "accounts",
        }
    }

    /// The declarations that it stands for. `accounts` has none: its files are merged, not kept as they are
    /// ([`accounts`](super::accounts)).
    pub fn settings(self) -> Settings {
        match self {
            Self::Base => base(),
            Self::Accounts => Settings::default(),
        }
    }
}

fn directory(path: &str, mode: u32) -> DirectoryItem {
    DirectoryItem {
        directory: path.to_owned(),
        perms: SomePerms {
            mode: Some(mode),
            ..SomePerms::default()
        },
        storage: None,
        hide: None,
        trash: None,
        tier: Tier::Data,
        enable: true,
    }
}

fn file(path: &str, method: Method, parent_mode: u32) -> FileItem {
    FileItem {
        file: path.to_owned(),
        parent: SomePerms {
            mode: Some(parent_mode),
            ..SomePerms::default()
        },
        storage: None,
        method,
        tier: Tier::Data,
        enable: true,
    }
}

/// Programs that replace their file by rename (ssh-keygen, editors) break a bind mount and a link; `copy` survives them.
fn base() -> Settings {
    let mut files = vec![
        file("/etc/machine-id", Method::Auto, 0o755),
        file("/root/.ssh/authorized_keys", Method::Copy, 0o700),
    ];
    for kind in ["rsa", "ecdsa", "ed25519"] {
        for end in ["", ".pub"] {
            let path = format!("/etc/ssh/ssh_host_{kind}_key{end}");
            files.push(file(&path, Method::Copy, 0o755));
        }
    }
    Settings {
        directories: vec![
            directory("/var/lib/systemd", 0o755),
            directory("/var/log", 0o755),
        ],
        files,
        ..Settings::default()
    }
}
