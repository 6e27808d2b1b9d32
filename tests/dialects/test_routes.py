"""Promises of llamagw.dialects: one table, in which each path is found once."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from llamagw.dialects import ANY, OWN, ROUTES, Where


class RoutesTests(SynchronousTestCase):
    def test_no_path_is_there_twice_for_one_method(self) -> None:
        told = [(method, path) for r in ROUTES for method in r.methods for path in r.paths]
        told += [(method, path) for method, path, _, _ in OWN]
        # Of an engine with `?model=`, of the gateway without.
        told.remove(("GET", "/metrics"))
        self.assertEqual(len(told), len(set(told)))

    def test_only_a_path_takes_any_method_and_only_it_has_the_model_in_it(self) -> None:
        for route in ROUTES:
            self.assertEqual(route.where is Where.PATH, route.methods is ANY)
            self.assertEqual(route.where is Where.PATH, "{model}" in route.paths[0])

    def test_every_path_that_openai_and_llama_server_share_is_known_with_and_without_v1(
        self,
    ) -> None:
        paths = {path for route in ROUTES for path in route.paths}
        for path in ("chat/completions", "completions", "embeddings", "responses", "rerank"):
            self.assertLessEqual({f"/{path}", f"/v1/{path}"}, paths)
