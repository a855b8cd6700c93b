-- Users of this server, their devices and tokens, and what they keep here. Times are milliseconds
-- since 1970. Values that clients choose freely are kept as JSON text: jsonb cannot hold U+0000.

CREATE TABLE users (
    user_id text COLLATE "C" PRIMARY KEY,
    password_hash text,                 -- null: nobody can log in with a password
    created_ts bigint NOT NULL,
    is_admin boolean NOT NULL DEFAULT false,
    is_guest boolean NOT NULL DEFAULT false,
    locked boolean NOT NULL DEFAULT false,
    suspended boolean NOT NULL DEFAULT false,
    deactivated_ts bigint,              -- null: the account is active
    erased boolean NOT NULL DEFAULT false,
    appservice_id text                  -- of the application service that made the user
);

CREATE INDEX users_guests ON users (user_id) WHERE is_guest;

CREATE TABLE devices (
    user_id text COLLATE "C" NOT NULL REFERENCES users ON DELETE CASCADE,
    device_id text COLLATE "C" NOT NULL,
    display_name text,
    created_ts bigint NOT NULL,
    last_seen_ts bigint,
    last_seen_ip text,
    PRIMARY KEY (user_id, device_id)
) WITH (fillfactor = 85);

-- Tokens are random; only their SHA-256 is kept. They end with their device.
CREATE TABLE refresh_tokens (
    token_hash bytea PRIMARY KEY,
    user_id text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    created_ts bigint NOT NULL,
    -- The refresh token this one was given for. It, and the access token that came with it, live
    -- until this one or the access token beside it is used; null once that has happened.
    supersedes bytea,
    FOREIGN KEY (user_id, device_id) REFERENCES devices ON DELETE CASCADE
);
CREATE INDEX refresh_tokens_device ON refresh_tokens (user_id, device_id);
CREATE INDEX refresh_tokens_supersedes ON refresh_tokens (supersedes)
    WHERE supersedes IS NOT NULL;

CREATE TABLE access_tokens (
    token_hash bytea PRIMARY KEY,
    token_id bigint GENERATED ALWAYS AS IDENTITY,
    user_id text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    created_ts bigint NOT NULL,
    expires_ts bigint,                  -- null: never
    refresh_token bytea,                -- the hash of the refresh token given with it
    unused boolean NOT NULL,            -- it came from a refresh, and that is not confirmed yet
    FOREIGN KEY (user_id, device_id) REFERENCES devices ON DELETE CASCADE
);
CREATE INDEX access_tokens_device ON access_tokens (user_id, device_id);
CREATE INDEX access_tokens_refresh ON access_tokens (refresh_token)
    WHERE refresh_token IS NOT NULL;

-- One row per field of a profile; the value is JSON.
CREATE TABLE profiles (
    user_id text COLLATE "C" NOT NULL REFERENCES users ON DELETE CASCADE,
    key_name text COLLATE "C" NOT NULL,
    value text NOT NULL,
    PRIMARY KEY (user_id, key_name)
);

-- Global when room_id is ''. The content is JSON.
CREATE TABLE account_data (
    user_id text COLLATE "C" NOT NULL,
    room_id text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    content text NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (user_id, room_id, type)
);
CREATE INDEX account_data_changes ON account_data (user_id, position);

-- Filters are named by the hash of their canonical JSON: the same filter is the same row.
CREATE TABLE filters (
    user_id text COLLATE "C" NOT NULL REFERENCES users ON DELETE CASCADE,
    filter_id text COLLATE "C" NOT NULL,
    filter text NOT NULL,
    PRIMARY KEY (user_id, filter_id)
);

-- Tokens that let people register (m.login.registration_token).
CREATE TABLE registration_tokens (
    token text COLLATE "C" PRIMARY KEY,
    uses_allowed bigint,                -- null: any number
    uses bigint NOT NULL DEFAULT 0,
    expires_ts bigint,                  -- null: never
    created_ts bigint NOT NULL
);

-- Nonces of the shared-secret registration: each is good once.
CREATE TABLE registration_nonces (
    nonce text COLLATE "C" PRIMARY KEY,
    expires_ts bigint NOT NULL
);
CREATE INDEX registration_nonces_expiry ON registration_nonces (expires_ts);

-- User-interactive authentication under way.
CREATE TABLE interactive_auth_sessions (
    session_id text COLLATE "C" PRIMARY KEY,
    operation text NOT NULL,            -- method and path it was begun for; good for no other
    user_id text COLLATE "C",           -- who began it; null when nobody was logged in
    request text NOT NULL,              -- JSON: the first request, without its secrets
    flows text NOT NULL,                -- JSON: lists of stages, one of which is to be completed
    completed text[] NOT NULL DEFAULT '{}',
    registration_token text,            -- the one that completed its stage
    outcome text,                       -- of a finished operation, for who asks again: the user ID
    expires_ts bigint NOT NULL
);
CREATE INDEX interactive_auth_sessions_expiry ON interactive_auth_sessions (expires_ts);
