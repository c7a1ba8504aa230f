use super::*;
use crate::secret::SessionKey;
use crate::test::{unhex, unhex_vec};
use dcerpc::pdu::SecTrailer;
use dcerpc::security::{AuthType, OutgoingFragment};
use std::task::{Context, Poll, Waker};

/// Polls until ready; nothing here waits for anything but its own yield.
fn finish(mut protecting: Protecting) -> Vec<u8> {
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(bytes) = protecting.as_mut().poll(&mut cx) {
            return bytes;
        }
    }
}

fn keys(hex: &str) -> Arc<ChannelKeys> {
    Arc::new(ChannelKeys::new(SessionKey::new(unhex(hex))))
}

fn protector(hex: &str, role: Role, confounder: Confounder) -> Protector {
    Protector::new(keys(hex), role, Sealer::default(), confounder)
}

const SEALED_LEVEL: Protection = Protection { level: AuthLevel::PRIVACY, header_signing: true };
const SIGNED_LEVEL: Protection = Protection { level: AuthLevel::INTEGRITY, header_signing: true };
const AES_KEY: &str = "fdc7815fdbdbb1a6a08d0fda749edb18";

/// The PDUs of the digest of [MS-NRPC], section 8.5.
const REQUEST: &str = "
050000031000000068013800020000000c01000000002700b6c9f956cd16c869d599769573d0883450c13a664a25c4b7
243f5c92a26751be49dfa14692e8d94a8017690ec427b56c069d6672019d1502938852174918fc425bbb76b51db94772
1562afc09c66ab2c8ffbd2316122eb40700dcc92b3474d64ff2c56975a4872d585791a050e9812ecc25215229130c2d7
0d592137643979c1c5907b7d068221512e144c7672d6edd65df2fd00a1d666ba09bce7259496e1b6a22648bb63623676
e1017a2070439425ec711cf6e1099501ff517a8f922bf6b2edbff9b68731566447b28d33f1bcfb949bf69bb532f05b03
3324d8dd23c30045f7a175e35c1a56445c28e645af91b735a00a4a21286ce1ed6c368c0efd4d2497f60ae7b22129c24a
80996ff1c5f03ad3 4406040001000000 13001a00ffff0000c864648bfa402fac80f88ee93a941f9215193cc88b6f9c69
000000000000000000000000000000000000000000000000";
const RESPONSE: &str = "
0500020310000000880038000200000028000000000000005250f3f537a7703a355e1447bd2cd55f35e5f5d606241988
a69e2086e94dc61e0818da690fe4a1da06987d7ef6a71226 4406080001000000 13001a00ffff00001e961b379c90e792
6a8651825b8f1016e4c1f24ba8fe81c7000000000000000000000000000000000000000000000000";
/// The stubs inside, sections 10.4 and 10.5, with their generic data in the clear at the range given.
const REQUEST_STUB: &str = "
000002000600000000000000060000005c005c0044004300310000000400020005000000000000000500000057004500
420031000000040004000000080002000e000e000c000200000000000000000000000000000000000000000000000000
0000000058005800100002000b0000001400020007000000000000000700000043004f004e0054004f0053004f000000
2c000000000000002c0000004d006900630072006f0073006f0066007400200055006e00690066006900650064002000
53006500630075007200690074007900200050
0072006f0074006f0063006f006c002000500072006f00760069006400
650072000b0000000102030405060708090a0b000500000000000000";
const REQUEST_INNER: std::ops::Range<usize> = 0xf8..0x103;
const RESPONSE_STUB: &str = "
05000000 00000200 0b000000 04000200 0b000000 0102030405060708090a0b 01 00000000 00000000";
const RESPONSE_INNER: std::ops::Range<usize> = 0x14..0x1f;

fn outgoing(pdu: &[u8], stub: &str, inner: std::ops::Range<usize>, pad: u8) -> Outgoing {
    let stub = unhex_vec(stub);
    let trailer = SecTrailer {
        auth_type: AuthType::NETLOGON,
        auth_level: AuthLevel::PRIVACY,
        auth_pad_length: pad,
        auth_context_id: 1,
    };
    let body = 0..stub.len();
    Outgoing {
        stub,
        inner: Some(inner),
        fragments: vec![OutgoingFragment { header: pdu[..24].to_vec(), body, pad, trailer }],
    }
}

fn unprotect(
    protector: &mut Protector,
    protection: Protection,
    pdu: &mut [u8],
) -> Result<Vec<u8>, SecurityError> {
    let token_start = pdu.len() - usize::from(u16::from_le_bytes([pdu[10], pdu[11]]));
    let (signed, token) = pdu.split_at_mut(token_start);
    let (signed, trailer) = signed.split_at_mut(token_start - 8);
    let (header, body) = signed.split_at_mut(24);
    protector.unprotect(protection, ProtectedFragment { header, body, trailer, token })?;
    Ok(body.to_vec())
}

#[test]
fn request_and_response_are_the_vector_s() {
    let (request, response) = (unhex_vec(REQUEST), unhex_vec(RESPONSE));
    let mut client = protector(AES_KEY, Role::Client, |c| *c = unhex("0011223344556677"));
    let mut server = protector(AES_KEY, Role::Server, |c| *c = unhex("8899aabbccddeeff"));
    assert_eq!(
        finish(client.protect(SEALED_LEVEL, outgoing(&request, REQUEST_STUB, REQUEST_INNER, 4))),
        request
    );
    let mut received = request;
    let mut body = unprotect(&mut server, SEALED_LEVEL, &mut received).expect("it verifies");
    keys(AES_KEY).decrypt_inner(&mut body[REQUEST_INNER]);
    body.truncate(268);
    assert_eq!(body, unhex_vec(REQUEST_STUB));
    assert_eq!(
        finish(server.protect(SEALED_LEVEL, outgoing(&response, RESPONSE_STUB, RESPONSE_INNER, 8))),
        response
    );
    let mut received = response;
    let mut body = unprotect(&mut client, SEALED_LEVEL, &mut received).expect("it verifies");
    keys(AES_KEY).decrypt_inner(&mut body[RESPONSE_INNER]);
    assert_eq!(body[..40], unhex_vec(RESPONSE_STUB));
}

#[test]
fn without_header_signing_the_token_is_the_vector_s() {
    let request = unhex_vec(REQUEST);
    let unsigned_header = Protection { header_signing: false, ..SEALED_LEVEL };
    let mut client = protector(AES_KEY, Role::Client, |c| *c = unhex("0011223344556677"));
    let sealed = finish(client.protect(unsigned_header, outgoing(&request, REQUEST_STUB, REQUEST_INNER, 4)));
    assert_eq!(
        sealed[304..336],
        unhex_vec("13001a00ffff0000 76bcfe3ec0d281e5 d62b4f3bd81c2658 15193cc88b6f9c69")
    );
    assert_eq!(sealed[..304], request[..304], "the ciphertext does not depend on it");
}

#[test]
fn a_pdu_with_any_bit_flipped_does_not_verify() {
    let request = unhex_vec(REQUEST);
    for bit in 0..(request.len() - 24) * 8 {
        let at = bit / 8;
        // The lengths are what the fragment is taken apart by; the association looks after them.
        if (10..12).contains(&at) {
            continue;
        }
        let mut flipped = request.clone();
        flipped[at] ^= 1 << (bit % 8);
        let mut server = protector(AES_KEY, Role::Server, random_confounder);
        assert!(unprotect(&mut server, SEALED_LEVEL, &mut flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn a_replayed_or_reflected_pdu_does_not_verify() {
    let request = unhex_vec(REQUEST);
    let mut server = protector(AES_KEY, Role::Server, random_confounder);
    assert!(unprotect(&mut server, SEALED_LEVEL, &mut request.clone()).is_ok());
    assert!(unprotect(&mut server, SEALED_LEVEL, &mut request.clone()).is_err(), "replayed");
    let mut client = protector(AES_KEY, Role::Client, random_confounder);
    assert!(unprotect(&mut client, SEALED_LEVEL, &mut request.clone()).is_err(), "reflected");
    let mut other = protector("00000000000000000000000000000001", Role::Server, random_confounder);
    assert!(unprotect(&mut other, SEALED_LEVEL, &mut request.clone()).is_err(), "another channel's");
}

#[test]
fn a_token_must_have_its_form_and_length() {
    let request = unhex_vec(REQUEST);
    let mut server = protector(AES_KEY, Role::Server, random_confounder);
    for len in (0..56).chain([57]) {
        let mut pdu = request[..304].to_vec();
        pdu.extend(request[304..].iter().chain(&[0]).take(len));
        pdu[10] = len as u8;
        let outcome = unprotect(&mut server, SEALED_LEVEL, &mut pdu);
        assert_eq!(outcome, Err(SecurityError::InvalidToken), "{len} bytes");
    }
    let mut signed_only = request.clone();
    signed_only[306..308].copy_from_slice(&[0xff, 0xff]);
    let outcome = unprotect(&mut server, SEALED_LEVEL, &mut signed_only);
    assert_eq!(outcome, Err(SecurityError::MessageAltered));
}

#[test]
fn signing_alone_leaves_the_body_readable() {
    let request = unhex_vec(REQUEST);
    let mut client = protector(AES_KEY, Role::Client, random_confounder);
    let mut message = outgoing(&request, REQUEST_STUB, REQUEST_INNER, 4);
    message.inner = None;
    let mut signed = finish(client.protect(SIGNED_LEVEL, message));
    assert_eq!(signed[24..292], unhex_vec(REQUEST_STUB));
    assert_eq!(signed[304..312], SIGNED);
    let mut server = protector(AES_KEY, Role::Server, random_confounder);
    assert!(unprotect(&mut server, SIGNED_LEVEL, &mut signed.clone()).is_ok());
    signed[30] ^= 1;
    assert!(unprotect(&mut server, SIGNED_LEVEL, &mut signed).is_err());
}

#[test]
fn sequence_numbers_are_written_as_the_digest_shows_them() {
    for (number, sender, expect) in [
        (0, Role::Client, "0000000080000000"),
        (1, Role::Server, "0000000100000000"),
        (2, Role::Client, "0000000280000000"),
        (0x1_0000_0002, Role::Client, "0000000280000001"),
    ] {
        assert_eq!(sequence_bytes(number, sender), unhex::<8>(expect));
    }
}

#[test]
fn published_vectors_of_the_document_are_reproduced() {
    // [MS-NRPC] 4.3: the sealing key, and the encrypted confounder that does not depend on the body.
    let keys = keys("0cb6948805f797bf2a82807973b89537");
    let sequence = sequence_bytes(0, Role::Client);
    let mut confounder = unhex::<8>("717f5076c5902bcd");
    keys.outer.encrypt(doubled_iv(sequence), &mut confounder);
    assert_eq!(confounder, unhex("632d1f547d2cf6ff"));
    // The checksums of 4.3 and 4.3.1, and what becomes of the sequence number under each.
    for (checksum, encrypted) in
        [("86761f2f86f4f4c1", "b37c1f0ec86468f0"), ("f092ae5c3c55aacd", "5d69950dfde45ae9")]
    {
        assert_eq!(keys.encrypted_sequence(unhex(checksum), sequence), unhex(encrypted));
    }
}
