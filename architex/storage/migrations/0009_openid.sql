-- Tokens that prove to third parties who somebody is; only their SHA-256 is kept.
CREATE TABLE openid_tokens (
    token_hash bytea PRIMARY KEY,
    user_id text COLLATE "C" NOT NULL REFERENCES users ON DELETE CASCADE,
    expires_ts bigint NOT NULL          -- milliseconds since 1970
);
CREATE INDEX openid_tokens_expiry ON openid_tokens (expires_ts);

-- The program a device was last seen with, as it calls itself; null: it never said.
ALTER TABLE devices ADD COLUMN last_seen_user_agent text;
