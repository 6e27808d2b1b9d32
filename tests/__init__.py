"""The tests of llamagw: `trial tests` runs the trial cases, `pytest` all."""
