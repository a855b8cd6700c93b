-- Where users want to be notified. A pusher ends with the device that set it.
CREATE TABLE pushers (
    user_id text COLLATE "C" NOT NULL,
    app_id text COLLATE "C" NOT NULL,
    pushkey text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    kind text NOT NULL,
    app_display_name text NOT NULL,
    device_display_name text NOT NULL,
    profile_tag text NOT NULL,
    lang text NOT NULL,
    data text NOT NULL,                 -- JSON
    created_ts bigint NOT NULL,         -- milliseconds since 1970
    PRIMARY KEY (user_id, app_id, pushkey),
    FOREIGN KEY (user_id, device_id) REFERENCES devices ON DELETE CASCADE
);
CREATE INDEX pushers_keys ON pushers (pushkey, app_id);
CREATE INDEX pushers_device ON pushers (user_id, device_id);
