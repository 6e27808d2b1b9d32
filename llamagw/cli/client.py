"""
A blocking client of a running gateway's API, over HTTP, HTTPS or a unix socket.

Uses the standard library's http.client, which is enough for a few GETs (two of them streams of
lines) and POSTs. Every failure becomes one line for the user.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import re
import socket
import ssl
from collections.abc import Generator, Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from llamagw.cli.places import find_config

#: Seconds for a connection, and for an answer that does not depend on a backend.
PATIENCE = 10.0

#: Seconds without a byte after which a stream of events counts as lost: the gateway writes a
#: comment every 15.
SILENCE = 45.0

#: The environment variable with the API key, for a gateway that wants one: a command line could be
#: read by others.
KEY_VARIABLE = "LLAMAGW_API_KEY"

#: The variable with the path of a certificate and its key, in one PEM file, for a gateway that asks
#: for one (``client_ca``).
CLIENT_CERT = "LLAMAGW_CLIENT_CERT"

#: Characters of a file of certificates in which the first one must be.
_LONGEST_CERT = 2**16

#: Bytes of a line of a stream at most; the longest are the snapshots of activity.
LONGEST_LINE = 2**24


class Failed(Exception):
    """
    A request that failed.

    :param message: for the user, one line
    :param error: the gateway's ``error`` object; None for one that is made from the message
    """

    def __init__(self, message: str, error: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.error = error or {"message": message, "type": "cli_error", "param": None, "code": None}


class Client:
    """
    The management API of one gateway.

    :param url: ``http://…``, ``https://…``, ``unix:/path``, or ``host:port`` for http; a ``/v1`` at
        its end is ignored
    :param patience: seconds for a connection and for an answer that does not depend on a backend
    :param cert: a PEM file whose first certificate is the gateway's own, whatever host that is for;
        None to verify it as usual
    :raises ValueError: when that is no such URL; the message is for the user
    """

    def __init__(self, url: str, patience: float = PATIENCE, cert: str | None = None) -> None:
        if re.match(r"(\[[^\]/]*\]|[^:/\[\]]+):\d+(/|$)", url):
            url = f"http://{url}"
        self.url = url
        self._patience = patience
        self._cert = cert
        self._prefix = ""
        if url.startswith("unix:"):
            self._where = url.removeprefix("unix:").removeprefix("//")
            self._scheme = "unix"
            if not self._where:
                raise ValueError(f"{url}: the path of the socket is missing")
            return
        parts = urlsplit(url)
        self._scheme = parts.scheme
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f"{url!r} is not HOST:PORT, http://HOST:PORT, https://HOST:PORT or unix:/PATH"
            )
        self._where = parts.hostname
        try:
            self._port = parts.port  # raises for an invalid one
        except ValueError as error:
            raise ValueError(f"{url}: {error}") from None
        self._prefix = parts.path.rstrip("/").removesuffix("/v1")

    def __repr__(self) -> str:
        return f"<Client of {self.url}>"

    def models(self) -> dict[str, Any]:
        """
        The list of models.

        :return: the answer to ``GET /models``
        :raises Failed: as all methods do
        """
        answer = self._json("GET", "/models")
        models = answer.get("data")
        if not isinstance(models, list) or not all(map(_is_model, models)):
            raise self._strange("/models")
        return answer

    def load(self, name: str, anyway: bool = False) -> None:
        """
        Load a model; returns when it is loaded.

        :param name: its name or an alias
        :param anyway: whether to load it even if the figures say that it does not fit
        :raises Failed: when it cannot be loaded
        """
        # No timeout, here and below: the gateway limits how long a load or an unload takes.
        self._json("POST", "/models/load", {**_load(name, anyway), "wait": True}, math.inf)

    def order(self, name: str, anyway: bool = False) -> None:
        """
        Have a model loaded, without waiting for it.

        :param name: its name or an alias
        :param anyway: as in `load`
        :raises Failed: when it is known at once that it cannot be loaded
        """
        self._json("POST", "/models/load", _load(name, anyway))

    def pin(self, name: str, pinned: bool) -> None:
        """
        Pin or unpin a model, until its configuration changes.

        :param name: its name or an alias
        :param pinned: whether it is never evicted
        :raises Failed: when that is not possible
        """
        self._json("POST", "/models/pin", {"model": name, "pinned": pinned})

    def own_name(self, name: str) -> str:
        """
        The configured name of a model.

        :param name: this, or an alias
        :raises Failed: when there is no such model
        """
        answer = self._json("GET", f"/v1/models/{quote(name)}")
        return str(answer.get("alias_of") or name)

    def changes(self) -> Iterator[dict[str, Any]]:
        """
        The events of the models: their states, each change, and how far those are that load.

        :return: yields the events, until the gateway ends the stream
        :raises Failed: when the connection breaks off
        """
        return self._events("/models/sse")

    def unload(self, name: str, force: bool) -> None:
        """
        Unload a model; returns when its instances have ended.

        :param name: its name or an alias
        :param force: break off the answers in progress, instead of waiting for their end
        :raises Failed: when it cannot be unloaded
        """
        self._json("POST", "/models/unload", {"model": name, "force": force}, math.inf)

    def health(self) -> dict[str, Any]:
        """The answer to ``GET /health``."""
        return self._json("GET", "/health")

    def activity(self, filters: Mapping[str, str | float]) -> dict[str, Any]:
        """
        The last requests, newest first.

        :param filters: model, status, outcome, since, limit; those that are there
        :return: the answer to ``GET /activity``
        """
        answer = self._json("GET", f"/activity?{urlencode(filters)}")
        entries = answer.get("data")
        if not isinstance(entries, list) or not all(map(_is_entry, entries)):
            raise self._strange("/activity")
        return answer

    def request(self, id: str) -> dict[str, Any]:
        """
        One of the last requests.

        :param id: its ``X-Request-Id``
        :return: the answer to ``GET /activity/ID``
        """
        path = f"/activity/{quote(id, safe='')}"
        entry = self._json("GET", path)
        if not _is_entry(entry):
            raise self._strange(path)
        return entry

    def usage(self, days: int, key: str | None) -> dict[str, Any]:
        """
        What keys have used.

        :param days: how many, this one among them
        :param key: the name of one of them; None for all
        :return: the answer to ``GET /usage``
        """
        filters = {"days": str(days)} | ({} if key is None else {"key": key})
        answer = self._json("GET", f"/usage?{urlencode(filters)}")
        rows = answer.get("data")
        if not isinstance(rows, list) or not all(map(_is_usage, rows)):
            raise self._strange("/usage")
        return answer

    def cancel(self, id: str) -> None:
        """
        Break off a request that is under way.

        :param id: its ``X-Request-Id``
        """
        self._json("POST", f"/activity/{quote(id, safe='')}/cancel", {})

    def events(self, silence: float = SILENCE) -> Generator[dict[str, Any], None, None]:
        """
        What happens to requests, as it happens, until the gateway ends the stream.

        :param silence: seconds without a byte, after which it counts as lost
        :return: yields the events of ``GET /activity/sse``: what is under way and the last requests
            first
        :raises Failed: when the connection breaks off
        """
        return self._events("/activity/sse", silence)

    def logs(self, name: str, most: int | None) -> list[str]:
        """
        The last lines that a model's engine has printed.

        :param name: its name or an alias
        :param most: how many at most; None for all that the gateway keeps
        :raises Failed: when they cannot be had
        """
        with self._ask("GET", _logs(name, most)) as response:
            return self._whole(response).decode("utf-8", "replace").splitlines()

    def follow(self, name: str, most: int | None) -> Iterator[str]:
        """
        As `logs`, and then each further line, until the gateway ends the stream.

        :param name: its name or an alias
        :param most: how many of the last lines at most; None for all that the gateway keeps
        :return: yields the lines
        :raises Failed: when the connection breaks off
        """
        return self._lines(_logs(name, most) + "&follow=true")

    def _lines(self, path: str, silence: float = math.inf) -> Iterator[str]:
        """
        The lines of an answer, as they come.

        :param silence: seconds without a byte, after which it counts as lost
        """
        with self._ask("GET", path, wait=silence) as response, self._one_line(silence):
            begun = b""
            # Not readline(), which does not distinguish a lost connection from the end.
            while data := response.read1(2**16):
                *lines, begun = (begun + data).split(b"\n")
                for line in lines:
                    yield line.decode("utf-8", "replace").rstrip("\r")
                if len(begun) > LONGEST_LINE:
                    raise self._strange(path)
            if begun:
                yield begun.decode("utf-8", "replace")

    def _events(
        self, path: str, silence: float = math.inf
    ) -> Generator[dict[str, Any], None, None]:
        for line in self._lines(path, silence):
            if not line.startswith("data:"):
                continue
            try:
                event = json.loads(line[5:])
            except ValueError:
                event = None
            if not isinstance(event, dict):
                raise self._strange(path)
            yield event

    def _json(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        wait: float | None = None,
    ) -> dict[str, Any]:
        with self._ask(method, path, body, wait) as response:
            content = self._whole(response)
        try:
            answer = json.loads(content)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise self._strange(path)
        return answer

    def _strange(self, path: str) -> Failed:
        where = self.url + path.partition("?")[0]
        return Failed(f"{where} did not answer as llamagw does; is it another server?")

    @contextlib.contextmanager
    def _ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        wait: float | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """
        Send a request; yields the answer, with status 200 and its body unread.

        :param wait: seconds for the answer, and for each part of it, when connected; infinite for
            no limit, None for as long as for the connection
        """
        connection = self._connection()
        with contextlib.closing(connection):
            try:
                connection.connect()
            except (OSError, UnicodeError) as error:
                raise Failed(
                    f"cannot reach llamagw at {self.url}: {_reason(error, self._patience)}; "
                    "is it running? (llamagw run)"
                ) from None
            if wait is not None:
                connection.sock.settimeout(None if wait == math.inf else wait)
            with self._one_line(wait):
                content = None if body is None else json.dumps(body).encode()
                headers = {} if body is None else {"Content-Type": "application/json"}
                if key := _key():
                    headers["Authorization"] = f"Bearer {key}"
                connection.request(method, self._prefix + path, content, headers)
                response = connection.getresponse()
            if response.status != 200:
                raise self._refused(response, path)
            yield response

    def _connection(self) -> http.client.HTTPConnection:
        if self._scheme == "unix":
            return _UnixConnection(self._where, self._patience)
        if self._scheme == "https":
            return http.client.HTTPSConnection(
                self._where,
                self._port,
                timeout=self._patience,
                context=_context(self._cert),
            )
        return http.client.HTTPConnection(self._where, self._port, timeout=self._patience)

    def _whole(self, response: http.client.HTTPResponse) -> bytes:
        with self._one_line():
            return response.read()

    def _refused(self, response: http.client.HTTPResponse, path: str) -> Failed:
        try:
            error = json.loads(self._whole(response))["error"]
            hint = ""
            if response.status == 401:
                gives = "has the one that was sent" if _key() else "gives it to this command"
                hint = f" The environment variable {KEY_VARIABLE} {gives}."
            return Failed(f"{error['message']}{hint}", error)
        except (ValueError, KeyError, TypeError):
            where = self.url + path.partition("?")[0]
            status = f"{response.status} {response.reason}".strip()
            return Failed(f"{where} answered {status}; is it llamagw that runs there?")

    @contextlib.contextmanager
    def _one_line(self, wait: float | None = None) -> Iterator[None]:
        """Turn the errors of a connection into `Failed`."""
        try:
            yield
        except TimeoutError:
            seconds = self._patience if wait is None else wait
            raise Failed(f"no answer from llamagw at {self.url} for {seconds:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise Failed(
                f"the connection to llamagw at {self.url} broke off: {_reason(error)}"
            ) from None


def _key() -> str:
    """
    The API key for the gateway; empty for none.

    :raises Failed: if no header can have it
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key.isascii() or not key.isprintable():
        # It is not repeated: it may be one that was spoiled.
        raise Failed(
            f"the environment variable {KEY_VARIABLE} has no API key: they begin with lgw_"
        )
    return key


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _logs(name: str, most: int | None) -> str:
    lines = "" if most is None else f"&lines={most}"
    return f"/models/logs?model={quote(name, safe='')}{lines}"


def _is_model(model: Any) -> bool:
    return (
        isinstance(model, dict)
        and isinstance(model.get("id"), str)
        and isinstance(model.get("status"), dict)
        and "value" in model["status"]
    )


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("id"), str)


def names(models: dict[str, Any]) -> list[str]:
    """
    All names and aliases of the models.

    :param models: the answer to ``GET /models``
    """
    found = []
    for model in models["data"]:
        found += [model["id"], *model.get("aliases", [])]
    return found


def _context(cert: str | None) -> ssl.SSLContext:
    """How a gateway's certificate is verified; see `Client`."""
    context = ssl.create_default_context()
    if cert is not None:
        with contextlib.suppress(OSError, ValueError):  # then as usual
            with open(cert, encoding="ascii") as file:
                first, end, _ = file.read(_LONGEST_CERT).partition("-----END CERTIFICATE-----")
            own = ssl.create_default_context(cadata=first + end + "\n")
            # Trusted by itself, whoever has signed it; and it is at hand under another name than
            # the one that it is for.
            own.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            own.check_hostname = False
            context = own
    shown = os.environ.get(CLIENT_CERT)
    if shown:
        try:
            context.load_cert_chain(shown)
        except OSError as error:
            why = "it has no certificate and key" if isinstance(error, ssl.SSLError) else None
            raise Failed(f"{CLIENT_CERT}={shown}: {why or error.strerror}") from None
    return context


def configured_client(path: str | None, patience: float = PATIENCE) -> Client:
    """
    A client of the gateway of a configuration, which shows the certificate that this names.

    :param path: as for `configured_url`
    :param patience: as for `Client`
    :raises ValueError: when the file gives no URL; the message is for the user
    """
    url, cert = _configured(path)
    return Client(url, patience, cert)


def configured_url(path: str | None) -> str:
    """
    The URL at which the gateway of a configuration listens.

    :param path: the file; None for the one that places.py finds, or the default without one
    :raises ValueError: when the file gives no URL; the message is for the user
    """
    return _configured(path)[0]


def _configured(path: str | None) -> tuple[str, str | None]:
    """
    The URL of `configured_url`, and the path of the certificate that is shown there.

    Only ``listen_addr`` and ``tls`` are read: the rest may be meant for another machine.
    """
    import yaml

    from llamagw.config import DEFAULTS, address_url

    path = path or find_config()
    if path is None:
        return address_url(DEFAULTS.listen_addr), None
    try:
        with open(path, encoding="utf-8") as file:
            values = yaml.safe_load(file)
        address = str(values.get("listen_addr", DEFAULTS.listen_addr))
        tls = values.get("tls")
        url = address_url(address, tls=tls is not None)
        cert = tls.get("cert") if isinstance(tls, dict) else None
        folder = os.path.dirname(os.path.abspath(path))
        return url, os.path.join(folder, os.path.expanduser(str(cert))) if cert else None
    except OSError as error:
        why = f"it cannot be read: {error.strerror}"
    except (ValueError, yaml.YAMLError, AttributeError):
        why = "its listen_addr cannot be told"
    raise ValueError(f"{path} does not say where llamagw is ({why}); give --url")


def _reason(error: Exception, patience: float = 0) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer for {patience:g} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, http.client.IncompleteRead):
        return "its answer has no end"
    if isinstance(error, ssl.SSLError) and "CERTIFICATE_REQUIRED" in (error.reason or ""):
        return f"it asks for a client's certificate ({CLIENT_CERT} names a PEM file with its key)"
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return text[:1].lower() + text[1:] or type(error).__name__


def _load(name: str, anyway: bool) -> dict[str, Any]:
    """The body of an order; older gateways do not know the second key."""
    return {"model": name, **({"anyway": True} if anyway else {})}


def _is_usage(row: object) -> bool:
    numbers = ("requests", "prompt_tokens", "completion_tokens")
    return (
        isinstance(row, dict)
        and all(isinstance(row.get(name), str) for name in ("day", "key", "model"))
        and all(isinstance(row.get(name), int) for name in numbers)
    )
