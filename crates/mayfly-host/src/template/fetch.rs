//! Files of an HTTP server, in bounds: of bytes, of time, of where a redirect leads. Nothing of an answer is believed before
//! it was held against what was said of it.
//!
//! ```text
//!  ask ──> 2xx: the body, at most so many bytes, none of its pieces later than IDLE after the one before
//!   ^──── 3xx to https or the same server, at most REDIRECTS times
//! ```
//!
//! A wish to cancel shuts the connection from outside, so that a server which stalls keeps nobody waiting.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mayfly_core::bytes::Bytes;
use mayfly_core::error::{Code, Refusal};
use mayfly_core::ids::Digest;
use mayfly_core::ports::Cancel;
use mayfly_core::remote::{PullSource, RemoteFile, RemoteUrl};
use sha2::{Digest as _, Sha256};
use ureq::http::header::LOCATION;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, Error, Proxy};

/// The certificates of authorities that this host believes; `SSL_CERT_FILE` names others.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// So many redirects are followed.
const REDIRECTS: usize = 5;
/// How often it is looked whether the work is still wanted.
const LOOK: Duration = Duration::from_millis(100);

/// How long a server may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For the next bytes, whatever they are.
    pub(super) idle: Duration,
    /// For an index.
    pub(super) text: Duration,
    /// For a file.
    pub(super) file: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(30),
            text: Duration::from_secs(120),
            file: Duration::from_secs(3600),
        }
    }
}

/// Asks servers.
pub(super) struct Fetcher<'a> {
    agent: Agent,
    source: &'a PullSource,
    cancel: &'a Cancel,
    patience: Patience,
}

impl<'a> Fetcher<'a> {
    pub(super) fn new(source: &'a PullSource, cancel: &'a Cancel, patience: Patience) -> Self {
        let tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .root_certs(RootCerts::new_with_certs(&authorities()))
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("mayfly/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_resolve(Some(patience.idle))
            .timeout_connect(Some(patience.idle))
            .timeout_per_read(Some(patience.idle))
            .timeout_per_write(Some(patience.idle))
            .build();
        Self {
            agent: config.new_agent(),
            source,
            cancel,
            patience,
        }
    }

    /// Does it, and shuts its connections once it is not wanted any more.
    pub(super) fn while_wanted<T>(&self, work: impl FnOnce() -> T) -> T {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    if self.cancel.is_set() {
                        self.agent.clone().shutdown();
                        return;
                    }
                    std::thread::park_timeout(LOOK);
                }
            });
            let done = work();
            over.store(true, Ordering::SeqCst);
            watcher.thread().unpark();
            done
        })
    }

    /// A text of at most so many bytes.
    pub(super) fn text(&self, url: &RemoteUrl, most: u64) -> Result<Vec<u8>, Refusal> {
        let body = self.get(url, self.patience.text)?;
        let mut text = Vec::new();
        let mut reader = body.into_reader().take(most + 1);
        reader
            .read_to_end(&mut text)
            .map_err(|e| failed(url, told(&Error::from(e))))?;
        if text.len() as u64 > most {
            return Err(failed(url, format!("it has more than {}", Bytes(most))));
        }
        Ok(text)
    }

    /// The very file that the server told of.
    pub(super) fn file(
        &self,
        url: &RemoteUrl,
        wanted: &RemoteFile,
        mut to: File,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Refusal> {
        let body = self.get(url, self.patience.file)?;
        let of_another_length = |has: &str| {
            let said = wanted.bytes;
            failed(
                url,
                format!("it has {has} bytes, and the index says {said}"),
            )
        };
        if let Some(has) = body.content_length().filter(|has| *has != wanted.bytes) {
            return Err(of_another_length(&has.to_string()));
        }
        let mut reader = body.into_reader();
        let (mut piece, mut hash, mut got) = (vec![0; 256 << 10], Sha256::new(), 0);
        loop {
            let len = reader
                .read(&mut piece)
                .map_err(|e| failed(url, told(&Error::from(e))))?;
            if len == 0 {
                break;
            }
            got += len as u64;
            if got > wanted.bytes {
                return Err(of_another_length("more"));
            }
            hash.update(&piece[..len]);
            to.write_all(&piece[..len]).map_err(|error| {
                Refusal::new(
                    Code::HostFailed,
                    format!("what comes from {url} cannot be written down: {error}"),
                    "make room where the node's state is, and pull again",
                )
            })?;
            progress(got);
        }
        if got < wanted.bytes {
            return Err(of_another_length(&format!("only {got}")));
        }
        let digest = Digest::from_random(hash.finalize().into());
        if digest != wanted.sha256 {
            return Err(Refusal::new(
                Code::TemplateWrongDigest,
                format!(
                    "{url}: its sha256 is {digest}, and the index says {}",
                    wanted.sha256
                ),
                "nothing of it was kept; pull again, and tell whoever runs the server if it stays so",
            ));
        }
        Ok(())
    }

    /// The body of a good answer.
    fn get(&self, url: &RemoteUrl, within: Duration) -> Result<Body, Refusal> {
        let end = Instant::now() + within;
        let mut at = url.clone();
        for _ in 0..=REDIRECTS {
            if !self.source.may_ask(&at) {
                return Err(failed(
                    url,
                    format!("it leads to {at}, which is plain http"),
                ));
            }
            let left = end.saturating_duration_since(Instant::now());
            // What is on this very host is no proxy's business.
            let proxy = (!at.is_loopback()).then(Proxy::try_from_env).flatten();
            let answer = self
                .agent
                .get(at.to_string())
                .config()
                .proxy(proxy)
                .timeout_global(Some(left.max(LOOK)))
                .build()
                .call()
                .map_err(|error| failed(&at, told(&error)))?;
            let status = answer.status();
            if status.is_success() {
                return Ok(answer.into_body());
            }
            if !status.is_redirection() {
                return Err(failed(&at, format!("the server answers {status}")));
            }
            let location = answer.headers().get(LOCATION).and_then(|l| l.to_str().ok());
            let location = location.ok_or_else(|| failed(&at, "it leads nowhere".to_owned()))?;
            at = self
                .source
                .redirect(&at, location)
                .map_err(|why| failed(&at, why))?;
        }
        Err(failed(
            url,
            format!("it leads from one address to another more than {REDIRECTS} times"),
        ))
    }
}

fn failed(url: &RemoteUrl, why: String) -> Refusal {
    Refusal::new(
        Code::TemplatePullFailed,
        format!("{url} was not fetched: {why}"),
        "nothing of it was kept; see whether the address is right and the server well, and pull again",
    )
}

/// What is wrong, in words of ours where the library's say little.
fn told(error: &Error) -> String {
    match error {
        Error::Timeout(_) => "the server does not go on".to_owned(),
        Error::HostNotFound => "there is no such host".to_owned(),
        Error::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            "the connection ended too early".to_owned()
        }
        other => other
            .to_string()
            .chars()
            .take(300)
            .collect::<String>()
            .escape_debug()
            .to_string(),
    }
}

/// The certificates that this host's administrator trusts. Where there are none, no server is believed.
fn authorities() -> Vec<Certificate<'static>> {
    let file = std::env::var_os("SSL_CERT_FILE").unwrap_or_else(|| AUTHORITIES.into());
    let text = std::fs::read(&file).unwrap_or_else(|error| {
        tracing::warn!(file = %file.to_string_lossy(), %error, "no certificates of authorities");
        Vec::new()
    });
    parse_pem(&text)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests;
