//! The bare relay: what a proxy costs that only finds the ends of heads and copies bodies. One pinned-size thread on the
//! ring with `single_issuer + defer_taskrun`, one keep-alive connection to the backend for each client at a time. It verifies
//! nothing, so it is the floor that the product is measured against, not something to use.
//!
//!     relay --listen 127.0.0.1:9200 --backend 127.0.0.1:9100

use clap::Parser;
use monoio::buf::IoBufMut;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};
use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HEAD_BYTES: usize = 16 * 1024;
const BODY_BYTES: usize = 256 * 1024;

#[derive(Parser, Clone)]
struct Options {
    #[arg(long, default_value = "127.0.0.1:9200")]
    listen: SocketAddr,
    #[arg(long, default_value = "127.0.0.1:9100")]
    backend: SocketAddr,
}

type Idle = Rc<RefCell<Vec<TcpStream>>>;

fn main() -> io::Result<()> {
    let options = Options::parse();
    let mut ring = io_uring::IoUring::builder();
    ring.setup_single_issuer().setup_defer_taskrun();
    let mut runtime =
        monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().uring_builder(ring).with_entries(1024).build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(options.listen)?;
        println!("relay listening on {}", options.listen);
        let idle = Idle::default();
        loop {
            let (client, _) = listener.accept().await?;
            let (idle, backend) = (Rc::clone(&idle), options.backend);
            monoio::spawn(async move {
                // A connection that breaks concerns its own client only.
                let _ = serve(client, backend, idle).await;
            });
        }
    })
}

async fn serve(mut client: TcpStream, backend: SocketAddr, idle: Idle) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut head = Vec::with_capacity(HEAD_BYTES);
    let mut body = Vec::with_capacity(BODY_BYTES);
    loop {
        let request = read_head(&mut client, &mut head, request_ends).await?;
        let Some(length) = request else { return Ok(()) };
        let taken = idle.borrow_mut().pop();
        let mut upstream = match taken {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect_addr(backend).await?;
                stream.set_nodelay(true)?;
                stream
            }
        };
        pass_on(&mut client, &mut upstream, &mut head, length, &mut body).await?;
        let Some(length) = read_head(&mut upstream, &mut head, response_ends).await? else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        pass_on(&mut upstream, &mut client, &mut head, length, &mut body).await?;
        idle.borrow_mut().push(upstream);
    }
}

/// Reads until a head is complete; how many body bytes are still to come after what was read with it. None: closed.
async fn read_head(
    from: &mut TcpStream,
    head: &mut Vec<u8>,
    ends: fn(&[u8]) -> io::Result<Option<(usize, u64)>>,
) -> io::Result<Option<u64>> {
    head.clear();
    loop {
        let held = head.len();
        let (read, slice) = from.read(std::mem::take(head).slice_mut(held..)).await;
        *head = slice.into_inner();
        if read? == 0 {
            return Ok(None);
        }
        if let Some((end, length)) = ends(head)? {
            return Ok(Some(length.saturating_sub((head.len() - end) as u64)));
        }
    }
}

/// Writes what was read, then copies the rest of the body.
async fn pass_on(
    from: &mut TcpStream,
    to: &mut TcpStream,
    head: &mut Vec<u8>,
    mut left: u64,
    body: &mut Vec<u8>,
) -> io::Result<()> {
    let (written, buffer) = to.write_all(std::mem::take(head)).await;
    *head = buffer;
    written?;
    while left > 0 {
        body.clear();
        let want = left.min(BODY_BYTES as u64) as usize;
        let (read, slice) = from.read(std::mem::take(body).slice_mut(..want)).await;
        *body = slice.into_inner();
        let count = read?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left -= count as u64;
        let (written, buffer) = to.write_all(std::mem::take(body)).await;
        *body = buffer;
        written?;
    }
    Ok(())
}

fn request_ends(bytes: &[u8]) -> io::Result<Option<(usize, u64)>> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(bytes).map_err(io::Error::other)? {
        httparse::Status::Complete(end) => Ok(Some((end, content_length(request.headers)))),
        httparse::Status::Partial => Ok(None),
    }
}

fn response_ends(bytes: &[u8]) -> io::Result<Option<(usize, u64)>> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut fields);
    match response.parse(bytes).map_err(io::Error::other)? {
        httparse::Status::Complete(end) => Ok(Some((end, content_length(response.headers)))),
        httparse::Status::Partial => Ok(None),
    }
}

fn content_length(fields: &[httparse::Header<'_>]) -> u64 {
    let field = fields.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    field.and_then(|field| std::str::from_utf8(field.value).ok()?.parse().ok()).unwrap_or(0)
}
