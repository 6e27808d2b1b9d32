"""
Messages for users that say why a connection failed or was lost.

The exceptions are Twisted's, pyOpenSSL's and service-identity's.
"""

from __future__ import annotations

import re

from llamagw.text import harmless

#: Maximum length of an unknown error's text, in characters.
WORDS = 300

#: Messages by name of the exception's class: by name, so that none has to be imported.
_CAUSES = {
    "CancelledError": "it does not answer in time",
    "ConnectingCancelledError": "no connection in time",
    "ConnectionDone": "the connection was lost",
    "ConnectionLost": "the connection was lost",
    "ConnectionRefusedError": "it refuses connections",
    "DNSLookupError": "its name cannot be looked up",
    "UnknownHostError": "its name cannot be looked up",
    "ParseError": "it answers what is not HTTP",
    "TCPTimedOutError": "no connection in time",
    "TimeoutError": "no connection in time",
    "VerificationError": "its certificate is for another host",
}


def in_words(error: BaseException) -> str:
    """
    The message for an exception.

    :param error: what a Deferred failed with, or `connectionLost` was called with
    :return: a clause without a full stop; text from the other side is at most `WORDS` long
    """
    reasons = getattr(error, "reasons", None)  # what Twisted's HTTP client wraps the cause in
    if reasons:
        return in_words(reasons[0].value)
    text = " ".join(str(error)[: 10 * WORDS].split())
    text = text.removeprefix("An error occurred while connecting: ")
    if "certificate verify failed" in text:
        return (
            "its certificate is not trusted here (ca_file: names the authority that is to be; "
            "or has it expired?)"
        )
    if "SSL routines" in text and re.search("wrong version number|record layer failure", text):
        return "it does not speak TLS there (is it http:// instead of https://?)"
    known = _CAUSES.get(type(error).__name__)
    return known or harmless(text.rstrip("."), WORDS) or type(error).__name__
