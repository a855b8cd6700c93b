"""One method per intention of a user or a server; transactions live here."""
