-- Read models of the event log. Each can be dropped and rebuilt (architex projections rebuild).
-- Times inside a room are log positions: "at position p" means after every fact up to p.

-- event_graph (INLINE): every event, whatever its verdict.
CREATE TABLE event_graph (
    position bigint PRIMARY KEY,
    room_nid bigint NOT NULL,
    event_id text COLLATE "C" NOT NULL UNIQUE,
    verdict smallint NOT NULL,          -- 0 accepted, 1 soft-failed, 2 rejected
    depth bigint NOT NULL,
    prev_events bigint[] NOT NULL,      -- positions
    auth_events bigint[] NOT NULL,      -- positions
    redacted_by bigint                  -- position of the redaction, if any
);

-- timeline (INLINE): accepted events in the order clients read them.
CREATE TABLE timeline (
    room_nid bigint NOT NULL,
    ordering bigint NOT NULL,           -- the position, for events that came as they happened
    position bigint NOT NULL,
    type text NOT NULL,
    sender text NOT NULL,
    is_state boolean NOT NULL,
    has_url boolean NOT NULL,
    PRIMARY KEY (room_nid, ordering)
);

-- current_state (INLINE): (type, state key) → event, valid for valid_from <= p < valid_to.
CREATE TABLE current_state (
    room_nid bigint NOT NULL,
    type text COLLATE "C" NOT NULL,
    state_key text COLLATE "C" NOT NULL,
    position bigint NOT NULL,           -- of the event
    valid_from bigint NOT NULL,
    valid_to bigint NOT NULL DEFAULT 9223372036854775807,
    membership text,                    -- of m.room.member events
    PRIMARY KEY (room_nid, type, state_key, valid_from)
);
CREATE INDEX current_state_now ON current_state (room_nid, type)
    WHERE valid_to = 9223372036854775807;
CREATE INDEX current_state_changes ON current_state (room_nid, valid_from);

-- memberships (INLINE): who is in which room, since when.
CREATE TABLE memberships (
    user_id text COLLATE "C" NOT NULL,
    room_nid bigint NOT NULL,
    membership text NOT NULL,
    position bigint NOT NULL,           -- of the newest m.room.member event
    sender text NOT NULL,
    join_position bigint,               -- since when joined, without a break; null when not joined
    left_position bigint,               -- the last time a join ended; null when never
    PRIMARY KEY (user_id, room_nid)
) WITH (fillfactor = 85);
CREATE INDEX memberships_room ON memberships (room_nid, membership);

-- room_counts (INLINE, of memberships): members per room.
CREATE TABLE room_counts (
    room_nid bigint PRIMARY KEY,
    joined bigint NOT NULL,
    invited bigint NOT NULL
) WITH (fillfactor = 70);

-- room_directory (FOLLOWED): what a list of rooms shows.
CREATE TABLE room_directory (
    room_nid bigint PRIMARY KEY,
    name text,
    topic text,
    canonical_alias text,
    avatar_url text,
    room_type text,
    join_rule text,
    guest_can_join boolean NOT NULL DEFAULT false,
    world_readable boolean NOT NULL DEFAULT false,
    encryption text
);

-- user_profiles (FOLLOWED): users as rooms show them; for finding people.
CREATE TABLE user_profiles (
    user_id text COLLATE "C" PRIMARY KEY,
    displayname text,
    avatar_url text,
    position bigint NOT NULL
);
