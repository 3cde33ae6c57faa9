//! The least that a proxy on hyper can do: one single-threaded runtime, direct client connections in a pool of its own,
//! no tracing, no metrics, no timeouts.
//!
//! `minimal-hyper --listen ADDR --upstream ADDR [--upstream-http2]`

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;

use bytes::Bytes;
use hyper::Request;
use hyper::Response;
use hyper::body::Body;
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::body::SizeHint;
use hyper::client::conn;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::net::TcpStream;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The upstream connections of the one worker.
struct Pool {
    upstream: SocketAddr,
    http2: bool,
    idle: RefCell<Vec<conn::http1::SendRequest<Incoming>>>,
    shared: RefCell<Option<conn::http2::SendRequest<Incoming>>>,
}

/// A response body that gives its connection back.
struct Returning {
    body: Incoming,
    lease: Option<(conn::http1::SendRequest<Incoming>, Rc<Pool>)>,
}

/// Tasks that stay on this thread.
#[derive(Clone)]
struct Local;

fn main() -> io::Result<()> {
    pillion_compare::run(async {
        let pool = Rc::new(Pool {
            upstream: pillion_compare::required("--upstream"),
            http2: pillion_compare::flag("--upstream-http2"),
            idle: RefCell::default(),
            shared: RefCell::default(),
        });
        let address: SocketAddr = pillion_compare::required("--listen");
        let listener = TcpListener::bind(address).await?;
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                continue;
            };
            let pool = pool.clone();
            tokio::task::spawn_local(serve(stream, pool));
        }
    })
}

async fn serve(stream: TcpStream, pool: Rc<Pool>) -> Result<(), Failure> {
    stream.set_nodelay(true)?;
    let mut first = [0; 3];
    stream.peek(&mut first).await?;
    let service = service_fn(move |request| forward(pool.clone(), request));
    let io = TokioIo::new(stream);
    if &first == b"PRI" {
        let builder = hyper::server::conn::http2::Builder::new(Local);
        builder.serve_connection(io, service).await?;
    } else {
        let builder = hyper::server::conn::http1::Builder::new();
        builder.serve_connection(io, service).await?;
    }
    Ok(())
}

async fn forward(
    pool: Rc<Pool>,
    mut request: Request<Incoming>,
) -> Result<Response<Returning>, Failure> {
    if pool.http2 {
        *request.version_mut() = hyper::Version::HTTP_2;
        let response = pool.http2().await?.send_request(request).await?;
        return Ok(response.map(|body| Returning { body, lease: None }));
    }
    *request.version_mut() = hyper::Version::HTTP_11;
    if let Some(authority) = request.uri().authority().cloned() {
        let host = authority.as_str().parse()?;
        request.headers_mut().insert(hyper::header::HOST, host);
        *request.uri_mut() = request
            .uri()
            .path_and_query()
            .map_or("/", |path| path.as_str())
            .parse()?;
    }
    let mut sender = pool.http1().await?;
    let response = sender.send_request(request).await?;
    let lease = Some((sender, pool));
    let mut response = response.map(|body| Returning { body, lease });
    if response.body().body.is_end_stream() {
        response.body_mut().give_back();
    }
    Ok(response)
}

impl Pool {
    async fn http1(&self) -> Result<conn::http1::SendRequest<Incoming>, Failure> {
        loop {
            let idle = self.idle.borrow_mut().pop();
            let Some(mut sender) = idle else { break };
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        let (sender, connection) = conn::http1::handshake(self.connect().await?).await?;
        tokio::task::spawn_local(connection);
        Ok(sender)
    }

    async fn http2(&self) -> Result<conn::http2::SendRequest<Incoming>, Failure> {
        if let Some(shared) = &*self.shared.borrow()
            && !shared.is_closed()
        {
            return Ok(shared.clone());
        }
        let (sender, connection) = conn::http2::handshake(Local, self.connect().await?).await?;
        tokio::task::spawn_local(connection);
        *self.shared.borrow_mut() = Some(sender.clone());
        Ok(sender)
    }

    async fn connect(&self) -> io::Result<TokioIo<TcpStream>> {
        let stream = TcpStream::connect(self.upstream).await?;
        stream.set_nodelay(true)?;
        Ok(TokioIo::new(stream))
    }
}

impl Returning {
    fn give_back(&mut self) {
        if let Some((sender, pool)) = self.lease.take() {
            pool.idle.borrow_mut().push(sender);
        }
    }
}

impl Body for Returning {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        match &frame {
            Poll::Ready(None) => self.give_back(),
            Poll::Ready(Some(Ok(_))) if self.body.is_end_stream() => self.give_back(),
            _ => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<F> hyper::rt::Executor<F> for Local
where
    F: Future<Output: 'static> + 'static,
{
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}
