"""
`llamagw`, the command for people: main.py and remote.py have the commands, the other files
do their work.

Nothing of the gateway imports it, so that what only the commands need (click) is never in the
gateway's memory; and it imports no reactor.
"""
