//! Where packages come from: the host's own mirror, and how the host reaches it.

use crate::runner::{Command, RunFailure, Runner, Tool};

/// Settings of the host's apt that say how to reach a mirror and what to take from it.
const SETTINGS: [&str; 5] = [
    "Acquire::http::Proxy",
    "Acquire::https::Proxy",
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
    "Acquire::Retries",
];
/// Suites that have neither updates nor security beside them.
const ROLLING: [&str; 3] = ["sid", "unstable", "experimental"];

/// A mirror that was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not the address of a mirror: write http://, https:// or file://, no spaces and no password", .0.escape_debug())]
pub struct BadMirror(pub String);

/// Mirrors of Debian.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mirrors {
    /// Of the archive. Without one, mmdebstrap takes its own defaults for everything.
    pub(super) archive: Option<String>,
    /// Of the security updates.
    pub(super) security: Option<String>,
}

impl Mirrors {
    /// These mirrors with the archive that the operator gave.
    pub(super) fn with_archive(self, given: &str) -> Result<Self, BadMirror> {
        let known = ["http://", "https://", "file://"]
            .iter()
            .any(|scheme| given.starts_with(scheme));
        // A password would be seen in argv, and would go into every VPS of the template.
        if !known || given.contains(|c: char| c == '@' || c.is_whitespace() || c.is_control()) {
            return Err(BadMirror(given.to_owned()));
        }
        Ok(Self {
            archive: Some(given.to_owned()),
            ..self
        })
    }

    /// The lines of sources.list for `suite`; none where mmdebstrap's own are to be taken.
    pub(super) fn lines(&self, suite: &str) -> Vec<String> {
        let Some(archive) = &self.archive else {
            return Vec::new();
        };
        let mut lines = vec![format!("deb {archive} {suite} main")];
        if !ROLLING.contains(&suite) {
            lines.push(format!("deb {archive} {suite}-updates main"));
            lines.extend(
                self.security
                    .iter()
                    .map(|security| format!("deb {security} {suite}-security main")),
            );
        }
        lines
    }
}

/// The mirrors that this host's apt uses; empty where it has none of Debian's. Asks no mirror, and needs no lists that were
/// fetched before.
pub(super) fn observe_mirrors(runner: &Runner, apt_get: &Tool) -> Result<Mirrors, RunFailure> {
    let listed = runner.run(&Command::new(apt_get).args(["update", "--print-uris"]))?;
    Ok(parse_uris(&listed.text()))
}

/// Options for mmdebstrap that reach the mirror as this host's apt does.
pub(super) fn observe_settings(
    runner: &Runner,
    apt_config: &Tool,
) -> Result<Vec<String>, RunFailure> {
    let dumped = runner.run(&Command::new(apt_config).args([
        "dump",
        "--no-empty",
        "--format",
        "%f|%v%n",
    ]))?;
    Ok(parse_settings(&dumped.text()))
}

/// Debian's mirrors in what `apt-get update` would fetch. Lines of others, and lines that make no sense, are passed over:
/// without a mirror there is a default.
///
/// Others keep their packages for Debian below a path like Debian's. The archive is told from them by its updates.
fn parse_uris(text: &str) -> Mirrors {
    let suites: Vec<(&str, &str)> = text.lines().filter_map(suite_of_line).collect();
    let is = |site: &str, name: &str| site.split('/').any(|part| part == name);
    let first = |fits: &dyn Fn(&str, &str) -> bool| {
        suites
            .iter()
            .find(|(site, suite)| fits(site, suite))
            .map(|(site, _)| (*site).to_owned())
    };
    Mirrors {
        archive: first(&|site, suite| is(site, "debian") && suite.ends_with("-updates"))
            .or_else(|| first(&|site, suite| is(site, "debian") && !suite.contains('-'))),
        security: first(&|site, suite| is(site, "debian-security") && suite.ends_with("-security")),
    }
}

/// The site and the suite in `'SITE/dists/SUITE/InRelease' FILE 0`.
fn suite_of_line(line: &str) -> Option<(&str, &str)> {
    let uri = line.strip_prefix('\'')?.split('\'').next()?;
    let (site, suite) = uri.strip_suffix("/InRelease")?.split_once("/dists/")?;
    Mirrors::default()
        .with_archive(site)
        .is_ok()
        .then_some((site, suite))
}

fn parse_settings(text: &str) -> Vec<String> {
    let wanted = |name: &str| {
        SETTINGS.iter().any(|s| {
            name == *s
                || name
                    .strip_prefix(s)
                    .is_some_and(|rest| rest.starts_with("::"))
        })
    };
    // `@` tells a password, which is not for argv: such a proxy comes by the environment.
    let quotable = |value: &str| {
        !value.contains(|c: char| c == '@' || c == '"' || c == '\\' || c.is_control())
    };
    text.lines()
        .filter_map(|line| line.split_once('|'))
        .filter(|(name, value)| wanted(name) && quotable(name) && quotable(value))
        .map(|(name, value)| format!("{name} \"{value}\""))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: &str = include_str!("../../testdata/apt-2.6/update-print-uris");
    const DUMPED: &str = include_str!("../../testdata/apt-2.6/config-dump");

    fn mirrors(archive: &str, security: &str) -> Mirrors {
        Mirrors {
            archive: Some(archive.to_owned()),
            security: Some(security.to_owned()),
        }
    }

    #[test]
    fn the_hosts_own_mirrors_are_found() {
        assert_eq!(
            parse_uris(LISTED),
            mirrors(
                "http://mirror.example/debian",
                "http://mirror.example/debian-security"
            )
        );
        let plain = "'http://m.example/debian/dists/trixie/InRelease' m.example_debian_dists_trixie_InRelease 0 \n";
        assert_eq!(
            parse_uris(plain).archive.as_deref(),
            Some("http://m.example/debian")
        );
    }

    #[test]
    fn the_archive_is_told_from_what_looks_like_it() {
        let other = "'https://other.example/linux/debian/dists/bookworm/InRelease' x 0 \n";
        assert_eq!(parse_uris(&format!("{other}{LISTED}")), parse_uris(LISTED));
    }

    #[test]
    fn what_is_cut_or_foreign_is_passed_over() {
        for cut in 0..LISTED.len() {
            let found = parse_uris(&LISTED[..cut]);
            assert!(
                found
                    .archive
                    .is_none_or(|a| a == "http://mirror.example/debian"),
                "cut at {cut}"
            );
        }
        let foreign = "'http://archive.example/ubuntu/dists/noble-updates/InRelease' x 0\n'mirror+file:/debian/dists/sid/InRelease' x 0\n''\n'";
        assert_eq!(parse_uris(foreign), Mirrors::default());
    }

    #[test]
    fn the_lines_of_a_suite() {
        let m = mirrors("http://a", "http://s");
        assert_eq!(
            m.lines("trixie"),
            [
                "deb http://a trixie main",
                "deb http://a trixie-updates main",
                "deb http://s trixie-security main"
            ]
        );
        assert_eq!(m.lines("sid"), ["deb http://a sid main"]);
        assert!(Mirrors::default().lines("trixie").is_empty());
    }

    #[test]
    fn only_an_address_is_taken_for_a_mirror() {
        assert_eq!(
            Mirrors::default()
                .with_archive("https://m/debian")
                .unwrap()
                .archive
                .as_deref(),
            Some("https://m/debian")
        );
        for bad in [
            "",
            "-",
            "--help",
            "m/debian",
            "deb http://m bookworm main",
            "http://m\n",
            "ftp://m",
            "http://me:secret@m/debian",
        ] {
            assert_eq!(
                Mirrors::default().with_archive(bad),
                Err(BadMirror(bad.to_owned()))
            );
        }
    }

    #[test]
    fn settings_that_reach_the_mirror_are_passed_on() {
        assert_eq!(
            parse_settings(DUMPED),
            [
                "Acquire::Check-Valid-Until \"false\"",
                "Acquire::http::Proxy \"http://cache.example:3142\"",
                "Acquire::http::Proxy::mirror.example \"DIRECT\""
            ]
        );
        assert_eq!(
            parse_settings("Acquire::Retries|3\"; Evil \"1\nAcquire::Retries"),
            Vec::<String>::new()
        );
    }
}
