#!/usr/bin/env python3
"""Issues certificates anew with RSA keys, which bindings without negotiation need: rsa_certificate.py FOLDER NAME...

FOLDER has ca.pem and ca.key. NAME.pem becomes NAME.rsa.pem and NAME.rsa.key, with the same names and extensions; its key is for
key encipherment, too. NAME.rsa.p12 has both, with the password "key" and what Mono can read.
"""
import pathlib
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import pkcs12


def main():
    folder, *names = sys.argv[1:]
    folder = pathlib.Path(folder)
    ca = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    ca_key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    old = serialization.PrivateFormat.PKCS12.encryption_builder().kdf_rounds(2000).hmac_hash(hashes.SHA1())
    old = old.key_cert_algorithm(pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC).build(b"key")
    for name in names:
        like = x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes())
        key = rsa.generate_private_key(65537, 2048)
        builder = x509.CertificateBuilder(
            issuer_name=ca.subject, subject_name=like.subject, public_key=key.public_key(), serial_number=x509.random_serial_number(),
            not_valid_before=like.not_valid_before, not_valid_after=like.not_valid_after)
        for extension in like.extensions:
            if extension.oid != x509.KeyUsage.oid:
                builder = builder.add_extension(extension.value, extension.critical)
        builder = builder.add_extension(x509.KeyUsage(True, False, True, False, False, False, False, False, False), True)
        issued = builder.sign(ca_key, hashes.SHA256())
        (folder / f"{name}.rsa.pem").write_bytes(issued.public_bytes(serialization.Encoding.PEM))
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        both = pkcs12.serialize_key_and_certificates(name.encode(), key, issued, None, old)
        for suffix, octets in [("key", pem), ("p12", both)]:
            secret = folder / f"{name}.rsa.{suffix}"
            secret.touch(0o600)
            secret.write_bytes(octets)


main()
