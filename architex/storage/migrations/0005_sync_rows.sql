-- What a /sync tells beside the facts of rooms. Positions come from log_position.

-- Receipts: how far somebody has read. thread_id '' stands for an unthreaded receipt.
CREATE TABLE receipts (
    room_nid bigint NOT NULL,
    receipt_type text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    thread_id text COLLATE "C" NOT NULL DEFAULT '',
    event_id text COLLATE "C" NOT NULL,
    event_ordering bigint NOT NULL,     -- of the event in the timeline; never goes back
    ts bigint NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (room_nid, receipt_type, user_id, thread_id)
) WITH (fillfactor = 85);
CREATE INDEX receipts_changes ON receipts (position);

-- Who is typing; expires_ts in the past (or 0) says that somebody stopped. Lost without harm.
CREATE UNLOGGED TABLE typing (
    room_nid bigint NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    expires_ts bigint NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (room_nid, user_id)
);
CREATE INDEX typing_changes ON typing (position);

-- Presence, as last announced. Lost without harm.
CREATE UNLOGGED TABLE presence (
    user_id text COLLATE "C" PRIMARY KEY,
    presence text NOT NULL,
    status_msg text,
    last_active_ts bigint NOT NULL,
    last_sync_ts bigint NOT NULL,       -- of the user's newest /sync that set presence; 0: none
    position bigint NOT NULL
);
CREATE INDEX presence_changes ON presence (position);

-- Lazy-loaded members a device was told about: it knows the event at member_position once it
-- comes back with a token at or after sent_at. Lost without harm: it is told again.
CREATE UNLOGGED TABLE lazy_members (
    user_id text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    room_nid bigint NOT NULL,
    member text COLLATE "C" NOT NULL,
    member_position bigint NOT NULL,
    sent_at bigint NOT NULL,
    PRIMARY KEY (user_id, device_id, room_nid, member)
);

-- State at a past position needs the entries that ended after it.
CREATE INDEX current_state_ended ON current_state (room_nid, valid_to)
    WHERE valid_to < 9223372036854775807;

-- Rooms without a name are named after those who have been there longest.
CREATE INDEX memberships_since ON memberships (room_nid, join_position)
    WHERE join_position IS NOT NULL;
