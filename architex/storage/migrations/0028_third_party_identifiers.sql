-- E-mail addresses of users: who has which, where they are published, and proofs under way.

CREATE TABLE user_addresses (
    medium text COLLATE "C" NOT NULL,    -- email
    address text COLLATE "C" NOT NULL,   -- canonical: domain/third_party.py
    user_id text COLLATE "C" NOT NULL,
    validated_ts bigint NOT NULL,
    added_ts bigint NOT NULL,
    PRIMARY KEY (medium, address)        -- nobody has another's
);
CREATE INDEX user_addresses_of_user ON user_addresses (user_id);

-- Where users had an address published through this server, so that it can be taken back.
CREATE TABLE published_addresses (
    user_id text COLLATE "C" NOT NULL,
    medium text COLLATE "C" NOT NULL,
    address text COLLATE "C" NOT NULL,
    identity_server text COLLATE "C" NOT NULL,
    PRIMARY KEY (user_id, medium, address, identity_server)
);

-- Proofs that somebody reads the mail of an address.
CREATE TABLE email_validations (
    session_id text COLLATE "C" PRIMARY KEY,
    purpose text NOT NULL,               -- register, password or add; good for no other
    address text COLLATE "C" NOT NULL,
    client_secret text COLLATE "C" NOT NULL,
    token_hashes bytea[] NOT NULL,       -- of what the mails tell; empty: they tell none
    send_attempt bigint NOT NULL,        -- the last one that a mail was sent for
    next_link text,                      -- where the browser goes afterwards
    validated_ts bigint,
    expires_ts bigint NOT NULL,
    UNIQUE (purpose, address, client_secret)
);
CREATE INDEX email_validations_expiry ON email_validations (expires_ts);

ALTER TABLE interactive_auth_sessions
    ADD COLUMN proven_user_id text COLLATE "C",  -- whom a stage has shown to be at work
    ADD COLUMN email text COLLATE "C",           -- the address that m.login.email.identity showed
    ADD COLUMN email_validated_ts bigint;
