//! Keys that may log in as root, as they stand in an `authorized_keys` file.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::BadNetwork;

/// Kinds of keys that sshd takes.
const KINDS: [&str; 7] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// No file of keys is longer.
const LONGEST: usize = 16 << 10;

/// Public keys, one a line, without options.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(try_from = "String", into = "String")]
pub struct SshKeys(String);

impl SshKeys {
    /// The file, with a newline at the end.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SshKeys {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        let no = |line: &str, wanted| BadNetwork {
            got: line.chars().take(60).collect(),
            wanted,
        };
        if text.contains("PRIVATE KEY") {
            return Err(no("…", "a public key: give the file that ends in .pub"));
        }
        if text.len() > LONGEST {
            return Err(no("…", "a file of public keys of 16 KiB at most"));
        }
        let mut kept = String::new();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.split_ascii_whitespace();
            let kind = words.next().is_some_and(|kind| KINDS.contains(&kind));
            let is_base64 = |key: &str| {
                key.len() > 32
                    && key
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b))
            };
            if !kind || !words.next().is_some_and(is_base64) || line.chars().any(char::is_control) {
                return Err(no(
                    line,
                    "a line with a public key, such as `ssh-ed25519 AAAA… name`",
                ));
            }
            kept.push_str(line);
            kept.push('\n');
        }
        if kept.is_empty() {
            return Err(no("…", "a file with a public key"));
        }
        Ok(Self(kept))
    }
}

impl TryFrom<String> for SshKeys {
    type Error = BadNetwork;

    fn try_from(text: String) -> Result<Self, BadNetwork> {
        text.parse()
    }
}

impl From<SshKeys> for String {
    fn from(keys: SshKeys) -> String {
        keys.0
    }
}

impl fmt::Display for SshKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
