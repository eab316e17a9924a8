//! Sizes in bytes. `10G` means 10 × 2^30 everywhere.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A number of bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct Bytes(pub u64);

const UNITS: [(char, u64); 5] = [
    ('K', 1 << 10),
    ('M', 1 << 20),
    ('G', 1 << 30),
    ('T', 1 << 40),
    ('P', 1 << 50),
];

impl Bytes {
    /// `n` × 2^30 bytes.
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }

    /// `n` × 2^20 bytes.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// The sum, held at the largest number instead of wrapping.
    #[must_use]
    pub fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, held at zero.
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

/// A text that is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a size: write a number and K, M, G or T, such as 10G (10 × 2^30 bytes)")]
pub struct NotASize(String);

impl FromStr for Bytes {
    type Err = NotASize;

    fn from_str(text: &str) -> Result<Self, NotASize> {
        let bad = || NotASize(text.chars().take(40).collect());
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| bad())?;
        let unit = unit
            .strip_suffix("iB")
            .or_else(|| unit.strip_suffix('B'))
            .unwrap_or(unit);
        let factor = match unit.to_ascii_uppercase().as_str() {
            "" => 1,
            one => {
                UNITS
                    .iter()
                    .find(|(c, _)| one == c.to_string())
                    .ok_or_else(bad)?
                    .1
            }
        };
        number.checked_mul(factor).map(Self).ok_or_else(bad)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().rev().find(|(_, factor)| self.0 >= *factor) {
            None => write!(f, "{}B", self.0),
            Some((unit, factor)) if self.0 % factor == 0 => write!(f, "{}{unit}", self.0 / factor),
            Some((unit, factor)) => write!(f, "{:.1}{unit}", self.0 as f64 / *factor as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_two() {
        assert_eq!("10G".parse(), Ok(Bytes::gib(10)));
        assert_eq!("10GiB".parse(), Ok(Bytes::gib(10)));
        assert_eq!("512m".parse(), Ok(Bytes::mib(512)));
        assert_eq!("17".parse(), Ok(Bytes(17)));
        assert_eq!(Bytes::gib(10).to_string(), "10G");
        assert_eq!(Bytes(1536).to_string(), "1.5K");
    }

    #[test]
    fn what_is_not_a_size_is_refused() {
        for bad in [
            "",
            "G",
            "-1",
            "1.5G",
            "10X",
            "10GG",
            "99999999999999999999",
            "999999999P",
            "10 G",
        ] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad} was taken");
        }
    }
}
