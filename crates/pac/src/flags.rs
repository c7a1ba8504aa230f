/// `userAccountControl` of the directory (`UF_*`, [MS-ADTS] 2.2.16) as the PAC carries it (`USER_*`,
/// [MS-SAMR] 2.2.1.12): other bits for the same things. Bits that have no counterpart are dropped.
pub const fn user_account_control(uf: u32) -> u32 {
    const PAIRS: [(u32, u32); 21] = [
        (0x2, 0x1),              // ACCOUNTDISABLE
        (0x8, 0x2),              // HOMEDIR_REQUIRED
        (0x10, 0x400),           // LOCKOUT
        (0x20, 0x4),             // PASSWD_NOTREQD
        (0x80, 0x800),           // ENCRYPTED_TEXT_PASSWORD_ALLOWED
        (0x100, 0x8),            // TEMP_DUPLICATE_ACCOUNT
        (0x200, 0x10),           // NORMAL_ACCOUNT
        (0x800, 0x40),           // INTERDOMAIN_TRUST_ACCOUNT
        (0x1000, 0x80),          // WORKSTATION_TRUST_ACCOUNT
        (0x2000, 0x100),         // SERVER_TRUST_ACCOUNT
        (0x1_0000, 0x200),       // DONT_EXPIRE_PASSWD
        (0x4_0000, 0x1000),      // SMARTCARD_REQUIRED
        (0x8_0000, 0x2000),      // TRUSTED_FOR_DELEGATION
        (0x10_0000, 0x4000),     // NOT_DELEGATED
        (0x20_0000, 0x8000),     // USE_DES_KEY_ONLY
        (0x40_0000, 0x1_0000),   // DONT_REQUIRE_PREAUTH
        (0x80_0000, 0x2_0000),   // PASSWORD_EXPIRED
        (0x100_0000, 0x4_0000),  // TRUSTED_TO_AUTHENTICATE_FOR_DELEGATION
        (0x200_0000, 0x8_0000),  // NO_AUTH_DATA_REQUIRED
        (0x400_0000, 0x10_0000), // PARTIAL_SECRETS_ACCOUNT
        (0x800_0000, 0x20_0000), // USE_AES_KEYS
    ];
    let mut user = 0;
    let mut at = 0;
    while at < PAIRS.len() {
        if uf & PAIRS[at].0 != 0 {
            user |= PAIRS[at].1;
        }
        at += 1;
    }
    user
}
