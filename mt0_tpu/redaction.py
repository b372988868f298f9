"""Secrets taken out of what is written and said: logs, config.gin, records, cards, reports.

Found by their form (tokens of known makers, passwords in addresses, signatures in their queries,
settings called a password) and by their value: whatever the environment holds under the name of a
secret. What has neither form nor such a name cannot be known for one.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

HIDDEN = "***"

# Each hides its group 'secret', or all of it where it has none.
_FORMS = (
    r"\bhf_[A-Za-z0-9]{16,}",  # Hugging Face
    r"\bapi_org_[A-Za-z0-9]{16,}",
    r"\b(?:ghp|gho|ghu|ghs|ghr)_[A-Za-z0-9]{20,}",  # GitHub
    r"\bgithub_pat_[A-Za-z0-9_]{20,}",
    r"\bglpat-[A-Za-z0-9_-]{16,}",
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",  # Amazon
    r"\bAIza[A-Za-z0-9_-]{30,}",  # Google
    r"\bya29\.[A-Za-z0-9_-]{16,}",
    r"\bGOOG[A-Z0-9]{16,}",
    r"\bsk-[A-Za-z0-9_-]{20,}",
    r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)-----END [A-Z ]*PRIVATE KEY-----",
    # scheme://user:password@host; a key may hold slashes, and fsspec takes it so.
    r"\b[a-zA-Z][\w+.-]*://(?P<secret>[^\s/@:'\"]+:[^\s@'\"]+)@",
    # ?X-Amz-Signature=…, &sig=…
    r"(?i)[?&](?:[\w-]*(?:signature|credential|token|accesskeyid|googleaccessid|password"
    r"|secret|api_?key)|sig|key)=(?P<secret>[^\s&'\"#]+)",
    # train.hf_token = '…', "secret": "…", --password=…; never the names of token ids.
    r"(?i)[\w.-]*(?:password|passwd|secret|api_?key|access_?key|private_?key|auth_?token"
    r"|access_?token|hf_?token|bearer_?token|(?<!\w)token(?!\w)|credentials?)[\w-]*['\"]?"
    r"\s*[=:]\s*(?P<quote>['\"])(?P<secret>(?:(?!(?P=quote)).)+)(?P=quote)",
    r"(?i)\bauthorization:\s*\w+\s+(?P<secret>\S+)",
)
_SECRET_NAME = re.compile(
    r"(?i)(?:^|_)(?:token|secret|password|passwd|api_?key|access_?key|secret_?key|private_?key)"
    r"(?:_|$)|connection_string|account_key"
)
_LEAST_CHARS = 8


def secrets_of_environment(environment: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Returns the values of variables that are called a secret, the longest first."""
    environment = os.environ if environment is None else environment
    found = {
        value
        for name, value in environment.items()
        # The path of a file of credentials is none.
        if _SECRET_NAME.search(name) and len(value) >= _LEAST_CHARS and not os.path.exists(value)
    }
    return tuple(sorted(found, key=len, reverse=True))


@functools.cache
def _forms() -> tuple[re.Pattern, ...]:
    return tuple(re.compile(form) for form in _FORMS)


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """Returns the text with each secret in it replaced by ***."""
    for value in secrets_of_environment(environment):
        text = text.replace(value, HIDDEN)
    # The short texts that a print is made of hold none.
    for form in _forms() if len(text) >= _LEAST_CHARS else ():
        text = form.sub(_hide, text)
    return text


def _hide(found: re.Match) -> str:
    if "secret" not in found.re.groupindex:
        return HIDDEN
    begin, end = (place - found.start() for place in found.span("secret"))
    return f"{found[0][:begin]}{HIDDEN}{found[0][end:]}"


def redact_all(value: Any) -> Any:
    """Returns JSON's kind of value with every text in it redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: redact_all(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [redact_all(one) for one in value]
    return value


def show_exception(kind, error, trace) -> None:
    """A sys.excepthook whose traceback shows no secrets."""
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))


class RedactedStream:
    """A text stream that passes on what is written to it without its secrets.

    A secret that two writes share is not seen; print and traceback write whole lines.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redact(text))
        return len(text)

    def writelines(self, lines: Iterator[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
