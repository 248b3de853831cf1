"""Why a TLS connection fails, in words: gRPC's details in, a sentence that names the file or setting out.

A client that rejects a server reports why. gRPC's servers reject a client without a reason: they close the connection. The client's
own certificate is therefore checked here.
"""

import re
import ssl
from collections.abc import Callable

from .certificates import CertificateFiles

_SILENT = ("Socket closed", "TSI_DATA_CORRUPTED", "Unwrap failed", "Connection reset by peer")


def explain_tls(
    details: str, files: CertificateFiles | None, server_name: str = "", *, setting: Callable[[str], str] = str
) -> str:
    """A sentence about a failed call's `details`; empty if the failure has nothing to do with TLS.

    files: None for a plaintext channel.   server_name: the name that the certificate must have, empty for the target's.
    setting: the program's names of the settings `ca`, `certificate`, and `server_name`.
    """
    if files is None:
        return ""
    if "Hostname Verification Check failed" in details:
        name = (
            f"{setting('server_name')}={server_name}" if server_name else f"the target's name ({setting('server_name')} is empty)"
        )
        return f"wrong name: the server's certificate does not carry {name}"
    if "WRONG_VERSION_NUMBER" in details:
        return "the server speaks plaintext, this client TLS; configure both alike"
    if found := re.search(r"CERTIFICATE_VERIFY_FAILED: ([^:(]+)", details):
        if "expired" in found[1] or "not yet valid" in found[1]:
            return f"the server's {found[1].strip()}"
        ca = f"{setting('ca')}={files.ca or 'the system'}"
        return f"wrong authority: the server's certificate does not come from {ca} ({found[1].strip()})"
    if any(text in details for text in _SILENT):
        return _own_fault(files, setting)
    return ""


def _own_fault(files: CertificateFiles, setting: Callable[[str], str]) -> str:
    closed = "the server closes the connection"
    if not files.certificate:
        return f"{closed}, as it does if it requires a certificate from its clients; {setting('certificate')} is not set"
    own = f"the client's own certificate {setting('certificate')}={files.certificate}"
    if problem := own_problem(files):
        return f"{closed}, and {own} cannot be accepted: {problem}"
    return f"{closed}; if it is running, it does not trust the authority of {own}: compare {setting('ca')} at both ends"


def own_problem(files: CertificateFiles) -> str:
    """What a server that trusts the same CAs would reject about this client's certificate; empty for nothing.

    Found by a handshake in memory.
    """
    try:
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(files.certificate, files.key)
        server.load_verify_locations(files.ca)
        server.verify_mode = ssl.CERT_REQUIRED
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.load_cert_chain(files.certificate, files.key)
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
