-- Whether clients that asked for a list were not told it as it is, because its server did not
-- answer: then they are told to ask again, once it has.
ALTER TABLE remote_device_lists ADD COLUMN misled boolean NOT NULL DEFAULT false;
