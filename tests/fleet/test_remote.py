"""Models that live elsewhere, from the fleet's door: reached, chosen, replaced, found again."""

from __future__ import annotations

from msgspec.structs import replace
from twisted.logger import LogEvent, formatEvent

from llamagw.config import ModelConfig, RemoteModel, Replica
from llamagw.errors import BadRequest, ModelNotLoaded, ModelUnavailable
from llamagw.fleet import Change, Lease
from llamagw.launch.probes import FAILURES
from llamagw.launch.remote import address_of
from tests.fleet.test_dispatch import DispatcherCase
from tests.support.configs import configuration, local_model, remote_model
from tests.support.logs import observe

A, B, C = (Replica(url=f"http://{name}:8000/v1") for name in "abc")


def far(*replicas: Replica, name: str = "far") -> RemoteModel:
    return remote_model(name, *replicas)


class ElsewhereCase(DispatcherCase):
    def start(self, *models: ModelConfig, limit: int = 1, **wrong: str) -> None:
        """A gateway with these models; of their servers, those that are named are not well."""
        ours = local_model("ours")
        self.make_with(configuration(*models, ours, max_loaded_models=limit, health_check_sec=30))
        self.probe.wrong = wrong
        self.dispatcher.begin()
        self.settle()

    def logged(self) -> list[str]:
        """What the manager logs from here on."""
        lines: list[str] = []

        def note(event: LogEvent) -> None:
            if event["log_namespace"] == "llamagw.fleet":
                lines.append(formatEvent(event))

        self.addCleanup(observe(note))
        return lines

    def settle(self) -> None:
        for _ in range(5):
            self.clock.advance(0)

    def lease(self, name: str = "far", failed: list[Lease] | None = None) -> Lease:
        return self.successResultOf(self.dispatcher.acquire(name, failed=failed or []))

    def host(self, lease: Lease) -> str:
        return lease.address.host

    def lose(self, lease: Lease) -> None:
        """The relay's word that this one's server broke off."""
        lease.release()
        self.successResultOf(lease.broke_off())
        self.settle()


class AddressTests(DispatcherCase):
    def test_it_is_what_the_configuration_says(self) -> None:
        replica = Replica(
            url="https://x.example/api/v1", api_key="k", ca_file="/ca.pem", upstream_model="y"
        )
        address = address_of(far(replica), replica)
        self.assertEqual((address.host, address.port, address.tls), ("x.example", 443, True))
        self.assertEqual((address.prefix, address.ca_file), ("/api", "/ca.pem"))
        self.assertEqual((address.api_key, address.model), ("k", "y"))
        self.assertEqual(address.url, "https://x.example/api")
        self.assertEqual(address_of(far(A), A).model, "far")


class SlotTests(ElsewhereCase):
    def limited(self, b: str = "") -> None:
        """Two servers, each of which is sent one request at a time."""
        wrong = {"b": b} if b else {}
        self.start(remote_model("far", A, B, max_in_flight=1), limit=1, **wrong)

    def test_each_server_is_sent_as_many_as_is_said(self) -> None:
        self.limited()
        leases = [self.lease(), self.lease()]
        self.assertEqual({self.host(lease) for lease in leases}, {"a", "b"})
        waiting = self.dispatcher.acquire("far")
        self.assertNoResult(waiting)
        leases[0].release()
        self.assertEqual(self.host(self.successResultOf(waiting)), self.host(leases[0]))

    def test_who_waits_for_one_is_served_by_the_other_if_that_is_free_first(self) -> None:
        self.limited()
        first, second = self.lease(), self.lease()
        waiting = [self.dispatcher.acquire("far") for _ in range(3)]
        # All three, one after the other, by one of them.
        while waiting:
            first.release()
            [served] = [one for one in waiting if one.called]
            waiting.remove(served)
            first = self.successResultOf(served)
            self.assertNotEqual(self.host(first), self.host(second))

    def test_who_waits_for_one_that_is_away_is_served_by_one_that_is_reached(self) -> None:
        self.limited(b="Connection refused")
        self.lease()
        waiting = self.dispatcher.acquire("far")
        self.assertNoResult(waiting)
        self.probe.wrong = {}
        self.clock.advance(1)
        self.settle()
        self.assertEqual(self.host(self.successResultOf(waiting)), "b")

    def test_without_a_limit_all_are_sent(self) -> None:
        self.start(far(A))
        self.assertEqual(len([self.lease() for _ in range(50)]), 50)


class ReachTests(ElsewhereCase):
    def test_it_is_reached_at_the_start_and_no_process_is_started(self) -> None:
        self.start(far(A))
        self.assertEqual((self.probe.diagnosed, self.launcher.launched()), (["a"], []))
        self.assertEqual(self.status(), {"far": "loaded", "ours": "unloaded"})
        self.assertEqual(self.host(self.lease()), "a")

    def test_it_takes_no_room(self) -> None:
        self.start(far(A), far(B, name="further"), limit=1)
        leases = [self.lease("far"), self.lease("further"), self.have_lease("ours")]
        self.assertEqual(len(leases), 3)
        self.assertEqual(set(self.status().values()), {"loaded"})

    def test_one_that_cannot_be_reached_says_why_and_is_tried_again(self) -> None:
        self.start(far(A), a="Connection refused")
        error = self.error_of(self.dispatcher.acquire("far"))
        self.assertIsInstance(error, ModelUnavailable)
        self.assertIn("http://a:8000/v1 cannot be reached: Connection refused", error.message)
        self.assertEqual(self.status()["far"], "failed")
        self.probe.wrong = {}
        self.clock.advance(1)
        self.settle()
        self.assertEqual(self.host(self.lease()), "a")

    def test_it_is_tried_again_after_one_second_then_two_four_and_each_five(self) -> None:
        self.start(far(A), a="Connection refused")
        tried = []
        for second in range(1, 31):
            before = len(self.probe.diagnosed)
            self.clock.pump([0.5, 0, 0, 0.5, 0, 0])
            if len(self.probe.diagnosed) > before:
                tried.append(second)
        self.assertEqual(tried, [1, 3, 7, 12, 17, 22, 27])

    def test_what_is_wrong_with_it_is_logged_once_until_it_is_well_again(self) -> None:
        lines = self.logged()
        self.start(far(A), a="Connection refused")
        self.clock.pump([0.5] * 2 * 3600)
        self.probe.wrong = {"a": "it answers 503"}
        self.clock.pump([0.5] * 2 * 600)
        self.probe.wrong = {"a": "Connection refused"}
        self.clock.pump([0.5] * 2 * 600)
        self.assertEqual([line.rpartition(": ")[2] for line in lines], [
            "Connection refused", "it answers 503"
        ])  # fmt: skip
        self.probe.wrong, self.probe.well = {}, True
        self.clock.pump([0.5] * 2 * 600)
        self.assertEqual(lines[2:], ["far is reached at http://a:8000/v1"])
        self.probe.wrong, self.probe.well = {"a": "Connection refused"}, False
        self.clock.pump([0.5] * 2 * 600)
        self.assertEqual(lines[3], "far: http://a:8000/v1 does not answer any more")
        self.assertIn("Connection refused", lines[4])
        self.assertEqual(len(lines), 5)

    def test_that_it_is_down_is_told_once_and_again_if_for_another_reason(self) -> None:
        self.patch(__import__("time"), "time", lambda: 1_000_000.0 + self.clock.rightNow)
        self.start(far(A), a="Connection refused")
        told: list[Change | None] = []
        self.dispatcher.watch(told.append)
        since = self.dispatcher.report()[0].failed_at
        self.clock.pump([0.5] * 2 * 60)
        self.assertEqual(told, [])
        self.probe.wrong = {"a": "it answers 503"}
        self.clock.pump([0.5] * 2 * 60)
        [change] = told
        assert change is not None
        self.assertEqual((change.status, change.failed_at), ("failed", since))
        self.assertIn("it answers 503", change.error or "")

    def test_one_that_breaks_off_and_is_well_is_looked_at_without_a_word(self) -> None:
        self.start(far(A, B))
        self.clock.advance(100)
        lines = self.logged()
        self.lose(self.lease())
        self.assertEqual(lines, [])

    def test_one_that_is_ready_is_watched_and_left_when_it_no_longer_answers(self) -> None:
        self.start(far(A))
        self.probe.well = False
        self.probe.wrong = {"a": "Connection refused"}
        self.clock.advance(30)
        self.clock.pump([1] * FAILURES)
        self.settle()
        self.assertEqual(self.status()["far"], "failed")
        self.assertIn("cannot be reached", self.error_of(self.dispatcher.acquire("far")).message)

    def test_who_must_not_load_is_turned_away_while_it_cannot_be_reached(self) -> None:
        self.start(far(A), a="Connection refused")
        waiting = self.dispatcher.acquire("far", load=False)
        self.assertIsInstance(self.error_of(waiting), ModelNotLoaded)

    def test_it_cannot_be_unloaded_from_here(self) -> None:
        self.start(far(A))
        self.assertRaises(BadRequest, self.dispatcher.unload, "far")
        self.assertEqual(self.status()["far"], "loaded")

    def test_the_end_does_not_wait_for_it(self) -> None:
        self.start(far(A, B))
        drained = self.dispatcher.drain()
        self.settle()
        self.successResultOf(drained)


class ReplicaTests(ElsewhereCase):
    def test_the_one_with_the_fewest_in_flight_gets_the_next(self) -> None:
        self.start(far(A, B, C))
        leases = [self.lease() for _ in range(6)]
        self.assertEqual(sorted(map(self.host, leases)), ["a", "a", "b", "b", "c", "c"])
        for lease in leases:
            if self.host(lease) == "b":
                lease.release()
        self.assertEqual([self.host(self.lease()) for _ in range(2)], ["b", "b"])
        report = self.dispatcher.report()[0]
        self.assertEqual((report.in_flight, report.status, report.port), (6, "loaded", None))

    def test_it_is_told_which_of_them_is_down_and_why(self) -> None:
        self.start(far(A, B), b="Connection refused")
        self.lease()
        up, down = self.dispatcher.report()[0].replicas
        self.assertEqual((up.url, up.status, up.in_flight), (A.url, "loaded", 1))
        self.assertEqual((down.url, down.status, down.in_flight), (B.url, "failed", 0))
        self.assertIn("Connection refused", down.error or "")
        self.assertEqual(self.dispatcher.report()[1].replicas, [])

    def test_of_those_alike_the_one_that_was_used_longest_ago_does(self) -> None:
        self.start(far(A, B, C))
        hosts = []
        for _ in range(6):
            self.clock.advance(1)
            lease = self.lease()
            lease.release()
            hosts.append(self.host(lease))
        self.assertEqual(hosts[:3], hosts[3:])
        self.assertEqual(set(hosts), {"a", "b", "c"})

    def test_one_that_cannot_be_reached_gets_nothing(self) -> None:
        self.start(far(A, B), b="Connection refused")
        self.assertEqual({self.host(self.lease()) for _ in range(4)}, {"a"})
        self.assertEqual(self.status()["far"], "loaded")

    def test_one_that_fails_is_replaced_by_another_and_comes_back_when_it_is_well(self) -> None:
        self.start(far(A, B))
        self.clock.advance(100)
        self.settle()
        first = self.lease()
        self.assertEqual(first.tries, 2)
        self.probe.wrong = {self.host(first): "Connection refused"}
        self.lose(first)
        other = {"a": "b", "b": "a"}[self.host(first)]
        self.assertEqual(self.host(self.lease(failed=[first])), other)
        self.assertEqual([self.host(self.lease()) for _ in range(3)], [other] * 3)
        self.probe.wrong = {}
        self.clock.pump([1] * 5)
        self.settle()
        self.assertEqual(self.host(self.lease()), self.host(first))

    def test_one_that_broke_off_but_is_well_is_still_not_the_next_for_the_same_request(
        self,
    ) -> None:
        self.start(far(A, B))
        first = self.lease()
        self.lose(first)
        for _ in range(3):
            self.assertNotEqual(self.host(self.lease(failed=[first])), self.host(first))

    def test_a_request_is_tried_with_each_of_them_once(self) -> None:
        self.start(far(A, B, C), far(A, name="alone"))
        self.assertEqual((self.lease().tries, self.lease("alone").tries), (3, 1))
        self.assertEqual(self.have_lease("ours").tries, 2)

    def test_one_that_breaks_off_again_and_again_but_is_well_stays_in_use(self) -> None:
        self.start(far(A, B))
        for _ in range(20):
            self.lose(self.lease())
        leases = [self.lease() for _ in range(2)]
        self.assertEqual(sorted(map(self.host, leases)), ["a", "b"])

    def test_many_that_are_lost_in_one_moment_lead_to_one_look(self) -> None:
        self.start(far(A, B))
        leases = [self.lease() for _ in range(6)]
        lost = [lease for lease in leases if self.host(lease) == "a"]
        before = len(self.probe.diagnosed)
        for lease in lost:
            self.successResultOf(lease.broke_off())
        self.settle()
        self.assertEqual(self.probe.diagnosed[before:], ["a"])
        self.assertEqual(self.status()["far"], "loaded")

    def test_whoever_waits_at_one_that_hangs_is_told_so_but_not_at_one_that_broke_off(
        self,
    ) -> None:
        hung: list[str] = []
        self.start(far(A, B))
        self.dispatcher.on_hung = lambda address: hung.append(address.host)
        self.lose(self.lease())
        self.assertEqual(hung, [])
        self.probe.well = False
        self.probe.wrong = {"a": "silence", "b": "silence"}
        self.clock.advance(30)
        self.clock.pump([1] * FAILURES)
        self.settle()
        self.assertEqual(sorted(hung), ["a", "b"])

    def test_leases_go_on_while_their_server_is_looked_at(self) -> None:
        self.start(far(A))
        lost, kept = self.lease(), self.lease()
        self.lose(lost)
        self.assertEqual(self.dispatcher.report()[0].in_flight, 1)
        kept.release()
        self.assertEqual(self.dispatcher.report()[0].in_flight, 0)
        self.assertEqual(self.status()["far"], "loaded")

    def test_who_waits_for_one_that_fails_goes_on_to_one_that_is_ready(self) -> None:
        self.start(far(A, B))
        leases = [self.lease(), self.lease()]
        self.probe.later = True
        for lease in leases:
            lease.broke_off()
            lease.release()
        self.settle()
        waiting = [self.dispatcher.acquire("far") for _ in range(2)]
        self.assertEqual(set(self.probe.diagnoses), {"a", "b"})
        self.probe.diagnoses["b"].callback(None)
        self.probe.diagnoses["a"].callback("Connection refused")
        self.settle()
        self.assertEqual([self.host(self.successResultOf(lease)) for lease in waiting], ["b", "b"])

    def test_only_a_change_of_the_whole_is_told(self) -> None:
        self.start(far(A, B))
        told: list[Change | None] = []
        self.dispatcher.watch(told.append)
        first = self.lease()
        self.probe.wrong = {"a": "down", "b": "down"}
        self.lose(first)
        self.assertEqual(told, [])
        self.lose(self.lease(failed=[first]))
        self.assertEqual([change.status for change in told if change][-1], "failed")
        self.probe.wrong = {}
        self.clock.pump([1] * 70)
        self.settle()
        self.assertEqual([change.status for change in told if change][-1], "loaded")


class ReloadTests(ElsewhereCase):
    def test_one_that_is_new_is_reached_and_one_that_is_gone_is_left(self) -> None:
        self.start(far(A))
        lease = self.lease()
        config = self.dispatcher.config
        self.dispatcher.apply(replace(config, models=[far(B), config.models[1]]))
        self.settle()
        self.assertEqual(self.probe.diagnosed, ["a", "b"])
        self.assertEqual((self.host(self.lease()), self.host(lease)), ("b", "a"))
        lease.release()
        self.settle()
        self.assertEqual(len(self.dispatcher._instances), 2)

    def test_one_that_is_the_same_is_left_as_it_is_though_the_engine_is_another(self) -> None:
        self.start(far(A))
        self.dispatcher.apply(replace(self.dispatcher.config, llama_server_path="/other"))
        self.settle()
        self.assertEqual(self.probe.diagnosed, ["a"])
