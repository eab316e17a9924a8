//! Addresses of image servers: `http` or `https`, a host, a path; nothing that would be a secret or a question.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The most bytes of an address.
const LENGTH: usize = 2048;

/// An address of a server or of a file on it, without user, password and fragment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RemoteUrl {
    https: bool,
    /// The host as it is written, with its port.
    authority: String,
    /// From the first `/` on, with a query where a redirect had one.
    path: String,
}

impl RemoteUrl {
    /// Whether what comes is what the server sent.
    pub fn is_https(&self) -> bool {
        self.https
    }

    /// Whether it is this very host, by what is written and no name service is asked for.
    pub fn is_loopback(&self) -> bool {
        let host = self.host();
        if let Some(v6) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            return v6.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_loopback());
        }
        host == "localhost"
            || host
                .parse::<std::net::Ipv4Addr>()
                .is_ok_and(|ip| ip.is_loopback())
    }

    /// Scheme, host and port.
    pub fn origin(&self) -> (bool, &str) {
        (self.https, &self.authority)
    }

    /// The address of what lies beneath this one. The path is a server's word and leads nowhere else.
    pub fn below(&self, path: &str) -> Result<Self, String> {
        let shown = || path.chars().take(200).collect::<String>();
        let is_part = |part: &str| {
            !part.is_empty()
                && part != "."
                && part != ".."
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"._~:@+,=&()!$*'-".contains(&b))
        };
        if path.len() > 1024 || !path.split('/').all(is_part) {
            return Err(format!(
                "`{}` is no path that a server should name",
                shown().escape_debug()
            ));
        }
        let base = self.path.split('?').next().unwrap_or_default();
        let path = format!("{}/{path}", base.trim_end_matches('/'));
        Ok(Self {
            path,
            ..self.clone()
        })
    }

    /// What a `Location` of an answer from here means.
    pub(super) fn joined(&self, location: &str) -> Result<Self, String> {
        if location.contains("://") && !location.starts_with('/') {
            return parse(location, true);
        }
        if location.starts_with("//") {
            let scheme = if self.https { "https" } else { "http" };
            return parse(&format!("{scheme}:{location}"), true);
        }
        let path = if location.starts_with('/') {
            location.to_owned()
        } else {
            let base = self.path.split('?').next().unwrap_or_default();
            let (directory, _) = base.rsplit_once('/').unwrap_or_default();
            format!("{directory}/{location}")
        };
        let scheme = if self.https { "https" } else { "http" };
        parse(&format!("{scheme}://{}{path}", self.authority), true)
    }

    fn host(&self) -> &str {
        match self.authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            _ => &self.authority,
        }
    }
}

fn parse(text: &str, query: bool) -> Result<RemoteUrl, String> {
    let shown = || text.chars().take(200).collect::<String>();
    let strange = |why: &str| format!("`{}` {why}", shown().escape_debug());
    if text.len() > LENGTH || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(strange("is no address"));
    }
    let (https, rest) = match text.split_once("://") {
        Some(("https", rest)) => (true, rest),
        Some(("http", rest)) => (false, rest),
        _ => return Err(strange("begins with neither https:// nor http://")),
    };
    let (authority, path) = match rest.find(['/', '?', '#']) {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    if authority.contains('@') {
        // Not shown: it is in the plan, in the log and in what everybody sees of operations.
        return Err("an address with a user or a password in it is not taken".to_owned());
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let in_brackets = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let is_name = |host: &str| {
        !host.is_empty()
            && host
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-')
    };
    let host_is_good = match in_brackets {
        Some(v6) => v6.parse::<Ipv6Addr>().is_ok(),
        None => is_name(host),
    };
    if !host_is_good || port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err(strange("names no host"));
    }
    if path.contains('#') || (!query && path.contains('?')) || !path.starts_with('/') {
        return Err(strange("has more than a host and a path"));
    }
    Ok(RemoteUrl {
        https,
        authority: authority.to_ascii_lowercase(),
        path: path.to_owned(),
    })
}

impl FromStr for RemoteUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text, false)
    }
}

impl TryFrom<String> for RemoteUrl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<RemoteUrl> for String {
    fn from(url: RemoteUrl) -> Self {
        url.to_string()
    }
}

impl fmt::Display for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.path)
    }
}
