-- Signing keys of other servers. A row is added or learns of a later validity; never replaced.
CREATE TABLE server_keys (
    server_name text COLLATE "C" NOT NULL,
    key_id text COLLATE "C" NOT NULL,
    verify_key bytea NOT NULL,          -- 32 bytes
    valid_until_ts bigint NOT NULL,     -- milliseconds since 1970; as told, at most 7 days on
    expired_ts bigint,                  -- since when it is an old key; null: it is none
    fetched_ts bigint NOT NULL,         -- when it was told
    told bytea NOT NULL,                -- the JSON it was told in, as signed by its server
    PRIMARY KEY (server_name, key_id, verify_key)
);
