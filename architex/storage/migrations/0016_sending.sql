-- What other servers are owed, and how sending to them goes.

-- room_servers (INLINE, of memberships): which servers have members in which room. A row stays
-- when the last one has gone: that event is still owed to the server.
CREATE TABLE room_servers (
    room_nid bigint NOT NULL,
    server_name text COLLATE "C" NOT NULL,
    joined bigint NOT NULL,             -- members in the room now
    since bigint NOT NULL,              -- position at which the first of them came, the last time
    until bigint,                       -- position at which the last one went; null: still there
    PRIMARY KEY (room_nid, server_name)
) WITH (fillfactor = 85);
CREATE INDEX room_servers_rooms ON room_servers (server_name, room_nid);
CREATE INDEX room_servers_since ON room_servers (since);
INSERT INTO room_servers (room_nid, server_name, joined, since)
    SELECT room_nid, substring(user_id FROM position(':' IN user_id) + 1), count(*),
        coalesce(min(join_position), 0)
    FROM memberships WHERE membership = 'join' AND position(':' IN user_id) > 0 GROUP BY 1, 2;

-- The events that servers in their rooms are owed: ours, and joins and the like that others made
-- through us. A queue: what all have is deleted.
CREATE TABLE outgoing_events (
    position bigint NOT NULL,           -- of the fact
    event_position bigint NOT NULL,     -- of the event's first fact
    room_nid bigint NOT NULL,
    forwarded_for text COLLATE "C",     -- the server it came from, which has it; null: it is ours
    also_to text COLLATE "C",           -- the server, not in the room, of somebody whose invite or
                                        -- knock it ends
    PRIMARY KEY (position, event_position)
);
CREATE INDEX outgoing_events_room ON outgoing_events (room_nid, position);

-- Servers we have something for, or had lately.
CREATE TABLE destinations (
    server_name text COLLATE "C" PRIMARY KEY,
    delivered bigint,                   -- everything up to this position has arrived, something
                                        -- after it waits; null: nothing waits
    failures bigint NOT NULL DEFAULT 0, -- in a row
    failing_since_ts bigint,            -- the first of them, milliseconds since 1970
    next_try_ts bigint NOT NULL DEFAULT 0,
    last_error text,
    last_success_ts bigint,             -- the last transaction it took
    nudge smallint NOT NULL DEFAULT 0   -- 1: it gave a sign of life; 2: the operator wants it
                                        -- tried now; for the sender to see
) WITH (fillfactor = 50);
CREATE INDEX destinations_waiting ON destinations (server_name) WHERE delivered IS NOT NULL;
CREATE INDEX destinations_nudged ON destinations (server_name) WHERE nudge > 0;

-- What a server would not take, ever: set aside, for the operator to see.
CREATE TABLE refused_by_destinations (
    server_name text COLLATE "C" NOT NULL,
    what text COLLATE "C" NOT NULL,     -- an event ID, or the type of an EDU
    room_id text COLLATE "C",
    error text NOT NULL,
    refused_ts bigint NOT NULL,
    PRIMARY KEY (server_name, what)
);

-- Our users among those whose presence is known.
CREATE INDEX presence_servers ON presence (substring(user_id FROM position(':' IN user_id) + 1));

-- The sender begins with what comes after this migration.
INSERT INTO tracking (application_name, notification_id)
    SELECT 'federation_sender', position FROM log_position ON CONFLICT DO NOTHING;
