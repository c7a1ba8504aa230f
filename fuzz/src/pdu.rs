//! PDUs: the header is believed only as far as it is consistent, and each body is written as it was read.

use dcerpc::pdu::{
    Bind, BindAck, BindNak, FaultBody, Header, PacketFlags, PacketType, RequestHead, ResponseHead,
    SecTrailer, split_auth,
};
use dtyp::{ByteOrder, Decode, Encode, Reader};
use std::fmt::Debug;

/// Reads `bytes` as a PDU.
pub fn check(bytes: &[u8]) {
    let Ok(Some(header)) = Header::decode(bytes) else { return };
    let len = usize::from(header.frag_length);
    assert!(len >= Header::LEN, "no PDU is shorter than its header");
    let Some(pdu) = bytes.get(..len) else { return };
    assert_eq!(Header::decode(pdu), Ok(Some(header)), "what follows a PDU does not change it");

    let mut end = len;
    if let Ok(Some(auth)) = split_auth(&header, pdu, Header::LEN) {
        assert!((Header::LEN..=len).contains(&auth.body_end));
        assert_eq!(auth.token.len(), usize::from(header.auth_length));
        let trailer = len - auth.token.len() - SecTrailer::LEN;
        assert_eq!(auth.body_end + usize::from(auth.trailer.auth_pad_length), trailer);
        end = auth.body_end;
    }
    let body = Reader::new(&pdu[Header::LEN..end]).with_order(header.order);
    match header.packet_type {
        PacketType::BIND | PacketType::ALTER_CONTEXT => again::<Bind>(body),
        PacketType::BIND_ACK | PacketType::ALTER_CONTEXT_RESP => again::<BindAck>(body),
        PacketType::BIND_NAK => again::<BindNak>(body),
        PacketType::RESPONSE => again::<ResponseHead>(body),
        PacketType::FAULT => fault(body),
        PacketType::REQUEST => request(body, header.flags),
        _ => {}
    }
}

/// What is read is written and read again, the same.
fn again<T: for<'a> Decode<'a> + Encode + PartialEq + Debug>(mut body: Reader<'_>) {
    if let Ok(value) = T::decode(&mut body) {
        assert_eq!(T::decode(&mut Reader::new(&value.to_bytes())).as_ref(), Ok(&value));
    }
}

fn fault(mut body: Reader<'_>) {
    let Ok(fault) = FaultBody::decode(&mut body) else { return };
    let pdu = fault.to_pdu(7, false);
    let header = Header::decode(&pdu).expect("our own").expect("whole");
    assert_eq!((usize::from(header.frag_length), header.order), (pdu.len(), ByteOrder::Little));
    assert_eq!(FaultBody::decode(&mut Reader::new(&pdu[Header::LEN..])), Ok(fault));
}

fn request(mut body: Reader<'_>, flags: PacketFlags) {
    if let Ok(head) = RequestHead::decode(&mut body, flags) {
        assert_eq!(RequestHead::decode(&mut Reader::new(&head.to_bytes()), flags), Ok(head));
    }
}
