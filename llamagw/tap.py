"""
`twistd llamagw`: its options, and the wiring of the parts.

The only file that touches the global reactor, and the only one that knows all parts. At import it
must load nothing that imports a reactor: twistd loads it before one is installed, and the options
install uvloop's (system.py).
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from twisted.logger import Logger
from twisted.python import usage

from llamagw import __version__, logs
from llamagw.config import Config, ConfigError, Fault, load, with_lines
from llamagw.system import (
    defer_hangups,
    handle_signals,
    install_reactor,
    leave_out_tls,
    machine_memory,
    raise_open_files,
    state_folder,
)

if TYPE_CHECKING:
    from twisted.application.service import IService
    from twisted.internet.defer import Deferred

    from llamagw.api import Metrics
    from llamagw.fleet import Dispatcher
    from llamagw.gate import Keyring
    from llamagw.launch import Note, Together
    from llamagw.models import Estimate
    from llamagw.net import Tls
    from llamagw.observe import Telemetry
    from llamagw.proxy import Limits
    from llamagw.service import Gateway


_log = Logger(namespace="llamagw")

#: Seconds for which ``--check`` reads the files of models.
CHECK_SEC = 60.0


class Options(usage.Options):
    """
    The command line.

    :ivar loaded: after parsing, the checked configuration
    :ivar hung_up: whether a SIGHUP has come since the options were parsed
    :ivar foreground: whether the log goes to stdout: no daemon, no log file, no syslog
    """

    synopsis = "[options]"
    longdesc = (
        "An OpenAI-compatible gateway in front of many llama-server models: starts them on demand, "
        "keeps as many in memory as fit, streams every answer through."
    )
    optParameters: ClassVar = [["config", "c", "config.yaml", "The configuration file (YAML)."]]
    optFlags: ClassVar = [
        ["check", None, "Check the configuration, print what would be served, and exit."]
    ]
    loaded: Config
    hung_up = foreground = False

    def opt_version(self) -> None:
        """Print the version of llamagw, and exit."""
        print(f"llamagw {__version__}")
        raise SystemExit(0)

    def postOptions(self) -> None:
        """
        Read the configuration and install the reactor.

        :raises SystemExit: with 1 and one line per fault, or after ``--check``
        """
        # Resolved now: a daemon changes its directory.
        path = self["config"] = os.path.abspath(self["config"])
        if self.parent is not None and not self["check"]:
            self._note_hangups()
        try:
            if self["check"]:
                from llamagw.announce import summary

                print(summary(path, *check(path)))
                raise SystemExit(0)
            self.loaded = load(path)
        except ConfigError as error:
            raise SystemExit(str(error)) from None
        if not self.loaded.uses_tls:
            leave_out_tls()
        install_reactor(daemon=self.parent is not None and not self.parent["nodaemon"])
        self._choose_log()

    def _choose_log(self) -> None:
        """Have twistd log by logs.py, as if its ``--logger`` said so; not text in a file."""
        twistd: dict[str, Any] = self.parent or {}
        self.foreground = bool(
            twistd.get("nodaemon")
            and twistd.get("logfile") in (None, "", "-")
            and not twistd.get("syslog")
        )
        if twistd.get("logger") or twistd.get("syslog"):
            return
        if self.loaded.log_format == "json" and twistd:
            logs.json_path = None if self.foreground else twistd["logfile"] or "twistd.log"
            twistd["logger"] = "llamagw.logs.json_observer"
        elif self.foreground:
            twistd["logger"] = "llamagw.logs.stdout_observer"

    def _note_hangups(self) -> None:
        """Remember a SIGHUP until the gateway runs, instead of ending by it."""

        def note() -> None:
            self.hung_up = True

        defer_hangups(note)


def check(
    path: str,
) -> tuple[Config, list[Note], dict[str, Estimate | None], Together | None]:
    """
    Check a configuration, and all that it refers to on this machine.

    :param path: the YAML file
    :return: the configuration, what is to be said of its models, how much memory each local one
        takes (None if that is not known), and which fit together
    :raises ConfigError: with every fault
    """
    from twisted.internet import reactor
    from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
    from zope.interface import implementer

    from llamagw.announce import log_tls
    from llamagw.apart import Commands
    from llamagw.gate import read_keyring
    from llamagw.launch import Known
    from llamagw.models import Learned
    from llamagw.service import certificates

    @implementer(ILogObserver)
    def warn(event: LogEvent) -> None:
        if event["log_level"] >= LogLevel.warn:
            print(f"warning: {formatEvent(event)}", file=sys.stderr)

    config = load(path)
    try:
        tls = certificates(config)
        # Only Twisted itself can check an endpoint string.
        endpoint(reactor, config, tls)
    except ConfigError as error:
        raise ConfigError(with_lines(error.faults)) from None
    read_keyring(config)
    known = Known(Learned(state_folder()).of)
    # There is no log yet: what cannot be read is told here.
    globalLogPublisher.addObserver(warn)
    try:
        log_tls(tls)
        known.read(config, Commands(), seconds=CHECK_SEC)
    finally:
        globalLogPublisher.removeObserver(warn)
    notes = known.notes(config)
    faults = known.faults(config)
    faults += [Fault(path, None, n.place, n.message) for n in notes if n.grade == "fault"]
    if faults:
        raise ConfigError(with_lines(faults))
    return config, notes, known.needs(config), known.together(config)


def makeService(options: Options) -> IService:
    """
    The gateway, wired to the global reactor.

    :param options: after parsing
    :raises SystemExit: when the gateway cannot listen on ``listen_addr``; with the reason, which
        Python prints, and status 1
    """
    from twisted.internet import reactor
    from twisted.internet.threads import deferToThreadPool

    from llamagw.service import CannotStart

    # Twisted's own is the wall clock: if that is set back, timers fire late by as much.
    reactor.seconds = time.monotonic  # type: ignore[method-assign]
    pool = reactor.getThreadPool()  # type: ignore[attr-defined]
    in_thread = partial(deferToThreadPool, reactor, pool)  # type: ignore[arg-type]
    gateway = make_gateway(options.loaded, reactor, in_thread, options.foreground)
    try:
        gateway.bind()
    except CannotStart as error:
        raise SystemExit(str(error)) from None
    except ConfigError as error:
        raise SystemExit(str(ConfigError(with_lines(error.faults)))) from None
    reactor.callWhenRunning(_handle_signals, reactor, gateway, options)
    reactor.callWhenRunning(_leave_out_of_collections)
    return gateway


def _leave_out_of_collections() -> None:
    """Keep garbage collections short: what exists now exists to the end, some 60,000 objects."""
    gc.collect()
    gc.freeze()


def make_gateway(
    config: Config,
    reactor: Any,
    in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
    foreground: bool = False,
) -> Gateway:
    """
    Put the parts together.

    :param config: what the gateway starts with
    :param reactor: for all I/O and all timers
    :param in_thread: calls a function in a thread, where it may block
    :param foreground: whether the log goes to stdout
    """
    from twisted.internet.defer import Deferred

    from llamagw.api import Api, Charts, Configuration, Devices, Live, Metrics
    from llamagw.fleet import Dispatcher
    from llamagw.gate import Audit, Gate, Tally, UsageFile, Watch
    from llamagw.launch import (
        Durations,
        HttpProbe,
        Launchers,
        Leftovers,
        Processes,
        default_folder,
    )
    from llamagw.listeners import Listeners
    from llamagw.models import Learned
    from llamagw.net import Connector, Pool, uses_uvloop
    from llamagw.observe import Activity, History, Record
    from llamagw.proxy import Relay, Site
    from llamagw.service import Gateway

    connect = Connector(reactor)
    leftovers, durations = Leftovers(default_folder()), Durations(state_folder())
    probe = HttpProbe(reactor, connect)
    learned = Learned(state_folder())
    processes = Processes(reactor, config, leftovers, probe, durations, learned)
    launchers = Launchers(processes, probe, reactor)
    dispatcher = Dispatcher(config, launchers, probe, reactor)
    pool = Pool(reactor, connect)
    dispatcher.on_hung = partial(pool.break_off, "it does not answer any more")
    relay = Relay(dispatcher, pool, reactor)
    relay.apply(config)
    exported = config.otel
    transports = "uvloop" if uses_uvloop(reactor) else type(reactor).__name__
    devices = Devices(dispatcher.totals, reactor)
    metrics = Metrics(dispatcher, devices, lambda: len(site.connections.open), transports, reactor)
    charts = Charts(History(metrics.counts, lambda: dispatcher.totals()[:4]), reactor)
    reactor.callWhenRunning(charts.begin)
    records = Listeners[Record]()
    records.add(metrics.counts.count)
    activity = Activity(config.activity_size, relay.capture)
    records.add(activity.add)
    exporting = _telemetry(config, dispatcher, metrics, reactor)
    if exporting is not None:
        records.add(exporting.tell)
        reactor.callWhenRunning(exporting.start)
    live = Live(dispatcher, lambda: site.under_way(), activity, records, reactor)
    configuration = Configuration(lambda: gateway)
    tally = Tally(UsageFile(state_folder()), metrics.counts.count_key, reactor, in_thread)
    api = Api(
        *(dispatcher, relay, reactor, metrics, activity, live, devices, charts, configuration),
        tally,
    )
    site = Site(
        api.tree,
        api.table,
        clock=reactor,
        limits=limits(config),
        records=records,
        access_log=config.logs_access(foreground),
        trace=None if exporting is None else exporting.begin,
    )

    gate, audit = Gate(), Audit(reactor, records)
    reactor.callWhenRunning(lambda: audit.apply(config))
    gate.meters.used = tally.used
    gate.meters.patience = config.limit_wait_sec
    counting: list[object] = []

    def keep(keyring: Keyring | None) -> None:
        gate.keyring = keyring
        audit.keys(keyring)
        site.admit(None if keyring is None else gate)
        if keyring is not None and not counting:
            # Not before: without keys there is nothing to be counted.
            counting.append(records.add(tally.count))
            reactor.callWhenRunning(lambda: Deferred.fromCoroutine(tally.begin()))

    watch = Watch(keep, reactor, in_thread)
    reactor.callWhenRunning(lambda: watch.apply(config))

    def apply(config: Config) -> None:
        for part in (connect, launchers, dispatcher, relay, watch, audit):
            part.apply(config)
        site.allow(limits(config), config.logs_access(foreground))
        activity.resize(config.activity_size)
        gate.meters.patience = config.limit_wait_sec
        if config.otel != exported:
            _log.warn("otel has changed; it takes effect at the next start")

    async def flush() -> None:
        if exporting is not None:
            await exporting.stop()
        await tally.end()

    gateway = Gateway(
        config,
        site,
        dispatcher,
        pool,
        prepare=launchers.prepare,
        examine=launchers.examine,
        in_thread=in_thread,
        leftovers=leftovers,
        apply=apply,
        make_endpoint=partial(endpoint, reactor),
        clock=reactor,
        transports=transports,
        foreground=foreground,
        flush=lambda: Deferred.fromCoroutine(flush()),
        keep=keep,
    )
    return gateway


def _telemetry(
    config: Config, dispatcher: Dispatcher, metrics: Metrics, reactor: Any
) -> Telemetry | None:
    """What exports spans and metrics; None if nothing does. Why it cannot be is logged."""
    wanted = config.otel
    if wanted is None:
        return None
    from llamagw.dialects import OPERATIONS, ROUTE_OF
    from llamagw.observe import Export, Names, telemetry

    problem = wanted.problem
    if not problem:
        export = Export(
            endpoint=wanted.endpoint,
            headers=wanted.headers,
            content=wanted.content,
            sample=wanted.sample,
            spans=wanted.spans,
            metrics=wanted.metrics,
        )
        names = Names(
            routes=ROUTE_OF, operations=OPERATIONS, known=dispatcher.catalogue.__contains__
        )
        try:
            return telemetry(export, names, metrics.counts, metrics.families, __version__, reactor)
        except (ImportError, ValueError) as error:
            problem = f"cannot be used: {error}"
    _log.warn(
        "{who} asks for OpenTelemetry, and nothing is exported: {why} "
        "(OTEL_SDK_DISABLED=true asks for nothing)",
        who=wanted.asked_by,
        why=problem,
    )
    return None


def limits(config: Config) -> Limits:
    """
    The limits for clients, from the configuration, the memory and the limit of open files.

    :param config: for its limits; the limit of open files is raised as far as possible
    """
    from llamagw.proxy import Forwarded, Limits, Origins

    # A client's connection may need a second one, to a backend; 128 files are for everything else.
    return Limits(
        max_body=int(config.max_body_mb * 2**20),
        max_bodies=int(config.bodies_mb(machine_memory()) * 2**20),
        request_timeout=config.request_timeout_sec,
        client_stall=config.client_stall_sec,
        max_connections=max((raise_open_files() - 128) // 2, 8),
        origins=Origins(config.cors_origins),
        forwarded=None if config.forwarded is None else Forwarded(config.forwarded),
    )


def endpoint(reactor: Any, config: Config, tls: Tls | None) -> Any:
    """
    The server endpoint of ``listen_addr``.

    :param reactor: to listen with
    :param config: for its ``listen_addr``
    :param tls: what TLS is spoken with there
    :raises ConfigError: when ``listen_addr`` is no address that Twisted knows
    """
    from llamagw.net import server_endpoint

    try:
        return server_endpoint(reactor, config.listen_addr, tls)
    except ValueError as error:
        raise ConfigError([Fault(config.path, None, "listen_addr", str(error))]) from None


def _handle_signals(reactor: Any, gateway: Gateway, options: Options) -> None:
    """SIGTERM and SIGINT stop the gateway in order, a second one hurries; SIGHUP reloads."""

    handle_signals(reactor, gateway.hurry, gateway.reload)
    if options.hung_up:
        gateway.reload()
