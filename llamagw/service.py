"""
What starts and stops with the gateway, and in which order.

Start: the engine is asked for its flags; the port is bound, and one that is in use ends the start
with one line, before a daemon detaches; what an earlier gateway left is ended; the start-up lines
are logged. While it runs: reloads, one at a time.
Stop: no new connections; running answers are drained for up to ``drain_sec``; the backends end, and
only then the process.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, fail, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IListeningPort,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.logger import Logger
from twisted.python.failure import Failure

from llamagw import announce
from llamagw.apart import Cancelled, Commands, describe_apart, lines_apart, load_apart
from llamagw.config import Config, ConfigError, Fault, is_loopback, speaks_tls, unmasked
from llamagw.errors import ShuttingDown
from llamagw.fleet import Dispatcher
from llamagw.gate import Keyring, read_keyring
from llamagw.launch import Leftovers, Note
from llamagw.net import Pool, Renewal, Tls, TlsEndpoint, TlsFault, has_tls, read_tls
from llamagw.proxy import Site
from llamagw.system import machine_memory

_log = Logger(namespace="llamagw")

#: Seconds for which connections stay open, once the last backend has ended, to carry the errors.
GOODBYE_SEC = 1.0


def _stopping() -> ShuttingDown:
    return ShuttingDown("The gateway is being stopped; its configuration stays.", retry_after=1)


class CannotStart(Exception):
    """The gateway cannot serve; the message is for the person who starts it, one line."""


def certificates(config: Config) -> Tls | None:
    """
    Read what clients are spoken TLS with.

    :param config: for its ``listen_addr`` and ``tls``
    :return: None if they connect without
    :raises ConfigError: if it cannot be used
    """
    try:
        return read_tls(config.listen_addr, config.tls)
    except TlsFault as fault:
        raise ConfigError([Fault(config.path, None, fault.place, str(fault))]) from None


class Reading(NamedTuple):
    """
    A configuration that was read, and could be applied.

    :ivar config: the new configuration
    :ivar tls: what it speaks TLS with; None if clients connect without
    :ivar keyring: the keys of clients; None without any
    :ivar changes: what it changes, in words
    :ivar notes: what is to be said of its new and changed models
    """

    config: Config
    tls: Tls | None
    keyring: Keyring | None
    changes: str
    notes: list[Note]


class Gateway(Service):
    """
    The whole gateway as a service.

    :param config: what it starts with
    :param site: serves the clients
    :param dispatcher: runs the models
    :param pool: holds the connections to backends
    :param prepare: called with a configuration before that is applied, gives what is to be said of
        its models; may block until the `Commands` is cancelled, and is called by `in_thread` for a
        reload
    :param examine: as `prepare`, for a configuration that is only looked at
    :param in_thread: calls a function in a thread; the Deferred fires in the reactor's
    :param leftovers: cleaned up before anything is started
    :param apply: applies a configuration to everything but the listening port
    :param make_endpoint: makes the endpoint of a configuration, with what TLS is spoken with there;
        may raise `ConfigError`
    :param clock: times the drain
    :param transports: the kind of transports, such as "uvloop", for the start-up lines
    :param foreground: whether it runs in the foreground, for them too
    :param flush: called when the last request has ended; fires when all that is known of them has
        been told, or at least soon
    :param keep: takes the keys of clients, when they have been read
    """

    name = "llamagw"

    def __init__(
        self,
        config: Config,
        site: Site,
        dispatcher: Dispatcher,
        pool: Pool,
        prepare: Callable[[Config, Commands], list[Note]],
        examine: Callable[[Config, Commands], list[Note]],
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
        leftovers: Leftovers,
        apply: Callable[[Config], None],
        make_endpoint: Callable[[Config, Tls | None], IStreamServerEndpoint],
        clock: IReactorTime,
        transports: str,
        foreground: bool,
        flush: Callable[[], Deferred[None]] | None = None,
        keep: Callable[[Keyring | None], None] = lambda _: None,
    ) -> None:
        self._config = config
        self._site = site
        self._dispatcher = dispatcher
        self._pool = pool
        self._prepare = prepare
        self._examine = examine
        self._commands = Commands()
        self._in_thread = in_thread
        self._leftovers = leftovers
        self._apply = apply
        self._make_endpoint = make_endpoint
        self._clock = clock
        self._transports = transports
        self._foreground = foreground
        self._flush = flush
        self._keep = keep
        self._endpoint: IStreamServerEndpoint | None = None
        #: What is spoken with at the start.
        self._tls: Tls | None = None
        self._renewal = Renewal(clock, in_thread, self._renew)
        self._port: IListeningPort | None = None
        #: What is to be said at the start.
        self._notes: list[Note] = []
        #: Who waits for the file to be read (again), and whether it is being read.
        self._waiting: list[Deferred[Reading]] = []
        self._reloading = False
        self._hurry: Deferred[None] | None = None

    def bind(self) -> None:
        """
        Ask the engine for its flags, and bind the port.

        Read what the engine and the models' files say, and bind the port.

        Before the service is started: a daemon has not detached yet, so that whoever starts it
        reads why it cannot serve, and no privileges are given up.

        :raises CannotStart: when the port cannot be bound
        :raises ConfigError: when the engine cannot be called as configured
        """
        self._keep(read_keyring(self._config))
        self._notes = self._prepare(self._config, self._commands)
        self._tls = certificates(self._config)
        self._endpoint, self._port = self._listen(self._config, self._tls)

    def privilegedStartService(self) -> None:
        """End what an earlier gateway left, before the process gives up its privileges."""
        super().privilegedStartService()
        # With the port bound: a second gateway that was started by mistake has ended before.
        self._leftovers.clean_up()

    def reload(self) -> None:
        """Do as `reloaded`, for one who reads the log."""
        self.reloaded().addErrback(lambda _: None)

    def reloaded(self) -> Deferred[Reading]:
        """
        Read the configuration again and apply it; one with faults is logged and changes nothing.

        Connections, streams and the backends of models that did not change are left as they are.
        The file is read in a thread. Calls meanwhile, however many, cause one further reload, so
        that the last content of the file is applied.

        :return: fires with what was applied; fails with `ConfigError`, and with `ShuttingDown` when
            the gateway stops
        """
        if not self.running:
            self._not_reloaded()
            return fail(_stopping())
        waiter: Deferred[Reading] = Deferred()
        self._waiting.append(waiter)
        if not self._reloading:
            self._reloading = True
            Deferred.fromCoroutine(self._reload())
        return waiter

    async def _reload(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            result: Reading | Failure
            try:
                result = await self._reload_once()
            except Exception:
                result = Failure()
            for waiter in waiting:
                waiter.callback(result)
        self._reloading = False

    async def _reload_once(self) -> Reading:
        """
        Read the file and apply it.

        :raises ConfigError: after a line in the log for each fault
        :raises ShuttingDown: when the gateway stops meanwhile
        """
        try:
            if not self.running:
                raise Cancelled
            reading: Reading = await self._in_thread(self._read)
            if not self.running:
                raise Cancelled
            self._adopt(reading)
        except Cancelled:
            raise _stopping() from None
        except (ConfigError, CannotStart) as error:
            for line in str(error).splitlines():
                _log.error("{line}", line=line)
            _log.error("the configuration was not reloaded; all goes on as before")
            raise self._as_faults(error) from None
        except Exception:
            _log.failure("the configuration was not reloaded")
            raise
        _log.info("the configuration was reloaded: {what}", what=reading.changes)
        announce.log_notes(reading.notes)
        return reading

    def _as_faults(self, error: ConfigError | CannotStart) -> ConfigError:
        if isinstance(error, ConfigError):
            return error
        return ConfigError([Fault(self._config.path, None, "", str(error))])

    def _not_reloaded(self) -> None:
        _log.info("the configuration is not reloaded: the gateway is stopping")

    async def check(self, text: bytes) -> Reading:
        """
        Look what a reload would make of the file if it said something else; nothing is applied.

        No binary is run but the one in use, and no certificate is read.

        :param text: what it would say; secrets may be masked
        :return: what could be applied
        :raises ConfigError: when it has faults
        :raises ShuttingDown: when the gateway stops
        """
        try:
            reading: Reading = await self._in_thread(partial(self._read, text))
            if not speaks_tls(reading.config.listen_addr):
                self._make_endpoint(reading.config, None)
        except Cancelled:
            raise _stopping() from None
        except CannotStart as error:
            raise self._as_faults(error) from None
        return reading

    async def described(self, only: str | None) -> bytes:
        """
        What is in force and where it comes from, see `llamagw.config.described`.

        :param only: of this model only; None for all
        :return: as JSON
        :raises ConfigError: when it cannot be told
        :raises ShuttingDown: when the gateway stops
        """
        config = self._config
        derived = {
            "max_bodies_mb": config.bodies_mb(machine_memory()),
            "access_log": config.logs_access(self._foreground),
        }
        describe = partial(describe_apart, config, derived, only, self._commands)
        try:
            told: bytes = await self._in_thread(describe)
        except Cancelled:
            raise _stopping() from None
        return told

    def _read(self, text: bytes | None = None) -> Reading:
        """
        The slow part of a reload; runs in a thread, so it changes no state.

        :param text: what the file would say, to be looked at only; None to read it
        :raises ConfigError: when the configuration has faults
        :raises CannotStart: when it needs a restart
        :raises Cancelled: when the gateway stops
        """
        old, commands, tls = self._config, self._commands, None
        path = old.path
        config = load_apart(path, commands, text)
        if config.uses_tls and not has_tls():
            raise CannotStart(
                "TLS (tls, an https: url, listen_addr ssl:) is new: it wants a restart"
            )
        if text is None:
            tls = certificates(config)
        else:
            config = unmasked(config, old)
        try:
            keyring = read_keyring(config)
            notes = (self._prepare if text is None else self._examine)(config, commands)
        except ConfigError as error:
            raise ConfigError(lines_apart(error.faults, commands, text)) from None
        changes = announce.changes(old, config)
        same = config.listen_addr == old.listen_addr and config.tls == old.tls
        if tls is not None and same:
            changes += "; its certificate is read anew"
        return Reading(config, tls, keyring, changes, announce.new_notes(notes, old, config))

    def _adopt(self, reading: Reading) -> None:
        """
        Apply a reload.

        :raises CannotStart: when its address cannot be bound; then nothing has changed
        """
        config, tls = reading.config, reading.tls
        old, port = self._config, self._port
        if tls is None or not self._renew(tls):
            if config.listen_addr != old.listen_addr:
                self._endpoint, self._port = self._listen(config, tls)
            elif config.serves_tls != old.serves_tls:
                raise CannotStart(
                    f"{config.listen_addr} is listened on "
                    f"{'without TLS' if config.serves_tls else 'with TLS'}; a change of tls there "
                    "wants a restart"
                )
        self._config = config
        self._keep(reading.keyring)
        self._apply(config)
        self._renewal.follow(config.listen_addr, config.tls, tls)
        if self._port is not None and self._port is not port and port is not None:
            port.stopListening()
            announce.log_address(self._port.getHost(), config)
        announce.log_tls(tls)

    def _renew(self, tls: Tls) -> bool:
        """Whether what is listened on speaks TLS with this now."""
        return isinstance(self._endpoint, TlsEndpoint) and self._endpoint.renew(tls)

    def _listen(
        self, config: Config, tls: Tls | None
    ) -> tuple[IStreamServerEndpoint, IListeningPort]:
        """
        Bind the port of a configuration.

        :raises CannotStart: when it cannot be bound
        :raises ConfigError: when ``listen_addr`` is no address that Twisted knows
        """
        ports: list[IListeningPort] = []
        failures: list[Failure] = []
        endpoint = self._make_endpoint(config, tls)
        endpoint.listen(self._site).addCallbacks(ports.append, failures.append)
        for failure in failures:
            if isinstance(failure.value, CannotListenError):
                reason = failure.value.socketError
                why = getattr(reason, "strerror", None) or reason
                raise CannotStart(
                    f"cannot listen on {config.listen_addr}: {why}; "
                    "end what listens there, or change listen_addr"
                )
            failure.raiseException()
        self._site.connections.loopback = is_loopback(ports[0].getHost())
        return endpoint, ports[0]

    def startService(self) -> None:
        """Log the start-up lines, and load what is to be preloaded."""
        super().startService()
        assert self._port is not None, "it was bound before"
        address = self._port.getHost()
        announce.log_start(
            self._config, self._notes, address, self._transports, self._foreground, self._tls
        )
        self._renewal.follow(self._config.listen_addr, self._config.tls, self._tls)
        self._dispatcher.begin()

    def stopService(self) -> Deferred[None]:
        """
        Drain and stop.

        :return: fires when no backend is left
        """
        super().stopService()
        self._renewal.stop()
        self._commands.cancel()
        if self._reloading:
            self._not_reloaded()
        return Deferred.fromCoroutine(self._drain())

    def hurry(self) -> None:
        """End the drain now, if one is under way: running answers are broken off."""
        if self._hurry is not None:
            hurry, self._hurry = self._hurry, None
            hurry.callback(None)

    async def _drain(self) -> None:
        if self._port is not None:
            await maybeDeferred(self._port.stopListening)
        busy = sum(report.in_flight for report in self._dispatcher.report())
        if busy:
            _log.info(
                "stopping; {busy} {sec:g} s to finish",
                busy="1 running answer has" if busy == 1 else f"{busy} running answers have",
                sec=self._config.drain_sec,
            )
        backends_gone = self._dispatcher.drain()
        clients_gone = self._site.connections.drain()
        self._hurry = Deferred()
        timer = self._clock.callLater(self._config.drain_sec, self.hurry)
        await DeferredList([clients_gone, self._hurry], fireOnOneCallback=True)
        if timer.active():
            timer.cancel()
        self._hurry = None
        # First, since an engine with a request in flight takes longer to end.
        self._pool.break_off("the gateway is shutting down")
        self._dispatcher.abandon()
        await backends_gone
        self._pool.close()
        # The end of a process may be seen before the end of its connections: its clients are to
        # get the error for a lost backend, not just a closed connection.
        goodbye: Deferred[None] = Deferred()
        timer = self._clock.callLater(GOODBYE_SEC, goodbye.callback, None)
        await DeferredList([clients_gone, goodbye], fireOnOneCallback=True)
        if timer.active():
            timer.cancel()
        self._site.connections.abort()
        if self._flush is not None:
            await self._flush()
        self._leftovers.close()
        _log.info("stopped; no backend is left")
