//! `metadata.yaml` of an LXC or Incus image, and `os-release` of a tree: what they say of the system.

use std::collections::BTreeMap;

use yaml_rust2::{Yaml, YamlLoader};

/// What came along with an image. It says what the tree does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Metadata {
    /// The kernel's word or Debian's for the architecture.
    pub(super) architecture: Option<String>,
    /// Such as `Debian`.
    pub(super) os: Option<String>,
    /// Such as `bookworm`.
    pub(super) release: Option<String>,
}

/// Reads a `metadata.yaml`. What is not there is not said; what is no YAML is an error.
pub(super) fn parse(text: &str) -> Result<Metadata, String> {
    let documents = YamlLoader::load_from_str(text).map_err(|e| e.to_string())?;
    let top = documents.first().cloned().unwrap_or(Yaml::BadValue);
    let word = |value: &Yaml| match value {
        Yaml::String(text) | Yaml::Real(text) => Some(text.trim().to_owned()),
        Yaml::Integer(number) => Some(number.to_string()),
        _ => None,
    };
    let properties = &top["properties"];
    let either = |name: &str| word(&properties[name]);
    Ok(Metadata {
        architecture: word(&top["architecture"]).or_else(|| either("architecture")),
        os: either("os"),
        release: either("release"),
    })
}

/// The assignments of an `os-release`.
pub(super) fn os_release(text: &str) -> BTreeMap<&str, String> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| {
            let value = value.trim();
            let quoted = ['"', '\'']
                .iter()
                .find_map(|q| value.strip_prefix(*q)?.strip_suffix(*q));
            (name, quoted.unwrap_or(value).to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_says_what_it_is() {
        let text = "architecture: x86_64\ncreation_date: 1700000000\nexpiry_date: 1800000000\nproperties:\n  \
                    architecture: amd64\n  description: Debian bookworm amd64 (20261125_05:24)\n  name: debian-bookworm\n  \
                    os: Debian\n  release: \"12\"\n  variant: default\ntemplates:\n  /etc/hostname:\n    when:\n    - create\n";
        let got = parse(text).unwrap();
        assert_eq!(got.architecture.as_deref(), Some("x86_64"));
        assert_eq!(
            (got.os.as_deref(), got.release.as_deref()),
            (Some("Debian"), Some("12"))
        );
        // JSON is YAML as well, and some images have that.
        let json = r#"{"architecture":"aarch64","properties":{"os":"alpine","release":3.2}}"#;
        let got = parse(json).unwrap();
        assert_eq!(
            (got.os.as_deref(), got.release.as_deref()),
            (Some("alpine"), Some("3.2"))
        );
        assert_eq!(parse("").unwrap(), Metadata::default());
        assert_eq!(parse("[1, 2]").unwrap(), Metadata::default());
        assert!(parse("a: [").is_err());
    }

    #[test]
    fn an_os_release_is_read_as_the_shell_would() {
        let got = os_release("# x\nID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME='A \"b\"'\nbroken\n");
        assert_eq!(got["ID"], "debian");
        assert_eq!(got["VERSION_ID"], "12");
        assert_eq!(got["PRETTY_NAME"], "A \"b\"");
        assert_eq!(got.len(), 3);
    }
}
