//! The closed sets that label values come from. A label that a peer could choose does not exist.

/// A label whose values are known when the program is built.
pub trait Label: Copy + 'static {
    /// The label's key.
    const KEY: &'static str;
    /// Every value, in the order of [`Label::index`].
    const ALL: &'static [Self];

    /// The value as it is exported.
    fn as_str(self) -> &'static str;

    /// The position in [`Label::ALL`].
    fn index(self) -> usize;
}

macro_rules! label {
    (
        $(#[$doc:meta])*
        $name:ident: $key:literal { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl Label for $name {
            const KEY: &'static str = $key;
            const ALL: &'static [Self] = &[$(Self::$variant,)*];

            fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

label! {
    /// Which way a request or connection goes, relative to the application beside us.
    Direction: "direction" {
        /// Towards the application.
        Inbound = "inbound",
        /// From the application.
        Outbound = "outbound",
    }
}

label! {
    /// Which of our two peers a connection belongs to.
    Peer: "peer" {
        /// The one that connected to us.
        Downstream = "downstream",
        /// The one we connected to.
        Upstream = "upstream",
    }
}

label! {
    /// The request method, as OpenTelemetry's convention closes the set.
    Method: "http_request_method" {
        /// GET.
        Get = "GET",
        /// HEAD.
        Head = "HEAD",
        /// POST.
        Post = "POST",
        /// PUT.
        Put = "PUT",
        /// DELETE.
        Delete = "DELETE",
        /// CONNECT.
        Connect = "CONNECT",
        /// OPTIONS.
        Options = "OPTIONS",
        /// TRACE.
        Trace = "TRACE",
        /// PATCH.
        Patch = "PATCH",
        /// QUERY.
        Query = "QUERY",
        /// Any other token.
        Other = "_OTHER",
    }
}

impl From<&http::Method> for Method {
    fn from(method: &http::Method) -> Self {
        match method.as_str() {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            "CONNECT" => Self::Connect,
            "OPTIONS" => Self::Options,
            "TRACE" => Self::Trace,
            "PATCH" => Self::Patch,
            "QUERY" => Self::Query,
            _ => Self::Other,
        }
    }
}

label! {
    /// The HTTP version the downstream peer spoke.
    Version: "network_protocol_version" {
        /// HTTP/1.0.
        Http10 = "1.0",
        /// HTTP/1.1.
        Http11 = "1.1",
        /// HTTP/2.
        Http2 = "2",
        /// Anything else.
        Other = "_other",
    }
}

impl From<http::Version> for Version {
    fn from(version: http::Version) -> Self {
        match version {
            http::Version::HTTP_10 => Self::Http10,
            http::Version::HTTP_11 => Self::Http11,
            http::Version::HTTP_2 => Self::Http2,
            _ => Self::Other,
        }
    }
}

label! {
    /// Why an exchange failed, other than by its status.
    ErrorType: "error_type" {
        /// No connection to the upstream.
        Connect = "connect",
        /// A limit of time ran out.
        Timeout = "timeout",
        /// The downstream peer went away before the exchange ended.
        Canceled = "canceled",
        /// The upstream broke the connection.
        Reset = "reset",
        /// A peer broke the protocol.
        Protocol = "protocol",
        /// We refused by a limit of our own.
        Overload = "overload",
        /// The response says so by its status (5xx, or 4xx to our own call).
        Status = "status",
        /// The trailers carry a gRPC status that is an error.
        Grpc = "grpc",
        /// A fault of ours.
        Internal = "internal",
    }
}

label! {
    /// How a connection ended.
    CloseReason: "reason" {
        /// The peer closed it in an orderly way.
        Peer = "peer",
        /// We closed it in an orderly way.
        Local = "local",
        /// Nothing happened on it for too long.
        Idle = "idle",
        /// A limit of time ran out in the middle of something.
        Timeout = "timeout",
        /// The socket failed or was reset.
        Error = "error",
        /// A peer broke the protocol.
        Protocol = "protocol",
        /// The program is shutting down or the listener is gone.
        Drain = "drain",
        /// A limit on connections was reached.
        Limit = "limit",
    }
}

label! {
    /// Why a connection could not be opened.
    ConnectFailure: "reason" {
        /// The name did not resolve.
        Dns = "dns",
        /// Nobody listens there.
        Refused = "refused",
        /// No answer in time.
        Timeout = "timeout",
        /// No way there.
        Unreachable = "unreachable",
        /// The TLS handshake failed.
        Tls = "tls",
        /// The HTTP/2 or HTTP/1 handshake failed.
        Protocol = "protocol",
        /// No socket, file descriptor or memory left on our side.
        Resources = "resources",
        /// Anything else.
        Other = "_other",
    }
}

impl From<&std::io::Error> for ConnectFailure {
    fn from(error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::TimedOut => Self::Timeout,
            ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown
            | ErrorKind::AddrNotAvailable => Self::Unreachable,
            ErrorKind::OutOfMemory => Self::Resources,
            ErrorKind::InvalidData => Self::Protocol,
            _ => Self::Other,
        }
    }
}

label! {
    /// Why bytes, a request or a connection was refused by a parser or a limit of ours.
    Rejection: "reason" {
        /// Not HTTP, or HTTP that breaks its grammar.
        Malformed = "malformed",
        /// The head is larger than we read.
        HeadTooLarge = "head_too_large",
        /// More header fields than we read.
        TooManyHeaders = "too_many_headers",
        /// The head did not arrive in time.
        HeadTimeout = "head_timeout",
        /// The body is larger than configured.
        BodyTooLarge = "body_too_large",
        /// More connections than configured.
        Connections = "connections",
        /// More requests in flight than configured.
        Requests = "requests",
        /// No upstream connection became free in time.
        Pool = "pool",
        /// The peer's address is not allowed here.
        Forbidden = "forbidden",
        /// The request would reach ourselves again.
        Loop = "loop",
        /// Nothing is configured for this target.
        NoRoute = "no_route",
    }
}

label! {
    /// What the first bytes of a connection turned out to be.
    Detected: "protocol" {
        /// HTTP/1.
        Http1 = "http1",
        /// HTTP/2 with prior knowledge.
        Http2 = "http2",
        /// A TLS ClientHello.
        Tls = "tls",
        /// None of those: forwarded without being understood.
        Opaque = "opaque",
        /// Nothing was decided in time.
        Timeout = "timeout",
        /// Closed without a byte.
        Closed = "closed",
        /// The server speaks first, as its port, its past or its greeting says: forwarded without being understood.
        ServerFirst = "server_first",
    }
}

label! {
    /// What came of reading one format's headers.
    ExtractResult: "result" {
        /// A context was taken from them.
        Found = "found",
        /// They break the format's grammar.
        Malformed = "malformed",
        /// They were valid, and an earlier format won.
        Superseded = "superseded",
        /// They were valid, and the listener does not trust them.
        Untrusted = "untrusted",
    }
}

label! {
    /// How sure an outbound request's parent is.
    LinkOutcome: "outcome" {
        /// Proven.
        Exact = "exact",
        /// Right in at least 999 of 1,000 cases by its record.
        High = "high",
        /// A guess, marked as one.
        Low = "low",
        /// No parent was asserted.
        None = "none",
    }
}

label! {
    /// Whether something asked for came about.
    Outcome: "result" {
        /// It did.
        Success = "success",
        /// It did not.
        Failure = "failure",
    }
}

label! {
    /// The severity of a log line of ours.
    LogLevel: "level" {
        /// Data lost, or someone must act.
        Error = "error",
        /// Unexpected, carried on.
        Warn = "warn",
        /// Lifecycle.
        Info = "info",
        /// Connections.
        Debug = "debug",
        /// Frames.
        Trace = "trace",
    }
}

label! {
    /// What the injector decided about an object.
    ReviewOutcome: "outcome" {
        /// The pod got a sidecar.
        Injected = "injected",
        /// The pod has one.
        Already = "already",
        /// Nobody asked for one, or it is no new pod.
        NotAsked = "not_asked",
        /// The pod cannot have one.
        Skipped = "skipped",
        /// The pod's annotations make no sense.
        Invalid = "invalid",
        /// The question could not be read.
        Failed = "failed",
    }
}

label! {
    /// The door through which a program's spans came.
    Door: "receiver" {
        /// Jaeger, UDP, compact.
        JaegerCompact = "jaeger_compact",
        /// Jaeger, UDP, binary.
        JaegerBinary = "jaeger_binary",
        /// Jaeger, UDP, compact, with Zipkin's structs allowed.
        JaegerZipkin = "jaeger_zipkin",
        /// Jaeger's collector over HTTP.
        JaegerHttp = "jaeger_http",
        /// Jaeger's collector over gRPC.
        JaegerGrpc = "jaeger_grpc",
        /// OTLP over gRPC.
        OtlpGrpc = "otlp_grpc",
        /// OTLP over HTTP.
        OtlpHttp = "otlp_http",
        /// SkyWalking over gRPC.
        SkyWalkingGrpc = "skywalking_grpc",
        /// SkyWalking over HTTP.
        SkyWalkingHttp = "skywalking_http",
        /// Zipkin.
        Zipkin = "zipkin",
    }
}

label! {
    /// What became of a message with spans.
    Receipt: "result" {
        /// Decoded; its spans went to the reporters.
        Accepted = "accepted",
        /// Not what this door reads.
        Malformed = "malformed",
        /// Larger than allowed, before or after decompression.
        TooLarge = "too_large",
        /// A content type or encoding that is not read here.
        Unsupported = "unsupported",
        /// More than can be decoded at once.
        Busy = "busy",
        /// It broke off.
        Incomplete = "incomplete",
        /// A datagram that the system dropped because its buffer was full.
        Overflow = "overflow",
    }
}

label! {
    /// Where the answer to a question for a strategy came from.
    StrategyAnswer: "source" {
        /// This sidecar's own settings.
        Own = "own",
        /// An answer of the backend that is fresh enough.
        Cached = "cached",
        /// The backend, asked for this.
        Backend = "backend",
        /// The last good answer; the backend gives none.
        Stale = "stale",
        /// Nowhere: the question failed.
        None = "none",
    }
}

label! {
    /// Why a client lost spans before they were sent.
    LossCause: "cause" {
        /// Its queue was full.
        FullQueue = "full_queue",
        /// They were larger than a datagram.
        TooLarge = "too_large",
        /// Sending failed.
        SendFailure = "send_failure",
    }
}
