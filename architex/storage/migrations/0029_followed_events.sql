-- Events that came when others that follow them were here already: they are no ends of their rooms.
ALTER TABLE event_graph ADD COLUMN is_followed boolean NOT NULL DEFAULT false;
