-- Relations between events: edits, reactions, threads, references.

-- relations (INLINE): events that say they relate to another; those that are redacted are gone.
CREATE TABLE relations (
    event_id text COLLATE "C" NOT NULL PRIMARY KEY,
    room_nid bigint NOT NULL,
    parent text COLLATE "C" NOT NULL,       -- event ID; whether there is such an event is not said
    rel_type text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    sender text COLLATE "C" NOT NULL,
    ordering bigint NOT NULL,               -- in the timeline
    position bigint NOT NULL,               -- of the event
    origin_server_ts bigint NOT NULL,
    is_edit boolean NOT NULL,               -- it has all that a replacement needs but for the parent's part
    annotation text                         -- `key` of an m.annotation
);
CREATE INDEX relations_parent ON relations (room_nid, parent, rel_type, ordering);
CREATE INDEX relations_children ON relations (room_nid, parent, ordering);

-- threads (INLINE, of relations): the newest event of each.
CREATE TABLE threads (
    room_nid bigint NOT NULL,
    root text COLLATE "C" NOT NULL,         -- event ID
    latest bigint,                          -- ordering
    PRIMARY KEY (room_nid, root)
);
CREATE INDEX threads_latest ON threads (room_nid, latest);
