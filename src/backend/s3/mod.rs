//! An S3 endpoint as a backend: requests as bytes, answers as meaning. Pure; the reactor layer sends and receives.
//!
//! `endpoint` is what requests are built from, `request` appends a signed head to a buffer, `kept_heads` has the heads of
//! hot objects again, `answer` says what a response means and, when it is not what was asked for, whose fault that is and
//! what may be tried again.
//!
//! No checksum or trailer is sent that a client did not declare, no redirect is followed, and no body is asked for twice.

pub mod answer;
pub mod endpoint;
pub mod kept_heads;
pub mod request;

pub use endpoint::Endpoint;
pub use request::{Ask, RequestWriter};
