-- What other servers told us of a room: outliers, history from before we came, and what lacks.

-- An outlier is an event that we know, but not the state of the room where it stands. It has its
-- place in the history if we know what follows it.
ALTER TABLE event_graph
    ADD COLUMN is_outlier boolean NOT NULL DEFAULT false,
    ADD COLUMN is_placed boolean NOT NULL DEFAULT true;

-- Events that have no place in the history yet, though events that have one follow them: here our
-- history of a room begins, or has a gap.
CREATE TABLE missing_events (
    room_nid bigint NOT NULL,
    event_id text COLLATE "C" NOT NULL,
    follower bigint NOT NULL,           -- position of an event that follows it
    PRIMARY KEY (room_nid, event_id, follower)
);

-- Where those events stand in the timeline that did not come as they happened.
CREATE UNIQUE INDEX timeline_moved ON timeline (position) WHERE ordering <> position;
