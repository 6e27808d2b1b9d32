"""
`twistd llamagw`: its options, and the wiring of the parts.

The only file that touches the global reactor, and the only one that knows all parts. At import it
must load nothing that imports a reactor: twistd loads it before one is chosen, and here is where
uvloop's is chosen.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from twisted.python import usage

from llamagw import __version__
from llamagw.config import Config, ConfigError, Fault, load

if TYPE_CHECKING:
    from twisted.application.service import IService
    from twisted.internet.defer import Deferred

    from llamagw.proxy import Limits
    from llamagw.service import Gateway


class Options(usage.Options):
    """
    The command line. After parsing, ``options.loaded`` is the checked configuration, and
    ``options.hung_up`` whether a SIGHUP has come since.
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
    hung_up = False

    def opt_version(self) -> None:
        """Print the version of llamagw, and exit."""
        print(f"llamagw {__version__}")
        raise SystemExit(0)

    def postOptions(self) -> None:
        """
        Read the configuration and choose the reactor.

        :raises SystemExit: with 1 and one line per fault, or after ``--check``
        """
        # Resolved now: a daemon changes its directory.
        path = self["config"] = os.path.abspath(self["config"])
        if self.parent is not None and not self["check"]:
            self._note_hangups()
        try:
            self.loaded = load(path)
            if self["check"]:
                # Only Twisted itself can say whether an endpoint string is one.
                from twisted.internet import reactor

                endpoint(reactor, self.loaded)
        except ConfigError as error:
            raise SystemExit(str(error)) from None
        if self["check"]:
            print(summary(path, self.loaded))
            raise SystemExit(0)
        if not self.loaded.uses_tls:
            leave_out_tls()
        install_reactor(daemon=self.parent is not None and not self.parent["nodaemon"])

    def _note_hangups(self) -> None:
        """
        Have a SIGHUP wait until the gateway runs, rather than end it.

        Not ignored: what is ignored here would be ignored by the engines, too.
        """

        def note(*_: object) -> None:
            self.hung_up = True

        signal.signal(signal.SIGHUP, note)
        # `llamagw run` holds it back from its own beginning to here.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


def leave_out_tls() -> None:
    """
    Have Twisted do without OpenSSL, as it does where it is not installed.

    Twisted loads it on the chance that it is wanted: a fifth of the gateway's memory, for nothing
    when neither end speaks TLS. Once loaded by somebody else it is left alone.
    """
    sys.modules.setdefault("OpenSSL", None)  # type: ignore[arg-type]


def install_reactor(daemon: bool) -> None:
    """
    Have Twisted run on uvloop, unless it runs on something already or uvloop is missing.

    :param daemon: the process will fork; a kqueue, unlike an epoll, does not survive that
    """
    if "twisted.internet.reactor" in sys.modules or (daemon and sys.platform == "darwin"):
        return
    try:
        import uvloop
    except ImportError:
        return
    from twisted.internet import asyncioreactor

    asyncioreactor.install(uvloop.new_event_loop())


def makeService(options: Options) -> IService:
    """The gateway, wired to the global reactor."""
    from twisted.internet import reactor
    from twisted.internet.threads import deferToThreadPool

    # Twisted's own is the time of day: when that is set back, no timer fires until it is made up.
    reactor.seconds = time.monotonic  # type: ignore[method-assign]
    pool = reactor.getThreadPool()  # type: ignore[attr-defined]
    in_thread = partial(deferToThreadPool, reactor, pool)  # type: ignore[arg-type]
    gateway = make_gateway(options.loaded, reactor, in_thread)
    reactor.callWhenRunning(_handle_signals, reactor, gateway, options)
    return gateway


def make_gateway(
    config: Config,
    reactor: Any,
    in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
) -> Gateway:
    """
    Put the parts together.

    :param in_thread: calls a function in a thread, where it may take its time
    """
    from llamagw.api import Api
    from llamagw.fleet import Dispatcher
    from llamagw.launch import HttpProbe, Launchers, Leftovers, Processes, default_folder
    from llamagw.net import Connector, Pool, uses_uvloop
    from llamagw.proxy import Relay, Site
    from llamagw.service import Gateway

    try:
        endpoint(reactor, config)
    except ConfigError as error:
        raise SystemExit(str(error)) from None
    connect = Connector(reactor)
    leftovers = Leftovers(default_folder())
    probe = HttpProbe(reactor, connect)
    launchers = Launchers(Processes(reactor, config, leftovers, probe), probe, reactor)
    dispatcher = Dispatcher(config, launchers, probe, reactor)
    pool = Pool(reactor, connect)
    dispatcher.on_hung = partial(pool.break_off, "it does not answer any more")
    relay = Relay(
        dispatcher,
        pool,
        reactor,
        keepalive=config.stream_keepalive_sec,
        poison_sec=config.poison_sec,
    )
    api = Api(dispatcher, relay, reactor)
    site = Site(
        api.tree,
        api.table,
        clock=reactor,
        limits=limits(config),
        access_log=config.access_log,
    )

    def apply(config: Config) -> None:
        for part in (connect, launchers, dispatcher, relay):
            part.apply(config)
        site.allow(limits(config), config.access_log)

    return Gateway(
        config,
        site,
        dispatcher,
        pool,
        prepare=launchers.prepare,
        in_thread=in_thread,
        leftovers=leftovers,
        apply=apply,
        make_endpoint=lambda config: endpoint(reactor, config),
        clock=reactor,
        transports="uvloop" if uses_uvloop(reactor) else type(reactor).__name__,
    )


def limits(config: Config) -> Limits:
    """What clients may do, by the configuration and by the system's limit of open files."""
    from llamagw.proxy import Limits, Origins

    # Each connection may need a second one, to a backend; a few files are for everything else.
    return Limits(
        max_body=int(config.max_body_mb * 2**20),
        max_bodies=int(config.bodies_mb(machine_memory()) * 2**20),
        request_timeout=config.request_timeout_sec,
        client_stall=config.client_stall_sec,
        max_connections=max((raise_open_files() - 128) // 2, 8),
        origins=Origins(config.cors_origins),
    )


def machine_memory() -> int:
    """The bytes of memory that this process may use: the machine's, or its container's limit."""
    import psutil

    total = int(psutil.virtual_memory().total)
    # A container's own group is at the top of what it sees (cgroup v2, then v1).
    for path in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError), open(f"/sys/fs/cgroup/{path}") as file:
            return min(total, int(file.read()))
    return total


def raise_open_files() -> int:
    """Allow as many open files as the system lets us; how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS says "infinity" and takes no more than this.
    wanted = 10240 if sys.platform == "darwin" else hard
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def endpoint(reactor: Any, config: Config) -> Any:
    """
    :raises ConfigError: when ``listen_addr`` is no address that Twisted knows
    """
    from llamagw.net import server_endpoint

    try:
        return server_endpoint(reactor, config.listen_addr)
    except ValueError as error:
        raise ConfigError([Fault("", None, "listen_addr", str(error))]) from None


def _handle_signals(reactor: Any, gateway: Gateway, options: Options) -> None:
    """
    SIGTERM and SIGINT stop the gateway in order, a second one hurries; SIGHUP reads the
    configuration again; SIGCHLD is heard.

    Twisted's own handlers would end the process by the same signal in the end; a stop that was
    asked for and went well is a success, and exits with 0.
    """
    from twisted.internet.process import reapAllProcesses

    asked = False

    def stop() -> None:
        nonlocal asked
        if asked:
            gateway.hurry()
        else:
            asked = True
            reactor.stop()

    def reload() -> None:
        gateway.reload(options["config"])

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: reactor.callFromThread(stop))
    signal.signal(signal.SIGHUP, lambda *_: reactor.callFromThread(reload))
    if options.hung_up:
        reload()
    # uvloop takes the wakeup descriptor from Twisted by which it learns of its children's ends.
    signal.signal(signal.SIGCHLD, lambda *_: reactor.callFromThread(reapAllProcesses))
    # Python takes its handlers away before the process ends; no child is left to inherit this.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        reactor.addSystemEventTrigger("after", "shutdown", signal.signal, number, signal.SIG_IGN)


def summary(path: str, config: Config) -> str:
    """What would be served, for ``--check``."""
    missing = config.missing_files()
    local = [model for model in config.models if not model.remote]
    remote = [model for model in config.models if model.remote]
    lines = [f"{path} is fine.", f"llamagw {__version__} would listen on {config.listen_addr}"]
    if local:
        lines += [
            f"and run {config.llama_server_path},",
            f"with at most {config.max_loaded_models} of these in memory:",
        ]
    for model in local:
        note = "   (warning: there is no such file)" if model in missing else ""
        lines.append(f"  {model.name}: {model.model_path}{note}")
    if remote:
        lines.append("and pass on what is for these, which live elsewhere:")
    for other in remote:
        urls = ", ".join(replica.url for replica in other.replicas)
        lines.append(f"  {other.name}: {urls}")
    return "\n".join(lines)
