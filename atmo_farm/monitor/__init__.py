"""The monitor process: what the farm does, for those who ask at its control socket.

main.py     the process, from the fork to its exit code
farm.py     its view of the farm: the arena's cards and counts, the Directive in force, what it asks the master
server.py   the control socket (docs/control-protocol.md)
http.py     metrics.py and health.py over HTTP; machine.py: what the kernel knows of a process
report.py   the farm as `status` tells it
verbs/      one file for each group of verbs
"""
