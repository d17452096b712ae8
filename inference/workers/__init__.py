"""Worker processes: the pool, the fork server, and the channel between workers and server."""
