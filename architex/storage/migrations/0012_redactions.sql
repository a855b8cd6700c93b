-- Redactions, by the event they redact: which may come later than they do.
CREATE TABLE redactions (
    room_nid bigint NOT NULL,
    event_id text COLLATE "C" NOT NULL,     -- of the redacted event
    position bigint NOT NULL,               -- of the redaction
    server text,                            -- it applies only to events of this server; null: any
    PRIMARY KEY (room_nid, event_id, position)
);
