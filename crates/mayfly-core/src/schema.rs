//! How those types look on the wire whose text says more than their fields, for the description of the API.

use std::fmt::Write as _;

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::error::Code;
use crate::network::{Mac, Prefix6, Subnet};
use crate::persist::path::TreePath;
use crate::template::Quota;

/// A type's description.
pub(crate) type Described = RefOr<Schema>;

/// A text of that pattern.
pub(crate) fn text(description: &str, pattern: &str) -> Described {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some(description.trim()))
        .pattern(Some(pattern))
        .into()
}

impl PartialSchema for Code {
    fn schema() -> Described {
        let mut meanings = String::from(
            "What kind of error. A code never changes its meaning; later versions may have more of them.\n",
        );
        for code in Self::ALL {
            let _ = write!(
                meanings,
                "\n- `{code}` ({}): {}",
                code.http_status(),
                code.meaning()
            );
        }
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some(meanings))
            .enum_values(Some(Self::ALL.iter().map(|code| code.as_str())))
            .into()
    }
}

impl ToSchema for Code {}

impl PartialSchema for Quota {
    fn schema() -> Described {
        text(
            "A number of bytes as it is typed, such as `10G` (10 × 2^30), or a share of the disk space, such as `40%`.",
            "^([0-9]+[KMGTP]?|[0-9]{1,3}%)$",
        )
    }
}

impl ToSchema for Quota {}

impl PartialSchema for Subnet {
    fn schema() -> Described {
        text(
            "A private network of IPv4 addresses, such as `10.77.0.0/16`.",
            "^[0-9.]+/[0-9]+$",
        )
    }
}

impl ToSchema for Subnet {}

impl PartialSchema for Prefix6 {
    fn schema() -> Described {
        text(
            "A private network of IPv6 addresses, such as `fd4d:6179:666c:7900::/64`.",
            "^fd[0-9a-f:]+/64$",
        )
    }
}

impl ToSchema for Prefix6 {}

impl PartialSchema for Mac {
    fn schema() -> Described {
        text(
            "The address of a network card.",
            "^[0-9a-f]{2}(:[0-9a-f]{2}){5}$",
        )
    }
}

impl ToSchema for Mac {}

impl PartialSchema for TreePath {
    fn schema() -> Described {
        text(
            "An absolute path inside a VPS without `..`; unlike the path of a mount it may have spaces.",
            "^/",
        )
    }
}

impl ToSchema for TreePath {}
