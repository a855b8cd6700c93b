"""PostgreSQL: the event log, the stores, the pool, the migrations, the embedded cluster."""
