//! What several look for in the headers of a request, found in one pass: searching a header map for each of them takes
//! longer than looking at all that a request usually has.

use http::HeaderMap;
use http::HeaderValue;
use http::header;

/// The first field of each of these names.
#[derive(Debug, Clone, Copy, Default)]
pub struct Glance<'a> {
    /// `Host`.
    pub host: Option<&'a HeaderValue>,
    /// `User-Agent`.
    pub user_agent: Option<&'a HeaderValue>,
    /// `Content-Type`.
    pub content_type: Option<&'a HeaderValue>,
    /// There is `Forwarded` or an `X-Forwarded-*`.
    pub is_forwarded: bool,
    /// There is some other `X-*`, or an `Idempotency-Key`: perhaps an id of the request.
    pub may_have_ids: bool,
}

impl<'a> Glance<'a> {
    /// Looks at all headers.
    pub fn of(headers: &'a HeaderMap) -> Self {
        let mut glance = Self::default();
        for (name, value) in headers {
            match *name {
                header::HOST => glance.host = glance.host.or(Some(value)),
                header::USER_AGENT => glance.user_agent = glance.user_agent.or(Some(value)),
                header::CONTENT_TYPE => glance.content_type = glance.content_type.or(Some(value)),
                header::FORWARDED => glance.is_forwarded = true,
                _ => match name.as_str().as_bytes() {
                    [b'x', b'-', rest @ ..] => match rest.starts_with(b"forwarded-") {
                        true => glance.is_forwarded = true,
                        false => glance.may_have_ids = true,
                    },
                    name => glance.may_have_ids |= name == b"idempotency-key",
                },
            }
        }
        glance
    }

    /// The `Host` as text.
    pub fn host_text(&self) -> Option<&'a str> {
        self.host.and_then(|host| host.to_str().ok())
    }

    /// `application/grpc` and its suffixed forms.
    pub fn is_grpc(&self) -> bool {
        self.content_type.is_some_and(|value| {
            let value = value.as_bytes();
            value.starts_with(b"application/grpc") && !value.starts_with(b"application/grpc-web")
        })
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    #[test]
    fn the_first_of_each_name_is_found_wherever_it_stands() {
        for (fields, expected, why) in [
            (&[][..], (None, None, None, false, false), "nothing"),
            (
                &[("user-agent", "a"), ("host", "h"), ("content-type", "c")],
                (Some("h"), Some("a"), Some("c"), false, false),
                "all three",
            ),
            (
                &[("host", "one"), ("accept", "x"), ("host", "two")],
                (Some("one"), None, None, false, false),
                "twice",
            ),
            (
                &[("x-forwarded-for", "1")],
                (None, None, None, true, false),
                "a proxy",
            ),
            (
                &[("forwarded", "for=1")],
                (None, None, None, true, false),
                "a proxy of today",
            ),
            (
                &[("x-request-id", "1")],
                (None, None, None, false, true),
                "an id",
            ),
            (
                &[("idempotency-key", "1")],
                (None, None, None, false, true),
                "another id",
            ),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                let value = HeaderValue::from_static(value);
                headers.append(HeaderName::from_static(name), value);
            }
            let glance = Glance::of(&headers);
            let text = |value: Option<&HeaderValue>| value.map(|v| v.to_str().unwrap().to_owned());
            let (host, agent, kind, is_forwarded, may_have_ids) = expected;
            assert_eq!(text(glance.host).as_deref(), host, "{why}");
            assert_eq!(text(glance.user_agent).as_deref(), agent, "{why}");
            assert_eq!(text(glance.content_type).as_deref(), kind, "{why}");
            assert_eq!(glance.is_forwarded, is_forwarded, "{why}");
            assert_eq!(glance.may_have_ids, may_have_ids, "{why}");
        }
    }
}
