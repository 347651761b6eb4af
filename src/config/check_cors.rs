//! `buckets[].cors`: the pages that may use a bucket from a browser.

use super::reader::{Reader, Section};
use crate::policy::cors::{CorsMethod, CorsRule, is_token};

/// The rules of one bucket, in the order written.
pub(super) fn cors(reader: &mut Reader, bucket: &Section<'_>) -> Vec<CorsRule> {
    let mut rules = Vec::new();
    for at in bucket.items("cors") {
        rules.push(CorsRule {
            allowed_origins: reader.texts(&at, "allowed_origins", origin),
            allowed_methods: reader.texts(&at, "allowed_methods", method),
            allowed_headers: reader.texts(&at, "allowed_headers", header),
            expose_headers: reader.texts(&at, "expose_headers", exposed),
            max_age: reader.number(&at, "max_age", 0..=i32::MAX as u64).map(|seconds| seconds as u32),
        });
    }
    rules
}

fn origin(text: &str) -> Result<Box<str>, String> {
    let usable = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    if !usable || text.matches('*').count() > 1 {
        return Err(format!("`{text}` is no origin like https://app.example.com; at most one `*`"));
    }
    Ok(text.into())
}

fn method(text: &str) -> Result<CorsMethod, String> {
    CorsMethod::parse(text).ok_or_else(|| format!("`{text}` is none of GET, HEAD, PUT, POST, DELETE"))
}

fn header(text: &str) -> Result<Box<str>, String> {
    if !is_token(text) || text.matches('*').count() > 1 {
        return Err(format!("`{text}` is no name of a header field; at most one `*`"));
    }
    Ok(text.into())
}

fn exposed(text: &str) -> Result<Box<str>, String> {
    if !is_token(text) || text.contains('*') {
        return Err(format!("`{text}` is no name of a header field"));
    }
    Ok(text.into())
}
