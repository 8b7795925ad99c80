//! A request's head, as the rules are asked about it.

use std::borrow::Cow;
use std::net::IpAddr;

use warp::Filter;
use warp::http::Method;
use warp::http::header::{HeaderMap, HeaderValue};

use super::listen::Peer;
use super::origin::Origins;
use super::wire::Fault;
use crate::kernel::hooks::ConnectRequest;

/// The dialect of this hub itself.
const NATIVE: &str = "native";

/// A request's head, in our words.
pub struct Caller {
    pub request: ConnectRequest,
    pub headers: HeaderMap,
    pub peer: Option<Peer>,
}

impl Caller {
    /// Whether it comes from this machine and from no proxy on it.
    pub fn is_local(&self) -> bool {
        self.peer.as_ref().is_some_and(|peer| !peer.proxied && peer.ip.to_canonical().is_loopback())
    }

    pub fn param(&self, name: &str) -> Option<&str> {
        self.request.param(name)
    }

    /// Whether a parameter is 1: `?dry_run=1`. What is neither that nor 0 may have been meant otherwise.
    pub fn flag(&self, name: &str) -> Result<bool, Fault> {
        match self.param(name) {
            None | Some("" | "0") => Ok(false),
            Some("1") => Ok(true),
            Some(_) => Err(Fault::Parameter(format!("{name}: 0 or 1"))),
        }
    }

    /// The request as the rules may see it. A browser sends a site's cookies for whatever page asks, so a page from
    /// elsewhere would act in the name of whoever looks at it (CSRF): it is refused, and where `*` lets it in all the same,
    /// it comes without them.
    pub fn with_meant_cookies(&self, origins: &Origins) -> Result<Cow<'_, ConnectRequest>, Fault> {
        let request = &self.request;
        let host = request.header("host");
        if request.header("cookie").is_none() || origins.trusts(request.header("origin"), host) {
            return Ok(Cow::Borrowed(request));
        }
        self.check_origin(origins)?;
        let mut request = request.clone();
        request.headers.retain(|(name, _)| name != "cookie");
        Ok(Cow::Owned(request))
    }

    pub fn check_origin(&self, origins: &Origins) -> Result<(), Fault> {
        let origin = self.request.header("origin");
        if origins.allows(origin, self.request.header("host")) {
            return Ok(());
        }
        Err(Fault::Origin(origin.unwrap_or_default().to_owned()))
    }
}

pub fn caller(transport: &'static str) -> impl Filter<Extract = (Caller,), Error = std::convert::Infallible> + Clone {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::method()
        .and(warp::path::full())
        .and(query)
        .and(warp::header::headers_cloned())
        .and(warp::ext::optional::<Peer>())
        .map(
            move |method: Method, path: warp::path::FullPath, query: String, headers: HeaderMap, peer: Option<Peer>| {
                let ip = peer.as_ref().map(|peer| peer.ip.to_canonical());
                let request = request_of(transport, method, path.as_str(), &query, &headers, ip);
                Caller { request, headers, peer }
            },
        )
}

fn request_of(
    transport: &'static str,
    method: Method,
    path: &str,
    query: &str,
    headers: &HeaderMap,
    ip: Option<IpAddr>,
) -> ConnectRequest {
    let query: Vec<_> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
    let mut request = ConnectRequest {
        dialect: NATIVE,
        transport,
        method: method.to_string(),
        path: path.to_owned(),
        query,
        headers,
        ip,
        bearer: None,
    };
    let of_header = request.header("authorization").and_then(bearer_of);
    // Where a browser can send no header, the credential comes as a subprotocol or in the query.
    let of_protocol = || {
        request
            .header("sec-websocket-protocol")
            .and_then(|all| all.split(',').find_map(|p| p.trim().strip_prefix("bearer.")))
    };
    let of_query = || request.param("token");
    let found = match transport {
        "http" => of_header,
        _ => of_header.or_else(of_protocol).or_else(of_query),
    };
    let bearer = found.filter(|token| !token.is_empty()).map(str::to_owned);
    request.bearer = bearer;
    request
}

fn bearer_of(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
