-- What an event may mean to those who read it, so that unread counts need not look at events.

ALTER TABLE timeline
    -- Whom it may notify under the predefined push rules: 0 nobody, 1 all alike, 2 some.
    ADD COLUMN notifies smallint NOT NULL DEFAULT 0,
    ADD COLUMN thread text COLLATE "C";     -- event ID of the thread's root; null for the main one

-- One's own receipts, over many rooms.
CREATE INDEX receipts_own ON receipts (user_id, room_nid);
