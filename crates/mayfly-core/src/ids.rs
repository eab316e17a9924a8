//! Numbers and random names that tell things apart.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A text that is not an id of the wanted kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{got}` is not {wanted}")]
pub struct NotAnId {
    /// What was given, cut to 40 characters.
    pub got: String,
    /// What was wanted.
    pub wanted: &'static str,
}

impl NotAnId {
    fn new(got: &str, wanted: &'static str) -> Self {
        Self {
            got: got.chars().take(40).collect(),
            wanted,
        }
    }
}

/// The number of a VPS. It may be used again after a destroy; the [`Incarnation`] tells the two apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(try_from = "u32", into = "u32")]
pub struct VpsId(u32);

impl VpsId {
    /// The lowest number that a VPS may have.
    pub const FIRST: u32 = 100;
    /// The highest number that a VPS may have.
    pub const LAST: u32 = 999_999_999;

    /// The number itself.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for VpsId {
    type Error = NotAnId;

    fn try_from(n: u32) -> Result<Self, NotAnId> {
        if (Self::FIRST..=Self::LAST).contains(&n) {
            Ok(Self(n))
        } else {
            Err(NotAnId::new(
                &n.to_string(),
                "a VPS id (a number from 100 to 999999999)",
            ))
        }
    }
}

impl From<VpsId> for u32 {
    fn from(id: VpsId) -> u32 {
        id.0
    }
}

impl FromStr for VpsId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let bad = || NotAnId::new(text, "a VPS id (a number from 100 to 999999999)");
        if text.starts_with('0') || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        text.parse::<u32>().map_err(|_| bad())?.try_into()
    }
}

impl fmt::Display for VpsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

macro_rules! hex_id {
    ($(#[doc = $doc:literal])* $name:ident, $bytes:literal, $wanted:literal) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Made from random bytes that the caller drew.
            pub fn from_random(bytes: [u8; $bytes]) -> Self {
                use std::fmt::Write as _;
                let mut text = String::with_capacity($bytes * 2);
                for b in bytes {
                    let _ = write!(text, "{b:02x}");
                }
                Self(text)
            }

            /// The lower-case hexadecimal text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        #[cfg(feature = "schema")]
        impl utoipa::PartialSchema for $name {
            fn schema() -> crate::schema::Described {
                crate::schema::text(concat!($($doc),*), &format!("^[0-9a-f]{{{}}}$", $bytes * 2))
            }
        }

        #[cfg(feature = "schema")]
        impl utoipa::ToSchema for $name {}

        impl FromStr for $name {
            type Err = NotAnId;

            fn from_str(text: &str) -> Result<Self, NotAnId> {
                let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
                if text.len() == $bytes * 2 && text.bytes().all(hex) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(NotAnId::new(text, $wanted))
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = NotAnId;

            fn try_from(text: String) -> Result<Self, NotAnId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

hex_id!(
    /// One life of a VPS id: drawn at create, in every record and mark, so that a new VPS with an old number never
    /// sees what its predecessor left.
    Incarnation, 16, "an incarnation (32 hexadecimal digits)"
);
hex_id!(
    /// One run of a VPS from start to end. A temporary root carries the id of its run in its name.
    RunId, 3, "a run id (6 hexadecimal digits)"
);
hex_id!(
    /// One machine that runs `mayfly serve`; drawn by `mayfly init`, written into every mark.
    NodeId, 8, "a node id (16 hexadecimal digits)"
);
hex_id!(
    /// One requested change. The first 12 digits are the milliseconds since 1970, so that ids sort by age.
    OperationId, 10, "an operation id (20 hexadecimal digits)"
);
hex_id!(
    /// A sha256: of a template's archive, or of a file that is to be the same later.
    Digest, 32, "a digest (64 hexadecimal digits of a sha256)"
);

impl OperationId {
    /// An id that sorts by `unix_ms`.
    pub fn at(unix_ms: u64, random: [u8; 4]) -> Self {
        let mut bytes = [0; 10];
        bytes[..6].copy_from_slice(&unix_ms.to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(&random);
        Self::from_random(bytes)
    }
}

impl Digest {
    /// That of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_random(Sha256::digest(bytes).into())
    }

    /// The part of a digest that names a template's dataset.
    pub fn short(&self) -> &str {
        &self.0[..16]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vps_id_is_a_plain_number_in_range() {
        assert_eq!("11327".parse::<VpsId>().map(VpsId::get), Ok(11327));
        for bad in [
            "",
            "0",
            "99",
            "0100",
            "1000000000",
            "-5",
            "+100",
            "1e3",
            "11327 ",
        ] {
            assert!(bad.parse::<VpsId>().is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn hex_ids_are_lower_case_and_of_fixed_length() {
        assert!("c5a8b7".parse::<RunId>().is_ok());
        for bad in ["", "C5A8B7", "c5a8b", "c5a8b77", "../../", "c5a8b\n"] {
            assert!(bad.parse::<RunId>().is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn operation_ids_sort_by_age() {
        assert!(OperationId::at(1_000, [255; 4]) < OperationId::at(1_001, [0; 4]));
    }
}
