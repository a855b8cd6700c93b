-- What a reader may see of events that stand on a branch, and of backfilled history.

ALTER TABLE timeline
    ADD COLUMN on_branch boolean NOT NULL DEFAULT false,    -- it did not follow the end of the room
    -- Of a backfilled event: the ordering at which what came as it happened goes on. Null for
    -- events that came as they happened.
    ADD COLUMN resumes_at bigint;

UPDATE timeline t SET on_branch = true FROM event_graph g
WHERE g.position = t.position AND g.state_at IS NOT NULL;

-- Events on branches where a reader sees little else.
CREATE INDEX timeline_branches ON timeline (room_nid, ordering) WHERE on_branch;

-- past_state (INLINE, of timeline): backfilled state events that decide about who may read what.
CREATE TABLE past_state (
    room_nid bigint NOT NULL,
    type text COLLATE "C" NOT NULL,
    state_key text COLLATE "C" NOT NULL,
    ordering bigint NOT NULL,
    position bigint NOT NULL,           -- of the event
    resumes_at bigint NOT NULL,         -- as in timeline
    membership text,                    -- of m.room.member events
    PRIMARY KEY (room_nid, type, state_key, ordering)
);
