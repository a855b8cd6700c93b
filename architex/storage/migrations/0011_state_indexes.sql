-- What the state of a room is asked for costs what is asked for, and not what the room has.

-- An entry of the current state is found by its key, not among all of its type.
DROP INDEX current_state_now;
CREATE UNIQUE INDEX current_state_now ON current_state (room_nid, type, state_key)
    WHERE valid_to = 9223372036854775807;

-- It was there twice.
DROP INDEX current_state_ends;

-- A pending list would be read by every question, and emptied by some unlucky writer.
ALTER INDEX event_graph_children SET (fastupdate = off);
