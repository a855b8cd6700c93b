-- What searches look at: text folded by Python (case, width, accents stay), since the database
-- sorts and folds by C.

ALTER TABLE room_directory ADD COLUMN search_text text NOT NULL DEFAULT '';
-- Event type → the event that the row shows of it; so a redaction finds what to take away.
ALTER TABLE room_directory ADD COLUMN sources jsonb NOT NULL DEFAULT '{}';

-- The words of a user's name and ID, for searches by their beginnings.
ALTER TABLE user_profiles ADD COLUMN words tsvector NOT NULL DEFAULT ''::tsvector;
CREATE INDEX user_profiles_words ON user_profiles USING gin (words);
