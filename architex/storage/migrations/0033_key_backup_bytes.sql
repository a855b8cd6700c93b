-- What the keys of a backup take, for the bound on what the backups of one user may take together.
ALTER TABLE key_backup_versions ADD COLUMN bytes bigint NOT NULL DEFAULT 0;
UPDATE key_backup_versions v SET bytes = held.bytes FROM (
    SELECT user_id, version, sum(octet_length(session_data)) AS bytes FROM backed_up_keys
    GROUP BY user_id, version) held
WHERE v.user_id = held.user_id AND v.version = held.version;
