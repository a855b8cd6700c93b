-- What people say about rooms outside the rooms themselves.

CREATE TABLE room_aliases (
    room_alias text COLLATE "C" PRIMARY KEY,
    room_id text COLLATE "C" NOT NULL,
    creator text NOT NULL,
    created_ts bigint NOT NULL
);
CREATE INDEX room_aliases_room ON room_aliases (room_id);

-- Rooms published in the directory of this server.
CREATE TABLE published_rooms (
    room_id text COLLATE "C" PRIMARY KEY,
    published_by text NOT NULL,
    published_ts bigint NOT NULL
);

-- Rooms a user has forgotten: nothing up to this position is shown to them any more.
CREATE TABLE forgotten_rooms (
    user_id text COLLATE "C" NOT NULL,
    room_nid bigint NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (user_id, room_nid)
);
