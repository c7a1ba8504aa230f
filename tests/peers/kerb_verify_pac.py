"""Prints a KERB_VERIFY_PAC_REQUEST ([MS-APDS] 2.2.2.1) in hex: what a member relays to its domain controller in package "Kerberos".

    kerb_verify_pac.py AES256_KEY_OF_KRBTGT_IN_HEX [good|bad]

Only the KDC's signature over the server's is checked there, so any server signature will do. `bad` has one bit of it flipped.
"""

import struct
import sys

from impacket.krb5.crypto import Enctype, Key, _SHA1AES256

MESSAGE_TYPE = 3
HMAC_SHA1_96_AES256 = 16
KERB_NON_KERB_CKSUM_SALT = 17


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    server = bytes(range(12))
    key = Key(Enctype.AES256, bytes.fromhex(sys.argv[1]))
    signature = bytearray(_SHA1AES256.checksum(key, KERB_NON_KERB_CKSUM_SALT, server))
    if sys.argv[2:] == ["bad"]:
        signature[0] ^= 1
    print((struct.pack("<IIiI", MESSAGE_TYPE, len(server), HMAC_SHA1_96_AES256, len(signature)) + server + signature).hex())


main()
