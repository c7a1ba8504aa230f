//! The endpoint mapper (\[C706\] appendix O, [MS-RPCE] 3.1.3.5): which port serves an interface?
//!
//! The service is a list and a function. A lookup handle carries its own position, so there is nothing to
//! keep for a client that never comes back.

use crate::ndr::{ContextHandle, NdrReader, NdrSyntax, NdrWriter};
use crate::pdu::{FaultStatus, SyntaxId};
use dtyp::{ByteOrder, Decode, DecodeError, DecodeErrorKind, Encode, Guid, Reader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The interface of the endpoint mapper.
pub const ENDPOINT_MAPPER: SyntaxId = SyntaxId::new(
    Guid::new(0xe1af_8308, 0x5d1f, 0x11c9, [0x91, 0xa4, 0x08, 0x00, 0x2b, 0x14, 0xa0, 0xfa]),
    3,
    0,
);

/// ept_lookup.
pub const EPT_LOOKUP: u16 = 2;
/// ept_map.
pub const EPT_MAP: u16 = 3;
/// ept_lookup_handle_free.
pub const EPT_LOOKUP_HANDLE_FREE: u16 = 4;

/// `status`: found.
const STATUS_OK: u32 = 0;
/// `status`: nothing, or nothing more.
const STATUS_NOT_REGISTERED: u32 = 0x16c9_a0d6;
/// `status`: the question makes no sense.
const STATUS_INVALID_ENTRY: u32 = 0x16c9_a0cd;
/// A question asks for at most this many answers (`range(0,500)`).
const ENTRIES_MAX: u32 = 500;
/// Towers have five floors; six is generous.
const FLOORS_MAX: u16 = 6;
/// Longest tower, in bytes: what Windows takes.
const TOWER_LEN_MAX: usize = 2000;

/// One interface at one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The interface.
    pub interface: SyntaxId,
    /// The transfer syntax: [`SyntaxId::NDR`] or [`SyntaxId::NDR64`]. An interface that speaks both is
    /// registered twice.
    pub transfer_syntax: SyntaxId,
    /// Where it is served, by TCP.
    pub address: SocketAddr,
    /// What it is, for people.
    pub annotation: &'static str,
}

impl Endpoint {
    fn tower(&self) -> ProtocolTower {
        ProtocolTower::tcp(&self.interface, &self.transfer_syntax, self.address)
    }
}

/// A protocol tower (\[C706\] appendix I): floors that say interface, transfer syntax, protocol, port and
/// address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtocolTower {
    /// The floors, the interface first.
    pub floors: Vec<Floor>,
}

/// One floor: a protocol identifier with its data, and data of the endpoint's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Floor {
    /// Left-hand side: the identifier's byte, and a UUID with its major version where the identifier is 0x0d.
    pub lhs: Vec<u8>,
    /// Right-hand side: a minor version, a port, an address.
    pub rhs: Vec<u8>,
}

const PROTOCOL_UUID: u8 = 0x0d;
const PROTOCOL_NCACN: u8 = 0x0b;
const PROTOCOL_TCP: u8 = 0x07;
const PROTOCOL_IP: u8 = 0x09;

impl Floor {
    fn uuid(syntax: &SyntaxId) -> Self {
        let mut lhs = vec![PROTOCOL_UUID];
        syntax.uuid.encode(&mut lhs);
        lhs.extend_from_slice(&syntax.major.to_le_bytes());
        Self { lhs, rhs: syntax.minor.to_le_bytes().to_vec() }
    }

    /// The interface or transfer syntax that a floor names.
    fn syntax(&self) -> Option<SyntaxId> {
        let (&PROTOCOL_UUID, rest) = self.lhs.split_first()? else { return None };
        let mut reader = Reader::new(rest);
        let uuid = Guid::decode(&mut reader).ok()?;
        let major = reader.u16("major").ok()?;
        reader.finish("floor").ok()?;
        let minor = self.rhs.as_slice().try_into().ok().map(u16::from_le_bytes)?;
        Some(SyntaxId::new(uuid, major, minor))
    }

    fn protocol(&self) -> Option<u8> {
        match self.lhs[..] {
            [protocol] => Some(protocol),
            _ => None,
        }
    }
}

impl ProtocolTower {
    /// The tower of an interface in a transfer syntax over TCP. Addresses other than IPv4 have no floor, so
    /// theirs is 0.0.0.0.
    pub fn tcp(interface: &SyntaxId, transfer_syntax: &SyntaxId, address: SocketAddr) -> Self {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip,
            IpAddr::V6(ip) => ip.to_ipv4_mapped().unwrap_or(Ipv4Addr::UNSPECIFIED),
        };
        let floor = |protocol, rhs| Floor { lhs: vec![protocol], rhs };
        Self {
            floors: vec![
                Floor::uuid(interface),
                Floor::uuid(transfer_syntax),
                floor(PROTOCOL_NCACN, vec![0, 0]),
                floor(PROTOCOL_TCP, address.port().to_be_bytes().to_vec()),
                floor(PROTOCOL_IP, ip.octets().to_vec()),
            ],
        }
    }

    /// The interface and the transfer syntax, when this is a tower over TCP and IP.
    fn tcp_interface(&self) -> Option<(SyntaxId, SyntaxId)> {
        let [interface, transfer, connection, tcp, ip] = &self.floors[..] else { return None };
        let protocols = [connection, tcp, ip].map(Floor::protocol);
        let is_tcp = protocols == [Some(PROTOCOL_NCACN), Some(PROTOCOL_TCP), Some(PROTOCOL_IP)];
        interface.syntax().zip(transfer.syntax()).filter(|_| is_tcp)
    }

    /// The port of a tower of TCP.
    pub fn tcp_port(&self) -> Option<u16> {
        let tcp = self.floors.get(3).filter(|floor| floor.protocol() == Some(PROTOCOL_TCP))?;
        tcp.rhs.as_slice().try_into().ok().map(u16::from_be_bytes)
    }
}

impl Encode for ProtocolTower {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.floors.len() as u16).to_le_bytes());
        for floor in &self.floors {
            for side in [&floor.lhs, &floor.rhs] {
                out.extend_from_slice(&(side.len() as u16).to_le_bytes());
                out.extend_from_slice(side);
            }
        }
    }
}

impl Decode<'_> for ProtocolTower {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = reader.u16("floor_count")?;
        if count > FLOORS_MAX {
            return Err(reader.error("floor_count", DecodeErrorKind::TooLong));
        }
        let mut side = || {
            let len = reader.u16("floor")?;
            reader.take("floor", usize::from(len)).map(<[u8]>::to_vec)
        };
        let floors =
            (0..count).map(|_| Ok(Floor { lhs: side()?, rhs: side()? })).collect::<Result<_, _>>()?;
        Ok(Self { floors })
    }
}

fn write_tower(writer: &mut NdrWriter, tower: &ProtocolTower) {
    let octets = tower.to_bytes();
    writer.count(octets.len());
    writer.u32(octets.len() as u32);
    writer.bytes(&octets);
}

fn read_tower(reader: &mut NdrReader<'_>) -> Result<ProtocolTower, DecodeError> {
    let max = reader.count("tower_length", TOWER_LEN_MAX)?;
    let len = reader.u32("tower_length")? as usize;
    if len != max {
        return Err(reader.error("tower_length", DecodeErrorKind::Mismatch));
    }
    // Lengths inside a tower are little-endian, whatever the stub is.
    ProtocolTower::from_bytes("tower", reader.bytes("tower", len)?)
}

/// Parameters of ept_map for an interface in NDR over TCP.
pub fn map_request(interface: &SyntaxId) -> Vec<u8> {
    let mut writer = NdrWriter::new(NdrSyntax::Ndr);
    write_map_request(&mut writer, interface, 4);
    writer.into_bytes()
}

fn write_map_request(writer: &mut NdrWriter, interface: &SyntaxId, max_towers: u32) {
    // Windows numbers these full pointers 1 and 2.
    writer.count(1);
    writer.guid(&Guid::NIL);
    writer.count(2);
    let anywhere = SocketAddr::from(([0, 0, 0, 0], 0));
    write_tower(writer, &ProtocolTower::tcp(interface, &SyntaxId::NDR, anywhere));
    ContextHandle::default().write(writer);
    writer.u32(max_towers);
}

/// The ports in the results of ept_map; none when the interface is not registered.
pub fn map_ports(stub: &[u8], order: ByteOrder) -> Result<Vec<u16>, DecodeError> {
    let mut reader = NdrReader::new(stub, NdrSyntax::Ndr, order);
    ContextHandle::read(&mut reader, "entry_handle")?;
    let count = reader.u32("num_towers")? as usize;
    reader.count("towers", usize::MAX)?;
    reader.count("towers", 0)?;
    if reader.count("towers", ENTRIES_MAX as usize)? != count {
        return Err(reader.error("num_towers", DecodeErrorKind::Mismatch));
    }
    let mut present = 0;
    for _ in 0..count {
        present += usize::from(reader.pointer("towers")?);
    }
    let towers = (0..present).map(|_| read_tower(&mut reader)).collect::<Result<Vec<_>, _>>()?;
    Ok(towers.iter().filter_map(ProtocolTower::tcp_port).filter(|port| *port != 0).collect())
}

/// The service: pure, over a list that does not change while it is served.
#[derive(Clone, Debug, Default)]
pub struct EndpointMapper {
    /// What is registered.
    pub endpoints: Vec<Endpoint>,
}

/// The handle of a lookup that goes on at an entry: it says so itself.
const HANDLE: Guid = Guid::new(0x7263_6d70, 0x6570, 0x6d00, [0; 8]);

impl EndpointMapper {
    /// Performs a call.
    pub fn call(
        &self,
        opnum: u16,
        stub: &[u8],
        syntax: NdrSyntax,
        order: ByteOrder,
    ) -> Result<Vec<u8>, FaultStatus> {
        let mut reader = NdrReader::new(stub, syntax, order);
        let mut writer = NdrWriter::new(syntax);
        match opnum {
            EPT_LOOKUP => self.lookup(&mut reader, &mut writer)?,
            EPT_MAP => self.map(&mut reader, &mut writer)?,
            EPT_LOOKUP_HANDLE_FREE => {
                ContextHandle::read(&mut reader, "entry_handle")?;
                ContextHandle::default().write(&mut writer);
                writer.u32(STATUS_OK);
            }
            // The others change the registry, which is not for clients.
            0 | 1 | 5 | 6 => return Err(FaultStatus::CANNOT_PERFORM),
            _ => return Err(FaultStatus::OP_RANGE_ERROR),
        }
        Ok(writer.into_bytes())
    }

    fn map(&self, reader: &mut NdrReader<'_>, writer: &mut NdrWriter) -> Result<(), FaultStatus> {
        let object = match reader.pointer("obj")? {
            true => reader.guid("obj")?,
            false => Guid::NIL,
        };
        let tower = match reader.pointer("map_tower")? {
            true => Some(read_tower(reader)?),
            false => None,
        };
        ContextHandle::read(reader, "entry_handle")?;
        let max_towers = reader.u32("max_towers")?;
        if max_towers > ENTRIES_MAX {
            return Err(FaultStatus::BAD_STUB_DATA);
        }
        let Some(tower) = tower else {
            write_towers(writer, max_towers, &[], STATUS_INVALID_ENTRY);
            return Ok(());
        };
        let towers: Vec<ProtocolTower> = match tower.tcp_interface() {
            Some((wanted, syntax)) if object == Guid::NIL => self
                .endpoints
                .iter()
                .filter(|it| it.interface.serves(&wanted) && it.transfer_syntax.serves(&syntax))
                .take(max_towers as usize)
                .map(Endpoint::tower)
                .collect(),
            _ => Vec::new(),
        };
        let status = if towers.is_empty() { STATUS_NOT_REGISTERED } else { STATUS_OK };
        write_towers(writer, max_towers, &towers, status);
        Ok(())
    }

    fn lookup(&self, reader: &mut NdrReader<'_>, writer: &mut NdrWriter) -> Result<(), FaultStatus> {
        let inquiry_type = reader.u32("inquiry_type")?;
        let object = match reader.pointer("object")? {
            true => Some(reader.guid("object")?),
            false => None,
        };
        let interface = match reader.pointer("Ifid")? {
            true => {
                let uuid = reader.guid("Ifid")?;
                Some(SyntaxId::new(uuid, reader.u16("Ifid")?, reader.u16("Ifid")?))
            }
            false => None,
        };
        let version_option = reader.u32("vers_option")?;
        let handle = ContextHandle::read(reader, "entry_handle")?;
        let max_entries = reader.u32("max_ents")?;
        if max_entries > ENTRIES_MAX {
            return Err(FaultStatus::BAD_STUB_DATA);
        }
        let start = match handle.id {
            Guid::NIL => 0,
            Guid { data4, .. } if handle.id == (Guid { data4, ..HANDLE }) => {
                usize::try_from(u64::from_be_bytes(data4) & 0xffff).unwrap_or(0)
            }
            _ => return Err(FaultStatus::CONTEXT_MISMATCH),
        };
        let by_object = matches!(inquiry_type, 2 | 3) && object.is_some_and(|object| object != Guid::NIL);
        let matches = |endpoint: &&Endpoint| match (inquiry_type, interface) {
            _ if by_object => false,
            (1 | 3, Some(wanted)) => version_matches(&endpoint.interface, &wanted, version_option),
            _ => true,
        };
        let entries: Vec<_> =
            self.endpoints.iter().filter(matches).skip(start).take(max_entries as usize).collect();
        let next = start + entries.len();
        let more = self.endpoints.iter().filter(matches).nth(next).is_some();
        let id = match more {
            true => Guid { data4: (next as u64).to_be_bytes(), ..HANDLE },
            false => Guid::NIL,
        };
        ContextHandle { attributes: 0, id }.write(writer);
        writer.u32(entries.len() as u32);
        writer.count(max_entries as usize);
        writer.count(0);
        writer.count(entries.len());
        for entry in &entries {
            writer.align_pointer();
            writer.guid(&Guid::NIL);
            writer.pointer(true);
            writer.u32(0);
            writer.u32(entry.annotation.len() as u32 + 1);
            writer.bytes(entry.annotation.as_bytes());
            writer.u8(0);
            writer.end_of_structure();
        }
        for entry in &entries {
            write_tower(writer, &entry.tower());
        }
        writer.u32(if entries.is_empty() { STATUS_NOT_REGISTERED } else { STATUS_OK });
        Ok(())
    }
}

/// `vers_option`: all, compatible, exact, major only, up to. Documents number them from 1 and Samba from 0,
/// so both are "all" here.
fn version_matches(ours: &SyntaxId, wanted: &SyntaxId, option: u32) -> bool {
    ours.uuid == wanted.uuid
        && match option {
            0 | 1 => true,
            2 => ours.serves(wanted),
            3 => ours == wanted,
            4 => ours.major == wanted.major,
            _ => (ours.major, ours.minor) <= (wanted.major, wanted.minor),
        }
}

fn write_towers(writer: &mut NdrWriter, max_towers: u32, towers: &[ProtocolTower], status: u32) {
    ContextHandle::default().write(writer);
    writer.u32(towers.len() as u32);
    writer.count(max_towers as usize);
    writer.count(0);
    writer.count(towers.len());
    // As in the question, full pointers are numbered on: 3, 4, ….
    (0..towers.len()).for_each(|n| writer.count(3 + n));
    towers.iter().for_each(|tower| write_tower(writer, tower));
    writer.u32(status);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::unhex;

    const NETLOGON: SyntaxId = SyntaxId::new(
        Guid::new(0x1234_5678, 0x1234, 0xabcd, [0xef, 0, 1, 0x23, 0x45, 0x67, 0xcf, 0xfb]),
        1,
        0,
    );
    /// The vectors of the digest, section 9.
    const REQUEST: &str = "
        0100000000000000000000000000000000000000020000004b0000004b000000050013000d785634123412cdabef0001
        234567cffb01000200000013000d045d888aeb1cc9119fe808002b10486002000200000001000b020000000100070200
        000001000904000000000000000000000000000000000000000000000000000004000000";
    const ANSWER: &str = "
        000000000000000000000000000000000000000001000000040000000000000001000000030000004b0000004b000000
        050013000d785634123412cdabef0001234567cffb01000200000013000d045d888aeb1cc9119fe808002b1048600200
        0200000001000b020000000100070200c2000100090400c000020a0000000000";

    fn mapper() -> EndpointMapper {
        let endpoint = |interface, port| Endpoint {
            interface,
            transfer_syntax: SyntaxId::NDR,
            address: SocketAddr::from(([192, 0, 2, 10], port)),
            annotation: "rcmpd",
        };
        EndpointMapper { endpoints: vec![endpoint(NETLOGON, 49664), endpoint(ENDPOINT_MAPPER, 135)] }
    }

    fn call(opnum: u16, stub: &[u8]) -> Result<Vec<u8>, FaultStatus> {
        mapper().call(opnum, stub, NdrSyntax::Ndr, ByteOrder::Little)
    }

    fn status(stub: &[u8]) -> u32 {
        u32::from_le_bytes(*stub.last_chunk().expect("a status ends it"))
    }

    #[test]
    fn question_and_answer_are_the_vectors() {
        assert_eq!(dtyp::hex(&map_request(&NETLOGON)), dtyp::hex(&unhex(REQUEST)));
        let answer = call(EPT_MAP, &unhex(REQUEST)).expect("it is well formed");
        assert_eq!(dtyp::hex(&answer), dtyp::hex(&unhex(ANSWER)));
        assert_eq!(map_ports(&answer, ByteOrder::Little), Ok(vec![49664]));
    }

    #[test]
    fn what_is_not_registered_is_not_found() {
        let other = SyntaxId { major: 2, ..NETLOGON };
        let answer = call(EPT_MAP, &map_request(&other)).expect("it is well formed");
        assert_eq!(status(&answer), STATUS_NOT_REGISTERED);
        assert_eq!(map_ports(&answer, ByteOrder::Little), Ok(vec![]));
        // A tower of named pipes.
        let mut pipe = unhex(REQUEST);
        pipe[93] = 0x0f;
        assert_eq!(call(EPT_MAP, &pipe).map(|answer| status(&answer)), Ok(STATUS_NOT_REGISTERED));
    }

    /// The towers of [MS-SSP] as Impacket and Samba ask for them and as a server of 127.0.0.1 answers.
    #[test]
    fn an_interface_that_speaks_both_transfer_syntaxes_has_a_tower_in_each() {
        let uuid = [0xb7, 0x27, 0xac, 0xf3, 0x7f, 0xea, 0x5b, 0xbc];
        let interface = SyntaxId::new(Guid::new(0x9d07_ca0d, 0x8f02, 0x4ed5, uuid), 1, 0);
        let endpoint = |transfer_syntax| Endpoint {
            interface,
            transfer_syntax,
            address: SocketAddr::from(([127, 0, 0, 1], 49200)),
            annotation: "",
        };
        let mapper = EndpointMapper { endpoints: [SyntaxId::NDR, SyntaxId::NDR64].map(endpoint).to_vec() };
        for floor in ["045d888aeb1cc9119fe808002b10486002000200", "33057171babe37498319b5dbef9ccc3601000200"]
        {
            let tower = |last: &str| {
                format!(
                    "050013000d0dca079d028fd54eb727acf37fea5bbc01000200000013000d{floor}00000100\
                     0b020000000100070200{last}"
                )
            };
            let mut question = map_request(&interface);
            let asked = tower("0000010009040000000000");
            question[32..32 + 75].copy_from_slice(&unhex(&asked));
            let answer = mapper.call(EPT_MAP, &question, NdrSyntax::Ndr, ByteOrder::Little);
            let answer = dtyp::hex(&answer.expect("it is well formed"));
            assert!(answer.contains(&tower("c03001000904007f000001")), "{answer}");
            assert_eq!(answer.matches("0dca079d").count(), 1, "{answer}");
        }
    }

    #[test]
    fn a_question_is_read_whole_or_not_at_all() {
        let request = unhex(REQUEST);
        for len in 0..request.len() {
            assert_eq!(call(EPT_MAP, &request[..len]), Err(FaultStatus::BAD_STUB_DATA), "{len}");
        }
        for (at, value) in [(24, 0xff), (28, 0x4a), (32, 7), (34, 0xff), (128, 0xff)] {
            let mut wrong = request.clone();
            wrong[at..at + 2].fill(value);
            assert_eq!(call(EPT_MAP, &wrong), Err(FaultStatus::BAD_STUB_DATA), "byte {at}");
        }
    }

    fn lookup_request(
        inquiry_type: u32,
        interface: Option<&SyntaxId>,
        handle: ContextHandle,
        max: u32,
    ) -> Vec<u8> {
        let mut writer = NdrWriter::new(NdrSyntax::Ndr);
        writer.u32(inquiry_type);
        writer.pointer(false);
        writer.pointer(interface.is_some());
        if let Some(interface) = interface {
            writer.guid(&interface.uuid);
            writer.u16(interface.major);
            writer.u16(interface.minor);
        }
        writer.u32(1);
        handle.write(&mut writer);
        writer.u32(max);
        writer.into_bytes()
    }

    #[test]
    fn a_lookup_goes_on_where_it_stopped() {
        let mut handle = ContextHandle::default();
        let mut found = 0;
        for round in 0..2 {
            let answer = call(EPT_LOOKUP, &lookup_request(0, None, handle, 1)).expect("it is well formed");
            let mut reader = NdrReader::new(&answer, NdrSyntax::Ndr, ByteOrder::Little);
            handle = ContextHandle::read(&mut reader, "handle").expect("it is there");
            found += reader.u32("num_ents").expect("it is there");
            assert_eq!(status(&answer), STATUS_OK);
            assert_eq!(handle == ContextHandle::default(), round == 1, "the last page closes the handle");
        }
        assert_eq!(found, 2);
        let by_interface =
            call(EPT_LOOKUP, &lookup_request(1, Some(&NETLOGON), ContextHandle::default(), 500));
        let mut reader_stub = by_interface.expect("it is well formed");
        reader_stub.drain(..20);
        assert_eq!(reader_stub[..4], [1, 0, 0, 0]);
        let forged = ContextHandle { attributes: 0, id: Guid { data1: 7, ..Guid::NIL } };
        assert_eq!(call(EPT_LOOKUP, &lookup_request(0, None, forged, 1)), Err(FaultStatus::CONTEXT_MISMATCH));
        let beyond = ContextHandle { attributes: 0, id: Guid { data4: [0xff; 8], ..HANDLE } };
        let beyond = call(EPT_LOOKUP, &lookup_request(0, None, beyond, 1)).expect("it is well formed");
        assert_eq!(status(&beyond), STATUS_NOT_REGISTERED);
    }

    #[test]
    fn no_client_changes_the_registry() {
        for opnum in [0, 1, 5, 6] {
            assert_eq!(call(opnum, &[]), Err(FaultStatus::CANNOT_PERFORM));
        }
        assert_eq!(call(7, &[]), Err(FaultStatus::OP_RANGE_ERROR));
        let freed = call(EPT_LOOKUP_HANDLE_FREE, &[7; 20]).expect("it is well formed");
        assert_eq!(freed, [0; 24]);
    }
}
