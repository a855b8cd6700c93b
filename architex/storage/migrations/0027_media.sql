-- Content of files, by its hash; the bytes are in the store of files (data_dir/media).
CREATE TABLE media_files (
    sha256 bytea PRIMARY KEY,
    size bigint NOT NULL,               -- bytes
    quarantined_by text COLLATE "C",    -- null: not quarantined. Outlives the file itself
    quarantined_ts bigint
);

-- What mxc://server_name/media_id leads to: uploads of our users, and what we cache of others.
CREATE TABLE media (
    server_name text COLLATE "C" NOT NULL,
    media_id text COLLATE "C" NOT NULL,
    sha256 bytea REFERENCES media_files,    -- null: created, not uploaded yet
    size bigint NOT NULL DEFAULT 0,
    content_type text NOT NULL DEFAULT 'application/octet-stream',
    file_name text,
    uploader text COLLATE "C",          -- a user of ours; null for media of others and of previews
    is_local boolean NOT NULL,
    created_ts bigint NOT NULL,         -- when uploaded here, or cached
    read_ts bigint NOT NULL,            -- when last read, to the hour
    expires_ts bigint,                  -- gone after it: never uploaded, or made for a preview
    needs_token boolean NOT NULL,       -- not served where no access token is needed
    protected boolean NOT NULL DEFAULT false,
    PRIMARY KEY (server_name, media_id)
);
CREATE INDEX media_by_file ON media (sha256);
CREATE INDEX media_by_uploader ON media (uploader, created_ts) INCLUDE (size)
    WHERE uploader IS NOT NULL;
CREATE INDEX media_by_reading ON media (is_local, read_ts) INCLUDE (size);
CREATE INDEX media_expiry ON media (expires_ts) WHERE expires_ts IS NOT NULL;

-- Thumbnails, by what they are made of; made again when lost.
CREATE TABLE media_thumbnails (
    source_sha256 bytea NOT NULL REFERENCES media_files,
    width integer NOT NULL,             -- as wanted, in pixels
    height integer NOT NULL,
    method text NOT NULL,               -- scale or crop
    animated boolean NOT NULL,
    sha256 bytea REFERENCES media_files,    -- null: the source itself is small enough
    size bigint NOT NULL,
    content_type text NOT NULL,
    PRIMARY KEY (source_sha256, width, height, method, animated)
);
CREATE INDEX media_thumbnails_by_file ON media_thumbnails (sha256);

-- What was said about web pages lately.
CREATE TABLE url_previews (
    url_sha256 bytea PRIMARY KEY,
    preview text NOT NULL,              -- JSON
    expires_ts bigint NOT NULL
);
CREATE INDEX url_previews_expiry ON url_previews (expires_ts);
