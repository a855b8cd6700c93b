-- message_search (FOLLOWED): words of messages, names and topics, for who searches them.
CREATE TABLE message_search (
    position bigint PRIMARY KEY,        -- of the event
    room_nid bigint NOT NULL,
    words tsvector NOT NULL             -- labelled: A in the body, B in the name, C in the topic
);
CREATE INDEX message_search_words ON message_search USING gin (words);
CREATE INDEX message_search_room ON message_search (room_nid, position);
