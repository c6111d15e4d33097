"""The data-source proxy: one process that owns all connections to databases and Redis, and the in-memory cache.

main ────── the process: boot, serve, end
server ──── the Unix socket
clients ─── one consumer's connection: its frames, its calls, fair turns
call ─────── one request under way: answered, failed or given up, exactly once
sources ─── which source a call is for; the queries by name
pool ────── a database's connections: fair queueing over handlers, quotas, transactions
breaker ─── whether a source is up; probes that bring it back
statement ─ a named query, cut at its placeholders once
postgresql, mysql, sqlite, redis, memory ── one backend each, behind `base`
"""
