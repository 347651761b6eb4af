//! The policy document of a browser upload: until when, and what the form may hold.

use super::Form;
use crate::base::Timestamp;
use crate::proto::date;
use crate::proto::error_code::{ErrorCode, S3Error};
use serde_json::Value;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    expiration: Timestamp,
    conditions: Vec<Condition>,
    /// Least and greatest length of the file, bytes.
    length: Option<(u64, u64)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Condition {
    how: Match,
    /// Lower case, without the dollar sign.
    field: String,
    value: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Match {
    Equal,
    StartsWith,
}

/// Fields that no condition needs to name ("POST policy", Amazon S3 API reference).
const UNCONDITIONAL: [&str; 5] = ["awsaccesskeyid", "signature", "x-amz-signature", "policy", "file"];

impl Policy {
    /// From the field `policy`: base64 of JSON. InvalidPolicyDocument.
    pub fn parse(encoded: &str) -> Result<Self, S3Error> {
        let text: String = encoded.split_ascii_whitespace().collect();
        let json = data_encoding::BASE64.decode(text.as_bytes()).map_err(|_| invalid("Invalid Base64 Encoding."))?;
        let document: Value = serde_json::from_slice(&json).map_err(|_| invalid("Invalid JSON."))?;
        let document = document.as_object().ok_or_else(|| invalid("Invalid JSON."))?;
        let expiration = document.get("expiration").ok_or_else(|| invalid("Policy missing expiration."))?;
        let expiration = expiration.as_str().and_then(|text| date::parse_iso8601(text.as_bytes()));
        let conditions = document.get("conditions").ok_or_else(|| invalid("Policy missing conditions."))?;
        let conditions = conditions.as_array().ok_or_else(|| invalid("Invalid 'conditions' value: must be a List."))?;
        let mut policy = Self {
            expiration: expiration.ok_or_else(|| invalid("Invalid 'expiration' value."))?,
            conditions: Vec::new(),
            length: None,
        };
        for condition in conditions {
            policy.add(condition)?;
        }
        Ok(policy)
    }

    fn add(&mut self, condition: &Value) -> Result<(), S3Error> {
        match condition {
            Value::Object(pairs) => {
                let mut pairs = pairs.iter();
                let (Some((field, Value::String(value))), None) = (pairs.next(), pairs.next()) else {
                    let text = "Invalid Simple-Condition: Simple-Conditions must have exactly one property specified.";
                    return Err(invalid(text));
                };
                let field = field.to_ascii_lowercase();
                self.conditions.push(Condition { how: Match::Equal, field, value: value.clone() });
                Ok(())
            }
            Value::Array(items) => self.add_operation(items),
            _ => Err(invalid("Invalid Condition: must be a List or an Object.")),
        }
    }

    fn add_operation(&mut self, items: &[Value]) -> Result<(), S3Error> {
        let [Value::String(operator), first, second] = items else {
            return Err(invalid("Invalid Condition: wrong number of arguments."));
        };
        let how = match operator.to_ascii_lowercase().as_str() {
            "eq" => Match::Equal,
            "starts-with" => Match::StartsWith,
            "content-length-range" => {
                let (Some(least), Some(greatest)) = (length(first), length(second)) else {
                    return Err(invalid("Invalid Condition: content-length-range needs two lengths."));
                };
                if least > greatest {
                    return Err(invalid("Invalid Condition: content-length-range ends before it starts."));
                }
                let (low, high) = self.length.unwrap_or((0, u64::MAX));
                self.length = Some((low.max(least), high.min(greatest)));
                return Ok(());
            }
            _ => return Err(invalid("Invalid Condition: unknown operation.")),
        };
        let (Some(field), Some(value)) = (first.as_str().and_then(|text| text.strip_prefix('$')), second.as_str())
        else {
            return Err(invalid(
                "Invalid Condition: a field's name starts with a dollar sign, and its value is a text.",
            ));
        };
        self.conditions.push(Condition { how, field: field.to_ascii_lowercase(), value: value.to_owned() });
        Ok(())
    }

    /// Whether the form is one that the policy allows, at this time and in this bucket. AccessDenied.
    pub fn check(&self, form: &Form, bucket: &str, now: Timestamp) -> Result<(), S3Error> {
        if now.millis > self.expiration.millis {
            return Err(denied("Policy expired."));
        }
        for condition in &self.conditions {
            if !condition.holds(form, bucket) {
                return Err(denied(&format!("Policy Condition failed: {}", condition.shown())));
            }
        }
        let named = |field: &str| self.conditions.iter().any(|condition| condition.field == field);
        for (field, value) in &form.fields {
            let needs_none = UNCONDITIONAL.contains(&field.as_str()) || field.starts_with("x-ignore-");
            if !needs_none && !named(field) {
                return Err(denied(&format!("Extra input fields: {field}")));
            }
            if field == "bucket" && value != bucket {
                return Err(denied("The bucket is another one than the form's."));
            }
        }
        if named("bucket") { Ok(()) } else { Err(denied("Extra input fields: bucket")) }
    }

    /// EntityTooSmall or EntityTooLarge.
    pub fn check_length(&self, size: u64) -> Result<(), S3Error> {
        match self.length {
            Some((least, _)) if size < least => Err(ErrorCode::EntityTooSmall.into()),
            Some((_, greatest)) if size > greatest => Err(ErrorCode::EntityTooLarge.into()),
            _ => Ok(()),
        }
    }
}

impl Condition {
    /// Whether there are fields of its name and each is as it says: all of them count, not the first alone.
    fn holds(&self, form: &Form, bucket: &str) -> bool {
        if self.field == "bucket" {
            return self.fits(bucket);
        }
        let mut found = form.fields.iter().filter(|(name, _)| *name == self.field).peekable();
        found.peek().is_some() && found.all(|(_, value)| self.fits(value))
    }

    fn fits(&self, found: &str) -> bool {
        match self.how {
            Match::Equal => found == self.value,
            // A list of types: every one must fit.
            Match::StartsWith if self.field == "content-type" => {
                found.split(',').all(|one| one.trim_start().starts_with(&self.value))
            }
            Match::StartsWith => found.starts_with(&self.value),
        }
    }

    fn shown(&self) -> String {
        let how = if self.how == Match::Equal { "eq" } else { "starts-with" };
        Value::from(vec![how.to_owned(), format!("${}", self.field), self.value.clone()]).to_string()
    }
}

/// Numbers may stand as texts.
fn length(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

fn invalid(text: &str) -> S3Error {
    S3Error::new(ErrorCode::InvalidPolicyDocument, format!("Invalid Policy: {text}"))
}

fn denied(text: &str) -> S3Error {
    S3Error::new(ErrorCode::AccessDenied, format!("Invalid according to Policy: {text}"))
}

/// Any document may come.
pub fn fuzz_one(input: &[u8]) {
    let encoded = data_encoding::BASE64.encode(input);
    if let Ok(policy) = Policy::parse(&encoded) {
        let refused = policy.check(&Form::default(), "bkt", Timestamp { millis: i64::MAX });
        assert!(refused.is_err(), "no policy is for ever");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp { millis: 1_795_366_800_000 };

    fn parse(json: &str) -> Result<Policy, ErrorCode> {
        fuzz_one(json.as_bytes());
        Policy::parse(&data_encoding::BASE64.encode(json.as_bytes())).map_err(|error| error.code)
    }

    fn form(fields: &[(&str, &str)]) -> Form {
        let fields = fields.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        Form { fields, ..Form::default() }
    }

    /// The refusal's text for a form under conditions.
    fn check(conditions: &str, fields: &[(&str, &str)], want: Result<(), &str>) {
        let json =
            format!(r#"{{"expiration": "2026-11-22T17:00:00.000Z", "conditions": [{{"bucket": "b"}}{conditions}]}}"#);
        let got = parse(&json).expect(&json).check(&form(fields), "b", NOW);
        match (&got, want) {
            (Ok(()), Ok(())) => {}
            (Err(error), Err(text)) if error.message().contains(text) => {
                assert_eq!(error.code, ErrorCode::AccessDenied);
            }
            _ => panic!("{conditions} with {fields:?}: {got:?}"),
        }
    }

    #[test]
    fn conditions() {
        check("", &[], Ok(()));
        check("", &[("policy", "x"), ("x-amz-signature", "y"), ("x-ignore-a", "z")], Ok(()));
        check("", &[("key", "a")], Err("Extra input fields: key"));
        check("", &[("bucket", "b")], Ok(()));
        check("", &[("bucket", "c")], Err("bucket"));
        check(r#", {"Key": "a"}"#, &[("key", "a")], Ok(()));
        check(r#", {"key": "a"}"#, &[("key", "b")], Err(r#"Policy Condition failed: ["eq","$key","a"]"#));
        check(r#", {"key": "a"}"#, &[], Err("Condition failed"));
        check(r#", ["EQ", "$key", "a"]"#, &[("key", "a")], Ok(()));
        check(r#", ["StArTs-WiTh", "$KeY", "up/"]"#, &[("key", "up/a")], Ok(()));
        check(r#", ["starts-with", "$key", "up/"]"#, &[("key", "down/a")], Err(r#"["starts-with","$key","up/"]"#));
        check(r#", ["starts-with", "$key", ""]"#, &[("key", "")], Ok(()));
        check(r#", ["starts-with", "$key", ""]"#, &[], Err("Condition failed"));
        check(r#", ["starts-with", "$Content-Type", "image/"]"#, &[("content-type", "image/a, image/b")], Ok(()));
        check(r#", ["starts-with", "$content-type", "image/"]"#, &[("content-type", "image/a,text/b")], Err("failed"));
        check(r#", ["eq", "$bucket", "c"]"#, &[], Err("Condition failed"));
        // Fields of one name all go into the object: each must be as promised.
        let twice = [("x-amz-meta-by", "a"), ("x-amz-meta-by", "b")];
        check(r#", {"x-amz-meta-by": "a"}"#, &twice, Err(r#"["eq","$x-amz-meta-by","a"]"#));
        check(r#", ["starts-with", "$x-amz-meta-by", "a"]"#, &twice, Err("Condition failed"));
        check(r#", ["starts-with", "$x-amz-meta-by", ""]"#, &twice, Ok(()));
    }

    #[test]
    fn its_time_and_bucket() {
        let policy =
            parse(r#"{"expiration": "2026-11-22T17:00:00Z", "conditions": [["eq", "$bucket", "b"]]}"#).expect("sound");
        let late = Timestamp { millis: NOW.millis + 1 };
        assert!(policy.check(&form(&[]), "b", NOW).is_ok());
        for (bucket, now) in [("b", late), ("c", NOW)] {
            assert_eq!(policy.check(&form(&[]), bucket, now).map_err(|error| error.code), Err(ErrorCode::AccessDenied));
        }
        let without = parse(r#"{"expiration": "2026-11-22T17:00:00Z", "conditions": []}"#).expect("sound");
        assert!(without.check(&form(&[]), "b", NOW).is_err(), "a policy names its bucket");
    }

    #[test]
    fn lengths() {
        let of = |range: &str| {
            let json = format!(
                r#"{{"expiration": "2026-11-22T17:00:00Z", "conditions": [["content-length-range", {range}]]}}"#
            );
            parse(&json).map(|policy| [4, 5, 9, 10].map(|size| policy.check_length(size).map_err(|error| error.code)))
        };
        let want = [Err(ErrorCode::EntityTooSmall), Ok(()), Ok(()), Err(ErrorCode::EntityTooLarge)];
        assert_eq!((of("5, 9"), of(r#""5", "9""#)), (Ok(want), Ok(want)));
        for bad in ["5", "-1, 0", "9, 5", "5, 9, 10", "\"a\", 1"] {
            assert_eq!(of(bad), Err(ErrorCode::InvalidPolicyDocument), "{bad}");
        }
    }

    #[test]
    fn documents_that_are_none() {
        for json in [
            "",
            "{",
            "[]",
            "{}",
            r#"{"expiration": "2026-11-22T17:00:00Z"}"#,
            r#"{"conditions": []}"#,
            r#"{"expiration": "soon", "conditions": []}"#,
            r#"{"EXPIRATION": "2026-11-22T17:00:00Z", "conditions": []}"#,
            r#"{"expiration": "2026-11-22T17:00:00Z", "CONDITIONS": []}"#,
            r#"{"expiration": "2026-11-22T17:00:00Z", "conditions": {}}"#,
            r#"{"expiration": "2026-11-22T17:00:00Z", "conditions": [{}]}"#,
            r#"{"expiration": "2026-11-22T17:00:00Z", "conditions": [{"a": "b", "c": "d"}]}"#,
            r#"{"expiration": "2026-11-22T17:00:00Z", "conditions": [{"a": 1}]}"#,
            r#"{"expiration": "2026-11-22T17:00:00Z", "conditions": [["eq", "key", "a"]]}"#,
            r#"{"expiration": "2026-11-22T17:00:00Z", "conditions": [["like", "$key", "a"]]}"#,
            r#"{"expiration": "2026-11-22T17:00:00Z", "conditions": ["a"]}"#,
        ] {
            assert_eq!(parse(json), Err(ErrorCode::InvalidPolicyDocument), "{json}");
        }
        assert!(Policy::parse("not base64!").is_err());
    }
}
