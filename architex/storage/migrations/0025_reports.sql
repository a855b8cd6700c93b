-- What users report to the administrators: events, rooms and other users.
CREATE TABLE reports (
    report_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    reported_by text COLLATE "C" NOT NULL,
    reported_ts bigint NOT NULL,
    room_id text COLLATE "C",           -- null when a user was reported
    event_id text COLLATE "C",          -- of the event, if one was reported
    user_id text COLLATE "C",           -- the user, or the event's sender
    reason text NOT NULL
);
