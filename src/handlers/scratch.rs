//! What one connection reuses from request to request, so that a small GET allocates nothing once it is warm.

use super::degraded::Found;
use crate::store::record::Located;

#[derive(Debug)]
pub struct Scratch {
    /// The version that a lookup found; its strings keep their room.
    pub located: Located,
    /// How this request found it, or that it is not there: whatever is answered then says so.
    pub found: Found,
    /// The body of an answer that is made here (XML).
    pub body: Vec<u8>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self { located: Located::empty(), found: Found::Exact, body: Vec::new() }
    }
}
