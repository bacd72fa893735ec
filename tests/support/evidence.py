"""Every token that was issued or shown in a test run, and everything that servers wrote or told in it.

At the end of the run each is looked for in all of it: a token of one server's in another one's log, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

# A part of a token, as base64url: what a log would show of one that was cut or quoted.
_RUN = re.compile(rb"[A-Za-z0-9_-]{20,}")

_JWT = re.compile(rb"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.")

# What holds a token on purpose.
_HOLDERS = {"admin.token", "token", "reviewer"}


@dataclass
class Evidence:
    """What one process's tests have seen.

    Attributes:
        parts: the parts of tokens of which none may be found: payloads and signatures of JWTs, and other tokens whole.
            Not their headers, which many have in common.
        folders: where servers write.
        homes: where a server writes among other things, some of which hold tokens on purpose: its logs and its store
            alone are looked at.
        told: what servers said otherwise: errors and metrics, with where it was.
    """

    parts: set[bytes] = field(default_factory=set)
    folders: dict[Path, None] = field(default_factory=dict)
    homes: dict[Path, None] = field(default_factory=dict)
    told: list[tuple[str, bytes]] = field(default_factory=list)

    def note_token(self, token: str) -> None:
        """Note a token that was issued or shown."""
        parts = token.split(".")
        secret = parts[1:] if len(parts) == 3 else [token]
        self.parts.update(part.encode() for part in secret if _RUN.fullmatch(part.encode()))

    def note_error(self, error: grpc.Call) -> None:
        """Note an error: its words, its details, and whatever else came with it."""
        trailers = [
            value if isinstance(value, bytes) else value.encode() for _, value in error.trailing_metadata() or ()
        ]
        self.told.append(("an error", b"\n".join([(error.details() or "").encode(), *trailers])))

    def leaks(self) -> Iterator[str]:
        """Where a token was found; nothing of the token itself."""
        for where, content in self.told:
            yield from self._found(where, content)
        for folder in self.folders:
            yield from self.leaks_in(folder)
        for home in self.homes:
            for pattern in ("*.jsonl*", "*.db*", "*.log"):
                for file in sorted(home.rglob(pattern)):
                    yield from self._found(str(file), file.read_bytes())

    def leaks_in(self, folder: Path) -> Iterator[str]:
        """Where a token was found in the files of one folder."""
        for file in sorted(folder.rglob("*")):
            if file.is_file() and not _holds_on_purpose(file.relative_to(folder)):
                yield from self._found(str(file), file.read_bytes())

    def _found(self, where: str, content: bytes) -> Iterator[str]:
        found = self.parts.intersection(_RUN.findall(content))
        if found:
            yield f"{len(found)} parts of tokens are in {where}"
        elif _JWT.search(content):
            yield f"something with the form of a token, which no test has seen, is in {where}"


def _holds_on_purpose(file: Path) -> bool:
    return file.name in _HOLDERS or file.suffix == ".token" or "credentials" in file.parts[:-1]


EVIDENCE = Evidence()
"""Of this process."""


class Witness(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Notes what a caller shows, and what it is told and given."""

    def __init__(self, evidence: Evidence = EVIDENCE) -> None:
        """Take where to note it."""
        self._evidence = evidence

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Note the bearer token, and with the answer the token that was issued, or the error."""
        self._note_shown(client_call_details)
        call = continuation(client_call_details, request)
        call.add_done_callback(self._note)
        return call

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Note the bearer token, each token that was issued, and the error that the stream ends with."""
        self._note_shown(client_call_details)
        return _Watched(continuation(client_call_details, request), self._evidence)

    def _note_shown(self, client_call_details: Any) -> None:
        for key, value in client_call_details.metadata or ():
            if key == "authorization":
                self._evidence.note_token(value.rpartition(" ")[2])

    def _note(self, call: Any) -> None:
        if call.code() is not grpc.StatusCode.OK:
            self._evidence.note_error(call)
        else:
            _note_answer(self._evidence, call.result())


class _Watched:
    """A stream of answers, each of which is noted as it is read."""

    def __init__(self, call: Any, evidence: Evidence) -> None:
        self._call = call
        self._evidence = evidence

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            answer = next(self._call)
        except grpc.RpcError:
            self._evidence.note_error(self._call)
            raise
        _note_answer(self._evidence, answer)
        return answer


def _note_answer(evidence: Evidence, answer: Any) -> None:
    """Note the token of an IssueTokenResponse, or of what holds one."""
    token = getattr(answer, "token", "")
    token = getattr(token, "token", token)
    if token:
        evidence.note_token(token)
