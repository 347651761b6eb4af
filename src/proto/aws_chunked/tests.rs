//! AWS's published examples, every form with every checksum in every state, tampering, and cuts anywhere.

use super::*;
use crate::base::limits::{AWS_CHUNK_BYTES_MAX, CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX};
use crate::base::{Secret, Timestamp};
use crate::proto::checksum::{Algorithm, Algorithms, Checksum, Declared, Digester, Inspector};
use crate::proto::sigv4::{AmzDate, SigningKey};
use proptest::prelude::*;

const SEED: &[u8; 64] = b"4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9";
const SEED_WITH_TRAILER: &[u8; 64] = b"106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e";

fn signer(seed: &[u8; 64]) -> Box<ChunkSigner> {
    let secret = Secret::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
    let key = SigningKey::derive(&secret, b"20130524", "us-east-1", "s3");
    Box::new(ChunkSigner::new(key, AmzDate::at(Timestamp { millis: 1_369_353_600_000 }), "us-east-1", *seed))
}

const MODES: [PayloadMode; 3] = [
    PayloadMode::StreamingSigned { trailer: false },
    PayloadMode::StreamingSigned { trailer: true },
    PayloadMode::StreamingUnsignedTrailer,
];

fn form(mode: PayloadMode) -> Form {
    Form::of(mode, Some(signer(SEED))).expect("all three modes are streams")
}

fn has_trailer(mode: PayloadMode) -> bool {
    mode != PayloadMode::StreamingSigned { trailer: false }
}

fn encode(mode: PayloadMode, chunks: &[&[u8]], trailer: Option<Checksum>) -> Vec<u8> {
    let mut encoder = Encoder::new(form(mode));
    let mut wire = Vec::new();
    chunks.iter().for_each(|chunk| encoder.chunk(&mut wire, chunk));
    encoder.finish(&mut wire, trailer.as_ref());
    wire
}

/// Feeds `wire` in pieces of these sizes, over and over; the payload and the trailer, or the first error.
fn decode(mut decoder: Decoder, wire: &[u8], pieces: &[usize]) -> Result<(Vec<u8>, Option<Checksum>), BodyError> {
    let (mut payload, mut rest, mut done) = (Vec::new(), wire, false);
    for &size in pieces.iter().cycle() {
        let (mut piece, after) = rest.split_at(size.clamp(1, rest.len().max(1)).min(rest.len()));
        while !piece.is_empty() {
            let step = decoder.feed(piece)?;
            payload.extend_from_slice(&piece[step.payload]);
            piece = &piece[step.used..];
            done = step.done;
        }
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    let trailer = decoder.finish()?;
    assert!(done, "the last step says that the body is complete");
    Ok((payload, trailer))
}

#[test]
fn published_signed_chunks() {
    let payload = [b'a'; 66_560];
    let wire = [
        b"10000;chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648\r\n",
        &payload[..65_536],
        b"\r\n400;chunk-signature=0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497\r\n",
        &payload[..1024],
        b"\r\n0;chunk-signature=b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9\r\n\r\n",
    ]
    .concat();
    assert_eq!(wire.len(), 66_824, "the Content-Length of the example");
    assert_eq!(encode(MODES[0], &[&payload[..65_536], &payload[..1024]], None), wire);
    assert_eq!(Encoder::encoded_length(&form(MODES[0]), 66_560, 65_536, None), 66_824);
    let decoder = Decoder::new(form(MODES[0]), 66_560, None);
    assert_eq!(decode(decoder, &wire, &[8192]), Ok((payload.to_vec(), None)));
}

#[test]
fn published_signed_trailer() {
    let payload = [b'a'; 66_560];
    let crc32c = Digester::of(Algorithm::Crc32c, &payload);
    assert_eq!(crc32c.to_base64(), "sOO8/Q==");
    let lines: [&[u8]; 6] = [
        b"10000;chunk-signature=b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2\r\n",
        b"\r\n400;chunk-signature=1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7\r\n",
        b"\r\n0;chunk-signature=2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992\r\n",
        b"x-amz-checksum-crc32c:sOO8/Q==",
        b"\r\nx-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435",
        b"\r\n\r\n",
    ];
    // The trailer may end in CRLF, as the SDKs send it, or in LF CRLF, as the example and the MinIO clients have it.
    for trailer_end in [&b""[..], b"\n"] {
        let wire = [
            lines[0],
            &payload[..65_536],
            lines[1],
            &payload[..1024],
            lines[2],
            lines[3],
            trailer_end,
            lines[4],
            lines[5],
        ]
        .concat();
        let decoder = || {
            let form = Form::SignedTrailer(signer(SEED_WITH_TRAILER));
            Decoder::new(form, 66_560, Some(Algorithm::Crc32c))
        };
        for pieces in [[1], [7], [1 << 20]] {
            assert_eq!(decode(decoder(), &wire, &pieces), Ok((payload.to_vec(), Some(crc32c))));
        }
    }
}

/// What a client does with its trailer.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fault {
    Right,
    Wrong,
    Missing,
    Duplicated,
    Truncated,
    OtherName,
    NotBase64,
}

/// The answer to a body whose trailer has the fault, in the mode; signatures are always right for what is sent.
fn verdict(mode: PayloadMode, algorithm: Algorithm, fault: Fault) -> Result<(), BodyError> {
    let payload = b"some bytes in two chunks".as_slice();
    let (first, second) = payload.split_at(9);
    let right = Digester::of(algorithm, payload);
    let other = Algorithm::ALL[(algorithm as usize + 1) % Algorithm::ALL.len()];
    let line = |checksum: Checksum| format!("{}:{}\r\n", checksum.algorithm().header(), checksum.to_base64());
    let trailers = match fault {
        Fault::Right | Fault::Truncated => line(right),
        Fault::Wrong => line(Digester::of(algorithm, b"other bytes")),
        Fault::Missing => String::new(),
        Fault::Duplicated => line(right).repeat(2),
        Fault::OtherName => line(Digester::of(other, payload)),
        Fault::NotBase64 => format!("{}:????\r\n", algorithm.header()),
    };
    let mut wire = encode(mode, &[first, second], None);
    let end = match mode {
        PayloadMode::StreamingSigned { trailer: true } => b"x-amz-trailer-signature:".len() + 64 + 4,
        _ => 2,
    };
    wire.truncate(wire.len() - end);
    wire.extend_from_slice(trailers.as_bytes());
    if mode == (PayloadMode::StreamingSigned { trailer: true }) {
        let signature = sign_trailers(&[first, second, b""], &trailers.replace("\r\n", "\n"));
        wire.extend_from_slice(b"x-amz-trailer-signature:");
        wire.extend_from_slice(&signature);
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b"\r\n");
    if fault == Fault::Truncated {
        wire.truncate(wire.len() - 3);
    }
    let headers = [("x-amz-trailer", algorithm.header())];
    let declared = Declared::parse(&headers[..usize::from(has_trailer(mode))], mode)?;
    let decoder = Decoder::new(form(mode), payload.len() as u64, declared.trailer);
    let (decoded, trailer) = decode(decoder, &wire, &[5])?;
    assert_eq!(decoded, payload);
    let mut inspector = Inspector::new(declared.algorithms());
    inspector.update(&decoded);
    declared.check(&inspector.finish(), trailer, Algorithms::NONE)
}

fn sign_trailers(chunks: &[&[u8]], text: &str) -> [u8; 64] {
    let sha256 = |bytes: &[u8]| Digester::of(Algorithm::Sha256, bytes).as_bytes().try_into().expect("32 bytes");
    let mut signer = signer(SEED);
    chunks.iter().for_each(|chunk| {
        signer.sign_chunk(&sha256(chunk));
    });
    signer.sign_trailers(&sha256(text.as_bytes()))
}

#[test]
fn every_form_with_every_checksum_in_every_state() {
    for algorithm in Algorithm::ALL {
        for mode in &MODES[1..] {
            for (fault, want) in [
                (Fault::Right, Ok(())),
                (Fault::Wrong, Err(BodyError::ChecksumMismatch(algorithm))),
                (Fault::Missing, Err(BodyError::MalformedTrailer)),
                (Fault::Duplicated, Err(BodyError::MalformedTrailer)),
                (Fault::Truncated, Err(BodyError::Incomplete)),
                (Fault::OtherName, Err(BodyError::MalformedTrailer)),
                (Fault::NotBase64, Err(BodyError::InvalidTrailerValue(algorithm))),
            ] {
                assert_eq!(verdict(*mode, algorithm, fault), want, "{mode:?} {algorithm:?} {fault:?}");
            }
        }
        // The form without trailers takes none, whatever they are.
        for (fault, want) in [
            (Fault::Missing, Ok(())),
            (Fault::Right, Err(BodyError::Incomplete)),
            (Fault::Wrong, Err(BodyError::Incomplete)),
            (Fault::OtherName, Err(BodyError::Incomplete)),
        ] {
            assert_eq!(verdict(MODES[0], algorithm, fault), want, "{algorithm:?} {fault:?}");
        }
    }
}

#[test]
fn an_unannounced_trailer_and_no_trailer_at_all() {
    let crc32 = Digester::of(Algorithm::Crc32, b"x");
    for mode in &MODES[1..] {
        let run = |trailer| decode(Decoder::new(form(*mode), 1, None), &encode(*mode, &[b"x"], trailer), &[100]);
        assert_eq!(run(Some(crc32)), Err(BodyError::MalformedTrailer), "{mode:?}");
        assert_eq!(run(None), Ok((b"x".to_vec(), None)), "{mode:?}");
    }
}

#[test]
fn one_changed_byte_anywhere_is_refused_when_signed() {
    let payload = b"first chunksecond chunk";
    for mode in &MODES[..2] {
        let checksum = has_trailer(*mode).then(|| Digester::of(Algorithm::Crc32, payload));
        let announced = checksum.map(|checksum| checksum.algorithm());
        let wire = encode(*mode, &[&payload[..11], &payload[11..]], checksum);
        let run = |wire: &[u8]| decode(Decoder::new(form(*mode), 23, announced), wire, &[16]);
        assert_eq!(run(&wire), Ok((payload.to_vec(), checksum)));
        for at in 0..wire.len() {
            let mut changed = wire.clone();
            // Case is all that names and sizes may differ in.
            changed[at] ^= 0x01;
            assert!(run(&changed).is_err(), "{mode:?}: byte {at} of {:?}", wire.escape_ascii().to_string());
        }
        for at in 0..wire.len() {
            assert!(run(&wire[..at]).is_err(), "{mode:?}: cut at {at}");
        }
    }
}

#[test]
fn a_tampered_chunk_is_known_before_its_last_byte_is_passed_on() {
    let payload = [b'p'; 100];
    let mut wire = encode(MODES[0], &[&payload[..60], &payload[60..]], None);
    let at = wire.windows(2).position(|pair| pair == b"pp").expect("there is payload") + 10;
    wire[at] = b'q';
    let mut decoder = Decoder::new(form(MODES[0]), 100, None);
    let mut passed_on = 0;
    let mut rest = wire.as_slice();
    let error = loop {
        match decoder.feed(&rest[..rest.len().min(7)]) {
            Ok(step) => {
                passed_on += step.payload.len();
                rest = &rest[step.used..];
            }
            Err(error) => break error,
        }
    };
    assert_eq!(error, BodyError::SignatureDoesNotMatch);
    assert!(passed_on < 60, "{passed_on} of 60 bytes passed on");
    assert_eq!(decoder.feed(b"0\r\n"), Err(error), "an error is final");
    assert_eq!(decoder.finish(), Err(error));
}

#[test]
fn chunks_may_not_change_places_or_be_left_out() {
    let chunk = |wire: &[u8], from: usize, to: usize| wire[from..to].to_vec();
    let wire = encode(MODES[0], &[b"aaaa", b"bbbb"], None);
    let one = 1 + 81 + 2 + 4 + 2;
    let run = |wire: &[u8], length| decode(Decoder::new(form(MODES[0]), length, None), wire, &[1000]);
    assert!(run(&wire, 8).is_ok());
    let swapped = [chunk(&wire, one, 2 * one), chunk(&wire, 0, one), chunk(&wire, 2 * one, wire.len())].concat();
    assert_eq!(run(&swapped, 8), Err(BodyError::SignatureDoesNotMatch));
    let left_out = [chunk(&wire, 0, one), chunk(&wire, 2 * one, wire.len())].concat();
    assert_eq!(run(&left_out, 4), Err(BodyError::SignatureDoesNotMatch));
    let twice = [chunk(&wire, 0, one), chunk(&wire, 0, one), chunk(&wire, one, wire.len())].concat();
    assert_eq!(run(&twice, 12), Err(BodyError::SignatureDoesNotMatch));
}

/// An unsigned body of 3 declared bytes and an announced CRC32.
fn check_unsigned(wire: &str, want: Result<(), BodyError>) {
    for pieces in [1, 2, 3, 1000] {
        let decoder = Decoder::new(Form::UnsignedTrailer, 3, Some(Algorithm::Crc32));
        let got = decode(decoder, wire.as_bytes(), &[pieces]).map(|(payload, _)| assert_eq!(payload, b"abc"));
        assert_eq!(got, want, "{wire:?} in pieces of {pieces}");
    }
    for cut in [0, 1, 5] {
        fuzz_one(&[&[3, cut, 0], wire.as_bytes()].concat());
    }
}

#[test]
fn framing() {
    let incomplete = Err(BodyError::Incomplete);
    let malformed = Err(BodyError::MalformedTrailer);
    const CRC: &str = "x-amz-checksum-crc32:NSRBwg==\r\n";
    check_unsigned(&format!("3\r\nabc\r\n0\r\n{CRC}\r\n"), Ok(()));
    check_unsigned(&format!("1\r\na\r\n2\r\nbc\r\n0\r\n{CRC}\r\n"), Ok(()));
    check_unsigned(&format!("003\r\nabc\r\n00\r\n{CRC}\r\n"), Ok(()));
    check_unsigned("3\r\nabc\r\n0\r\nX-Amz-Checksum-CRC32: NSRBwg== \r\n\r\n", Ok(()));
    check_unsigned("3\r\nabc\r\n0\r\nx-amz-checksum-crc32:NSRBwg==\n\r\n\r\n", Ok(()));
    for (what, wire) in [
        ("nothing", ""),
        ("no chunk", "\r\n"),
        ("not a number", "z\r\nabc\r\n0\r\n"),
        ("no number", ";x\r\nabc\r\n0\r\n"),
        ("a sign", "+3\r\nabc\r\n0\r\n"),
        ("a prefix", "0x3\r\nabc\r\n0\r\n"),
        ("a blank", "3 \r\nabc\r\n0\r\n"),
        ("an extension", "3;a=b\r\nabc\r\n0\r\n"),
        ("too many digits", "00000000000000003\r\nabc\r\n0\r\n"),
        ("a number beyond 64 bits", "ffffffffffffffff\r\nabc\r\n"),
        ("LF after the size", "3\nabc\r\n0\r\n"),
        ("CR inside the size", "3\r\r\nabc\r\n0\r\n"),
        ("LF after the bytes", "3\r\nabc\n0\r\n"),
        ("no line end after the bytes", "3\r\nabc0\r\n"),
        ("two bytes after the bytes", "3\r\nabcde\r\n0\r\n"),
        ("more than declared", "4\r\nabcd\r\n0\r\n"),
        ("more in a second chunk", "3\r\nabc\r\n1\r\nd\r\n0\r\n"),
        ("less than declared", "2\r\nab\r\n0\r\n"),
        ("no last chunk", "3\r\nabc\r\n"),
        ("no end", "3\r\nabc\r\n0\r\nx-amz-checksum-crc32:NSRBwg==\r\n"),
        ("half an end", "3\r\nabc\r\n0\r\nx-amz-checksum-crc32:NSRBwg==\r\n\r"),
        ("bytes after the end", "3\r\nabc\r\n0\r\nx-amz-checksum-crc32:NSRBwg==\r\n\r\n0"),
        ("LF CRLF and no end", "3\r\nabc\r\n0\r\nx-amz-checksum-crc32:NSRBwg==\n\r\n"),
        ("LF alone", "3\r\nabc\r\n0\r\nx-amz-checksum-crc32:NSRBwg==\nx:y\r\n\r\n"),
        ("LF twice", "3\r\nabc\r\n0\r\nx-amz-checksum-crc32:NSRBwg==\n\n"),
    ] {
        assert!(!what.is_empty());
        check_unsigned(wire, incomplete);
    }
    for trailers in [
        "\r\n",
        "\n",
        "no colon\r\n\r\n",
        ":NSRBwg==\r\n\r\n",
        "x-amz-checksum-crc32 :NSRBwg==\r\n\r\n",
        "x-amz-checksum-crc32c:NSRBwg==\r\n\r\n",
        "x-amz-trailer-signature:00\r\n\r\n",
        &format!("{CRC}{CRC}\r\n"),
        &format!("{CRC}x:y\r\n\r\n"),
    ] {
        check_unsigned(&format!("3\r\nabc\r\n0\r\n{trailers}"), malformed);
    }
    let bad_value = Err(BodyError::InvalidTrailerValue(Algorithm::Crc32));
    for value in ["", "NSRBw", "NSRBwh==", "NSRBwg==,NSRBwg==", "\rNSRBwg==", "NSRBwg==\r"] {
        check_unsigned(&format!("3\r\nabc\r\n0\r\nx-amz-checksum-crc32:{value}\r\n\r\n"), bad_value);
    }
}

#[test]
fn limits() {
    let line = "0".repeat(CHUNK_LINE_BYTES_MAX + 1);
    check_unsigned(&line, Err(BodyError::Incomplete));
    check_unsigned(
        &format!("3\r\nabc\r\n0\r\n{}", "x".repeat(TRAILER_BYTES_MAX + 1)),
        Err(BodyError::MalformedTrailer),
    );
    // A chunk that only its signature can vouch for is limited; without signatures a body may be one chunk.
    let size = AWS_CHUNK_BYTES_MAX + 1;
    let line = format!("{size:x};chunk-signature={}\r\n", "0".repeat(64));
    let mut decoder = Decoder::new(form(MODES[0]), size, None);
    assert_eq!(decoder.feed(line.as_bytes()), Err(BodyError::ChunkTooLarge));
    let mut decoder = Decoder::new(Form::UnsignedTrailer, u64::MAX, None);
    assert!(decoder.feed(b"ffffffffffffffff\r\nabc").is_ok_and(|step| step.payload == (18..21)));
}

#[test]
fn signed_chunk_lines() {
    let wire = encode(MODES[0], &[b"abc"], None);
    let text = String::from_utf8(wire).expect("the example is text");
    let run = |wire: &str| decode(Decoder::new(form(MODES[0]), 3, None), wire.as_bytes(), &[1000]).map(|_| ());
    assert_eq!(run(&text), Ok(()));
    let incomplete = Err(BodyError::Incomplete);
    assert_eq!(run(&text.replacen(";chunk-signature=", ";chunk-signature:", 1)), incomplete);
    assert_eq!(run(&text.replacen(";chunk-signature=", "; chunk-signature=", 1)), incomplete);
    assert_eq!(run(&text.replacen(";chunk-signature=", ";x=y;chunk-signature=", 1)), incomplete);
    assert_eq!(run("3\r\nabc\r\n0\r\n\r\n"), incomplete);
    assert_eq!(run(&text.replacen(";chunk-signature=", ";chunk-signature=0", 1)), incomplete);
    let upper = text.to_uppercase().replace(";CHUNK-SIGNATURE=", ";chunk-signature=").replace("ABC", "abc");
    assert_eq!(run(&upper), Err(BodyError::SignatureDoesNotMatch));
}

#[test]
fn empty_objects() {
    for mode in MODES {
        let checksum = has_trailer(mode).then(|| Digester::of(Algorithm::Crc64Nvme, b""));
        let wire = encode(mode, &[], checksum);
        let announced = checksum.map(|checksum| checksum.algorithm());
        assert_eq!(Encoder::encoded_length(&form(mode), 0, 1024, announced), wire.len() as u64);
        assert_eq!(decode(Decoder::new(form(mode), 0, announced), &wire, &[9]), Ok((Vec::new(), checksum)));
    }
}

proptest! {
    #[test]
    fn cuts_anywhere_give_the_same_result(
        payload in prop::collection::vec(any::<u8>(), 0..4000),
        chunk in 1_usize..1500,
        pieces in prop::collection::vec(1_usize..700, 1..20),
        mode in 0_usize..3,
        algorithm in 0_usize..6,
    ) {
        let mode = MODES[mode];
        let checksum = has_trailer(mode).then(|| Digester::of(Algorithm::ALL[algorithm], &payload));
        let announced = checksum.map(|checksum| checksum.algorithm());
        let chunks: Vec<&[u8]> = payload.chunks(chunk).collect();
        let wire = encode(mode, &chunks, checksum);
        let length = Encoder::encoded_length(&form(mode), payload.len() as u64, chunk as u64, announced);
        prop_assert_eq!(length, wire.len() as u64);
        let decoder = Decoder::new(form(mode), payload.len() as u64, announced);
        prop_assert_eq!(decode(decoder, &wire, &pieces), Ok((payload, checksum)));
    }

    #[test]
    fn near_bodies_are_the_same_however_they_are_cut(
        words in prop::collection::vec(
            prop::sample::select(vec!["1\r\n", "0\r\n", "a", "\r\n", "\n", "\r", "x-amz-checksum-crc32:", "NSRBwg==", "2"]),
            0..12,
        ),
        head in any::<[u8; 3]>(),
    ) {
        fuzz_one(&[&[head[0] % 4, head[1], head[2] % 8], words.concat().as_bytes()].concat());
    }
}

#[test]
fn decoded_lengths() {
    let of = |values: &[&str]| {
        let headers: Vec<(&str, &str)> = values.iter().map(|value| ("X-Amz-Decoded-Content-Length", *value)).collect();
        decoded_length(&headers)
    };
    assert_eq!(of(&["66560"]), Ok(66_560));
    assert_eq!(of(&[" 0 "]), Ok(0));
    assert_eq!(of(&[]), Err(BodyError::MissingDecodedLength));
    for bad in ["", "-1", "+1", "1e3", "0x10", "1 2", "18446744073709551616", "1,1"] {
        assert_eq!(of(&[bad]), Err(BodyError::InvalidDecodedLength), "{bad}");
    }
    assert_eq!(of(&["1", "1"]), Err(BodyError::InvalidDecodedLength));
}

#[test]
fn content_encodings() {
    for (sent, want) in [
        ("aws-chunked", None),
        ("AWS-Chunked", None),
        ("aws-chunked,gzip", Some("gzip")),
        ("gzip, aws-chunked", Some("gzip")),
        ("aws-chunked, aws-chunked", None),
        ("aws-chunked,", None),
        ("deflate, gzip", Some("deflate, gzip")),
        ("br,aws-chunked, gzip", Some("br,gzip")),
        ("", None),
        (" ", None),
        ("x-aws-chunked", Some("x-aws-chunked")),
    ] {
        assert_eq!(stored_content_encoding(sent).as_deref(), want, "{sent:?}");
    }
}
