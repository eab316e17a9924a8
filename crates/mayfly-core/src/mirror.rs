//! Mirrors: copies of documents in the pool, from which a lost state database is rebuilt.
//!
//! They lie in the platform's own corner of the pool, where no guest can write and no guest's quota is charged: a guest
//! that fills its disk must not keep the host from recording what it has. They travel with the pool, as the marks do.
//!
//! Beside them is the pool's *generation*: the revision of the state in which the pool was last changed for it. It rises
//! with every transaction, after the commit and in the order of the pool's own changes, so the database is never behind
//! it, unless an older copy of the database was put back. What follows from that is in `mayfly_engine`'s `held`.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

const VERSION: u32 = 1;

/// The key of a document that has a mirror: `/vps/11327`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MirrorKey(String);

impl MirrorKey {
    /// The key, where every segment of it is of `A-Za-z0-9-_.` and does not begin with a dot.
    pub fn new(key: &str) -> Option<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        let segment =
            |text: &str| !text.is_empty() && !text.starts_with('.') && text.bytes().all(plain);
        (key.len() <= 200 && key.strip_prefix('/')?.split('/').all(segment))
            .then(|| Self(key.to_owned()))
    }

    /// The key of the document that a file name stands for.
    pub fn from_file_name(name: &str) -> Option<Self> {
        Self::new(&format!("/{}", name.replace(':', "/")))
    }

    /// The name of the file that it is kept in.
    pub fn file_name(&self) -> String {
        self.0.trim_start_matches('/').replace('/', ":")
    }

    /// The key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MirrorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The first line of a mirror; the document is the second.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: u32,
    key: MirrorKey,
    revision: u64,
    sha256: String,
}

/// A mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Whose.
    pub key: MirrorKey,
    /// The revision of the state in which the document was put.
    pub revision: u64,
    /// The document, one line of JSON.
    pub document: String,
}

impl Mirror {
    fn checksum(&self) -> String {
        let sum = Sha256::new()
            .chain_update(format!("{}\n{}\n", self.key, self.revision))
            .chain_update(&self.document)
            .finalize();
        sum.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// As it is written.
    pub fn render(&self) -> String {
        let header = Header {
            version: VERSION,
            key: self.key.clone(),
            revision: self.revision,
            sha256: self.checksum(),
        };
        let header = serde_json::to_string(&header).expect("a header is plain text and numbers");
        format!("{header}\n{}\n", self.document)
    }

    /// A mirror as it was read under the name of `key`, or what is wrong with it.
    pub fn parse(key: &MirrorKey, text: &str) -> Result<Self, String> {
        let (header, document) = text
            .strip_suffix('\n')
            .and_then(|text| text.split_once('\n'))
            .ok_or("it is cut off")?;
        let header: Header = serde_json::from_str(header).map_err(|e| e.to_string())?;
        if header.version != VERSION {
            let found = header.version;
            return Err(format!("its version is {found}, known is {VERSION}"));
        }
        if header.key != *key {
            return Err(format!("it is that of {}", header.key));
        }
        let mirror = Self {
            key: header.key,
            revision: header.revision,
            document: document.to_owned(),
        };
        if mirror.checksum() != header.sha256 {
            return Err("its checksum does not fit".to_owned());
        }
        Ok(mirror)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror() -> Mirror {
        Mirror {
            key: MirrorKey::new("/vps/11327").unwrap(),
            revision: 7,
            document: r#"{"schema":2}"#.into(),
        }
    }

    #[test]
    fn a_mirror_comes_back_as_it_was_written() {
        let text = mirror().render();
        assert_eq!(Mirror::parse(&mirror().key, &text), Ok(mirror()));
    }

    #[test]
    fn whatever_happened_to_a_mirror_is_noticed() {
        let (key, text) = (mirror().key, mirror().render());
        for cut in 0..text.len() {
            assert!(Mirror::parse(&key, &text[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let Ok(text) = String::from_utf8(bytes) else {
                continue;
            };
            assert!(Mirror::parse(&key, &text).is_err(), "flipped at {at}");
        }
        let other = MirrorKey::new("/vps/100").unwrap();
        assert!(
            Mirror::parse(&other, &text)
                .unwrap_err()
                .contains("/vps/11327")
        );
    }

    #[test]
    fn a_key_becomes_a_file_name_and_back() {
        for key in ["/vps/11327", "/templates/debian-12.1_x", "/node"] {
            let key = MirrorKey::new(key).unwrap();
            assert_eq!(MirrorKey::from_file_name(&key.file_name()), Some(key));
        }
        for bad in ["", "/", "vps", "/vps/", "/vps/..", "/a:b", "/.x", "/ä"] {
            assert_eq!(MirrorKey::new(bad), None, "{bad}");
        }
        assert_eq!(MirrorKey::from_file_name("generation.new/"), None);
    }
}
