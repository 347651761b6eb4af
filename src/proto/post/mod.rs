//! Browser uploads: a POST of `multipart/form-data` to a bucket, allowed by a signed policy document ("Browser-Based Uploads
//! Using POST", Amazon S3 API reference). `form` reads the fields before the file and finds the file's end, `policy`
//! reads and applies the document.
//!
//! Called by the connection, which makes an ordinary write of what is found here. Never does input or output.

mod form;
mod policy;

pub use form::{Ending, Form, boundary_of, fuzz_one as fuzz_form};
pub use policy::{Policy, fuzz_one as fuzz_policy};
