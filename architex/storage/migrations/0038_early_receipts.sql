-- A queue with a bound: receipts of other servers' users for events that are not here yet. Which of
-- two servers' transactions comes first, the one with the event or the one with the receipt, nobody
-- says.
CREATE TABLE early_receipts (
    room_id text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    thread_id text COLLATE "C" NOT NULL,    -- empty: regardless of threads
    origin text COLLATE "C" NOT NULL,       -- the user's server
    event_ids text[] COLLATE "C" NOT NULL,  -- the newest that comes counts
    ts bigint NOT NULL,                     -- when it was read, milliseconds since 1970
    expires_ts bigint NOT NULL,             -- milliseconds since 1970
    PRIMARY KEY (room_id, user_id, thread_id)
);
CREATE INDEX early_receipts_origin ON early_receipts (origin);
