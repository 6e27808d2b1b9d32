"""What llamagw does when something goes wrong: each test is a promise of docs/reliability.md."""
