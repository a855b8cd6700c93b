"""What we remember for reading; every projection can be rebuilt from the event log."""
