-- Dehydrated devices (MSC3814): devices that nobody is logged in with, which receive keys for their
-- user, and which the user's next device takes over. One per user; a row of `devices` like any other.
CREATE TABLE dehydrated_devices (
    user_id text COLLATE "C" PRIMARY KEY,
    device_id text COLLATE "C" NOT NULL,
    device_data text NOT NULL,          -- JSON, encrypted by the client
    FOREIGN KEY (user_id, device_id) REFERENCES devices ON DELETE CASCADE
);
