//! Bits of NegotiateFlags ([MS-NRPC] 3.1.4.2), each with its letter there.
//!
//! Only [`GENERIC_PASS_THROUGH`], [`AES`] and [`SECURE_RPC`] change what our server and client do. The others
//! are offered because clients and controllers expect them of each other, and say nothing here.

/// A: not used. Samba calls it ACCOUNT_LOCKOUT.
pub const NOT_USED_A: u32 = 0x0000_0001;
/// B: a backup controller tries again until its database is up to date.
pub const PERSISTENT_REPLICATION: u32 = 0x0000_0002;
/// G: the server answers non-generic pass-through without ValidationLevel 2.
pub const VALIDATION_LEVEL_2_NOT_REQUIRED: u32 = 0x0000_0040;
/// K: generic pass-through.
pub const GENERIC_PASS_THROUGH: u32 = 0x0000_0400;
/// L: several calls at once.
pub const CONCURRENT_RPC: u32 = 0x0000_0800;
/// M: the user account database need not be replicated.
pub const AVOID_ACCOUNT_REPLICATION: u32 = 0x0000_1000;
/// N: the security authority database need not be replicated.
pub const AVOID_SECURITY_REPLICATION: u32 = 0x0000_2000;
/// O: strong keys. Not used where [`AES`] is negotiated.
pub const STRONG_KEYS: u32 = 0x0000_4000;
/// P: transitive trusts.
pub const TRANSITIVE_TRUSTS: u32 = 0x0000_8000;
/// Q: not used. Samba calls it DNS_DOMAIN_TRUSTS.
pub const NOT_USED_Q: u32 = 0x0001_0000;
/// R: NetrServerPasswordSet2.
pub const PASSWORD_SET2: u32 = 0x0002_0000;
/// S: NetrLogonGetDomainInfo.
pub const GET_DOMAIN_INFO: u32 = 0x0004_0000;
/// T: trusts between forests.
pub const CROSS_FOREST_TRUSTS: u32 = 0x0008_0000;
/// U: the server must not behave as Windows NT 4.0, even if it is configured to.
pub const IGNORE_NT4_EMULATION: u32 = 0x0010_0000;
/// V: a read-only controller may pass requests through to other domains.
pub const RODC_PASS_THROUGH: u32 = 0x0020_0000;
/// W: AES-128 in CFB8, and SHA-256.
pub const AES: u32 = 0x0100_0000;
/// X: not used. Samba calls it AUTHENTICATED_RPC_LSASS.
pub const NOT_USED_X: u32 = 0x2000_0000;
/// Y: secure RPC.
pub const SECURE_RPC: u32 = 0x4000_0000;

/// Without these bits no channel is set up.
pub const REQUIRED: u32 = AES | SECURE_RPC;
/// What our server and client offer. Never Z (0x8000_0000, Kerberos as the channel's security provider): if
/// both sides set it, peers leave the inner encryption of LogonData out.
pub const OFFERED: u32 = NOT_USED_A
    | PERSISTENT_REPLICATION
    | VALIDATION_LEVEL_2_NOT_REQUIRED
    | GENERIC_PASS_THROUGH
    | CONCURRENT_RPC
    | AVOID_ACCOUNT_REPLICATION
    | AVOID_SECURITY_REPLICATION
    | STRONG_KEYS
    | TRANSITIVE_TRUSTS
    | NOT_USED_Q
    | PASSWORD_SET2
    | GET_DOMAIN_INFO
    | CROSS_FOREST_TRUSTS
    | IGNORE_NT4_EMULATION
    | RODC_PASS_THROUGH
    | AES
    | NOT_USED_X
    | SECURE_RPC;

#[cfg(test)]
mod tests {
    use super::*;

    /// The letters of [MS-NRPC] 3.1.4.2, from bit 0 upwards; `.` is a bit without a letter.
    const LETTERS: &str = "ABCDEFGHIJKLMNOPQRSTUV..W....XYZ";

    #[test]
    fn each_bit_stands_at_its_letter() {
        let bits = [
            ('A', NOT_USED_A),
            ('B', PERSISTENT_REPLICATION),
            ('G', VALIDATION_LEVEL_2_NOT_REQUIRED),
            ('K', GENERIC_PASS_THROUGH),
            ('L', CONCURRENT_RPC),
            ('M', AVOID_ACCOUNT_REPLICATION),
            ('N', AVOID_SECURITY_REPLICATION),
            ('O', STRONG_KEYS),
            ('P', TRANSITIVE_TRUSTS),
            ('Q', NOT_USED_Q),
            ('R', PASSWORD_SET2),
            ('S', GET_DOMAIN_INFO),
            ('T', CROSS_FOREST_TRUSTS),
            ('U', IGNORE_NT4_EMULATION),
            ('V', RODC_PASS_THROUGH),
            ('W', AES),
            ('X', NOT_USED_X),
            ('Y', SECURE_RPC),
        ];
        for (letter, bit) in bits {
            assert_eq!(LETTERS.find(letter), Some(bit.trailing_zeros() as usize), "{letter}");
        }
        assert_eq!(
            bits.iter().fold(0, |sum, (_, bit)| sum | bit),
            OFFERED,
            "no bit is offered without its name"
        );
    }
}
