-- Transactions of other servers that were answered; kept for a day. The same again is answered the
-- same, and nothing of it is done twice.
CREATE TABLE received_transactions (
    origin text COLLATE "C" NOT NULL,
    txn_id text COLLATE "C" NOT NULL,
    answer bytea NOT NULL,              -- JSON
    received_ts bigint NOT NULL,        -- milliseconds since 1970
    PRIMARY KEY (origin, txn_id)
);
CREATE INDEX received_transactions_age ON received_transactions (received_ts);

-- A queue with a bound: events of other servers that could not be judged when they came, because
-- what they refer to could not be had in time.
CREATE TABLE waiting_pdus (
    room_id text COLLATE "C" NOT NULL,
    event_id text COLLATE "C" NOT NULL,
    origin text COLLATE "C" NOT NULL,   -- the server that sent it, and is asked
    event bytea NOT NULL,               -- JSON, as it came
    received_ts bigint NOT NULL,        -- milliseconds since 1970
    tries integer NOT NULL DEFAULT 0,   -- since it waits
    next_try_ts bigint NOT NULL,
    PRIMARY KEY (room_id, event_id)
);
CREATE INDEX waiting_pdus_due ON waiting_pdus (next_try_ts);
CREATE INDEX waiting_pdus_origin ON waiting_pdus (origin);
