//! Requests signed by clients that others wrote (tests/data/sigv4_vectors.py, presigned_vectors.py): odd keys, repeated parameters, odd values.

use super::{AuthError, PayloadMode, Request, Signer, Target, Verifier};
use crate::base::{Secret, Timestamp};
use serde::Deserialize;

#[derive(Deserialize)]
struct File {
    access_key: String,
    secret: String,
    region: String,
    seconds: i64,
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    client: String,
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, String)>,
    same_headers: bool,
}

impl Vector {
    fn request(&self) -> Request<'_, Vec<(String, String)>> {
        Request {
            method: &self.method,
            path: self.path.as_bytes(),
            query: self.query.as_bytes(),
            headers: &self.headers,
        }
    }

    fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(candidate, _)| candidate.eq_ignore_ascii_case(name));
        &found.unwrap_or_else(|| panic!("{} sends {name}", self.client)).1
    }
}

fn read() -> File {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/sigv4_vectors.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("the vectors are there")).expect("and are JSON")
}

#[test]
fn other_peoples_requests_verify_and_altered_ones_do_not() {
    let file = read();
    assert!(file.vectors.len() > 50, "{} vectors", file.vectors.len());
    let (secret, now) = (Secret::new(file.secret), Timestamp { millis: file.seconds * 1000 });
    let mut verifier = Verifier::new();
    let mut verify = |vector: &Vector| {
        let find = |access_key: &str| (access_key == file.access_key).then_some((&secret, ()));
        let verdict = verifier.verify(&vector.request(), now, Some(&file.region), find).map(|_| ());
        verdict.map_err(|error| format!("{error:?}\n{}", String::from_utf8_lossy(verifier.last_canonical_request())))
    };
    for mut vector in file.vectors {
        let what = format!("{} {} {}?{}", vector.client, vector.method, vector.path, vector.query);
        assert_eq!(verify(&vector), Ok(()), "{what}");
        vector.path.push('x');
        assert!(verify(&vector).is_err(), "{what}: path");
        vector.path.pop();
        vector.query.push_str("&versionId=null");
        assert!(verify(&vector).is_err(), "{what}: query");
    }
}

/// Presigned URLs (tests/data/presigned_vectors.py), at the first and the last second of their time and beside it.
#[test]
fn other_peoples_urls_verify_as_long_as_they_are_valid() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/presigned_vectors.json");
    let text = std::fs::read_to_string(path).expect("the vectors are there");
    let file: File = serde_json::from_str(&text).expect("and are JSON");
    assert!(file.vectors.len() > 50, "{} vectors", file.vectors.len());
    let secret = Secret::new(file.secret);
    let mut verifier = Verifier::new();
    let mut verify = |vector: &Vector, after: i64| {
        let find = |access_key: &str| (access_key == file.access_key).then_some((&secret, ()));
        let now = Timestamp { millis: (file.seconds + after) * 1000 };
        verifier.verify(&vector.request(), now, Some(&file.region), find).map(|found| found.payload)
    };
    for mut vector in file.vectors {
        let what = format!("{} {}?{}", vector.method, vector.path, vector.query);
        let expires: i64 = vector.header("expires").parse().expect("a number");
        vector.headers.retain(|(name, _)| name != "expires");
        for after in [-900, 0, expires - 1] {
            assert_eq!(verify(&vector, after), Ok(PayloadMode::Unsigned), "{what} after {after} s");
        }
        assert_eq!(verify(&vector, -901), Err(AuthError::NotYetValid), "{what}");
        assert_eq!(verify(&vector, expires), Err(AuthError::Expired), "{what}");
        vector.path.push('x');
        assert_eq!(verify(&vector, 0), Err(AuthError::SignatureDoesNotMatch), "{what}: path");
        vector.path.pop();
        let query = std::mem::take(&mut vector.query);
        vector.query = format!("{query}&versionId=null");
        assert_eq!(verify(&vector, 0), Err(AuthError::SignatureDoesNotMatch), "{what}: query");
        vector.query = query.replace(&format!("X-Amz-Expires={expires}"), "X-Amz-Expires=604799");
        assert_eq!(verify(&vector, 0), Err(AuthError::SignatureDoesNotMatch), "{what}: a longer time");
        vector.query = query;
        vector.headers.push(("x-amz-acl".into(), "public-read".into()));
        assert_eq!(verify(&vector, 0), Err(AuthError::HeadersNotSigned), "{what}: a field");
    }
}

#[test]
fn our_signature_is_that_of_the_clients_that_sign_the_wire_form() {
    let file = read();
    let (secret, now) = (Secret::new(file.secret), Timestamp { millis: file.seconds * 1000 });
    let target = Target { access_key: &file.access_key, secret: &secret, region: &file.region };
    let mut signer = Signer::new();
    let mut compared = 0;
    for mut vector in file.vectors {
        if !vector.same_headers || !["botocore", "minio-py"].contains(&vector.client.as_str()) {
            continue;
        }
        let payload = PayloadMode::parse(vector.header("x-amz-content-sha256").as_bytes()).expect("a hash");
        let (_, theirs) = vector.header("authorization").split_once("Signature=").expect("a signature");
        let theirs = theirs.to_owned();
        let added = ["authorization", "x-amz-date", "x-amz-content-sha256"];
        vector.headers.retain(|(name, _)| !added.iter().any(|one| name.eq_ignore_ascii_case(one)));
        let ours = signer.sign_into(&mut Vec::new(), &vector.request(), &target, payload, now);
        assert_eq!(std::str::from_utf8(&ours), Ok(theirs.as_str()), "{} {}", vector.client, vector.path);
        compared += 1;
    }
    assert!(compared > 30, "{compared} compared");
}
