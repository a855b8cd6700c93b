-- The version of the terms that somebody agreed to by registering; null: there were none.
ALTER TABLE users ADD COLUMN agreed_terms text;
