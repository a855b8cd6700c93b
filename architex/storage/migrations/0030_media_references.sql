-- media_references (FOLLOWED): which events name which media, as far as they can be read.
CREATE TABLE media_references (
    server_name text COLLATE "C" NOT NULL,
    media_id text COLLATE "C" NOT NULL,
    position bigint NOT NULL,           -- of the event
    sender text COLLATE "C" NOT NULL,
    redacted boolean NOT NULL,          -- the event names it no longer
    PRIMARY KEY (server_name, media_id, position)
);
CREATE INDEX media_references_events ON media_references (position);
CREATE INDEX media_references_redacted ON media_references (server_name, sender) WHERE redacted;
