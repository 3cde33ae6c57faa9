//! What remains to be said about a parsed request, of any version.

use http::Method;
use http::Request;
use http::header;

use super::Refusal;
use super::authority;

/// Refuses a request whose target can be read in two ways. Costs a few comparisons.
///
/// # Errors
/// Says what is wrong with it.
pub(in crate::proxy) fn check<B>(request: &Request<B>) -> Result<(), Refusal> {
    let uri = request.uri();
    if uri.path() == "*" && request.method() != Method::OPTIONS {
        return Err(Refusal::Malformed("the target * is for OPTIONS alone"));
    }
    let Some(target) = uri.authority() else {
        return Ok(());
    };
    if !authority::is_valid(target.as_str().as_bytes()) {
        return Err(Refusal::Malformed(
            "the target's authority is no host and port",
        ));
    }
    if uri.scheme().is_none() && request.method() != Method::CONNECT {
        return Err(Refusal::Malformed("the target is no path"));
    }
    Ok(())
}

/// Refuses a request whose target and `Host` name different hosts: whoever is behind us may believe either.
///
/// # Errors
/// They differ.
pub(in crate::proxy) fn check_host<B>(request: &Request<B>) -> Result<(), Refusal> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (Some(target), Some(host)) = (request.uri().authority(), hosts.next()) else {
        return Ok(());
    };
    let target = split_port(target.as_str().as_bytes());
    let host = split_port(host.as_bytes());
    let default: &[u8] = match request.uri().scheme_str() {
        Some("https") => b"443",
        _ => b"80",
    };
    let is_same = target.0.eq_ignore_ascii_case(host.0)
        && target.1.unwrap_or(default) == host.1.unwrap_or(default);
    if hosts.next().is_some() || !is_same {
        return Err(Refusal::Malformed(
            "the target and Host name different hosts",
        ));
    }
    Ok(())
}

fn split_port(authority: &[u8]) -> (&[u8], Option<&[u8]>) {
    let digits = authority
        .iter()
        .rev()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    let (rest, port) = authority.split_at(authority.len() - digits);
    match rest.strip_suffix(b":") {
        Some(host) => (host, (!port.is_empty()).then_some(port)),
        None => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, target: &str, hosts: &[&str]) -> Request<()> {
        let mut request = Request::builder().method(method).uri(target);
        for host in hosts {
            request = request.header(header::HOST, *host);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn targets_that_mean_one_thing_pass() {
        for (method, target) in [
            ("GET", "/"),
            ("GET", "http://a/x"),
            ("GET", "http://[::1]:80/x"),
            ("OPTIONS", "*"),
            ("CONNECT", "a:443"),
        ] {
            assert_eq!(
                check(&request(method, target, &[])),
                Ok(()),
                "{method} {target}"
            );
        }
        for (method, target) in [
            ("GET", "*"),
            ("GET", "a:80"),
            ("GET", "http://u:p@a/"),
            ("GET", "http://a:99999/"),
            ("CONNECT", "u@a:443"),
        ] {
            assert!(
                check(&request(method, target, &[])).is_err(),
                "{method} {target}"
            );
        }
    }

    #[test]
    fn target_and_host_agree() {
        for (target, host) in [
            ("http://a/", "a"),
            ("http://A/", "a"),
            ("http://a:80/", "a"),
            ("http://a/", "a:80"),
            ("http://[::1]/", "[::1]:80"),
            ("/", "b"),
        ] {
            assert_eq!(
                check_host(&request("GET", target, &[host])),
                Ok(()),
                "{target} {host}"
            );
        }
        for (target, hosts, why) in [
            ("http://a/", &["b"][..], "another host"),
            ("http://a:80/", &["a:81"], "another port"),
            ("http://a:81/", &["a"], "another port than the scheme's"),
            ("https://a/", &["a:80"], "another port than the scheme's"),
            ("http://a/", &["a", "a"], "two of them"),
            ("http://a/", &["a.b"], "another domain"),
        ] {
            assert!(check_host(&request("GET", target, hosts)).is_err(), "{why}");
        }
    }
}
