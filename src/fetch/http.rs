//! Files over HTTP: resumed by ranges, bounded by what the server declared, https everywhere but on this
//! machine's own addresses.

use super::part::{PartFile, Version};
use super::watch::{Doing, Watch};
use super::{Expected, ensure_space, parse_sha256};
use crate::progress::Progress;
use anyhow::{Context, anyhow};
use rawrz_engine::Size;
use std::cell::Cell;
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;
use ureq::Agent;
use ureq::http::header::{self, HeaderMap};
use ureq::http::{Response, StatusCode, Uri};
use ureq::tls::{RootCerts, TlsConfig};

/// Redirects followed for one request.
const MAX_REDIRECTS: usize = 10;
/// Failures in a row, none of which brought a byte, before a fetch gives up.
const MAX_FAILURES: u32 = 4;
/// A connection that is silent for this long is given up (and taken up again by a range).
const SILENCE: Duration = Duration::from_secs(60);

/// Where a file is on a server.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) url: String,
    /// Sent as a bearer token, to the host of `url` only.
    pub(crate) token: Option<String>,
    /// The server tells size and SHA-256 of large files in headers of its own.
    pub(crate) is_hugging_face: bool,
}

impl Address {
    pub(super) fn plain(url: String) -> Address {
        Address { url, token: None, is_hugging_face: false }
    }
}

impl std::fmt::Debug for Address {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Address").field("url", &self.url).finish_non_exhaustive()
    }
}

/// What came of one try.
enum Failure {
    /// Worth another try, from where it stopped.
    Passing(anyhow::Error),
    /// The same would happen again.
    Final(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    /// Errors of our own side (the disk, say) do not pass by waiting.
    fn from(error: E) -> Failure {
        Failure::Final(error.into())
    }
}

/// Completes `part` with the bytes at `address`. Gives back `expected` with what the server told beyond it.
pub(super) fn fetch(
    address: &Address,
    part: &mut PartFile,
    expected: Expected,
    file_name: &str,
    watch: &Watch,
) -> anyhow::Result<Expected> {
    is_allowed(&address.url).map_err(|why| anyhow!(why))?;
    let client = Client::new();
    let mut failures = 0;
    loop {
        let before = part.len();
        let error = match client.attempt(address, part, expected, file_name, watch) {
            Ok(expected) => return Ok(expected),
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Passing(error)) => error,
        };
        if part.len() > before {
            failures = 0;
        }
        failures += 1;
        if failures >= MAX_FAILURES {
            return Err(error.context(format!(
                "gave up after {MAX_FAILURES} tries with {} of {file_name} here (run the same again to go on)",
                Size(part.len())
            )));
        }
        watch.pause(Duration::from_millis(250) * 4_u32.pow(failures - 1))?;
    }
}

struct Client {
    /// The host answered once in this fetch.
    answered: Cell<bool>,
    /// Through the user's proxy, if there is one.
    agent: Agent,
    /// For this machine's own addresses.
    direct: Agent,
}

/// The last answer of a chain of redirects, and what the first one told of the file.
struct Answer {
    response: Response<ureq::Body>,
    linked: Expected,
}

impl Client {
    fn new() -> Client {
        let config = || {
            Agent::config_builder()
                .http_status_as_error(false)
                // Followed here, so that each hop's address can be checked.
                .max_redirects(0)
                .max_redirects_will_error(false)
                // Ranges count bytes of the file, not of a compressed form of it.
                .accept_encoding("identity")
                .user_agent(concat!("rawrz/", env!("CARGO_PKG_VERSION")))
                .timeout_connect(Some(Duration::from_secs(20)))
                .timeout_recv_response(Some(SILENCE))
                .timeout_per_read(Some(SILENCE))
                // The system's certificates, as other programs here use them: a company's own too.
                .tls_config(TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build())
        };
        Client {
            answered: Cell::new(false),
            agent: config().build().into(),
            direct: config().proxy(None).build().into(),
        }
    }

    fn attempt(
        &self,
        address: &Address,
        part: &mut PartFile,
        mut expected: Expected,
        file_name: &str,
        watch: &Watch,
    ) -> Result<Expected, Failure> {
        if expected.size_bytes == Some(part.len()) && expected.sha256.is_some() {
            return Ok(expected);
        }
        // Bytes from before may be joined to new ones if a SHA-256 will judge the sum, or if the server
        // confirms that both are of one version.
        let mut version = None;
        if part.len() > 0 && expected.sha256.is_none() {
            version = part.version()?.filter(|version| version.address == address.url);
            if version.is_none() {
                part.truncate(0)?;
            }
        }

        let Answer { response, linked } = self.ask(address, part.len(), version.as_ref())?;
        if address.is_hugging_face {
            expected.sha256 = expected.sha256.or(linked.sha256);
            expected.size_bytes = expected.size_bytes.or(linked.size_bytes);
        }
        let headers = response.headers();
        let declared = number(headers, header::CONTENT_LENGTH);
        let (start, total) = match response.status() {
            StatusCode::OK => (0, declared),
            StatusCode::PARTIAL_CONTENT => match content_range(headers) {
                Some((start, end, total))
                    if start == part.len()
                        && end.checked_add(1) == Some(total)
                        && declared.is_none_or(|n| n == total - start) =>
                {
                    (start, Some(total))
                }
                _ => {
                    return Err(
                        anyhow!("{} answered with another range than was asked for", address.url).into()
                    );
                }
            },
            StatusCode::RANGE_NOT_SATISFIABLE if part.len() > 0 => {
                // Nothing after what is here: either it is all here, or it is not the file.
                if range_total(headers) == Some(part.len())
                    && expected.size_bytes.is_none_or(|n| n == part.len())
                {
                    return Ok(expected);
                }
                part.truncate(0)?;
                return Err(Failure::Passing(anyhow!("{} has less than is here already", address.url)));
            }
            status => return Err(refused(address, status)),
        };
        let Some(total) = total.or(expected.size_bytes) else {
            return Err(anyhow!("{} does not say how long the file is", address.url).into());
        };
        if let Some(size) = expected.size_bytes.filter(|size| *size != total) {
            return Err(anyhow!("{} has a file of {total} bytes, expected {size}", address.url).into());
        }
        part.truncate(start)?;
        ensure_space(part.folder(), total - start, file_name)?;
        if start == 0 {
            match strong_etag(headers) {
                Some(etag) => part.set_version(&Version { address: address.url.clone(), etag })?,
                None => part.forget_version()?,
            }
        }
        receive(response, part, total, file_name, &address.url, watch)?;
        Ok(expected)
    }

    /// Asks for the bytes from `start` on, following redirects.
    fn ask(&self, address: &Address, start: u64, version: Option<&Version>) -> Result<Answer, Failure> {
        let mut url = address.url.clone();
        let mut linked = Expected::default();
        for hop in 0..=MAX_REDIRECTS {
            is_allowed(&url).map_err(|why| anyhow!(why))?;
            let agent = if is_loopback(&url) { &self.direct } else { &self.agent };
            let mut request = agent.get(&url);
            if start > 0 {
                request = request.header(header::RANGE, format!("bytes={start}-"));
                if let Some(version) = version {
                    request = request.header(header::IF_RANGE, &version.etag);
                }
            }
            if let Some(token) = address.token.as_ref().filter(|_| same_host(&url, &address.url)) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            let response = match request.call() {
                Ok(response) => response,
                Err(error) => {
                    let error = anyhow::Error::new(error)
                        .context(format!("cannot reach {}", host_of(&url).unwrap_or(&url)));
                    // A host that answered before may do so again; one that never did is not waited for.
                    return Err(if self.answered.get() {
                        Failure::Passing(error)
                    } else {
                        Failure::Final(error)
                    });
                }
            };
            self.answered.set(true);
            let headers = response.headers();
            if hop == 0 {
                linked = Expected {
                    size_bytes: number(headers, "x-linked-size"),
                    sha256: headers
                        .get("x-linked-etag")
                        .and_then(|value| parse_sha256(value.to_str().ok()?.trim_matches('"'))),
                };
            }
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(Answer { response, linked });
            }
            let location = headers
                .get(header::LOCATION)
                .and_then(|value| value.to_str().ok())
                .with_context(|| format!("{url} redirects to nowhere"))?;
            url = resolve(&url, location)
                .with_context(|| format!("{url} redirects to `{location}`, which is no address"))?;
        }
        Err(anyhow!("{} redirects more than {MAX_REDIRECTS} times", address.url).into())
    }
}

/// Reads the body to its declared end, not a byte more.
fn receive(
    response: Response<ureq::Body>,
    part: &mut PartFile,
    total: u64,
    file_name: &str,
    url: &str,
    watch: &Watch,
) -> Result<(), Failure> {
    let progress = Progress::bytes(file_name, Some(total), part.len());
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; 1 << 18];
    loop {
        let got = match body.read(&mut buffer) {
            Ok(got) => got,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => {
                return Err(Failure::Passing(
                    anyhow::Error::new(error).context(format!("the connection to {url} broke")),
                ));
            }
        };
        if got == 0 {
            break;
        }
        if part.len() + got as u64 > total {
            part.truncate(0)?;
            return Err(anyhow!("{url} sends more than the {total} bytes it should; nothing was kept").into());
        }
        part.append(&buffer[..got])?;
        progress.at(part.len());
        watch.at(Doing::Fetching, part.len())?;
    }
    if part.len() < total {
        let missing = total - part.len();
        return Err(Failure::Passing(anyhow!("{url} stopped {missing} bytes before the end")));
    }
    Ok(())
}

/// An answer that is neither the file nor a redirect.
fn refused(address: &Address, status: StatusCode) -> Failure {
    let url = &address.url;
    match status.as_u16() {
        401 | 403 if address.is_hugging_face => anyhow!(
            "{url} is not open to everyone ({status}); accept its terms on its page and set HF_TOKEN to a token of yours"
        )
        .into(),
        404 | 410 => anyhow!("there is no file at {url} ({status}); check the name").into(),
        408 | 429 | 500..=599 => Failure::Passing(anyhow!("{url} answers {status}")),
        _ => anyhow!("{url} answers {status}").into(),
    }
}

/// Whether an address may be fetched from: https, or http on this machine (for mirrors and tests).
pub(super) fn is_allowed(url: &str) -> Result<(), String> {
    let uri: Uri = url.parse().map_err(|_| format!("`{url}` is not an address"))?;
    if uri.authority().is_none_or(|authority| authority.as_str().contains('@')) {
        return Err(format!(
            "`{url}` is not an address that can be fetched (no host, or a name and password in it)"
        ));
    }
    match uri.scheme_str() {
        Some("https") => Ok(()),
        Some("http") if is_loopback(url) => Ok(()),
        _ => Err(format!("`{url}` is not https; plain http is taken for this machine's own addresses only")),
    }
}

fn is_loopback(url: &str) -> bool {
    let Some(host) = host_of(url) else { return false };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || bare.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
        || bare.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_loopback())
}

/// The host as it stands in the address.
fn host_of(url: &str) -> Option<&str> {
    let authority = url.split_once("://")?.1.split(['/', '?', '#']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if host.starts_with('[') {
        return host.split_inclusive(']').next();
    }
    host.split(':').next()
}

/// Scheme, host and port are the same.
fn same_host(a: &str, b: &str) -> bool {
    let origin = |url: &str| {
        let uri: Uri = url.parse().ok()?;
        Some((uri.scheme_str()?.to_owned(), uri.authority()?.as_str().to_ascii_lowercase()))
    };
    origin(a).is_some() && origin(a) == origin(b)
}

/// A redirect's target, which may leave out what stays the same (RFC 3986, section 4.2).
fn resolve(base: &str, location: &str) -> Option<String> {
    let location = location.split('#').next()?;
    if location.is_empty() {
        return None;
    }
    if location.contains("://") && location.split("://").next()?.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Some(location.to_owned());
    }
    let (scheme, rest) = base.split_once("://")?;
    if location.starts_with("//") {
        return Some(format!("{scheme}:{location}"));
    }
    let authority = rest.split(['/', '?', '#']).next()?;
    if location.starts_with('/') {
        return Some(format!("{scheme}://{authority}{location}"));
    }
    let path = rest[authority.len()..].split(['?', '#']).next()?;
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    Some(format!("{scheme}://{authority}{folder}/{location}"))
}

fn number(headers: &HeaderMap, name: impl header::AsHeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// `bytes START-END/TOTAL`
fn content_range(headers: &HeaderMap) -> Option<(u64, u64, u64)> {
    let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?.trim().strip_prefix("bytes ")?;
    let (range, total) = text.split_once('/')?;
    let (start, end) = range.split_once('-')?;
    Some((start.parse().ok()?, end.parse().ok()?, total.parse().ok()?))
}

/// The total of `bytes */TOTAL`.
fn range_total(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_RANGE)?.to_str().ok()?.trim().strip_prefix("bytes */")?.parse().ok()
}

/// An ETag that stands for these very bytes; weak ones (`W/".."`) do not.
fn strong_etag(headers: &HeaderMap) -> Option<String> {
    let etag = headers.get(header::ETAG)?.to_str().ok()?.trim();
    (etag.len() >= 2 && etag.starts_with('"') && etag.ends_with('"')).then(|| etag.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirect_targets() {
        let base = "https://a.example:8443/x/y.gguf?q=1";
        for (location, target) in [
            ("https://b.example/z", "https://b.example/z"),
            ("//b.example/z", "https://b.example/z"),
            ("/z?u=http://c", "https://a.example:8443/z?u=http://c"),
            ("z", "https://a.example:8443/x/z"),
            ("/z#part", "https://a.example:8443/z"),
        ] {
            assert_eq!(resolve(base, location).as_deref(), Some(target), "{location}");
        }
        assert_eq!(resolve(base, ""), None);
        assert_eq!(resolve("https://a.example", "z").as_deref(), Some("https://a.example/z"));
    }

    #[test]
    fn only_this_machine_may_speak_plain_http() {
        for url in
            ["https://example.org/x", "http://localhost:1/x", "http://127.0.0.9/x", "http://[::1]:80/x"]
        {
            assert_eq!(is_allowed(url), Ok(()), "{url}");
        }
        for url in [
            "http://example.org/x",
            "http://localhost.example.org/x",
            "http://127.0.0.1@example.org/x",
            "http://10.0.0.1/x",
            "http://[::2]/x",
            "ftp://localhost/x",
            "file:///etc/passwd",
            "/x",
            "https://user:password@example.org/x",
        ] {
            assert!(is_allowed(url).is_err(), "{url}");
        }
    }

    #[test]
    fn tokens_stay_with_their_host() {
        assert!(same_host("https://a.example/x", "https://A.example/y"));
        assert!(!same_host("https://a.example/x", "https://a.example:444/x"));
        assert!(!same_host("https://a.example/x", "http://a.example/x"));
        assert!(!same_host("https://a.example/x", "https://b.example/x"));
        assert!(!same_host("nothing", "nothing"));
        let address =
            Address { url: "https://a.example".into(), token: Some("secret".into()), is_hugging_face: true };
        assert!(!format!("{address:?}").contains("secret"));
    }

    #[test]
    fn ranges_and_etags() {
        let mut headers = HeaderMap::new();
        let set = |headers: &mut HeaderMap, name, value: &str| headers.insert(name, value.parse().unwrap());
        set(&mut headers, header::CONTENT_RANGE, "bytes 5-9/10");
        assert_eq!(content_range(&headers), Some((5, 9, 10)));
        assert_eq!(range_total(&headers), None);
        set(&mut headers, header::CONTENT_RANGE, "bytes */10");
        assert_eq!((content_range(&headers), range_total(&headers)), (None, Some(10)));
        set(&mut headers, header::ETAG, "\"abc\"");
        assert_eq!(strong_etag(&headers).as_deref(), Some("\"abc\""));
        set(&mut headers, header::ETAG, "W/\"abc\"");
        assert_eq!(strong_etag(&headers), None);
    }
}
