"""Does with the Python library what it is told: the driver of the conformance suite, with `--aio` for asyncio's twin.

One JSON object a line comes in and one goes out; tests/conformance/README.md has them all. No token is ever printed,
only the beginning of its SHA-256.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from importlib import import_module
from inspect import isawaitable
from typing import Any

import kubernetes.aio.client
import kubernetes.client

from kubevend import KubevendError, Token

Command = dict[str, Any]
Answer = dict[str, Any]


class Library:
    """The library, in one of its two forms: whatever is called in it is called through `call`."""

    def __init__(self, package: str, kubernetes: str) -> None:
        """Take the names of its package and of the Kubernetes client's."""
        self._pool = ThreadPoolExecutor(128)
        self._waits = package == "kubevend"
        top = import_module(package)
        self.source_class = top.TokenSource
        self.client = top.Client()
        self.api_client = import_module(f"{package}.kubernetes").api_client
        self.core_api = import_module(kubernetes).CoreV1Api

    async def call(self, function: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """Call something that waits in a thread of its own, and await what is to be awaited."""
        if self._waits:
            return await asyncio.get_running_loop().run_in_executor(self._pool, partial(function, *args, **named))
        found = function(*args, **named)
        return await found if isawaitable(found) else found

    async def close(self) -> None:
        """Close the client."""
        await self.call(self.client.close)
        self._pool.shutdown()


@dataclass
class Load:
    """Requests, one after another in each worker."""

    workers: list[asyncio.Task[None]] = field(default_factory=list)
    stopping: bool = False
    requests: int = 0
    failed: int = 0
    first_failure: str = ""


class Source:
    """A source of tokens with the Kubernetes client that uses it."""

    def __init__(self, library: Library, asked: Command) -> None:
        """Make both."""
        self._library = library
        self.revoked: list[str] = []
        self.refused: list[str] = []
        self.used: set[str] = set()
        self.load = Load()
        self.source = library.source_class(
            asked["role"],
            client=library.client,
            on_revoked=lambda lease, _: self.revoked.append(lease),
            on_refused=lambda error: self.refused.append(error.reason),
            **fields(asked),
        )
        api = library.api_client(
            self.source, host=os.environ["KUBERNETES_HOST"], ca_file=os.environ["KUBERNETES_CA_FILE"]
        )
        self._api = api
        note_tokens(api, self.used)
        self._core = library.core_api(api)

    async def token(self, milliseconds: float) -> Token:
        """The token."""
        token: Token = await self._library.call(self.source.token, milliseconds / 1000)
        return token

    async def use(self) -> None:
        """List the namespace's ConfigMaps."""
        await self._library.call(self._core.list_namespaced_config_map, os.environ["NAMESPACE"])

    async def work(self) -> None:
        """Use it again and again; the last time after it is to stop, so that the token of that moment was used."""
        last = False
        while not last:
            last = self.load.stopping
            self.load.requests += 1
            try:
                await self.use()
            except Exception as failure:  # noqa: BLE001 - whatever it is, it is counted and told
                self.load.failed += 1
                self.load.first_failure = self.load.first_failure or f"{type(failure).__name__}: {failure}"

    async def close(self) -> None:
        """Stop the load, and close both."""
        self.load.stopping = True
        await asyncio.gather(*self.load.workers)
        await self._library.call(self.source.close)
        await self._library.call(self._api.close)


def note_tokens(api: Any, used: set[str]) -> None:
    """Have a Kubernetes client note which tokens requests are made with."""
    call = api.call_api

    def noting(method: str, url: str, header_params: Any = None, *others: Any, **named: Any) -> Any:
        used.add(digest(header_params["authorization"].removeprefix("Bearer ")))
        return call(method, url, header_params, *others, **named)

    api.call_api = noting


class Driver:
    """Takes commands, and answers them."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._sources: dict[str, Source] = {}

    async def answer(self, command: Command) -> None:
        """Do what a command says, and print the answer."""
        try:
            found = await getattr(self, f"do_{command['do']}")(command)
        except KubevendError as error:
            found = {"error": told(error)}
        except (kubernetes.client.ApiException, kubernetes.aio.client.ApiException) as error:
            found = {"error": {"code": f"HTTP_{error.status}", "reason": "", "message": str(error.reason)}}
        except Exception as error:  # noqa: BLE001 - whatever else comes is a defect, and shows as one
            found = {"error": {"code": "DEFECT", "reason": type(error).__name__, "message": str(error)}}
        print(json.dumps({"id": command["id"], **found}), flush=True)  # noqa: T201 - this is how it speaks

    async def do_issue(self, command: Command) -> Answer:
        """One token."""
        given = fields(command)
        if command.get("request_id"):
            given["request_id"] = command["request_id"]
        token = await self._library.call(
            self._library.client.issue,
            command["role"],
            validate_only=command.get("validate_only", False),
            timeout=command.get("timeout_ms", 10_000) / 1000,
            **given,
        )
        return {
            **shown(token),
            "granted_ttl_seconds": token.granted_ttl.total_seconds(),
            "replayed": token.replayed,
            "warnings": [warning.reason for warning in token.warnings],
        }

    async def do_open(self, command: Command) -> Answer:
        """A source."""
        self._sources[command["source"]] = Source(self._library, command)
        return {"ok": True}

    async def do_token(self, command: Command) -> Answer:
        """Its token."""
        return shown(await self._source(command).token(command.get("timeout_ms", 10_000)))

    async def do_tokens(self, command: Command) -> Answer:
        """Its tokens, as many as ask at once get."""
        source = self._source(command)
        asking = [source.token(command.get("timeout_ms", 10_000)) for _ in range(command["count"])]
        return {"tokens": sorted({digest(token.token) for token in await asyncio.gather(*asking)})}

    async def do_invalidate(self, command: Command) -> Answer:
        """The current one was refused."""
        source = self._source(command)
        await self._library.call(source.source.invalidate, await source.token(0))
        return {"ok": True}

    async def do_told(self, command: Command) -> Answer:
        """What listeners know."""
        source = self._source(command)
        return {"revoked": source.revoked, "refused": source.refused}

    async def do_use(self, command: Command) -> Answer:
        """A request to Kubernetes."""
        await self._source(command).use()
        return {"ok": True}

    async def do_load_start(self, command: Command) -> Answer:
        """Many of them."""
        source = self._source(command)
        source.used.clear()
        source.load = Load()
        source.load.workers += [asyncio.create_task(source.work()) for _ in range(command["workers"])]
        return {"ok": True}

    async def do_load_stop(self, command: Command) -> Answer:
        """How they went."""
        source, load = self._source(command), self._source(command).load
        load.stopping = True
        await asyncio.gather(*load.workers)
        counts = {"requests": load.requests, "failed": load.failed, "first_failure": load.first_failure}
        return {**counts, "tokens": len(source.used)}

    async def do_close(self, command: Command) -> Answer:
        """The end of a source, of which `told` goes on telling."""
        await self._source(command).close()
        return {"ok": True}

    async def do_whoami(self, _: Command) -> Answer:
        """Who calls."""
        return {"name": (await self._library.call(self._library.client.whoami)).name}

    async def close(self) -> None:
        """Close everything."""
        for source in self._sources.values():
            await source.close()
        await self._library.close()

    def _source(self, command: Command) -> Source:
        return self._sources[command["source"]]


def fields(command: Command) -> dict[str, Any]:
    """What a command says of the token that it asks for."""
    given: dict[str, Any] = {name: command[name] for name in ("namespace", "service_account_name") if name in command}
    given.update(
        {n: timedelta(seconds=command[f"{n}_seconds"]) for n in ("ttl", "min_ttl") if f"{n}_seconds" in command}
    )
    return {**given, "audiences": command.get("audiences", ())}


def shown(token: Token) -> Answer:
    """What is told of a token."""
    return {"token": digest(token.token), "lease": token.lease, "jti": token.jti}


def told(error: KubevendError) -> Answer:
    """What is told of an error."""
    return {
        "code": error.code,
        "reason": error.reason,
        "message": error.message,
        "metadata": error.metadata,
        "violations": [violation.field for violation in error.violations],
    }


def digest(token: str) -> str:
    """The beginning of a token's SHA-256; empty for none."""
    return hashlib.sha256(token.encode()).hexdigest()[:16] if token else ""


async def main() -> None:
    """Take commands until there are no more."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--aio", action="store_true", help="drive kubevend.aio")
    aio = parser.parse_args().aio
    package, kubernetes = ("kubevend.aio", "kubernetes.aio.client") if aio else ("kubevend", "kubernetes.client")
    driver = Driver(Library(package, kubernetes))
    running: set[asyncio.Task[None]] = set()
    while line := await asyncio.to_thread(sys.stdin.readline):
        task = asyncio.create_task(driver.answer(json.loads(line)))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    await driver.close()


if __name__ == "__main__":
    asyncio.run(main())
