//! The published examples of AWS, and every way in which a request is refused.

use super::*;
use crate::proto::sigv4::{Signer, Target};

const ACCESS_KEY: &str = "AKIAIOSFODNN7EXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// 2013-05-24T00:00:00Z, the time of the examples.
const EXAMPLE_TIME: Timestamp = Timestamp { millis: 1_369_353_600_000 };

fn verify(
    verifier: &mut Verifier,
    (method, path, query): (&str, &str, &str),
    headers: &[(&str, &str)],
    now: Timestamp,
) -> Result<PayloadMode, AuthError> {
    let secret = Secret::new(SECRET);
    let request = Request { method, path: path.as_bytes(), query: query.as_bytes(), headers };
    let find = |access_key: &str| (access_key == ACCESS_KEY).then_some((&secret, "the owner"));
    verifier.verify(&request, now, None, find).map(|verified| {
        assert_eq!((&*verified.access_key, verified.principal), (ACCESS_KEY, "the owner"));
        verified.payload
    })
}

/// An example of "Signature Calculations for the Authorization Header", with its host and date.
fn check_example(target: (&str, &str, &str), headers: &[(&str, &str)], signed: &str, signature: &str) {
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/20130524/us-east-1/s3/aws4_request,SignedHeaders={signed},\
         Signature={signature}"
    );
    let mut all = headers.to_vec();
    all.push(("Authorization", &authorization));
    let mut verifier = Verifier::new();
    for turn in ["derives the key", "finds the key"] {
        let got = verify(&mut verifier, target, &all, EXAMPLE_TIME);
        let canonical = String::from_utf8_lossy(verifier.last_canonical_request());
        assert!(got.is_ok(), "{target:?} {turn}: {got:?}\n{canonical}");
    }
    let other = target.1.to_owned() + "x";
    let got = verify(&mut verifier, (target.0, &other, target.2), &all, EXAMPLE_TIME);
    assert_eq!(got, Err(AuthError::SignatureDoesNotMatch), "another key under the same signature");
}

#[test]
fn published_get_object() {
    check_example(
        ("GET", "/test.txt", ""),
        &[
            ("Host", "examplebucket.s3.amazonaws.com"),
            ("Range", "bytes=0-9"),
            ("x-amz-date", "20130524T000000Z"),
            ("x-amz-content-sha256", EMPTY),
        ],
        "host;range;x-amz-content-sha256;x-amz-date",
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
    );
}

#[test]
fn published_put_object() {
    check_example(
        ("PUT", "/test%24file.text", ""),
        &[
            ("Host", "examplebucket.s3.amazonaws.com"),
            ("Date", "Fri, 24 May 2013 00:00:00 GMT"),
            ("x-amz-date", "20130524T000000Z"),
            ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
            ("x-amz-content-sha256", "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"),
        ],
        "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
        "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
    );
}

#[test]
fn published_get_bucket_lifecycle() {
    check_example(
        ("GET", "/", "lifecycle"),
        &[
            ("Host", "examplebucket.s3.amazonaws.com"),
            ("x-amz-date", "20130524T000000Z"),
            ("x-amz-content-sha256", EMPTY),
        ],
        "host;x-amz-content-sha256;x-amz-date",
        "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
    );
}

#[test]
fn published_list_objects() {
    check_example(
        ("GET", "/", "max-keys=2&prefix=J"),
        &[
            ("Host", "examplebucket.s3.amazonaws.com"),
            ("x-amz-date", "20130524T000000Z"),
            ("x-amz-content-sha256", EMPTY),
        ],
        "host;x-amz-content-sha256;x-amz-date",
        "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
    );
}

#[test]
fn published_streaming_requests() {
    check_example(
        ("PUT", "/examplebucket/chunkObject.txt", ""),
        &[
            ("Host", "s3.amazonaws.com"),
            ("x-amz-date", "20130524T000000Z"),
            ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
            ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
            ("Content-Encoding", "aws-chunked"),
            ("x-amz-decoded-content-length", "66560"),
            ("Content-Length", "66824"),
        ],
        "content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;\
         x-amz-storage-class",
        "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
    );
    check_example(
        ("PUT", "/examplebucket/chunkObject.txt", ""),
        &[
            ("Host", "s3.amazonaws.com"),
            ("x-amz-date", "20130524T000000Z"),
            ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
            ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"),
            ("Content-Encoding", "aws-chunked"),
            ("x-amz-decoded-content-length", "66560"),
            ("x-amz-trailer", "x-amz-checksum-crc32c"),
        ],
        "content-encoding;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class;\
         x-amz-trailer",
        "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e",
    );
}

/// The example of "Authenticating Requests: Using Query Parameters".
#[test]
fn published_presigned_url() {
    let query = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2F\
                 aws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
                 &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";
    let mut verifier = Verifier::new();
    let host = ("Host", "examplebucket.s3.amazonaws.com");
    let mut get = |query: &str, headers: &[(&str, &str)], after: i64| {
        let now = Timestamp { millis: EXAMPLE_TIME.millis + after * 1000 };
        verify(&mut verifier, ("GET", "/test.txt", query), headers, now)
    };
    for after in [-900, 0, 86_399] {
        assert_eq!(get(query, &[host], after), Ok(PayloadMode::Unsigned));
    }
    assert_eq!(get(query, &[host], 86_400), Err(AuthError::Expired));
    assert_eq!(get(query, &[host], -901), Err(AuthError::NotYetValid));
    assert_eq!(get(query, &[host, ("x-amz-acl", "private")], 0), Err(AuthError::HeadersNotSigned));
    assert_eq!(get(query, &[host, ("Authorization", "AWS4-HMAC-SHA256")], 0), Err(AuthError::SeveralMechanisms));
    assert_eq!(get(&format!("{query}&X-Amz-Security-Token=t"), &[host], 0), Err(AuthError::SessionToken));
    assert_eq!(get(&format!("{query}&x-id=GetObject"), &[host], 0), Err(AuthError::SignatureDoesNotMatch));
    let other = query.replace("AKIAIOS", "AKIBIOS");
    assert_eq!(get(&other, &[host], 0), Err(AuthError::InvalidAccessKeyId));
    let another_day = query.replace("%2F20130524", "%2F20130523");
    assert_eq!(
        get(&another_day, &[host], 0).map_err(|error| error.code().name()),
        Err("AuthorizationQueryParametersError")
    );
}

/// A request that is right, to be spoilt by one edit each.
struct Sound {
    target: (String, String, String),
    headers: Vec<(String, String)>,
    now: Timestamp,
    region: Option<&'static str>,
}

impl Sound {
    fn new() -> Self {
        let headers = [("Host", "localhost:9000"), ("x-amz-meta-color", "red"), ("Content-Type", "text/plain")];
        let mut headers: Vec<(String, String)> =
            headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let secret = Secret::new(SECRET);
        let target = Target { access_key: ACCESS_KEY, secret: &secret, region: "eu-west-1" };
        let request =
            Request { method: "PUT", path: b"/photos/a", query: b"partNumber=1&uploadId=x", headers: &headers };
        let mut lines = Vec::new();
        Signer::new().sign_into(&mut lines, &request, &target, PayloadMode::Unsigned, EXAMPLE_TIME);
        for line in String::from_utf8(lines).expect("header lines are text").lines() {
            let (name, value) = line.split_once(": ").expect("each line is a field");
            headers.push((name.into(), value.into()));
        }
        let target = ("PUT".into(), "/photos/a".into(), "partNumber=1&uploadId=x".into());
        Self { target, headers, now: EXAMPLE_TIME, region: None }
    }

    fn set(&mut self, name: &str, edit: impl FnOnce(&str) -> String) {
        let field = self.headers.iter_mut().find(|(candidate, _)| candidate == name).expect("the field is there");
        field.1 = edit(&field.1);
    }

    fn remove(&mut self, name: &str) {
        self.headers.retain(|(candidate, _)| candidate != name);
    }

    fn add(&mut self, name: &str, value: &str) {
        self.headers.push((name.into(), value.into()));
    }
}

fn check(what: &str, edit: impl FnOnce(&mut Sound), want: Result<(), &str>) {
    let mut sound = Sound::new();
    edit(&mut sound);
    let (method, path, query) = (&sound.target.0, sound.target.1.as_bytes(), sound.target.2.as_bytes());
    let request = Request { method, path, query, headers: &sound.headers };
    let secret = Secret::new(SECRET);
    let mut verifier = Verifier::new();
    let find = |access_key: &str| (access_key == ACCESS_KEY).then_some((&secret, ()));
    let got = verifier.verify(&request, sound.now, sound.region, find).map(|_| ());
    assert_eq!(got.as_ref().copied().map_err(|error| error.code().name()), want, "{what}: {got:?}");
}

#[test]
fn sound_requests() {
    check("as signed", |_| {}, Ok(()));
    check("its region", |it| it.region = Some("eu-west-1"), Ok(()));
    check("14:59 early", |it| it.now.millis -= 899_000, Ok(()));
    check("15:00 late", |it| it.now.millis += 900_000, Ok(()));
    check("a field that was not signed", |it| it.add("User-Agent", "x"), Ok(()));
    check("parameters in another order", |it| it.target.2 = "uploadId=x&partNumber=1".into(), Ok(()));
    check("names in another case", |it| it.headers[0].0 = "hOST".into(), Ok(()));
    check("more white space", |it| it.set("x-amz-meta-color", |_| "  red\t".into()), Ok(()));
}

#[test]
fn changed_requests() {
    let mismatch = Err("SignatureDoesNotMatch");
    check("method", |it| it.target.0 = "GET".into(), mismatch);
    check("path", |it| it.target.1 = "/photos/b".into(), mismatch);
    check("a slash more", |it| it.target.1 = "/photos//a".into(), mismatch);
    check("query value", |it| it.target.2 = "partNumber=2&uploadId=x".into(), mismatch);
    check("query name", |it| it.target.2 += "&acl", mismatch);
    check("query repeated", |it| it.target.2 += "&uploadId=x", mismatch);
    check("signed header", |it| it.set("x-amz-meta-color", |_| "blue".into()), mismatch);
    check("signed header repeated", |it| it.add("x-amz-meta-color", "red"), mismatch);
    check("signed header gone", |it| it.remove("Content-Type"), mismatch);
    check("host", |it| it.set("Host", |_| "localhost".into()), mismatch);
    check("payload", |it| it.set("x-amz-content-sha256", |_| EMPTY.into()), mismatch);
    check("time", |it| it.set("x-amz-date", |_| "20130524T000001Z".into()), mismatch);
    check("region", |it| it.set("authorization", |sent| sent.replace("eu-west-1", "eu-west-2")), mismatch);
    check("signature cut", |it| it.set("authorization", |sent| sent[..sent.len() - 1].into()), mismatch);
    check("signature longer", |it| it.set("authorization", |sent| format!("{sent}0")), mismatch);
    check("signature upper case", |it| it.set("authorization", upper_case_signature), mismatch);
    check("every digit", |it| it.set("authorization", flip_last_digit), mismatch);
}

fn upper_case_signature(sent: &str) -> String {
    let (before, signature) = sent.split_once("Signature=").expect("there is one");
    format!("{before}Signature={}", signature.to_ascii_uppercase())
}

fn flip_last_digit(sent: &str) -> String {
    let last = if sent.ends_with('0') { '1' } else { '0' };
    format!("{}{last}", &sent[..sent.len() - 1])
}

#[test]
fn refused_requests() {
    let malformed = Err("AuthorizationHeaderMalformed");
    let denied = Err("AccessDenied");
    check("no signature", |it| it.remove("authorization"), denied);
    check("two signatures", |it| it.headers.push(it.headers[5].clone()), Err("InvalidArgument"));
    check("a signature in the query too", |it| it.target.2 += "&X-Amz-Signature=00", Err("InvalidArgument"));
    let presigned = |it: &mut Sound| {
        it.remove("authorization");
        it.target.2 += "&X-Amz-Signature=00";
    };
    check("a part of a signature in the query", presigned, Err("AuthorizationQueryParametersError"));
    let version_2 = |it: &mut Sound| {
        it.remove("authorization");
        it.target.2 += "&AWSAccessKeyId=AK&Expires=9999999999&Signature=00";
    };
    check("an old signature in the query", version_2, Err("InvalidAccessKeyId"));
    let half = |it: &mut Sound| {
        it.remove("authorization");
        it.target.2 += "&AWSAccessKeyId=AK&Signature=00";
    };
    check("half of an old signature in the query", half, Err("InvalidRequest"));
    check("a session token", |it| it.add("x-amz-security-token", "t"), Err("InvalidToken"));
    check("another key", |it| it.set("authorization", |sent| sent.replace("AKIA", "AKIB")), Err("InvalidAccessKeyId"));
    check("an empty field", |it| it.set("authorization", |_| String::new()), denied);
    let nobody = |it: &mut Sound| {
        it.region = Some("us-east-1");
        it.set("authorization", |sent| sent.replace("AKIA", "AKIB").replace("20130524", "20130525"));
    };
    check("another key, of another region and day", nobody, Err("InvalidAccessKeyId"));
    check("another region than ours", |it| it.region = Some("us-east-1"), malformed);
    check("another day", |it| it.set("authorization", |sent| sent.replace("20130524", "20130525")), malformed);
    check("another service", |it| it.set("authorization", |sent| sent.replace("/s3/", "/sts/")), malformed);
    check("15:01 late", |it| it.now.millis += 901_000, Err("RequestTimeTooSkewed"));
    check("15:01 early", |it| it.now.millis -= 901_000, Err("RequestTimeTooSkewed"));
    check("a date before all", |it| it.set("x-amz-date", |_| "19500707T215304Z".into()), denied);
    check("no date", |it| it.remove("x-amz-date"), denied);
    check("an empty date", |it| it.set("x-amz-date", |_| String::new()), denied);
    check("two dates", |it| it.add("x-amz-date", "20130524T000000Z"), denied);
    check("no payload hash", |it| it.remove("x-amz-content-sha256"), Err("InvalidRequest"));
    check("two payload hashes", |it| it.add("x-amz-content-sha256", EMPTY), Err("InvalidArgument"));
    check("a bad payload hash", |it| it.set("x-amz-content-sha256", |_| "abc".into()), Err("InvalidArgument"));
    check("an x-amz header not signed", |it| it.add("X-Amz-Acl", "public-read"), denied);
    check("host not signed", |it| it.set("authorization", |sent| sent.replace(";host", "")), denied);
    check("too many parameters", |it| it.target.2 = "a&".repeat(200), Err("InvalidRequest"));
}

/// The target as it was signed, and as it arrives.
fn check_form(signed: (&str, &str), sent: (&str, &str), want: Result<(), AuthError>) {
    let secret = Secret::new(SECRET);
    let target = Target { access_key: ACCESS_KEY, secret: &secret, region: "us-east-1" };
    let mut headers = vec![("host".to_owned(), "h".to_owned())];
    let request = Request { method: "GET", path: signed.0.as_bytes(), query: signed.1.as_bytes(), headers: &headers };
    let mut lines = Vec::new();
    Signer::new().sign_into(&mut lines, &request, &target, PayloadMode::Unsigned, EXAMPLE_TIME);
    for line in String::from_utf8(lines).expect("header lines are text").lines() {
        let (name, value) = line.split_once(": ").expect("each line is a field");
        headers.push((name.into(), value.into()));
    }
    let request = Request { method: "GET", path: sent.0.as_bytes(), query: sent.1.as_bytes(), headers: &headers };
    let find = |_: &str| Some((&secret, ()));
    let got = Verifier::new().verify(&request, EXAMPLE_TIME, None, find).map(|_| ());
    assert_eq!(got, want, "signed as {signed:?}, sent as {sent:?}");
}

#[test]
fn targets_may_be_signed_as_sent_or_in_normal_form() {
    let no = || Err(AuthError::SignatureDoesNotMatch);
    check_form(("/b/%C3%A9", ""), ("/b/é", ""), Ok(()));
    check_form(("/b/%C3%A9", ""), ("/b/%c3%a9", ""), Ok(()));
    check_form(("/b/%c3%a9", ""), ("/b/%c3%a9", ""), Ok(()));
    check_form(("/b/a%2Bb%21", ""), ("/b/a+b!", ""), Ok(()));
    check_form(("/b/a+b!", ""), ("/b/a+b!", ""), Ok(()));
    check_form(("/b/~a", ""), ("/b/%7Ea", ""), Ok(()));
    check_form(("/b/a/b", ""), ("/b/a%2Fb", ""), Ok(()));
    check_form(("/b/k", "prefix=a%2Fb%20c"), ("/b/k", "prefix=a/b+c"), Ok(()));
    check_form(("/b/k", "prefix=a/b+c"), ("/b/k", "prefix=a/b+c"), Ok(()));
    check_form(("/b/a+b", "prefix=a%2Fb"), ("/b/a+b", "prefix=a/b"), Ok(()));
    check_form(("/b/a%2Bb", "prefix=a/b"), ("/b/a+b", "prefix=a/b"), Ok(()));
    check_form(("/b/a%2Bb", "prefix=a%2Fb"), ("/b/a+b", "prefix=a/b"), Ok(()));
    check_form(("/b/a%20b", ""), ("/b/a+b", ""), no());
    check_form(("/b/a%2541", ""), ("/b/a%41", ""), no());
    check_form(("/b/a", ""), ("/b/./a", ""), no());
    check_form(("/b/k", "a=1&a=2"), ("/b/k", "a=2&a=1"), Ok(()));
    check_form(("/b/k", "a=1&a=2"), ("/b/k", "a=2"), no());
    check_form(("/b/k", "a=1&b=2"), ("/b/k", "a=1%26b=2"), no());
}

#[test]
fn a_changed_secret_takes_effect_at_once() {
    let sound = Sound::new();
    let (method, path, query) = (&sound.target.0, sound.target.1.as_bytes(), sound.target.2.as_bytes());
    let request = Request { method, path, query, headers: &sound.headers };
    let mut verifier = Verifier::new();
    for (secret, want) in [(SECRET, true), ("changed", false), (SECRET, true)] {
        let secret = Secret::new(secret);
        let got = verifier.verify(&request, EXAMPLE_TIME, None, |_| Some((&secret, ())));
        assert_eq!(got.is_ok(), want);
    }
}
