//! Which pages of other origins may use a bucket (CORS), by the rules of the configuration: the first rule that admits
//! origin, method and headers answers. The fields of an answer are written here as whole lines.
//!
//! Sources: "Using cross-origin resource sharing", Amazon S3 user guide; the Fetch standard.

use std::fmt::Write;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CorsRule {
    /// Each with at most one `*`.
    pub allowed_origins: Vec<Box<str>>,
    pub allowed_methods: Vec<CorsMethod>,
    /// Each with at most one `*`; compared without regard to case.
    pub allowed_headers: Vec<Box<str>>,
    pub expose_headers: Vec<Box<str>>,
    /// How long a browser may keep the answer to a preflight, seconds.
    pub max_age: Option<u32>,
}

/// The methods that a rule can allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CorsMethod {
    Get,
    Head,
    Put,
    Post,
    Delete,
}

impl CorsMethod {
    pub const EACH: [Self; 5] = [Self::Get, Self::Head, Self::Put, Self::Post, Self::Delete];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Put => "PUT",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::EACH.into_iter().find(|one| one.as_str() == word)
    }
}

/// Goes with every answer from a bucket that has rules, so that caches keep the answers to different origins apart.
pub const VARY: &str = "vary: Origin, Access-Control-Request-Headers, Access-Control-Request-Method\r\n";

/// A preflight's questions.
#[derive(Clone, Copy, Debug)]
pub struct Preflight<'a> {
    pub origin: &'a str,
    pub method: &'a str,
    /// `Access-Control-Request-Headers`: names between commas; may be empty.
    pub headers: &'a str,
}

/// The fields that admit what a preflight asks for; None: no rule does.
pub fn preflight_lines(rules: &[CorsRule], asked: &Preflight<'_>) -> Option<String> {
    let method = CorsMethod::parse(asked.method)?;
    let headers = || asked.headers.split(',').map(str::trim).filter(|name| !name.is_empty());
    let admits = |rule: &&CorsRule| {
        rule.admits(asked.origin, method) && headers().all(|name| is_token(name) && rule.admits_header(name))
    };
    let rule = rules.iter().find(admits)?;
    let mut lines = rule.lines(asked.origin);
    let names: Vec<String> = headers().map(str::to_ascii_lowercase).collect();
    if !names.is_empty() {
        let _ = write!(lines, "access-control-allow-headers: {}\r\n", names.join(", "));
    }
    if let Some(seconds) = rule.max_age {
        let _ = write!(lines, "access-control-max-age: {seconds}\r\n");
    }
    Some(lines)
}

/// The fields of an answer to an actual request; only `VARY` when no rule admits it, and the browser keeps it from the page.
pub fn actual_lines(rules: &[CorsRule], origin: Option<&str>, method: &str) -> String {
    let asked = origin.zip(CorsMethod::parse(method));
    let rule = asked.and_then(|(origin, method)| {
        let rule = rules.iter().find(|rule| rule.admits(origin, method))?;
        Some(rule.lines(origin))
    });
    rule.unwrap_or_else(|| VARY.to_owned())
}

impl CorsRule {
    fn admits(&self, origin: &str, method: CorsMethod) -> bool {
        // What goes back into a field must be able to stand there.
        origin.bytes().all(|byte| byte.is_ascii_graphic())
            && self.allowed_methods.contains(&method)
            && self.allowed_origins.iter().any(|pattern| fits(pattern, origin))
    }

    fn admits_header(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        self.allowed_headers.iter().any(|pattern| fits(&pattern.to_ascii_lowercase(), &name))
    }

    /// What both kinds of answers say.
    fn lines(&self, origin: &str) -> String {
        let any = self.allowed_origins.iter().any(|pattern| &**pattern == "*");
        let mut lines = String::from(VARY);
        let _ = write!(lines, "access-control-allow-origin: {}\r\n", if any { "*" } else { origin });
        let methods: Vec<_> = self.allowed_methods.iter().map(|method| method.as_str()).collect();
        let _ = write!(lines, "access-control-allow-methods: {}\r\n", methods.join(", "));
        if !self.expose_headers.is_empty() {
            let _ = write!(lines, "access-control-expose-headers: {}\r\n", self.expose_headers.join(", "));
        }
        lines
    }
}

/// Whether a pattern with at most one `*` fits the whole text.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, end)) => text.len() >= start.len() + end.len() && text.starts_with(start) && text.ends_with(end),
    }
}

/// RFC 9110, 5.6.2.
pub fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(origins: &[&str], methods: &[CorsMethod], headers: &[&str]) -> CorsRule {
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.into()).collect();
        CorsRule {
            allowed_origins: texts(origins),
            allowed_methods: methods.to_vec(),
            allowed_headers: texts(headers),
            expose_headers: texts(&["ETag"]),
            max_age: Some(60),
        }
    }

    #[test]
    fn patterns() {
        for (pattern, text, want) in [
            ("*", "", true),
            ("*", "http://a", true),
            ("http://*.a.b", "http://x.a.b", true),
            ("http://*.a.b", "http://.a.b", true),
            ("http://*.a.b", "http://a.b", false),
            ("http://*.a.b", "https://x.a.b", false),
            ("ab*ba", "aba", false),
            ("ab*ba", "abba", true),
            ("http://a", "http://a", true),
            ("http://a", "http://ab", false),
        ] {
            assert_eq!(fits(pattern, text), want, "{pattern} {text}");
        }
    }

    #[test]
    fn the_first_rule_that_admits_everything_answers() {
        use CorsMethod::{Get, Put};
        let rules = [rule(&["http://a"], &[Get], &[]), rule(&["http://*"], &[Put], &["x-amz-*", "Content-Type"])];
        let ask = |origin, method, headers| preflight_lines(&rules, &Preflight { origin, method, headers });
        let want = format!(
            "{VARY}access-control-allow-origin: http://a\r\naccess-control-allow-methods: PUT\r\n\
             access-control-expose-headers: ETag\r\naccess-control-allow-headers: x-amz-acl, content-type\r\n\
             access-control-max-age: 60\r\n"
        );
        assert_eq!(ask("http://a", "PUT", "X-Amz-Acl,content-type"), Some(want));
        assert!(ask("http://a", "GET", "").is_some() && ask("http://b", "PUT", "").is_some());
        for (origin, method, headers) in [
            ("http://b", "GET", ""),
            ("http://a", "GET", "x-amz-acl"),
            ("http://a", "PUT", "authorization"),
            ("http://a", "PUT", "x-amz-a\r\nb"),
            ("http://a", "PATCH", ""),
            ("http://a", "put", ""),
            ("https://a", "PUT", ""),
            ("http://a\r\nb: c", "PUT", ""),
        ] {
            assert_eq!(ask(origin, method, headers), None, "{origin} {method} {headers}");
        }
    }

    #[test]
    fn actual_answers() {
        let rules = [rule(&["http://a"], &[CorsMethod::Get], &[]), rule(&["*"], &[CorsMethod::Head], &[])];
        let lines = actual_lines(&rules, Some("http://a"), "GET");
        assert!(lines.contains("access-control-allow-origin: http://a\r\n") && !lines.contains("max-age"), "{lines}");
        assert!(actual_lines(&rules, Some("http://b"), "HEAD").contains("access-control-allow-origin: *\r\n"));
        for (origin, method) in [(Some("http://b"), "GET"), (None, "GET"), (Some("http://a"), "PUT")] {
            assert_eq!(actual_lines(&rules, origin, method), VARY, "{origin:?} {method}");
        }
    }
}
