-- End-to-end encryption: keys of devices and users, messages to devices, backups of room keys.
-- Positions come from log_position. What clients choose freely is kept as JSON text.

-- Identity keys of our users' devices, as uploaded: their own signatures inside.
CREATE TABLE device_keys (
    user_id text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    keys text NOT NULL,
    PRIMARY KEY (user_id, device_id),
    FOREIGN KEY (user_id, device_id) REFERENCES devices ON DELETE CASCADE
);

-- One-time keys. A claimed one keeps its row, without the key, so that an upload repeated after a
-- lost answer cannot bring it back.
CREATE TABLE one_time_keys (
    user_id text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    algorithm text COLLATE "C" NOT NULL,
    key_id text COLLATE "C" NOT NULL,
    key text,                           -- JSON; null once claimed
    ordering bigint NOT NULL,           -- of uploads; keys of one upload share it
    claimed_ts bigint,                  -- milliseconds since 1970; null while it can be claimed
    PRIMARY KEY (user_id, device_id, algorithm, key_id),
    FOREIGN KEY (user_id, device_id) REFERENCES devices ON DELETE CASCADE
) WITH (fillfactor = 85);
CREATE SEQUENCE one_time_key_uploads;
CREATE INDEX one_time_keys_unclaimed ON one_time_keys
    (user_id, device_id, algorithm, ordering, key_id) WHERE claimed_ts IS NULL;
CREATE INDEX one_time_keys_claimed ON one_time_keys (claimed_ts) WHERE claimed_ts IS NOT NULL;

CREATE TABLE fallback_keys (
    user_id text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    algorithm text COLLATE "C" NOT NULL,
    key_id text COLLATE "C" NOT NULL,
    key text NOT NULL,                  -- JSON
    used boolean NOT NULL DEFAULT false,
    PRIMARY KEY (user_id, device_id, algorithm),
    FOREIGN KEY (user_id, device_id) REFERENCES devices ON DELETE CASCADE
);

-- Master, self-signing and user-signing keys of our users; of others the first two, as told.
CREATE TABLE cross_signing_keys (
    user_id text COLLATE "C" NOT NULL,
    usage text COLLATE "C" NOT NULL,    -- master, self_signing or user_signing
    public_key text COLLATE "C" NOT NULL,
    key text NOT NULL,                  -- JSON
    PRIMARY KEY (user_id, usage)
);

-- Signatures uploaded by others than whoever uploaded the signed key. The target is a device ID or
-- the public key of a master key.
CREATE TABLE key_signatures (
    target_user_id text COLLATE "C" NOT NULL,
    target_id text COLLATE "C" NOT NULL,
    signer_user_id text COLLATE "C" NOT NULL,
    signer_key_id text COLLATE "C" NOT NULL,
    signature text NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (target_user_id, target_id, signer_user_id, signer_key_id)
);
CREATE INDEX key_signatures_changes ON key_signatures (signer_user_id, position);

-- When the devices or keys of a user, ours or another's, changed last: one row per user.
CREATE TABLE device_list_changes (
    user_id text COLLATE "C" PRIMARY KEY,
    position bigint NOT NULL,
    own_position bigint NOT NULL DEFAULT 0  -- of a change that only the user sees
) WITH (fillfactor = 70);
CREATE INDEX device_list_changes_position ON device_list_changes (position);

-- What other servers are told of our users' devices: a queue with a bound, the newest row per user
-- stays. The device '' stands for the cross-signing keys.
CREATE TABLE device_list_updates (
    user_id text COLLATE "C" NOT NULL,
    stream_id bigint NOT NULL,          -- 1024 * position + number of the device in the change
    device_id text COLLATE "C" NOT NULL,
    previous bigint,                    -- stream_id of the user's update before, of any device
    position bigint NOT NULL,
    created_ts bigint NOT NULL,
    PRIMARY KEY (user_id, stream_id)
);
CREATE INDEX device_list_updates_position ON device_list_updates (position);

-- What other servers told of their users' devices. It holds as long as the user and our server have
-- been in some room together without a break since fetched_at.
CREATE TABLE remote_device_lists (
    user_id text COLLATE "C" PRIMARY KEY,
    stream_id bigint,                   -- null: the server did not say
    fetched_at bigint NOT NULL,         -- the position before it was asked for; 0: never
    applied_at bigint NOT NULL DEFAULT 0, -- the position of the last update of one device
    stale_at bigint NOT NULL DEFAULT 0  -- what was asked for before this position does not count
) WITH (fillfactor = 85);
CREATE TABLE remote_devices (
    user_id text COLLATE "C" NOT NULL REFERENCES remote_device_lists ON DELETE CASCADE,
    device_id text COLLATE "C" NOT NULL,
    keys text NOT NULL,                 -- JSON
    display_name text,
    PRIMARY KEY (user_id, device_id)
);

-- Messages to our users' devices, until a device shows that it has them.
CREATE TABLE to_device_messages (
    user_id text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    sender text NOT NULL,
    type text NOT NULL,
    content text NOT NULL,              -- JSON
    PRIMARY KEY (user_id, device_id, position),
    FOREIGN KEY (user_id, device_id) REFERENCES devices ON DELETE CASCADE
);

-- Messages to devices on other servers, until those servers have them.
CREATE TABLE to_device_outbox (
    destination text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    message_id text NOT NULL,
    sender text NOT NULL,
    type text NOT NULL,
    messages text NOT NULL,             -- JSON: user ID → device ID → content
    PRIMARY KEY (destination, position)
);
CREATE INDEX to_device_outbox_position ON to_device_outbox (position);

-- Backups of room keys.
CREATE TABLE key_backup_versions (
    user_id text COLLATE "C" NOT NULL REFERENCES users ON DELETE CASCADE,
    version bigint NOT NULL,
    algorithm text NOT NULL,
    auth_data text NOT NULL,            -- JSON
    etag bigint NOT NULL DEFAULT 0,
    count bigint NOT NULL DEFAULT 0,
    deleted boolean NOT NULL DEFAULT false,
    PRIMARY KEY (user_id, version)
) WITH (fillfactor = 70);
CREATE TABLE backed_up_keys (
    user_id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    room_id text COLLATE "C" NOT NULL,
    session_id text COLLATE "C" NOT NULL,
    first_message_index bigint NOT NULL,
    forwarded_count bigint NOT NULL,
    is_verified boolean NOT NULL,
    session_data text NOT NULL,         -- JSON
    PRIMARY KEY (user_id, version, room_id, session_id),
    FOREIGN KEY (user_id, version) REFERENCES key_backup_versions ON DELETE CASCADE
);

-- Positions that were given out and forgotten when the database was put back to an earlier moment:
-- from behind `after` up to before `until`. A sync token from there knows what we do not.
CREATE TABLE lost_positions (
    after bigint NOT NULL,
    until bigint PRIMARY KEY
);

-- Who has left a room lately, for device_lists.left.
CREATE INDEX memberships_ended ON memberships (room_nid, left_position)
    WHERE left_position IS NOT NULL;
