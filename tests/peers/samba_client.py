"""Asks a Netlogon server as Samba's stack does: 4, 15, a sealed bind with header signing, then 21 and 39.

    samba_client.py JSON           (or `-` to read it from standard input; run it with /usr/bin/python3)

  host, port, domain, account, computer, secret | secret_file     as impacket_client.py
  bigendian, ndr64              true: Samba sends that data representation, or offers that transfer syntax
  level                         "seal" (default) or "sign"
  capabilities                  levels of NetrLogonGetCapabilities to ask first, [1] say
  questions                     as impacket_client.py, without inner_encryption

Prints {"transfer_syntax": "...", "capabilities": [...], "answers": [...], "error": null}. An answer has status, authoritative,
extra_flags, validation, data, response as impacket_client.py has them, and pac: every field, decoded by Samba's bindings.
An error answer has status alone: Samba's bindings raise it and keep the rest.

The inner encryption is Samba's too: its bindings do not hand out the session key, but they encrypt a structure of 516 bytes
with it (AES-CFB8, zero IV). In CFB8 the key stream's next byte depends on the last sixteen bytes of ciphertext only, so any
text can be led through that window; see `InnerCipher`.
"""

import sys

from samba import NTSTATUSError
from samba.credentials import DONT_USE_KERBEROS, Credentials
from samba.dcerpc import krb5pac, lsa, misc, netlogon
from samba.ndr import ndr_pack, ndr_unpack
from samba.param import LoadParm

import rcmp

WINDOW = 512
REGISTER = 16


class InnerCipher:
    """AES-128-CFB8 with a zero IV under the channel's session key, made of Samba's encrypt_netr_crypt_password."""

    def __init__(self, credentials):
        self.credentials = credentials

    def window(self, plain):
        """The ciphertext of at most 512 bytes that start a stream."""
        secret = netlogon.netr_CryptPassword()
        secret.data = list(plain.ljust(WINDOW, b"\0"))
        secret.length = 1  # Samba refuses a structure of zeros.
        self.credentials.encrypt_netr_crypt_password(secret)
        return bytes(secret.data[:len(plain)])

    def lead(self, register):
        """The plain text whose ciphertext at the start of a stream is `register`."""
        plain = b""
        for wanted in register:
            plain += bytes([self.window(plain + b"\0")[-1] ^ wanted])
        return plain

    def encrypt(self, plain):
        done = self.window(plain[:WINDOW])
        while len(done) < len(plain):
            lead = self.lead(done[-REGISTER:])
            done += self.window(lead + plain[len(done):len(done) + WINDOW - REGISTER])[REGISTER:]
        return done

    def decrypt(self, sealed):
        plain, lead, start = b"", b"", 0
        while len(plain) < len(sealed):
            at = len(plain)
            if len(lead) + at - start == WINDOW:
                start, lead = at, self.lead(sealed[at - REGISTER:at])
            # All ciphertext before this byte is as wanted, so the window shows the key stream's byte here.
            stream = self.window(lead + plain[start:] + b"\0")[-1]
            plain += bytes([stream ^ sealed[at]])
        return plain


def connect(given):
    parameters = LoadParm()
    for name, value in (("workgroup", given["domain"]), ("realm", given.get("realm", given["domain"] + ".EXAMPLE")),
                        ("netbios name", given["computer"]), ("interfaces", "127.0.0.1/8"), ("log level", "0")):
        parameters.set(name, value)
    credentials = Credentials()
    credentials.guess(parameters)
    credentials.set_kerberos_state(DONT_USE_KERBEROS)
    credentials.set_domain(given["domain"])
    credentials.set_workstation(given["computer"])
    credentials.set_username(given["account"])
    credentials.set_password(given["secret"])
    credentials.set_secure_channel_type(given.get("channel_type", misc.SEC_CHAN_WKSTA))
    options = ["schannel", given.get("level", "seal")] + [name for name in ("bigendian", "ndr64") if given.get(name)]
    binding = f"ncacn_ip_tcp:{given['host']}[{given['port']},{','.join(options)}]"
    return netlogon.netlogon(binding, parameters, credentials), credentials


def capabilities(given, rpc, credentials, level):
    asked = credentials.new_client_authenticator()
    authenticator, empty = netlogon.netr_Authenticator(), netlogon.netr_Authenticator()
    authenticator.cred.data, authenticator.timestamp = list(asked["credential"]), asked["timestamp"]
    _, answer = rpc.netr_LogonGetCapabilities(given["server"], given["computer"], authenticator, empty, level)
    return {"level": level, "status": rcmp.status(0), "flags": rcmp.status(answer)}


def ask(given, rpc, cipher, question):
    data = cipher.encrypt(rcmp.question_data(question))
    generic = netlogon.netr_GenericInfo()
    generic.identity_info.domain_name.string = question.get("logon_domain", given["domain"])
    generic.identity_info.account_name.string = ""
    generic.identity_info.workstation.string = ""
    generic.package_name.string = question.get("package", rcmp.PACKAGE)
    generic.length, generic.data = len(data), list(data)
    try:
        validation, authoritative, extra_flags = rpc.netr_LogonSamLogonEx(
            question.get("server", given["server"]), question.get("computer", given["computer"]),
            question.get("logon_level", netlogon.NetlogonGenericInformation), generic,
            question.get("validation_level", netlogon.NetlogonValidationGenericInfo2), question.get("extra_flags", 0))
    except NTSTATUSError as error:
        return {"status": rcmp.status(error.args[0]), "text": error.args[1], "request_length": len(data)}
    result = {"status": rcmp.status(0), "authoritative": authoritative, "extra_flags": extra_flags, "validation": None,
              "request_length": len(data)}
    if validation is not None:
        sealed = bytes(validation.data or [])
        plain = cipher.decrypt(sealed)
        result.update(validation=sealed.hex(), data=plain.hex())
        if plain:
            try:
                result["response"] = rcmp.decode_response(plain)
                result["pac"] = read_pac(bytes.fromhex(result["response"]["pac"]))
            except (ValueError, RuntimeError) as error:
                result["response_error"] = str(error)
    return result


def read_pac(data):
    """[MS-PAC] as Samba's bindings see it, field by field; `repacked` says whether they would write the same bytes."""
    decoded = ndr_unpack(krb5pac.PAC_DATA, data)
    found = {"version": decoded.version, "types": [buffer.type for buffer in decoded.buffers], "repacked": ndr_pack(decoded) == data}
    for buffer in decoded.buffers:
        info = buffer.info
        if buffer.type == krb5pac.PAC_TYPE_LOGON_INFO:
            found["logon_info"] = logon_info(info.info)
        elif buffer.type == krb5pac.PAC_TYPE_LOGON_NAME:
            found["client_info"] = {"client_id": info.logon_time, "name": info.account_name}
        elif buffer.type == krb5pac.PAC_TYPE_UPN_DNS_INFO:
            found["upn_dns_info"] = {"upn": info.upn_name, "dns_domain": info.dns_domain_name, "flags": info.flags}
            if info.flags & krb5pac.PAC_UPN_DNS_FLAG_HAS_SAM_NAME_AND_SID:
                found["upn_dns_info"].update(sam_name=info.ex.samaccountname, sid=str(info.ex.objectsid))
        elif buffer.type == krb5pac.PAC_TYPE_REQUESTER_SID:
            found["requestor"] = str(info.sid)
    return found


def logon_info(info):
    base = info.info3.base
    domain = str(base.domain_sid)

    def relative(groups):
        return [{"rid": group.rid, "attributes": group.attributes} for group in groups or []]

    resource = info.resource_groups
    return {
        "logon_time": base.logon_time, "logoff_time": base.logoff_time, "kick_off_time": base.kickoff_time,
        "password_last_set": base.last_password_change, "password_can_change": base.allow_password_change,
        "password_must_change": base.force_password_change, "effective_name": base.account_name.string,
        "full_name": base.full_name.string, "logon_script": base.logon_script.string, "profile_path": base.profile_path.string,
        "home_directory": base.home_directory.string, "home_directory_drive": base.home_drive.string,
        "logon_count": base.logon_count, "bad_password_count": base.bad_password_count, "user_id": base.rid,
        "primary_group_id": base.primary_gid, "groups": relative(base.groups.rids), "user_flags": base.user_flags,
        "session_key": bytes(base.key.key).hex(), "logon_server": base.logon_server.string, "logon_domain": base.logon_domain.string,
        "domain_sid": domain, "user_sid": f"{domain}-{base.rid}", "user_account_control": base.acct_flags,
        "sub_auth_status": base.sub_auth_status, "last_successful_logon": base.last_successful_logon,
        "last_failed_logon": base.last_failed_logon, "failed_logon_count": base.failed_logon_count,
        "extra_sids": [{"sid": str(extra.sid), "attributes": extra.attributes} for extra in info.info3.sids or []],
        "resource_domain_sid": str(resource.domain_sid) if resource.domain_sid else None,
        "resource_groups": relative(resource.groups.rids),
    }


def main():
    given = rcmp.arguments(__doc__)
    result = {"transfer_syntax": None, "capabilities": [], "answers": [], "error": None}
    step = "bind"
    try:
        rpc, credentials = connect(given)
        result["transfer_syntax"] = rpc.transfer_syntax[0]
        cipher = InnerCipher(credentials)
        for level in given.get("capabilities", []):
            step = f"capabilities {level}"
            result["capabilities"].append(capabilities(given, rpc, credentials, level))
        for number, question in enumerate(given.get("questions", [])):
            step = f"question {number}"
            result["answers"].append(ask(given, rpc, cipher, question))
    except NTSTATUSError as error:
        result["error"] = {"step": step, "text": error.args[1], "code": rcmp.status(error.args[0])}
    rcmp.finish(result)


if __name__ == "__main__":
    sys.exit(main())
