//! A request's body on its way in: freed of chunked transfer coding and of aws-chunked, and looked at, in place in whatever
//! buffer it passes through. The relay asks it what to forward and, before the last byte leaves, for the verdict.

use super::relay::copy::{Inspect, Looked, Refused, Wire};
use crate::proto::aws_chunked::{Decoder, Form};
use crate::proto::body_check::BodyCheck;
use crate::proto::body_error::BodyError;
use crate::proto::checksum::Algorithm;
use crate::proto::error_code::S3Error;
use crate::proto::http1::{BodyFraming, ChunkedDecoder, ChunkedStep};
use crate::proto::post::Ending;

/// How the body of a request is delimited, and how much of it is still on the wire.
pub struct ClientBody {
    framing: BodyFraming,
    form: Option<Form>,
    trailer: Option<Algorithm>,
    /// Payload, without any framing; None when nobody declared it.
    length: Option<u64>,
    /// The payload is the file of a form.
    ending: Option<Ending>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Unread,
    /// Begun and not finished: what is left on the wire is not known.
    Broken,
    Over,
}

impl ClientBody {
    /// `length` is the payload's, if declared; `form` says how an aws-chunked body is signed, `trailer` which checksum it
    /// announced.
    pub fn new(framing: BodyFraming, form: Option<Form>, length: Option<u64>, trailer: Option<Algorithm>) -> Self {
        let state = if framing.is_empty() { State::Over } else { State::Unread };
        Self { framing, form, trailer, length, ending: None, state }
    }

    /// A form from its file's first byte on: `wire` bytes, of which the first `size` are the file's.
    pub fn of_form(wire: u64, size: u64, ending: Ending) -> Self {
        Self { ending: Some(ending), ..Self::new(BodyFraming::Length(wire), None, Some(size), None) }
    }

    pub fn length(&self) -> Option<u64> {
        self.length
    }

    pub fn wire(&self) -> Wire {
        match self.framing {
            BodyFraming::None => Wire::Exact(0),
            BodyFraming::Length(bytes) => Wire::Exact(bytes),
            BodyFraming::Chunked => Wire::Framed,
        }
    }

    /// The bytes on the wire are the payload's.
    pub fn is_plain(&self) -> bool {
        self.form.is_none() && self.ending.is_none() && self.framing != BodyFraming::Chunked
    }

    /// The way in for the whole body, once.
    pub fn open<'a>(&mut self, check: &'a mut BodyCheck) -> Intake<'a> {
        self.state = State::Broken;
        Intake {
            chunked: (self.framing == BodyFraming::Chunked).then(ChunkedDecoder::new),
            aws: self.form.take().map(|form| Decoder::new(form, self.length.unwrap_or(0), self.trailer)),
            ending: self.ending.take(),
            check,
            refusal: None,
        }
    }

    /// The whole body is off the connection: its next byte starts the next request.
    pub fn finished(&mut self) {
        self.state = State::Over;
    }

    /// Bytes on the wire of a body that nobody has begun to read, if their number is known.
    pub fn unread(&self) -> Option<u64> {
        match (self.state, self.framing) {
            (State::Over, _) | (State::Unread, BodyFraming::None) => Some(0),
            (State::Unread, BodyFraming::Length(bytes)) => Some(bytes),
            (State::Unread, BodyFraming::Chunked) | (State::Broken, _) => None,
        }
    }
}

/// One pass over a body.
pub struct Intake<'a> {
    chunked: Option<ChunkedDecoder>,
    aws: Option<Decoder>,
    ending: Option<Ending>,
    check: &'a mut BodyCheck,
    refusal: Option<S3Error>,
}

impl Intake<'_> {
    /// Why the body was refused.
    pub fn into_refusal(self) -> S3Error {
        self.refusal.unwrap_or_else(|| BodyError::Incomplete.into())
    }

    fn decode(&mut self, bytes: &mut [u8]) -> Result<Looked, BodyError> {
        let (kept, used, mut ended) = match &mut self.chunked {
            None => (bytes.len(), bytes.len(), false),
            Some(decoder) => unchunk(decoder, bytes)?,
        };
        let kept = match (&mut self.aws, &mut self.ending) {
            (None, Some(ending)) => {
                let kept = ending.feed(&bytes[..kept])?;
                self.check.update(&bytes[..kept]);
                kept
            }
            (None, None) => {
                self.check.update(&bytes[..kept]);
                kept
            }
            (Some(decoder), _) => {
                let (kept, done) = unwrap_aws(decoder, &mut bytes[..kept], self.check)?;
                // Under chunked transfer coding the outer framing says when the body is over.
                ended |= done && self.chunked.is_none();
                kept
            }
        };
        Ok(Looked { forward: 0..kept, used, ended })
    }

    fn judge(&mut self) -> Result<(), S3Error> {
        let trailer = match self.aws.take() {
            Some(decoder) => decoder.finish()?,
            None => None,
        };
        if let Some(ending) = &self.ending {
            ending.finish()?;
        }
        self.check.end(trailer)
    }
}

impl Inspect for Intake<'_> {
    fn look(&mut self, bytes: &mut [u8]) -> Result<Looked, Refused> {
        self.decode(bytes).map_err(|error| {
            self.refusal = Some(error.into());
            Refused
        })
    }

    fn verdict(&mut self) -> Result<(), Refused> {
        self.judge().map_err(|error| {
            self.refusal = Some(error);
            Refused
        })
    }
}

/// Decodes chunked transfer coding in place: bytes kept at the front, bytes used, whether the body ended with them.
fn unchunk(decoder: &mut ChunkedDecoder, bytes: &mut [u8]) -> Result<(usize, usize, bool), BodyError> {
    let (mut from, mut kept) = (0, 0);
    loop {
        match decoder.feed(&bytes[from..]).map_err(|_| BodyError::Incomplete)? {
            ChunkedStep::NeedMore => return Ok((kept, bytes.len(), false)),
            ChunkedStep::Data { skip, len } => {
                bytes.copy_within(from + skip..from + skip + len, kept);
                kept += len;
                from += skip + len;
            }
            ChunkedStep::Done { used } => return Ok((kept, from + used, true)),
        }
    }
}

/// Decodes aws-chunked in place, looking at the payload on the way: bytes kept at the front, and whether the body ended.
fn unwrap_aws(decoder: &mut Decoder, bytes: &mut [u8], check: &mut BodyCheck) -> Result<(usize, bool), BodyError> {
    let (mut from, mut kept, mut done) = (0, 0, false);
    while from < bytes.len() {
        let step = decoder.feed(&bytes[from..])?;
        let payload = from + step.payload.start..from + step.payload.end;
        check.update(&bytes[payload.clone()]);
        let len = payload.len();
        bytes.copy_within(payload, kept);
        kept += len;
        from += step.used;
        done = step.done;
    }
    Ok((kept, done))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::checksum::Declared;
    use crate::proto::error_code::ErrorCode;

    /// What passes through in pieces of `piece` bytes: the payload and what lay behind the body, or the refusal.
    fn pass(mut body: ClientBody, wire: &[u8], piece: usize) -> Result<(Vec<u8>, usize), ErrorCode> {
        let mut check = BodyCheck::of_declared(Declared::default());
        let mut intake = body.open(&mut check);
        let (mut payload, mut used) = (Vec::new(), 0);
        while used < wire.len() {
            let mut bytes = wire[used..(used + piece).min(wire.len())].to_vec();
            let Ok(looked) = intake.look(&mut bytes) else { return Err(intake.into_refusal().code) };
            payload.extend_from_slice(&bytes[looked.forward.clone()]);
            used += looked.used;
            if looked.ended {
                break;
            }
        }
        match intake.verdict() {
            Ok(()) => Ok((payload, wire.len() - used)),
            Err(Refused) => Err(intake.into_refusal().code),
        }
    }

    #[test]
    fn framings_nest_and_what_follows_is_left_alone() {
        let plain = || ClientBody::new(BodyFraming::Length(5), None, Some(5), None);
        let chunked = || ClientBody::new(BodyFraming::Chunked, None, None, None);
        let aws = |framing, length| ClientBody::new(framing, Some(Form::UnsignedTrailer), Some(length), None);
        for piece in 1..40 {
            assert_eq!(pass(plain(), b"hello", piece), Ok((b"hello".to_vec(), 0)));
            assert_eq!(
                pass(chunked(), b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\nGET", piece).map(|(body, _)| body),
                Ok(b"hello".to_vec())
            );
            let framed = b"5\r\nhello\r\n0\r\n\r\n";
            let inside = ClientBody::new(BodyFraming::Length(15), Some(Form::UnsignedTrailer), Some(5), None);
            assert_eq!(pass(inside, framed, piece), Ok((b"hello".to_vec(), 0)), "aws-chunked under a length");
            let outer = b"7\r\n5\r\nhell\r\n8\r\no\r\n0\r\n\r\n\r\n0\r\n\r\n";
            assert_eq!(pass(aws(BodyFraming::Chunked, 5), outer, piece).map(|(body, _)| body), Ok(b"hello".to_vec()));
            let short = aws(BodyFraming::Length(15), 6);
            assert_eq!(pass(short, framed, piece), Err(ErrorCode::IncompleteBody));
        }
    }
}
