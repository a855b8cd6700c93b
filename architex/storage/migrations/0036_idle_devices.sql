-- Which devices show the user to be online, and when each last did: device ID → milliseconds since
-- 1970. A device that is idle does not hide another that is not. NULL for users of other servers.
ALTER TABLE presence ADD COLUMN online_devices jsonb;
