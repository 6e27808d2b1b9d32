"""Promises of llamagw.tap and llamagw.service: the command line, the wiring, start and stop.

In memory and on a Clock, but for the two tests that must ask a fresh Python what an import loads.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.application.service import IService
from twisted.internet import asyncioreactor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel, formatEvent
from twisted.python import usage
from twisted.python.reflect import namedAny
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from llamagw import __version__, announce, launch, logs, service, system, tap
from llamagw.config import ConfigError, TlsEntry, load, with_lines
from llamagw.launch import known
from llamagw.models import look_at
from llamagw.observe import STEP
from llamagw.proxy import Relay
from llamagw.service import GOODBYE_SEC, CannotStart, Gateway
from tests.models.support import gguf_bytes
from tests.support.authority import Authority
from tests.support.bench import Bench
from tests.support.configs import configuration
from tests.support.fake_llama_server import GGUF_HEAD
from tests.support.logs import observe
from tests.support.messages import CHAT, answers, event, request

ROOT = Path(__file__).resolve().parent.parent


class ConfigTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name).resolve()
        self.values: dict[str, Any] = {
            "llama_server_path": sys.executable,
            "listen_addr": "127.0.0.1:8000",
            "models": [
                {"name": "small", "model_path": "small.gguf"},
                {"name": "org/big", "model_path": "big.gguf"},
            ],
        }
        (self.folder / "small.gguf").write_bytes(GGUF_HEAD)

    def write(self, name: str = "config.yaml") -> str:
        path = self.folder / name
        path.write_text(json.dumps(self.values))  # JSON is YAML
        return str(path)

    def go_to(self, folder: Path) -> None:
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(folder)


class OptionsTests(ConfigTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.installed: list[bool] = []
        self.without_tls: list[bool] = []
        self.patch(tap, "install_reactor", lambda daemon: self.installed.append(daemon))
        self.patch(tap, "leave_out_tls", lambda: self.without_tls.append(True))
        self.patch(tap.Options, "_note_hangups", lambda options: None)

    def parse(self, *arguments: str, nodaemon: bool | None = None) -> tap.Options:
        options = tap.Options()
        if nodaemon is not None:
            options.parent = usage.Options()
            options.parent["nodaemon"] = nodaemon
        options.parseOptions(list(arguments))
        return options

    def ends(self, *arguments: str) -> tuple[object, str]:
        """What it exits with, and what it printed before that."""
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), self.assertRaises(SystemExit) as caught:
            self.parse(*arguments)
        return caught.exception.code, printed.getvalue()

    def test_a_configuration_is_loaded(self) -> None:
        options = self.parse("--config", self.write())
        self.assertEqual([m.name for m in options.loaded.models], ["small", "org/big"])

    def test_a_relative_path_is_resolved_before_a_daemon_changes_its_folder(self) -> None:
        self.write("mine.yaml")
        self.go_to(self.folder.parent)
        options = self.parse("-c", f"{self.folder.name}/mine.yaml")
        self.assertEqual(options["config"], str(self.folder / "mine.yaml"))
        model = options.loaded.models[0]
        assert not model.remote
        self.assertEqual(model.model_path, str(self.folder / "small.gguf"))

    def test_config_yaml_of_the_folder_is_the_default(self) -> None:
        self.write()
        self.go_to(self.folder)
        self.assertEqual(self.parse()["config"], str(self.folder / "config.yaml"))

    def test_faults_are_told_a_line_each_and_the_status_is_1(self) -> None:
        self.values.update(port_range_start=0, nonsense=1, max_loaded_models="many")
        path = self.write()
        code, _ = self.ends("--config", path)
        self.assertIsInstance(code, str)  # which Python prints, and exits with 1
        lines = str(code).splitlines()
        self.assertEqual(len(lines), 3)
        for line in lines:
            self.assertTrue(line.startswith(path), line)
        self.assertEqual(self.installed, [])

    def test_a_file_that_is_not_there_is_a_fault(self) -> None:
        code, _ = self.ends("--config", str(self.folder / "nowhere.yaml"))
        [line] = str(code).splitlines()
        self.assertIn("nowhere.yaml", line)

    def test_check_tells_what_would_be_served_and_starts_nothing(self) -> None:
        (self.folder / "big.gguf").write_bytes(GGUF_HEAD)
        code, printed = self.ends("--config", self.write(), "--check")
        self.assertEqual(code, 0)
        for text in ("127.0.0.1:8000", sys.executable, "at most 2", __version__):
            self.assertIn(text, printed)
        self.assertIn(f"small: {self.folder / 'small.gguf'}", printed)
        self.assertIn(f"org/big: {self.folder / 'big.gguf'}", printed)
        self.assertEqual(self.installed, [])

    def test_check_looks_into_the_files_of_models(self) -> None:
        path = self.write()
        (self.folder / "big.gguf").write_bytes(b"<!DOCTYPE html><html>Not found</html>")
        code, printed = self.ends("--config", path, "--check")
        self.assertEqual(printed, "")
        [line] = str(code).splitlines()
        self.assertIn(f"{path}:1: models[1].model_path: {self.folder}/big.gguf is a web pa", line)

    def test_check_knows_an_address_that_twisted_does_not(self) -> None:
        for address in ("frob:x=1", "unix:", "tcp:http", "127.0.0.1:99999"):
            self.values["listen_addr"] = address
            code, printed = self.ends("--config", self.write(), "--check")
            self.assertIn("listen_addr", str(code), address)
            self.assertEqual((len(str(code).splitlines()), printed), (1, ""))

    def test_the_version_is_told(self) -> None:
        self.assertEqual(self.ends("--version"), (0, f"llamagw {__version__}\n"))

    def test_a_reactor_is_chosen_knowing_whether_there_will_be_a_fork(self) -> None:
        path = self.write()
        self.parse("-c", path, nodaemon=True)
        self.parse("-c", path, nodaemon=False)
        self.assertEqual(self.installed, [False, True])

    def logger(self, **twistd: object) -> tuple[bool, object]:
        """Whether it is in the foreground, and the observer that twistd is to use."""
        options = tap.Options()
        options.parent = usage.Options()
        options.parent.update(twistd)
        options.parseOptions(["-c", self.write()])
        return options.foreground, options.parent.get("logger")

    def test_the_log_on_stdout_is_our_own_and_all_others_are_twistds(self) -> None:
        ours, mine = "llamagw.logs.stdout_observer", "my.observer"
        self.assertIs(namedAny(ours), logs.stdout_observer)
        for twistd, foreground, logger in (
            ({"nodaemon": True}, True, ours),
            ({"nodaemon": True, "logfile": "-"}, True, ours),
            ({"nodaemon": True, "logger": mine}, True, mine),
            ({"nodaemon": True, "logfile": "x.log"}, False, None),
            ({"nodaemon": True, "syslog": True}, False, None),
            ({"nodaemon": False}, False, None),
        ):
            self.assertEqual(self.logger(**twistd), (foreground, logger), twistd)

    def test_a_log_of_json_is_our_own_wherever_it_goes(self) -> None:
        self.values["log_format"] = "json"
        ours, mine = "llamagw.logs.json_observer", "my.observer"
        self.assertIs(namedAny(ours), logs.json_observer)
        self.patch(logs, "json_path", None)
        for twistd, logger, path in (
            ({"nodaemon": True}, ours, None),
            ({"nodaemon": True, "logfile": "x.log"}, ours, "x.log"),
            ({"nodaemon": False, "logfile": None}, ours, "twistd.log"),
            ({"nodaemon": True, "logger": mine}, mine, None),
            ({"nodaemon": True, "syslog": True}, None, None),
        ):
            logs.json_path = None
            self.assertEqual(self.logger(**{"logfile": None, **twistd})[1], logger, twistd)
            self.assertEqual(logs.json_path, path, twistd)

    def test_tls_is_left_out_unless_it_is_served(self) -> None:
        self.parse("-c", self.write())
        self.assertEqual(self.without_tls, [True])
        self.values["listen_addr"] = "ssl:8443:privateKey=k.pem"
        self.parse("-c", self.write())
        self.values.update(listen_addr=":8443", tls={"cert": "c.pem", "key": "k.pem"})
        self.parse("-c", self.write())
        self.assertEqual(self.without_tls, [True])

    def test_check_looks_at_the_files_of_tls(self) -> None:
        (self.folder / "big.gguf").write_bytes(GGUF_HEAD)
        self.values["tls"] = {"cert": "c.pem", "key": "k.pem"}
        path = self.write()
        code, printed = self.ends("--config", path, "--check")
        [line] = str(code).splitlines()
        self.assertEqual(line, f"{path}:1: tls.cert: there is no file {self.folder}/c.pem")
        key, cert = Authority(self.folder).issue("localhost", days=-1)
        key.chmod(0o604)
        self.values["tls"] = {"cert": str(cert), "key": str(key)}
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            code, printed = self.ends("--config", self.write(), "--check")
        self.assertEqual(code, 0)
        self.assertIn(" with TLS\n", printed)
        self.assertIn(f"warning: the certificate {cert} has expired on ", said.getvalue())
        self.assertIn(f"private key {key}: chmod o= {key}\n", said.getvalue())


class ReactorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.installed: list[object] = []
        self.patch(asyncioreactor, "install", self.installed.append)

    def without_a_reactor(self) -> None:
        saved = sys.modules.pop("twisted.internet.reactor", None)
        if saved is not None:
            self.addCleanup(sys.modules.__setitem__, "twisted.internet.reactor", saved)

    def test_one_that_was_chosen_already_is_kept(self) -> None:
        # Whoever runs the tests has one.
        self.assertIn("twisted.internet.reactor", sys.modules)
        system.install_reactor(daemon=False)
        self.assertEqual(self.installed, [])

    def test_else_it_runs_on_uvloop(self) -> None:
        self.without_a_reactor()
        for daemon in (False, True) if sys.platform == "linux" else (False,):
            system.install_reactor(daemon=daemon)
            loop: Any = self.installed.pop()
            loop.close()
            self.assertEqual(type(loop).__module__.partition(".")[0], "uvloop")

    def test_a_daemon_on_macos_keeps_twisted_s_own(self) -> None:
        self.without_a_reactor()
        self.patch(sys, "platform", "darwin")
        system.install_reactor(daemon=True)
        self.assertEqual(self.installed, [])

    def test_without_uvloop_twisted_s_own_is_kept(self) -> None:
        self.without_a_reactor()
        modules: dict[str, Any] = sys.modules
        if "uvloop" in modules:
            self.addCleanup(modules.update, uvloop=modules["uvloop"])
        else:
            self.addCleanup(modules.pop, "uvloop")
        modules["uvloop"] = None
        system.install_reactor(daemon=False)
        self.assertEqual(self.installed, [])

    def assert_in_a_fresh_python(self, code: str) -> None:
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_the_plugin_and_the_options_can_be_imported_before_there_is_a_reactor(self) -> None:
        self.assert_in_a_fresh_python(
            "import sys, twisted.plugins.llamagw_plugin as plugin, llamagw.tap\n"
            "assert plugin.llamagw.tapname == 'llamagw'\n"
            "assert 'twisted.internet.reactor' not in sys.modules\n"
            "assert 'uvloop' not in sys.modules\n"
        )

    def test_tls_that_is_left_out_is_not_loaded(self) -> None:
        self.assert_in_a_fresh_python(
            "import sys, llamagw.system as system\n"
            "system.leave_out_tls()\n"
            "import llamagw.proxy.relay, llamagw.api, llamagw.service, llamagw.launch.httpprobe\n"
            "assert sys.modules['OpenSSL'] is None\n"
            "assert 'cryptography' not in sys.modules\n"
        )


class ServiceTestCase(ConfigTestCase):
    """The gateway as it is wired, on a reactor in memory, and all that it logs."""

    foreground = True

    def setUp(self) -> None:
        super().setUp()
        self.reactor = MemoryReactorClock()
        self.patch(known, "known_flags", lambda *_: {})
        self.patch(known, "look_apart", lambda paths, seconds, asking: look_at(paths, seconds))
        self.patch(service, "load_apart", lambda path, asking, text=None: load(path, text))
        self.patch(service, "lines_apart", lambda found, asking, text=None: with_lines(found, text))
        # No real processes here, so nothing of an earlier gateway either.
        self.patch(launch, "default_folder", lambda: str(self.folder / "leftovers"))
        self.patch(tap, "state_folder", lambda: str(self.folder / "state"))
        self.logged: list[str] = []
        self.warned: list[str] = []
        self.addCleanup(observe(self.observe))

    def observe(self, happened: dict[str, Any]) -> None:
        self.logged.append(formatEvent(happened))
        if happened.get("log_level", LogLevel.info) > LogLevel.info:
            self.warned.append(self.logged[-1])

    def make(self) -> Gateway:
        config = load(self.write())
        return tap.make_gateway(config, self.reactor, maybeDeferred, self.foreground)

    def start(self) -> Gateway:
        gateway = self.make()
        gateway.bind()
        gateway.privilegedStartService()
        gateway.startService()
        return gateway

    def settle(self) -> None:
        for _ in range(5):
            self.reactor.advance(0)


class TelemetryTests(ServiceTestCase):
    """What `otel` and the OTEL_ variables bring about."""

    def setUp(self) -> None:
        super().setUp()
        others = {k: v for k, v in os.environ.items() if not k.startswith("OTEL_")}
        environ = mock.patch.dict(os.environ, others, clear=True)
        environ.start()
        self.addCleanup(environ.stop)

    def test_what_is_off_is_not_loaded(self) -> None:
        path = self.write()
        code = (
            "import sys\n"
            "from twisted.internet.defer import maybeDeferred\n"
            "from twisted.internet.testing import MemoryReactorClock\n"
            "from llamagw import tap\n"
            "from llamagw.config import load\n"
            f"tap.make_gateway(load({path!r}), MemoryReactorClock(), maybeDeferred)\n"
            "found = [name for name in sys.modules if name.startswith('opentelemetry')]\n"
        )
        fresh = partial(subprocess.run, capture_output=True, text=True, check=False)
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        for endpoint, count in (("", "not found"), ("http://127.0.0.1:1", "len(found) > 50")):
            environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
            done = fresh([sys.executable, "-c", f"{code}assert {count}, found"], env=environ)
            self.assertEqual((done.returncode, done.stderr), (0, ""), endpoint)

    def test_spans_begin_with_requests_and_are_flushed_at_the_end(self) -> None:
        self.assertIsNone(self.make()._site.trace)
        self.values["otel"] = {"endpoint": "http://127.0.0.1:1"}
        gateway = self.make()
        assert gateway._site.trace is not None
        self.assertTrue(gateway._site.trace({}).sampled)
        self.assertIsNotNone(gateway._flush)

    def test_who_asks_for_what_cannot_be_is_told_and_served(self) -> None:
        os.environ.update(
            OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4317", OTEL_EXPORTER_OTLP_PROTOCOL="grpc"
        )
        self.assertIsNone(self.make()._site.trace)
        [warned] = self.warned
        self.assertIn("OTEL_EXPORTER_OTLP_ENDPOINT asks for OpenTelemetry, and nothing", warned)
        self.assertIn("http/protobuf only", warned)

    def test_a_variable_that_is_not_taken_is_told(self) -> None:
        os.environ["OTEL_METRIC_EXPORT_INTERVAL"] = "soon"
        self.values["otel"] = {}
        self.assertIsNone(self.make()._site.trace)
        [warned] = self.warned
        self.assertIn("OTEL_METRIC_EXPORT_INTERVAL is soon", warned)


class StartTests(ServiceTestCase):
    def test_it_is_a_service(self) -> None:
        gateway = self.make()
        verifyObject(IService, gateway)
        self.assertEqual(self.reactor.tcpServers, [])

    def test_it_listens_where_it_is_told_before_it_is_started(self) -> None:
        gateway = self.make()
        gateway.bind()
        [(port, site, _, interface)] = self.reactor.tcpServers
        self.assertEqual((port, interface), (8000, "127.0.0.1"))
        self.assertIs(site, gateway._site)

    def test_the_configuration_reaches_what_it_is_for(self) -> None:
        self.values.update(
            max_body_mb=0.5, access_log=True, client_stall_sec=7, request_timeout_sec=9
        )
        site = self.make()._site
        self.assertEqual(site.connections.max_body, 2**19)
        self.assertTrue(site.access_log)
        allowed = site.connections
        self.assertEqual((allowed.client_stall, allowed.request_timeout), (7, 9))
        self.assertGreaterEqual(allowed.max_connections, 8)

    def test_samples_for_charts_are_taken_while_it_runs(self) -> None:
        self.make()
        begin = self.reactor.whenRunningHooks[0][0]
        begin()
        self.reactor.advance(STEP)
        self.assertIn("1 samples", repr(begin.__self__))

    def test_requests_are_logged_in_the_foreground(self) -> None:
        for foreground in (True, False):
            self.foreground = foreground
            gateway = self.make()
            self.assertIs(gateway._site.access_log, foreground)
            gateway._apply(gateway._config)
            self.assertIs(gateway._site.access_log, foreground, "after a reload too")

    def test_it_says_what_is_served_and_where(self) -> None:
        self.values["listen_addr"] = ":8000"
        self.start()
        log = "\n".join(self.logged)
        for text in (
            f"llamagw {__version__}",
            "2 models configured, at most 2 in memory",
            "listening on 0.0.0.0:8000; base URL: http://localhost:8000/v1",
            "http://localhost:8000/ui/ in a browser",
            "Ctrl-C stops",
        ):
            self.assertIn(text, log)
        self.assertLessEqual(len(self.logged), 8)

    def test_who_cannot_stop_it_by_ctrl_c_is_not_told_to(self) -> None:
        self.foreground = False
        self.start()
        self.assertNotIn("Ctrl-C", "\n".join(self.logged))

    def test_that_there_are_no_keys_is_told_where_others_can_connect(self) -> None:
        for address, told in (
            (IPv4Address("TCP", "127.0.0.1", 8000), 0),
            (IPv6Address("TCP", "::1", 8000), 0),
            (UNIXAddress("/run/llamagw.sock"), 0),
            (IPv4Address("TCP", "0.0.0.0", 8000), 1),
            (IPv6Address("TCP", "::", 8000), 1),
            (IPv4Address("TCP", "192.0.2.1", 8000), 1),
        ):
            self.warned.clear()
            announce.log_address(address, configuration(listen_addr=":8000"))
            said = [line for line in self.warned if "no keys" in line]
            self.assertEqual((len(said), len(self.warned)), (told, told), address)

    def test_nor_is_it_told_where_clients_show_certificates(self) -> None:
        everywhere = IPv4Address("TCP", "0.0.0.0", 8443)
        for authority, told in ((None, 1), ("ca.pem", 0)):
            self.warned.clear()
            tls = TlsEntry(cert="cert.pem", key="key.pem", client_ca=authority)
            announce.log_address(everywhere, configuration(listen_addr=":8443", tls=tls))
            self.assertEqual(len(self.warned), told)
            self.assertIn("base URL: https://localhost:8443/v1", self.logged[-2 - told])

    def test_models_without_their_files_are_two_lines_at_most(self) -> None:
        self.values["models"] += [{"name": f"m{n}", "model_path": f"{n}.gguf"} for n in range(9)]
        self.start()
        big = self.folder / "big.gguf"
        self.assertEqual(
            self.warned[:2],
            [
                f"model org/big cannot be served: there is no file {big}",
                "9 more warnings of this kind; llamagw check has them all",
            ],
        )
        self.assertEqual([line for line in self.warned[2:] if "model" in line], [])

    def test_a_file_that_is_no_model_is_a_warning_and_hints_are_left_to_check(self) -> None:
        (self.folder / "big.gguf").write_bytes(b"<html>")
        (self.folder / "small.gguf").write_bytes(gguf_bytes("bert", _context_length=512))
        self.start()
        self.assertIn("model small: context_size is 4096, and the model was tra", self.warned[0])
        big = self.folder / "big.gguf"
        self.assertIn(f"model org/big cannot be served: {big} is a web page", self.warned[1])

    def flags(self, *_: object) -> dict[str, bool]:
        return {"--model": True, "--embeddings": False}

    def test_a_flag_that_the_engine_does_not_have_ends_the_start_with_a_line(self) -> None:
        self.patch(known, "known_flags", self.flags)
        self.values["models"][1]["extra_args"] = ["--embedings"]
        gateway = self.make()
        with self.assertRaises(ConfigError) as caught:
            gateway.bind()
        self.assertEqual(
            str(caught.exception),
            f"{self.folder}/config.yaml: models[1].extra_args[0]: --embedings is no flag of "
            "this llama-server; did you mean --embeddings?",
        )
        self.assertEqual(self.reactor.tcpServers, [])

    def test_a_reload_with_such_a_flag_changes_nothing(self) -> None:
        gateway = self.start()
        self.patch(known, "known_flags", self.flags)
        self.values["llama_server_path"] = str(self.folder / "other")
        (self.folder / "other").touch(mode=0o755)
        self.values["models"][1]["extra_args"] = ["--embedings"]
        self.write()
        gateway.reload()
        self.assertIn("is no flag of this llama-server; did you mean", self.warned[-2])
        self.assertIn("was not reloaded", self.warned[-1])
        self.assertEqual(gateway._config.llama_server_path, sys.executable)

    def test_one_model_is_not_called_models(self) -> None:
        del self.values["models"][1]
        self.start()
        self.assertIn("1 model configured", "\n".join(self.logged))

    def taken(self) -> None:
        def listen(port: int, factory: object, backlog: int = 50, interface: str = "") -> None:
            raise CannotListenError(interface, port, OSError(98, "Address already in use"))

        self.patch(self.reactor, "listenTCP", listen)

    def test_a_taken_address_ends_the_start_with_one_line(self) -> None:
        self.taken()
        gateway = self.make()
        with self.assertRaises(CannotStart) as caught:
            gateway.bind()
        message = str(caught.exception)
        self.assertIn("cannot listen on 127.0.0.1:8000: Address already in use", message)
        self.assertIn("listen_addr", message)
        self.assertEqual(len(message.splitlines()), 1)

    def test_an_address_that_twisted_does_not_know_ends_the_start_with_one_line(self) -> None:
        self.values["listen_addr"] = "frob:x=1"
        with self.assertRaises(ConfigError) as caught:
            self.make().bind()
        [fault] = caught.exception.faults
        self.assertEqual(
            (fault.file, fault.place), (str(self.folder / "config.yaml"), "listen_addr")
        )


class StopTests(ServiceTestCase):
    """No new connections; running answers finish or run out of time; then the backends' end."""

    def setUp(self) -> None:
        super().setUp()
        self.values["drain_sec"] = 30
        self.bench = Bench()
        self.reactor = self.bench.reactor
        self.gateway = self.start()
        self.fleet = self.bench.dispatcher
        self.bench.engines.lingers = True
        #: What the service wants of the fleet.
        self.calls: list[str] = []
        for name in ("drain", "abandon"):
            self.patch(self.fleet, name, self.noted(name, getattr(self.fleet, name)))
        for name, part in (
            ("_dispatcher", self.fleet),
            ("_site", self.bench.site),
            ("_pool", self.bench.pool),
        ):
            setattr(self.gateway, name, part)

    def noted(self, name: str, call: Callable[[], Any]) -> Callable[[], Any]:
        def noted() -> Any:
            self.calls.append(name)
            return call()

        return noted

    def backends_end(self) -> None:
        """The processes of all engines, which were told to stop, are gone."""
        for run in self.bench.engines.runs:
            self.assertEqual(run.asked, ["stop"])
            run.end("exited with status 0", "", 0)

    def stop(self) -> Deferred[Any]:
        stopped = self.gateway.stopService()
        self.settle()
        return stopped

    def test_an_idle_gateway_waits_for_its_backends_only(self) -> None:
        stopped = self.stop()
        self.assertEqual(self.calls, ["drain", "abandon"])
        self.assertNoResult(stopped)
        self.backends_end()
        self.successResultOf(stopped)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_the_port_is_closed_first(self) -> None:
        order: list[str] = []

        class Port:
            def stopListening(self) -> Deferred[None]:
                order.append("port")
                return succeed(None)

        drain = self.fleet.drain

        def noted() -> Deferred[None]:
            order.append("fleet")
            return drain()

        self.patch(self.gateway, "_port", Port())
        self.patch(self.fleet, "drain", noted)
        self.stop()
        self.assertEqual(order, ["port", "fleet"])

    def test_a_running_answer_is_waited_for(self) -> None:
        client, backend = self.bench.streaming()
        stopped = self.stop()
        self.assertIn("1 running answer has 30 s", "\n".join(self.logged))
        self.reactor.advance(29)
        self.assertEqual(self.calls, ["drain"])
        backend.says(event(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        self.settle()
        [answer] = answers(bytes(client.heard), "POST")
        self.assertTrue(answer.whole)
        self.assertFalse(client.connected)
        self.assertEqual(self.calls, ["drain", "abandon"])
        self.backends_end()
        self.successResultOf(stopped)

    def test_what_takes_longer_than_the_drain_is_waited_for_no_longer(self) -> None:
        client, backend = self.bench.streaming()
        stopped = self.stop()
        self.reactor.advance(30)
        self.assertEqual(self.calls, ["drain", "abandon"])
        backend.hangs_up()  # as its process is ended
        self.backends_end()
        self.settle()
        [answer] = answers(bytes(client.heard), "POST")
        self.assertIn(b'data: {"error":', answer.body)
        self.assertFalse(client.connected)
        self.successResultOf(stopped)

    def test_who_hung_on_a_backend_hears_of_its_end_though_its_process_s_is_known_first(
        self,
    ) -> None:
        client, backend = self.bench.streaming()
        stopped = self.stop()
        self.reactor.advance(30)
        self.backends_end()
        self.settle()
        backend.hangs_up()
        self.settle()
        [answer] = answers(bytes(client.heard), "POST")
        self.assertTrue(answer.whole)
        self.assertIn(b'data: {"error":', answer.body)
        self.assertEqual(client.ended, "lose")
        self.successResultOf(stopped)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_who_asks_a_second_time_waits_no_longer(self) -> None:
        self.bench.streaming()
        self.stop()
        self.assertEqual(self.calls, ["drain"])
        self.gateway.hurry()
        self.assertEqual(self.calls, ["drain", "abandon"])
        self.gateway.hurry()
        self.assertEqual(self.calls, ["drain", "abandon"])

    def test_to_hurry_a_gateway_that_runs_does_nothing(self) -> None:
        self.gateway.hurry()
        self.assertEqual(self.calls, [])

    def test_idle_connections_of_clients_and_to_backends_are_closed(self) -> None:
        client = self.bench.client(request(path="/health"))
        _, backend = self.bench.streaming()
        backend.says(b"0\r\n\r\n")
        stopped = self.stop()
        self.assertFalse(client.connected)
        self.backends_end()
        self.settle()
        self.assertFalse(backend.connected)
        self.successResultOf(stopped)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_a_client_that_reads_nothing_more_does_not_keep_it(self) -> None:
        client, backend = self.bench.streaming()
        client.stalls()
        backend.says(event(b"x" * 100_000) + b"0\r\n\r\n")
        stopped = self.stop()
        self.reactor.advance(30)
        self.backends_end()
        self.reactor.advance(GOODBYE_SEC)
        self.settle()
        self.assertFalse(client.connected)
        self.successResultOf(stopped)


class ReloadTests(ServiceTestCase):
    """SIGHUP: another configuration, or none of it."""

    def reload(self, gateway: Gateway) -> None:
        self.write()
        gateway.reload()

    def relay(self, gateway: Gateway) -> Relay:
        """The one that the table's handlers are methods of."""
        handler: Any = gateway._site.table[CHAT.encode()]
        relay: Relay = handler.func.__self__
        return relay

    def test_limits_change_in_place(self) -> None:
        gateway = self.start()
        self.assertEqual(self.relay(gateway).poisoned.seconds, 60)
        self.values.update(max_body_mb=0.25, access_log=True, stream_keepalive_sec=3, poison_sec=5)
        self.reload(gateway)
        relay = self.relay(gateway)
        self.assertEqual((relay.keepalive, relay.poisoned.seconds), (3, 5))
        self.assertEqual(gateway._site.connections.max_body, 2**18)
        self.assertTrue(gateway._site.access_log)
        self.assertIn("the configuration was reloaded", "\n".join(self.logged))

    def test_another_collector_takes_effect_at_the_next_start_which_is_told(self) -> None:
        gateway = self.start()
        self.values["otel"] = {"endpoint": "http://127.0.0.1:1"}
        self.reload(gateway)
        self.assertIn("otel has changed; it takes effect at the next start", self.warned)
        self.assertIn("other keys: otel", "\n".join(self.logged))

    def test_the_listener_is_left_alone_when_its_address_is_the_same(self) -> None:
        gateway = self.start()
        self.values["max_loaded_models"] = 5
        self.reload(gateway)
        self.assertEqual(len(self.reactor.tcpServers), 1)

    def test_another_address_is_listened_on(self) -> None:
        gateway = self.start()
        self.values["listen_addr"] = "127.0.0.1:8007"
        self.reload(gateway)
        self.assertEqual([server[0] for server in self.reactor.tcpServers][-1], 8007)

    def test_a_bad_configuration_is_told_line_by_line_and_changes_nothing(self) -> None:
        gateway = self.start()
        before = gateway._config
        self.values.update(max_body_mb=0, max_queue="many")
        self.reload(gateway)
        self.assertIs(gateway._config, before)
        told = "\n".join(self.warned)
        self.assertIn("max_body_mb: expected", told)
        self.assertIn("max_queue: expected", told)
        self.assertIn("all goes on as before", told)

    def test_an_address_that_is_taken_changes_nothing(self) -> None:
        gateway = self.start()
        before = gateway._config

        def listen(port: int, factory: object, backlog: int = 50, interface: str = "") -> None:
            raise CannotListenError(interface, port, OSError(98, "Address already in use"))

        self.patch(self.reactor, "listenTCP", listen)
        self.values.update(listen_addr="127.0.0.1:8007", max_body_mb=1)
        self.reload(gateway)
        self.assertIs(gateway._config, before)
        self.assertIn("cannot listen on 127.0.0.1:8007", "\n".join(self.warned))
