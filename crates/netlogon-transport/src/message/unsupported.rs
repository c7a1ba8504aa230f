//! Methods that exist and are not offered: their results, all null and zero, with an honest status.

use dcerpc::ndr::{NdrSyntax, NdrWriter};
use dtyp::NtStatus;

/// ERROR_NOT_SUPPORTED, for methods that return a NET_API_STATUS.
const ERROR_NOT_SUPPORTED: u32 = 50;

/// The results of a method that is not offered; `None` for a number that is no method ([MS-NRPC] 3.5.4).
///
/// The letters are a method's out parameters: `a` an authenticator, `p` a null pointer, `d` a doubleword, `t`
/// the tag 1 of a union, `8` and `h` eight and sixteen bytes (`h` a hash: methods that return one are never
/// offered), `c` a conformant array of nothing; then `n` an NTSTATUS or `e` a NET_API_STATUS.
pub fn unsupported(opnum: u16, syntax: NdrSyntax) -> Option<Vec<u8>> {
    let layout = match opnum {
        0 | 11 | 13 | 20 | 27 | 28 | 33 | 34 | 37 | 38 | 43 => "pe",
        1 => "8e",
        6 | 32 => "an",
        7 => "a8pn",
        8 | 16 => "adpn",
        9 | 10 => "acdd8hn",
        12 | 14 | 18 => "tpe",
        17 => "apn",
        19 => "dpn",
        22 => "n",
        23 => "de",
        24 | 25 => "hhe",
        31 => "ahn",
        35 => "pde",
        36 | 40 => "dpe",
        41 => "e",
        42 => "ahhn",
        44 => "apn",
        46 => "ahhpn",
        48 => "adpn",
        49 => "adtpn",
        _ => return None,
    };
    let mut writer = NdrWriter::new(syntax);
    for parameter in layout.bytes() {
        match parameter {
            b'a' => {
                writer.align(4);
                writer.bytes(&[0; 12]);
            }
            b'p' => writer.pointer(false),
            b'c' => writer.count(0),
            b'd' => writer.u32(0),
            b't' => {
                writer.align_pointer();
                writer.u32(1);
            }
            b'8' => {
                writer.align(4);
                writer.bytes(&[0; 8]);
            }
            b'h' => writer.bytes(&[0; 16]),
            b'n' => writer.u32(NtStatus::NOT_SUPPORTED.0),
            _ => writer.u32(ERROR_NOT_SUPPORTED),
        }
    }
    Some(writer.into_bytes())
}
