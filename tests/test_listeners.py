"""Promises of llamagw.listeners: who fails disturbs nobody, and does not fill the log."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from llamagw.listeners import Listeners


class ListenersTests(SynchronousTestCase):
    def test_who_fails_is_logged_once_goes_on_and_disturbs_nobody(self) -> None:
        listeners = Listeners[int]()
        broken: list[int] = []
        heard: list[int] = []

        def breaks(news: int) -> None:
            broken.append(news)
            raise ValueError(news)

        listeners.add(breaks)
        listeners.add(heard.append)
        for news in (1, 2, 3):
            listeners.tell(news)
        self.assertEqual((broken, heard), ([1, 2, 3], [1, 2, 3]))
        self.assertEqual([str(f.value) for f in self.flushLoggedErrors(ValueError)], ["1"])

    def test_who_has_stopped_hears_nothing_even_if_it_is_stopped_by_another(self) -> None:
        listeners = Listeners[int]()
        heard: list[int] = []
        listeners.add(lambda news: stop())
        stop = listeners.add(heard.append)
        listeners.tell(1)
        stop()
        self.assertEqual(heard, [])
