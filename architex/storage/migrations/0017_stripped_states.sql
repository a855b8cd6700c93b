-- What other servers told of rooms that this one is not in, with an invite or a knock of one of our
-- users. Counts as long as the user's membership is that of the fact at the same position.
CREATE TABLE stripped_states (
    user_id text COLLATE "C" NOT NULL,
    room_nid bigint NOT NULL,
    position bigint NOT NULL,           -- of the fact: the invite or the knock
    told_by text NOT NULL,              -- the server that told it
    events bytea NOT NULL,              -- stripped state events, a JSON array
    PRIMARY KEY (user_id, room_nid)
);

-- Of a room that we know by nothing but invites, whoever invites says which version it has, and may
-- lie. It is settled when we know the room's m.room.create event.
ALTER TABLE rooms ADD COLUMN is_version_settled boolean NOT NULL DEFAULT true;
