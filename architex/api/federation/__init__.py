"""The server-server API: what other servers ask of this one."""
