-- What other servers may see of history from before our time is found by what set it.
CREATE INDEX timeline_visibilities ON timeline (room_nid, ordering)
    WHERE type = 'm.room.history_visibility';
CREATE INDEX timeline_beginnings ON timeline (room_nid) WHERE type = 'm.room.create';

-- Events by the time they claim; null where the row is from before this column (a rebuild of
-- the projection fills it).
ALTER TABLE timeline ADD COLUMN origin_server_ts bigint;
CREATE INDEX timeline_times ON timeline (room_nid, origin_server_ts, ordering);
