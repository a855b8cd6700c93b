"""Everything that is not ours, each behind a Protocol: other servers, push, mail, files, clock."""
