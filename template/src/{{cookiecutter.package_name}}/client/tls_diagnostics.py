"""Why a TLS connection does not come about, in words: gRPC's details in, a sentence that names the setting out.

A client that refuses a server says why. gRPC's servers refuse a client without a word: they close the connection, so what is
wrong with the client's own certificate is looked up here.
"""

import re
import ssl

from ..settings import Tls

_SILENT = ("Socket closed", "TSI_DATA_CORRUPTED", "Connection reset by peer")


def explain(details: str, tls: Tls) -> str:
    """A sentence, empty where the failure has nothing to do with TLS."""
    if tls.mode == "off":
        return ""
    if "Hostname Verification Check failed" in details:
        name = f"TLS__SERVER_NAME={tls.server_name}" if tls.server_name else "the target's name (TLS__SERVER_NAME is empty)"
        return f"wrong name: the server's certificate does not carry {name}"
    if "WRONG_VERSION_NUMBER" in details:
        return f"the server speaks plaintext, but here TLS__MODE={tls.mode}; set both alike"
    if found := re.search(r"CERTIFICATE_VERIFY_FAILED: ([^:(]+)", details):
        if "expired" in found[1] or "not yet valid" in found[1]:
            return f"the server's {found[1].strip()}"
        return (
            f"wrong authority: the server's certificate does not come from TLS__CA={tls.ca or 'the system'} ({found[1].strip()})"
        )
    if any(text in details for text in _SILENT):
        return _own_fault(tls)
    return ""


def _own_fault(tls: Tls) -> str:
    closed = "the server closes the connection"
    if tls.mode == "tls":
        return f"{closed}, as it does with a client that shows no certificate when it wants one; TLS__MODE=mtls shows one"
    problem = own_problem(tls)
    if problem:
        return f"{closed}, and the client's own certificate TLS__CERTIFICATE={tls.certificate} cannot be accepted: {problem}"
    return (
        f"{closed}; if it lives, it does not know the authority of the client's own certificate TLS__CERTIFICATE={tls.certificate}: "
        "compare TLS__CA at both ends"
    )


def own_problem(tls: Tls) -> str:
    """What a server that trusts the same authorities finds wrong with this client's certificate; empty for nothing.

    Found by a handshake in memory with itself.
    """
    try:
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(tls.certificate, tls.key)
        server.load_verify_locations(tls.ca)
        server.verify_mode = ssl.CERT_REQUIRED
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.load_cert_chain(tls.certificate, tls.key)
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    except (OSError, ValueError) as error:
        return str(error)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)]
    for _ in range(4):  # flights of a handshake
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return error.verify_message
            except ssl.SSLError as error:
                return str(error.reason)
    return ""
