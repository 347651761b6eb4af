//! HTTP/1.1 message heads and chunked bodies, as bytes in and meaning out (RFC 9112).
//!
//! The connection (clients) and the upstream exchange (backends) read with these and write with `HeadWriter`. Whatever two
//! implementations could read in two ways is refused here, so that no request can hide in another one's body.

mod chunked;
mod fields;
mod request;
mod response;
mod writer;

pub use chunked::{BadChunk, ChunkedDecoder, ChunkedStep};
pub use fields::{BadHead, Header, Headers};
pub use request::{BodyFraming, Method, RequestHead, asked_for};
pub use response::{ResponseFraming, ResponseHead};
pub use writer::{CONTINUE, HeadWriter};
