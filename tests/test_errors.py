"""The gateway's own errors: their status and their headers."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from llamagw import errors
from llamagw.errors import GatewayError, ModelNotFound, nearest


class ErrorTests(SynchronousTestCase):
    def test_a_place_that_is_no_text_can_be_told(self) -> None:
        error = errors.Moved(b"/upstream/m/?a=\x9e")
        self.assertIn((b"Location", b"/upstream/m/?a=\x9e"), error.headers())
        self.assertIn("/upstream/m/?a=", error.message)

    def test_each_way_to_fail_has_its_status(self) -> None:
        self.assertEqual(
            {error.__name__: (error.status, error.type) for error in GatewayError.__subclasses__()},
            {
                "InternalError": (500, "server_error"),
                "BadRequest": (400, "invalid_request_error"),
                "ModelNotFound": (404, "invalid_request_error"),
                "NotAllowed": (403, "permission_error"),
                "ModelNotLoaded": (409, "invalid_request_error"),
                "PathNotFound": (404, "invalid_request_error"),
                "WantsHttps": (400, "invalid_request_error"),
                "Moved": (308, "invalid_request_error"),
                "RequestNotFound": (404, "invalid_request_error"),
                "MethodNotAllowed": (405, "invalid_request_error"),
                "RequestTimeout": (408, "invalid_request_error"),
                "BodyTooLarge": (413, "invalid_request_error"),
                "RateLimited": (429, "rate_limit_error"),
                "Unauthorized": (401, "authentication_error"),
                "NotPermitted": (403, "permission_error"),
                "RequestCancelled": (499, "server_error"),
                "BackendLost": (502, "server_error"),
                "PoisonedRequest": (502, "server_error"),
                "ModelUnavailable": (503, "server_error"),
                "InsufficientMemory": (503, "server_error"),
                "ServerBusy": (503, "server_error"),
                "ShuttingDown": (503, "server_error"),
                "LoadTimeout": (504, "server_error"),
                "QueueTimeout": (504, "server_error"),
            },
        )

    def test_an_unknown_name_is_repeated_shortened_and_harmless(self) -> None:
        error = ModelNotFound("\x1b]0;x\x07" + "y" * 10_000, ["small"])
        self.assertLess(len(error.message), 300)
        self.assertIn(r"`\x1b]0;x\x07yyy", error.message)

    def test_of_very_many_names_a_few_are_listed_and_a_near_one_is_found(self) -> None:
        names = [f"{letter}{number}" for letter in "abc" for number in range(10_000)]
        error = ModelNotFound("b42x", [*names, "b42"])
        self.assertLess(len(error.message), 500)
        self.assertIn("and 29981 more", error.message)
        self.assertIn("Did you mean `b42`?", ModelNotFound("b4 2", [*names[:150], "b42"]).message)

    def test_no_two_ways_to_fail_have_one_code(self) -> None:
        codes = [error.code for error in GatewayError.__subclasses__()]
        self.assertEqual(len(codes), len(set(codes)))

    def test_retry_after_is_whole_seconds_and_always_a_little_longer(self) -> None:
        for seconds, header in [(0.0, b"1"), (0.2, b"1"), (1.0, b"2"), (1.01, b"2"), (60, b"61")]:
            error = errors.ModelUnavailable("Later.", retry_after=seconds)
            self.assertEqual(error.headers(), [(b"Retry-After", header)])

    def test_allow_names_the_methods(self) -> None:
        error = errors.MethodNotAllowed("Not so.", allow=["GET", "OPTIONS"])
        self.assertEqual(error.headers(), [(b"Allow", b"GET, OPTIONS")])

    def test_no_headers_without_a_reason(self) -> None:
        self.assertEqual(errors.BadRequest("No.").headers(), [])

    def test_an_unknown_model_names_those_that_exist(self) -> None:
        error = ModelNotFound("zzz", ["tiny", "large"])
        self.assertEqual(
            error.message, "The model `zzz` does not exist. Configured here: `tiny`, `large`."
        )
        self.assertEqual(error.param, "model")

    def test_an_unknown_model_names_the_nearest(self) -> None:
        error = ModelNotFound("qwen2.5", ["tiny", "qwen2.5-7b"])
        self.assertIn("Did you mean `qwen2.5-7b`?", error.message)

    def test_an_unknown_model_names_the_one_that_is_meant(self) -> None:
        known = ["Qwen2.5-7B", "qwen3-8b", "qwen3-30b", "smollm2", "gemma-3-270m-it-Q4_K_M"]
        for name, meant in (
            ("SmolLM2", "smollm2"),
            ("QWEN2.5-7b", "Qwen2.5-7B"),
            ("g", "gemma-3-270m-it-Q4_K_M"),
            ("Gemma-3", "gemma-3-270m-it-Q4_K_M"),
            ("qwen3-3", "qwen3-30b"),
            ("smolm2", "smollm2"),
        ):
            self.assertEqual(nearest(name, known), meant, name)
        for name in ("", "zzz", "q"):
            self.assertIsNone(nearest(name, known), name)

    def test_the_message_is_the_exceptions_text(self) -> None:
        self.assertEqual(str(GatewayError("Oh.")), "Oh.")
