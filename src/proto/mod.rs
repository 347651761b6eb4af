//! Pure bytes to meaning and back. Nothing here does input or output, knows the time, or waits; every decoder takes bytes,
//! says how many it used and what it learned.

pub mod attributes;
pub mod aws_chunked;
pub mod body_check;
pub mod body_error;
pub mod checksum;
pub mod conditional;
pub mod date;
pub mod error_code;
pub mod etag;
pub mod fields;
pub mod fuzz;
pub mod http1;
pub mod list_token;
pub mod operation;
pub mod owner;
pub mod params;
pub mod post;
pub mod range;
pub mod sigv4;
pub mod tags;
pub mod target;
pub mod unfolded;
pub mod xml;
