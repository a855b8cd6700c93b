-- Tokens that log another client in, once; only their SHA-256 is kept.
CREATE TABLE login_tokens (
    token_hash bytea PRIMARY KEY,
    user_id text COLLATE "C" NOT NULL REFERENCES users ON DELETE CASCADE,
    expires_ts bigint NOT NULL          -- milliseconds since 1970
);
CREATE INDEX login_tokens_expiry ON login_tokens (expires_ts);
